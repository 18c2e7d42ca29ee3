"""Plan: which rows of a batch run together, and where every value lives.

A batch's vertices are sorted by (level, kind), so that the vertices of one kind on one level are a
contiguous slice of every packed buffer: scatter and push need no copy. A value that only some kinds
have lives in its own compact rows, a *space*, in the same order. Here are the words for that;
`planner` makes plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import GraphError
from .graph import Graph
from .rewrite import Kind

MASK_BITS = 62
MAX_LOOKUP_BITS = 16  # of masks that are looked up in a table


@dataclass(frozen=True)
class Space:
    """Rows of a buffer: those of the vertices of some kinds, in plan order.

    what: "all" vertices; "state", all after a first row of zeros (what an absent child reads);
    "edges", vertices with a child; "slot" / "pull", vertices with that slot or input; "save", the
    kinds that save the value; "scratch", rows of the segment that is running.
    """

    what: str
    key: str | int = ""

    @property
    def base(self) -> int:
        return 1 if self.what == "state" else 0


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


def masks(graph: Graph, arity: int, pulls: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What every vertex has, int64[n] bits: slots, then pulls; and int32[n, arity] children or -1.

    Raises:
        GraphError: more slots and inputs than an int64 has bits.
    """
    check_bits(arity, len(pulls))
    first = graph.child_ptr[:-1, None]
    at = first + np.arange(arity, dtype=graph.child_ptr.dtype)
    children = np.full((graph.n_vertices, arity), -1, "int32")
    valid = at < graph.child_ptr[1:, None]
    children[valid] = graph.child[at[valid]]
    bits = (children >= 0) @ (1 << np.arange(arity))
    for j, name in enumerate(pulls):
        bits = bits + (graph.inputs[name].present.astype("int64") << (arity + j))
    return bits, children


def check_bits(arity: int, n_pulls: int) -> None:
    """What a vertex has fits into an integer.

    Raises:
        GraphError: it does not.
    """
    if arity + n_pulls > MASK_BITS:
        raise GraphError(
            f"{arity} slots and {n_pulls} inputs: expected at most {MASK_BITS} together; "
            "binarise the graphs, or join inputs that are always present together into one vector"
        )


def kind_of(mask: int, arity: int, pulls: Sequence[str]) -> Kind:
    """The Kind that the bits of a mask stand for."""
    slots = tuple(k for k in range(arity) if mask >> k & 1)
    return Kind(slots, tuple(name for j, name in enumerate(pulls) if mask >> (arity + j) & 1))
