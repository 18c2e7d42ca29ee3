"""Planner: a batch of graphs -> its rows, and what kernels read of the graphs, in row order.

The loops over vertices are compiled kernels (`host_kernels`); here they are called in turn, on
buffers that belong to the batch that is planned. Nothing else is written to, so any number of
threads may plan at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..given import check_numbered
from ..graph import MAX_LOOKUP_BITS, Graph, check_bits
from .memory import HostMemory, table, tensor_of
from .plan import Cells, Plan
from .roles import BufferId, Role

PARENT_POINTERS, PARENT_SLOTS = BufferId(Role.PARENT_POINTERS), BufferId(Role.PARENT_SLOTS)
MASK, CHILDREN, BELOW, COUNT, NEXT = (
    BufferId(Role.PLAN, what) for what in ("mask", "children", "below", "count", "next")
)
RANK, ROW, ORDER, KIND = (BufferId(Role.PLAN, what) for what in ("rank", "row", "order", "kind"))
CELL_BUFFERS = tuple(BufferId(Role.PLAN, f"cell_{what}") for what in ("level", "kind", "count"))
RESULT = BufferId(Role.PLAN, "result")
SMALLER = "Give fewer graphs, or a vertex function of fewer slots."


class UnknownKindsError(Exception):
    """A batch has vertices of kinds that are not among the ranked ones; `masks`: all it has."""

    def __init__(self, masks: Sequence[int]) -> None:
        super().__init__(masks)
        self.masks = masks


class Ranks:
    """The order of kinds within a level; never changed, so that batches can be planned by it.

    Args:
        n_bits: of a mask, slots and inputs. number: kinds by mask. ranks: int64[n_kinds].
        maybe: bits that are set in all masks of `number`: whether a vertex has those is no matter.
    """

    def __init__(
        self, n_bits: int, number: Mapping[int, int], ranks: np.ndarray, maybe: int = 0
    ) -> None:
        self.number, self.ranks, self.n_kinds = dict(number), ranks, max(1, len(ranks))
        self.maybe = maybe
        self.kind_of = table(np.argsort(ranks), "int32")
        self.lookup: Any = None  # a table by mask, int32; None with more bits than one is made for
        if n_bits <= MAX_LOOKUP_BITS:
            known = np.full(1 << n_bits, -1, "int32")
            known[list(number)] = ranks[list(number.values())]
            self.lookup = table(known[np.arange(len(known)) | maybe], "int32")


class Planner:
    """Sorts batches into rows.

    Args:
        kernels: the compiled loops, by name, as `host_kernels` makes them.
        arity: slots of a vertex. pulls: the inputs that the vertex function reads.
    """

    def __init__(self, kernels: Mapping[str, Any], arity: int, pulls: Sequence[str]) -> None:
        check_bits(arity, len(pulls))
        self.kernels, self.arity, self.pulls = kernels, arity, tuple(pulls)
        roles = (Role.DISTINCT, Role.GROUP_POINTERS, Role.GROUP_ROWS, Role.INDEX, Role.GROUP_COUNTS)
        self._groups = {pull: [BufferId(role, pull) for role in roles] for pull in self.pulls}

    def ranks(self, number: Mapping[int, int], ranks: np.ndarray, maybe: int = 0) -> Ranks:
        """The order of kinds within a level; see `Ranks`."""
        return Ranks(self.arity + len(self.pulls), number, ranks, maybe)

    def result(self, memory: HostMemory) -> Any:
        """Where kernels put their results, int64[3] as a tensor."""
        return memory.fixed(RESULT, (3,), "int64")

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

    def plan(self, graph: Graph, memory: HostMemory, ranks: Ranks) -> Plan:
        """Sort the batch's vertices into rows; the arrays of the plan are memory's.

        Raises:
            GraphError: the slots of its vertices are too many to be numbered.
            UnknownKindsError: some of its vertices are of kinds without a rank.
        """
        slots = graph.n_vertices * self.arity
        check_numbered("slots of a batch, those of a vertex times vertices", slots, SMALLER)
        mask = self.masks(graph, memory)
        by = self._by_search if ranks.lookup is None else self._by_table
        n, n_cells = graph.n_vertices, by(graph, mask, memory, ranks)
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

    def _by_table(self, graph: Graph, mask: np.ndarray, memory: HostMemory, ranks: Ranks) -> int:
        """Sort, with the rank of every mask in a table; return the number of cells."""
        n_cells, n_unknown = self._sort(graph, ranks.lookup, memory, ranks)
        if n_unknown:
            raise UnknownKindsError(np.unique(mask).tolist())
        return n_cells

    def _by_search(self, graph: Graph, mask: np.ndarray, memory: HostMemory, ranks: Ranks) -> int:
        """The same with more bits than a table is made for: masks are numbered in the batch."""
        distinct, mask[:] = np.unique(mask | ranks.maybe, return_inverse=True)
        wanted: list[int] = distinct.tolist()
        if not ranks.number.keys() >= set(wanted):
            raise UnknownKindsError(wanted)
        lookup = table(ranks.ranks[[ranks.number[m] for m in wanted]], "int32")
        return self._sort(graph, lookup, memory, ranks)[0]

    def _sort(self, graph: Graph, lookup: Any, memory: HostMemory, ranks: Ranks) -> tuple[int, int]:
        """The numbers of cells, and of vertices whose kind has no rank."""
        n, n_keys = graph.n_vertices, graph.n_levels * ranks.n_kinds
        rows = [memory.rows(b, n, 0, "int32") for b in (RANK, ROW, ORDER, KIND)]
        count = memory.rows(COUNT, n_keys, 0, "int32")
        cells = [memory.rows(b, min(n, n_keys), 0, "int64") for b in CELL_BUFFERS]
        mask, result = memory.tensor(MASK), self.result(memory)
        known = (tensor_of(graph.level, "int32"), lookup, ranks.kind_of)
        self.kernels["sort"](
            n, ranks.n_kinds, n_keys, *known, rows[0], count, *rows[1:], mask, *cells, result
        )
        found = memory.read(RESULT)
        return int(found[0]), int(found[1])

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

    def group(self, pull: str, n: int, n_values: int, memory: HostMemory) -> np.ndarray:
        """Buffers GROUP_POINTERS and GROUP_ROWS of an input: the rows of its equal values.

        Args:
            n_values: more than the largest value.

        Returns:
            The distinct values, in the order in which they come: int32[n_distinct]; none is -1,
            which stands where there is no value.
        """
        distinct, pointers, rows, index, counts = self._groups[pull]
        made = (
            memory.rows(distinct, n, 0, "int32"),
            memory.rows(pointers, n + 1, 0, "int32"),
            memory.rows(rows, n, 0, "int32"),
        )
        count = memory.rows(counts, n_values, 0, "int32")  # of zeros, which the kernel leaves
        self.kernels["group"](n, memory.tensor(index), *made, count, self.result(memory))
        return memory.read(distinct)[: int(memory.read(RESULT)[0])]
