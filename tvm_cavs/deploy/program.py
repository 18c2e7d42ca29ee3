"""Deployed: a compiled network without its code, as it is exported.

Functions are symbols in the process that exports, and kernels in the one that loads. `writing`
makes plain data of it that JSON can hold, `restoring` goes the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..runtime import BufferId, CompiledGroup, Executable


@dataclass(frozen=True)
class Output:
    """What a vertex pushes: its name, where it lies, its shape at one vertex."""

    name: str
    buffer: BufferId
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Deployed:
    """A network's inference, or that and its backward pass: what is compiled, and how vertices are
    told apart.

    arity: slots of a vertex. pulls: the inputs that kinds are told apart by. number: kinds by mask,
    rank: their order in a level, maybe: bits that tell none apart, as a `Planner` takes them.
    values: buffers that are not computed but stored. host: the kernels that plan, by name.
    seeds: of a backward pass, where it reads the gradient of each output that can have one. direct:
    all groups with weights that are read where they lie, for batches of at most `direct_vertices`.
    """

    executable: Executable
    arity: int
    pulls: tuple[str, ...]
    number: Mapping[int, int]
    rank: np.ndarray
    maybe: int
    outputs: tuple[Output, ...]
    values: tuple[BufferId, ...]
    host: Mapping[str, Any]
    seeds: Mapping[str, BufferId] = field(default_factory=dict)
    direct: tuple[CompiledGroup, ...] = ()
    direct_vertices: int = 0
