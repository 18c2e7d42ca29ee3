"""What the compiler hands to the runtime: compiled steps, groups and packs, and their buffers.

Where a network has one of something, NumPy makes it: what parameters alone give, and the parts of
gradients that kernels leave in sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..expressions import Expression
from .area import Area
from .roles import BufferId
from .spaces import Buffer, RowGradient, Space

ALL_ROWS = 1 << 40


@dataclass(frozen=True)
class CompiledStep:
    """A step and its compiled forms: `functions[i]` serves row counts from `limits[i]` on."""

    functions: tuple[Any, ...]
    limits: tuple[int, ...]
    starts: tuple[int, ...]  # positions in the group's spaces
    buffers: tuple[BufferId, ...]
    adds: tuple[tuple[BufferId, Area | None], ...]  # what it adds to; what of that it can replace
    kind: str
    note: str  # for people: the size of a product, the number of a region's lines
    flop_per_row: int


@dataclass(frozen=True)
class CompiledGroup:
    """A stage function, the kinds it runs for (bool[n_kinds]), the spaces whose starts it takes.

    Its steps run on at most `most_rows` rows at once, one after the other.
    """

    stage: str
    member: np.ndarray
    spaces: tuple[Space, ...]
    steps: tuple[CompiledStep, ...]
    packs: tuple[BufferId, ...]  # the weight operands that it reads
    most_rows: int


@dataclass(frozen=True)
class CompiledPack:
    """Packs the parameters `sources` into a weight operand, once per step."""

    function: Any
    sources: tuple[BufferId, ...]


@dataclass(frozen=True)
class NetValue:
    """A buffer of this shape that NumPy fills with what parameters alone make."""

    buffer: BufferId
    value: Expression  # its leaves are buffers
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """A block of a total, half open in rows and columns, which is added to a gradient at (row,
    column), maybe transposed. extent: of the whole total, where a vector counts as one row.
    """

    total: BufferId
    extent: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    row: int
    column: int
    transposed: bool


@dataclass(frozen=True)
class GradientPart:
    """What is added to a parameter's gradient after the kernels, `count` times: blocks of totals,
    or the value of an expression of totals and parameters.
    """

    parameter: str
    count: int
    blocks: tuple[Block, ...]
    value: Expression | None = None


@dataclass(frozen=True)
class Executable:
    """What runs for the kinds so far; `buffers` are those that depend on the batch.

    row_sums: the kernel that adds up rows of equal words. totals: buffers that the backward pass
    adds to. cleared: row gradients that some kind leaves out. members: the kinds that have rows in
    each space that is used, bool[n_kinds]. n_parts: of a kernel's rows, run at the same time.
    tables: the parameters whose gradients are rows, with the width of these.
    """

    forward: tuple[CompiledGroup, ...]
    backward: tuple[CompiledGroup, ...]
    packs: Mapping[BufferId, CompiledPack]
    row_sums: Mapping[RowGradient, Any]
    buffers: Mapping[BufferId, Buffer]
    fixed: Mapping[BufferId, tuple[tuple[int, ...], str]]  # shape and dtype of the other buffers
    totals: tuple[BufferId, ...]
    cleared: tuple[BufferId, ...]
    members: Mapping[Space, np.ndarray]
    n_parts: int
    net_values: tuple[NetValue, ...]
    gradients: tuple[GradientPart, ...]
    tables: Mapping[str, int]
