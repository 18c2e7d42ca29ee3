"""Plan: which rows of a batch run together, and where every value lives.

A batch's vertices are sorted by (level, kind), so that the vertices of one kind on one level are a
contiguous slice of every packed buffer: scatter and push need no copy. A value that only some kinds
have lives in its own compact rows, a *space*, in the same order. Here are the words for that;
`planner` makes plans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph import Graph
from .memory import HostMemory
from .roles import BufferId, Role

MASK, CHILDREN, BELOW, COUNT = (
    BufferId(Role.PLAN, what) for what in ("mask", "children", "below", "count")
)
RANK, ROW, ORDER, KIND = (BufferId(Role.PLAN, what) for what in ("rank", "row", "order", "kind"))
CELL_BUFFERS = tuple(BufferId(Role.PLAN, f"cell_{what}") for what in ("level", "kind", "count"))


class Cells(NamedTuple):
    """The (level, kind) groups of a batch in row order; arrays of one length.

    level, kind: int64[n_cells]; size: vertices in each.
    """

    level: np.ndarray
    kind: np.ndarray
    size: np.ndarray


class Plan(NamedTuple):
    """The rows of one batch, whose arrays lie in its memory."""

    graph: Graph
    memory: HostMemory
    arity: int
    n_rows: int
    n_levels: int
    n_cells: int

    @property
    def order(self) -> np.ndarray:
        """The vertex of each row: int32[n]."""
        return self.memory.read(ORDER)[: self.n_rows]

    @property
    def row(self) -> np.ndarray:
        """The row of each vertex: int32[n]."""
        return self.memory.read(ROW)[: self.n_rows]

    @property
    def kind_of_row(self) -> np.ndarray:
        """The number of each row's kind: int32[n]."""
        return self.memory.read(KIND)[: self.n_rows]

    @property
    def children(self) -> np.ndarray:
        """The row of the child in each slot, or -1, by row: int32[n, arity]."""
        n, arity = self.n_rows, self.arity
        return self.memory.read(BELOW)[: n * arity].reshape(n, arity)

    @property
    def cells(self) -> Cells:
        """The groups of a level and a kind in row order."""
        return Cells(*(self.memory.read(cell)[: self.n_cells] for cell in CELL_BUFFERS))

    def __str__(self) -> str:
        lines = [f"plan: {self.n_rows} vertices, {self.n_levels} levels, {self.n_cells} groups"]
        for level, kind, size in zip(*self.cells, strict=True):
            lines.append(f"  level {level:3d}  kind {kind:2d}  {size:6d} vertices")
        return "\n".join(lines)
