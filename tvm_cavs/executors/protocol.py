"""What an executor is: the boundary between a network's programs and whatever runs them.

`Programs` go in once, a `Graph` (a batch) at every call; executors differ in speed, never in
meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..graph import Graph
from ..language import RowSparse


@dataclass(frozen=True)
class Seeds:
    """What dropout depends on besides the vertex: the network's seed and the step."""

    seed: int = 0
    step: int = 0


@dataclass(frozen=True)
class Result:
    """Pushed outputs by name, one row per vertex in the batch's order: float32[n_vertices, ...]."""

    outputs: Mapping[str, np.ndarray]


class Executor(Protocol):
    """Runs the programs it was made with."""

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Do once what graphs like these will need, such as compiling; `forward` does the rest."""
        ...

    def forward(self, graph: Graph, seeds: Seeds) -> Result: ...

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients of the sum of `loss`, for the last forward pass.

        The arrays may be reused by the next.
        """
        ...


@runtime_checkable
class PlanningExecutor(Executor, Protocol):
    """An executor that splits `forward`, so that one batch is planned while another runs.

    n_threads: the cores that a pass keeps busy.
    """

    n_threads: int

    def plan(self, graph: Graph, ahead: bool = False) -> Any:
        """What can be done for a batch without the parameters.

        With `ahead` it may be called from another thread while the batch before runs, and answers
        None if the batch has to wait for that.
        """
        ...

    def run(self, planned: Any, seeds: Seeds) -> Result:
        """The forward pass of a batch that `plan` has planned."""
        ...
