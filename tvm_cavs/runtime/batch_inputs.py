"""Filling: what kernels read of a batch's graphs, in the rows of their spaces.

Children, inputs, edges and the groups of equal words belong to a batch and lie in its own memory,
so that the next batch can be planned while this one runs. Everything else lies in the network's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dropout
from ..graph import Graph
from .executable import Executable
from .memory import GROWTH, HostMemory, table, tensor_of
from .memory_limit import check_room
from .plan import Plan
from .planner import BELOW, KIND, ORDER, Planner
from .roles import Role
from .slices import Spaces
from .spaces import OF_NO_KIND, PARTS, SCRATCH, Buffer, Space, space_of

Fill = Callable[[Plan, list[int], HostMemory], None]
OF_BATCH = frozenset(
    {
        Role.CHILD,
        Role.INDEX,
        Role.INPUT,
        Role.PARENT_POINTERS,
        Role.PARENT_SLOTS,
        Role.VERTEX_KEYS,
    }
)
EDGES = Space("edges")


class Filling:
    """Fills the buffers of a batch; made once for what has been compiled."""

    def __init__(self, compiled: Executable, spaces: Spaces, planner: Planner) -> None:
        self._spaces, self._planner = spaces, planner
        buffers = compiled.buffers.values()
        mine = [b for b in buffers if b.role in OF_BATCH]
        # the slots of parents are written with the pointers to them
        self._fill = [self._filler(b) for b in mine if b.role is not Role.PARENT_SLOTS]
        self._counters = [
            (r.pull, self._number(Space("pull", r.pull)), _zeros(r.n_rows))
            for r in compiled.row_sums
        ]
        self._others = [b for b in buffers if b.role not in OF_BATCH]
        # where `make_room` has the rows of spaces
        at = {**spaces.number, SCRATCH: len(spaces.names), PARTS: len(spaces.names) + 1}
        self._space_of = [at[space_of(b)] for b in self._others]
        self._room = np.full(len(self._others), -1)
        self._counts = np.zeros(len(at), "int64")
        self._counts[-1] = compiled.n_parts

    def _number(self, space: Space | None) -> int:
        assert space is not None
        return self._spaces.number[space]

    def make_room(
        self, counts: np.ndarray, scratch_rows: int, memory: HostMemory, graph: Graph
    ) -> None:
        """Let the network's buffers hold the batch `graph`; they only grow.

        Raises:
            OutOfMemoryError: they would take more than may be taken; nothing has changed.
        """
        self._counts[:-2], self._counts[-2] = counts, scratch_rows
        wanted = self._counts[self._space_of]
        growing = (wanted > self._room).nonzero()[0]
        spare = self._check(wanted, graph) if len(growing) else True
        for i in growing:
            b = self._others[i]
            memory.rows(b.id, int(wanted[i]), b.ld, b.dtype, spare)
            self._room[i] = len(memory.read(b.id))

    def _check(self, wanted: np.ndarray, graph: Graph) -> bool:
        """Refuse a batch for which there is no memory; whether there is some to spare."""
        row_bytes = [max(b.ld, 1) * np.dtype(b.dtype).itemsize for b in self._others]
        rows = np.maximum(wanted, self._room).tolist()
        sizes = {b.name: n * size for b, n, size in zip(self._others, rows, row_bytes, strict=True)}
        fixed = sum(sizes[b.name] for b in self._others if b.space in OF_NO_KIND)
        held = sum(max(n, 0) * size for n, size in zip(self._room.tolist(), row_bytes, strict=True))
        pushed = sum(sizes[b.name] for b in self._others if b.role is Role.PUSHED)
        sizes["copies of outputs"] = pushed

        def remedy(most: int) -> str:
            return what_fits(graph, sum(sizes.values()), fixed, most)

        most = check_room(f"a batch of {_size(graph)}", sizes, held, remedy)
        return most is None or sum(sizes.values()) * GROWTH <= most

    def fill(self, plan: Plan, counts: np.ndarray, memory: HostMemory) -> dict[str, np.ndarray]:
        """Write the batch's buffers.

        Returns, for every input whose rows get gradients, its distinct values: int32[n_distinct].
        """
        sizes = counts.tolist()
        for fill in self._fill:
            fill(plan, sizes, memory)
        return {
            pull: self._planner.group(pull, sizes[number], counter, memory)
            for pull, number, counter in self._counters
        }

    def _filler(self, b: Buffer) -> Fill:
        """What writes one buffer."""
        id, key, number, planner = b.id, b.key, self._number(b.space), self._planner
        kernels, arity = planner.kernels, planner.arity
        member: Any = self._spaces.members[self._spaces.names[number]]

        def child(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            out, tensor = memory.rows(id, sizes[number], 0, "int32"), memory.tensor
            rows = tensor(KIND), tensor(BELOW)
            kernels["child"](plan.n_rows, arity, key, *rows, out, member)

        def values(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            out, tensor = memory.rows(id, sizes[number], b.ld, b.dtype), memory.tensor
            if not sizes[number]:  # what no vertex has may be of any type: nothing is read of it
                return
            given, n = plan.graph.inputs[str(key)].values, plan.n_rows
            where = tensor(ORDER), tensor(KIND)
            if b.ld:
                take = kernels["take_rows" if b.dtype == "float32" else "take_integers"]
                take(n, b.ld, *where, tensor_of(given.reshape(n, -1)), out, member)
            else:
                kernels["take"](n, *where, tensor_of(given), out, member)

        def edges(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            parents = self._number(EDGES)
            planner.edges(plan.n_rows, self._spaces.members[EDGES], sizes[parents], memory)

        def keys(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            memory.rows(id, sizes[number], b.ld, b.dtype)
            memory.write(id, dropout.vertex_keys(plan.graph.vertex_id[plan.order]))

        makers = {
            Role.CHILD: child,
            Role.INDEX: values,
            Role.INPUT: values,
            Role.PARENT_POINTERS: edges,
            Role.VERTEX_KEYS: keys,
        }
        return makers[b.role]


def what_fits(graph: Graph, need: int, fixed: int, most: int) -> str:
    """The batch that needs `most` bytes where `graph` needs `need`.

    Of these, `fixed` may be the same for a smaller batch.
    """
    part = most / need
    if need > fixed and most > fixed:
        part = min(part, (most - fixed) / (need - fixed))
    vertices, graphs = int(graph.n_vertices * part), int(graph.n_graphs * part)
    if not graphs:
        return (
            f"About {vertices:,} vertices fit, less than one such graph: make graphs smaller, or "
            "the model narrower (fewer classes, a smaller hidden size)."
        )
    return f"A batch of {vertices:,} vertices, about {graphs:,} such graphs, fits."


def _size(graph: Graph) -> str:
    return f"{graph.n_vertices:,} vertices in {graph.n_graphs:,} graphs"


def _zeros(n: int) -> Any:
    return table(np.zeros(n, "int32"), "int32")
