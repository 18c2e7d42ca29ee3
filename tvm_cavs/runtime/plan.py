"""Plan: which rows of a batch run together, and where every value lives.

A batch's vertices are sorted by (level, kind), so that the vertices of one kind on one level are a
contiguous slice of every packed buffer: scatter and push need no copy. A value that only some kinds
have lives in its own compact rows, a *space*, in the same order. Here are the words for that;
`planner` makes plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Graph


@dataclass(frozen=True)
class Cells:
    """The (level, kind) groups of a batch in row order; arrays of one length.

    level, kind: int64[n_cells]; count: vertices in each.
    """

    level: np.ndarray
    kind: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The rows of one batch.

    order: int32[n], the vertex of each row; row: int32[n], the row of each vertex; kind_of_row:
    int32[n]; children: int32[n, arity], the child's row or -1, by row; cells: the groups in row
    order.
    """

    graph: Graph
    order: np.ndarray
    row: np.ndarray
    kind_of_row: np.ndarray
    children: np.ndarray
    cells: Cells

    @property
    def n_rows(self) -> int:
        return len(self.order)

    @property
    def n_levels(self) -> int:
        return int(self.cells.level[-1]) + 1

    def __str__(self) -> str:
        lines = [
            f"plan: {self.n_rows} vertices, {self.n_levels} levels, {len(self.cells.count)} groups"
        ]
        for level, kind, count in zip(
            self.cells.level, self.cells.kind, self.cells.count, strict=True
        ):
            lines.append(f"  level {level:3d}  kind {kind:2d}  {count:6d} vertices")
        return "\n".join(lines)
