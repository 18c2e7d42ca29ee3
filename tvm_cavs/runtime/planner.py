"""Planner: a batch of graphs -> its rows, and what kernels read of the graphs, in row order.

The loops over vertices are compiled kernels (`host_kernels`), which run in a series on buffers that
belong to the batch that is planned. Nothing else is written to, so any number of threads may plan
at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..given import check_numbered
from ..graph import MAX_LOOKUP_BITS, Graph, check_bits
from .memory import BOOL, INT32, HostMemory, table, tensor_of
from .needs import Need, Needs
from .plan import BELOW, CELL_BUFFERS, CHILDREN, COUNT, KIND, MASK, ORDER, RANK, ROW, Plan
from .roles import BufferId, Role
from .routine import Given, Number, Rows
from .series import Call, Calls, Series, integer, rows_of

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
        # of vertices, of groups of a level and a kind, of those that have vertices at most
        self._needs = Needs(
            [
                *(Need(buffer, 0) for buffer in (RANK, ROW, ORDER, KIND)),
                Need(MASK, 0, dtype="int64"),
                *(Need(buffer, 0, each=arity) for buffer in (CHILDREN, BELOW)),
                Need(COUNT, 1),
                *(Need(cell, 2, dtype="int64") for cell in CELL_BUFFERS),
                Need(RESULT, 0, dtype="int64", each=0, more=3),
            ],
            3,
        )
        masks = self._mask_calls()
        self._masks = self.series(masks, 1)
        self._sort = self.series(self._sort_calls(0), 3)
        self._plan = self.series([*masks, *self._sort_calls(2 + len(pulls))], 3)

    def series(self, calls: Calls, n_integers: int) -> Series:
        """Calls of these kernels, as one."""
        return Series(self.kernels["routine"], calls, n_integers)

    def _mask_calls(self) -> list[Call]:
        """What every vertex has; given: child_ptr, child, of each pull whether it is present."""
        n, arity, mask = integer(0), Number(self.arity), Rows(MASK)
        slots = n, arity, Given(0), Given(1), Rows(CHILDREN), mask
        pulls = [(n, Number(self.arity + i), Given(2 + i), mask) for i in range(len(self.pulls))]
        kernels = self.kernels
        return [(kernels["slots"], slots), *((kernels["pull"], each) for each in pulls)]

    def _sort_calls(self, first: int) -> list[Call]:
        """Rows by level and kind, and the rows of children; given: level, lookup, kind_of."""
        n, n_kinds, n_keys = map(integer, range(3))
        known = [Given(first + i) for i in range(3)]
        made = rows_of(RANK, COUNT, ROW, ORDER, KIND, MASK, *CELL_BUFFERS, RESULT)
        below = n, Number(self.arity), *rows_of(ORDER, ROW, CHILDREN, BELOW)
        return [
            (self.kernels["sort"], (n, n_kinds, n_keys, *known, *made)),
            (self.kernels["below"], below),
        ]

    def ranks(self, number: Mapping[int, int], ranks: np.ndarray, maybe: int = 0) -> Ranks:
        """The order of kinds within a level; see `Ranks`."""
        return Ranks(self.arity + len(self.pulls), number, ranks, maybe)

    def masks(self, graph: Graph, memory: HostMemory) -> np.ndarray:
        """What every vertex has, int64[n] bits: slots, then pulls; its children lie in memory."""
        self._needs.make_room(memory, (graph.n_vertices, 0, 0))
        self._masks.run(memory, (graph.n_vertices,), self._given(graph))
        return memory.read(MASK)[: graph.n_vertices]

    def _given(self, graph: Graph) -> list[Any]:
        """The arrays of a graph that its masks are made of, as tensors."""
        children = [tensor_of(graph.child_ptr, INT32), tensor_of(graph.child, INT32)]
        inputs = graph.inputs
        return [*children, *(tensor_of(inputs[name].present, BOOL) for name in self.pulls)]

    def plan(self, graph: Graph, memory: HostMemory, ranks: Ranks) -> Plan:
        """Sort the batch's vertices into rows; the arrays of the plan are memory's.

        Raises:
            GraphError: the slots of its vertices are too many to be numbered.
            UnknownKindsError: some of its vertices are of kinds without a rank.
        """
        n, arity = graph.n_vertices, self.arity
        check_numbered("slots of a batch, those of a vertex times vertices", n * arity, SMALLER)
        by = self._by_search if ranks.lookup is None else self._by_table
        return Plan(graph, memory, arity, n, graph.n_levels, by(graph, memory, ranks))

    def _by_table(self, graph: Graph, memory: HostMemory, ranks: Ranks) -> int:
        """Sort, with the rank of every mask in a table; return the number of cells."""
        n, n_keys = graph.n_vertices, graph.n_levels * ranks.n_kinds
        self._needs.make_room(memory, (n, n_keys, min(n, n_keys)))
        given = self._given(graph)
        given += tensor_of(graph.level, INT32), ranks.lookup, ranks.kind_of
        self._plan.run(memory, (n, ranks.n_kinds, n_keys), given)
        n_cells, n_unknown, _ = memory.read(RESULT).tolist()
        if n_unknown:
            raise UnknownKindsError(np.unique(memory.read(MASK)[:n]).tolist())
        return n_cells

    def _by_search(self, graph: Graph, memory: HostMemory, ranks: Ranks) -> int:
        """The same with more bits than a table is made for: masks are numbered in the batch."""
        n, n_keys = graph.n_vertices, graph.n_levels * ranks.n_kinds
        mask = self.masks(graph, memory)
        distinct, mask[:] = np.unique(mask | ranks.maybe, return_inverse=True)
        wanted: list[int] = distinct.tolist()
        if not ranks.number.keys() >= set(wanted):
            raise UnknownKindsError(wanted)
        lookup = table(ranks.ranks[[ranks.number[m] for m in wanted]], "int32")
        self._needs.make_room(memory, (n, n_keys, min(n, n_keys)))
        given = tensor_of(graph.level, INT32), lookup, ranks.kind_of
        self._sort.run(memory, (n, ranks.n_kinds, n_keys), given)
        return int(memory.read(RESULT)[0])
