"""Planner: a batch of graphs -> its rows, and what kernels read of the graphs, in row order.

The loops over vertices are compiled kernels (`host_kernels`); here they are called in turn, on
buffers that belong to the batch that is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..graph import MAX_LOOKUP_BITS, Graph, check_bits
from .memory import HostMemory, tensor_of
from .plan import Cells, Plan
from .roles import BufferId, Role

PARENT_POINTERS, PARENT_SLOTS = BufferId(Role.PARENT_POINTERS), BufferId(Role.PARENT_SLOTS)
MASK, CHILDREN, BELOW, COUNT, NEXT = (
    BufferId(Role.PLAN, what) for what in ("mask", "children", "below", "count", "next")
)
RANK, ROW, ORDER, KIND = (BufferId(Role.PLAN, what) for what in ("rank", "row", "order", "kind"))
CELL_BUFFERS = tuple(BufferId(Role.PLAN, f"cell_{what}") for what in ("level", "kind", "count"))
Learn = Callable[[Sequence[int]], None]


class Planner:
    """Sorts batches into rows.

    Args:
        kernels: the compiled loops, by name, as `host_kernels` makes them.
        arity: slots of a vertex. pulls: the inputs that the vertex function reads.
    """

    def __init__(self, kernels: Mapping[str, Any], arity: int, pulls: Sequence[str]) -> None:
        check_bits(arity, len(pulls))
        self.kernels, self.arity, self.pulls = kernels, arity, tuple(pulls)
        self._small = arity + len(pulls) <= MAX_LOOKUP_BITS
        self._lookup = np.full(1 << (arity + len(pulls)) if self._small else 1, -1, "int32")
        self._lookup_tensor = tensor_of(self._lookup)
        self.know({}, np.zeros(0, "int64"))
        self._result = np.zeros(3, "int64")
        self.result = tensor_of(self._result)
        roles = Role.DISTINCT, Role.GROUP_POINTERS, Role.GROUP_ROWS, Role.INDEX
        self._groups = {pull: [BufferId(role, pull) for role in roles] for pull in self.pulls}

    def value(self, i: int = 0) -> int:
        """What the last kernel with a result has answered."""
        return int(self._result[i])

    def masks(self, graph: Graph, memory: HostMemory) -> np.ndarray:
        """What every vertex has, int64[n] bits: slots, then pulls; its children lie in memory."""
        n = graph.n_vertices
        mask = memory.rows(MASK, n, 0, "int64")
        children = memory.rows(CHILDREN, n * self.arity, 0, "int32")
        child_ptr, child = (tensor_of(a, "int32") for a in (graph.child_ptr, graph.child))
        self.kernels["slots"](n, self.arity, child_ptr, child, children, mask)
        for bit, name in enumerate(self.pulls, self.arity):
            self.kernels["pull"](n, bit, tensor_of(graph.inputs[name].present, "bool"), mask)
        return memory.read(MASK)[:n]

    def know(self, number: Mapping[int, int], ranks: np.ndarray, maybe: int = 0) -> None:
        """Kinds by mask; int64[n_kinds], the order of kinds within a level.

        maybe: bits that are set in all masks of `number`: whether a vertex has those is no matter.
        """
        self._number, self._n_kinds, self._maybe = dict(number), max(1, len(ranks)), maybe
        self._ranks, self._kind_of = ranks, tensor_of(np.argsort(ranks).astype("int32"))
        if self._small:
            known = np.full(len(self._lookup), -1, "int32")
            known[list(number)] = ranks[list(number.values())]
            self._lookup[:] = known[np.arange(len(known)) | maybe]

    def plan(self, graph: Graph, memory: HostMemory, learn: Learn) -> Plan:
        """Sort the batch's vertices into rows; the arrays of the plan are memory's.

        Args:
            learn: given distinct masks of which some are new, it lets the planner `know` them.
        """
        mask = self.masks(graph, memory)
        ranks = self._by_table if self._small else self._by_search
        n, n_cells = graph.n_vertices, ranks(graph, mask, memory, learn)
        below = memory.rows(BELOW, n * self.arity, 0, "int32")
        order, row, children = map(memory.tensor, (ORDER, ROW, CHILDREN))
        self.kernels["below"](n, self.arity, order, row, children, below)
        read = memory.read
        return Plan(
            graph,
            read(ORDER)[:n],
            read(ROW)[:n],
            read(KIND)[:n],
            read(BELOW)[: n * self.arity].reshape(n, self.arity),
            Cells(*(read(cell)[:n_cells] for cell in CELL_BUFFERS)),
        )

    def _by_table(self, graph: Graph, mask: np.ndarray, memory: HostMemory, learn: Learn) -> int:
        """Sort, with the rank of every mask in a table; return the number of cells."""
        self._sort(graph, self._lookup_tensor, memory)
        if self.value(1):
            learn(np.unique(mask).tolist())
            self._sort(graph, self._lookup_tensor, memory)
        return self.value()

    def _by_search(self, graph: Graph, mask: np.ndarray, memory: HostMemory, learn: Learn) -> int:
        """The same with more bits than a table is made for: masks are numbered in the batch."""
        distinct, mask[:] = np.unique(mask | self._maybe, return_inverse=True)
        if not self._number.keys() >= set(distinct.tolist()):
            learn(distinct.tolist())
        lookup = self._ranks[[self._number[m] for m in distinct.tolist()]].astype("int32")
        self._sort(graph, tensor_of(lookup), memory)
        return self.value()

    def _sort(self, graph: Graph, lookup: Any, memory: HostMemory) -> None:
        n, n_keys = len(graph.level), (int(graph.level.max()) + 1) * self._n_kinds
        rows = [memory.rows(b, n, 0, "int32") for b in (RANK, ROW, ORDER, KIND)]
        count = memory.rows(COUNT, n_keys, 0, "int32")
        cells = [memory.rows(b, min(n, n_keys), 0, "int64") for b in CELL_BUFFERS]
        mask = memory.tensor(MASK)
        known = (tensor_of(graph.level, "int32"), lookup, self._kind_of)
        self.kernels["sort"](
            n, self._n_kinds, n_keys, *known, rows[0], count, *rows[1:], mask, *cells, self.result
        )

    def edges(self, n: int, member: Any, room: int, memory: HostMemory) -> None:
        """Buffers PARENT_POINTERS and PARENT_SLOTS: the slots that each of n rows fills.

        Args:
            member: the kinds that have children, uint8[n_kinds] as a tensor; `room`: their rows.
        """
        tensor = memory.tensor
        pointers = memory.rows(PARENT_POINTERS, n + 1, 0, "int32")
        slots = memory.rows(PARENT_SLOTS, room * self.arity, 0, "int32")
        cursor = memory.rows(NEXT, n, 0, "int32")
        rows = tensor(KIND), tensor(BELOW)
        self.kernels["edges"](n, self.arity, *rows, pointers, slots, cursor, member)

    def group(self, pull: str, n: int, count: Any, memory: HostMemory) -> np.ndarray:
        """Buffers GROUP_POINTERS and GROUP_ROWS of an input: the rows of its equal values.

        Args:
            count: zeros int32[more than the largest value] as a tensor.

        Returns:
            The distinct values, in the order in which they come: int32[n_distinct]; none is -1,
            which stands where there is no value.
        """
        distinct, pointers, rows, index = self._groups[pull]
        made = (
            memory.rows(distinct, n, 0, "int32"),
            memory.rows(pointers, n + 1, 0, "int32"),
            memory.rows(rows, n, 0, "int32"),
        )
        self.kernels["group"](n, memory.tensor(index), *made, count, self.result)
        return memory.read(distinct)[: self.value()]
