"""Part: a batch that joins others which are running; what an arena needs of it, in row order.

Its graph's own memory is used again once it is made, so all arrays are its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..graph import Graph
from .plan import Plan
from .roles import BufferId, Role
from .spaces import Buffer

FILLED = frozenset({Role.CHOICE, Role.INDEX, Role.INPUT, Role.PRESENT})


@dataclass(frozen=True, eq=False)
class Part:
    """The vertices of a batch, sorted by level and kind.

    row: int32[n], the row of each vertex. level, kind: int32[n], by row. children: int32[n, arity],
    the child's row or -1, by row. ends: the row after the last of each level. values: what kernels
    read of the inputs, by row.
    """

    row: np.ndarray
    level: np.ndarray
    kind: np.ndarray
    children: np.ndarray
    ends: list[int]
    values: dict[BufferId, np.ndarray]

    @property
    def n_rows(self) -> int:
        return len(self.row)


def make_part(plan: Plan, filled: Iterable[Buffer]) -> Part:
    """A copy of what is needed of a plan.

    Args:
        filled: the buffers that hold inputs.
    """
    cells = plan.cells
    of_level = np.bincount(cells.level, cells.size).astype("int64")
    return Part(
        plan.row.copy(),
        np.arange(len(of_level), dtype="int32").repeat(of_level),
        plan.kind_of_row.copy(),
        plan.children.copy(),
        of_level.cumsum().tolist(),
        {b.id: _values(b, plan.graph).take(plan.order, axis=0) for b in filled},
    )


def _values(b: Buffer, graph: Graph) -> np.ndarray:
    """What a buffer holds at every vertex; the same as `Filling` writes."""
    field, n = graph.inputs[str(b.key)], graph.n_vertices
    shape = (n, b.ld) if b.ld else (n,)
    if b.role is Role.PRESENT:
        return field.present.astype(b.dtype).reshape(shape)
    given = field.values
    if given.dtype != b.dtype or given.size != n * max(1, b.ld):
        return np.full(shape, -1 if b.dtype == "int32" else 0, b.dtype)
    return np.maximum(given, 0) if b.role is Role.CHOICE else given.reshape(shape)
