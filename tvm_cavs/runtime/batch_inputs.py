"""Filling: what kernels read of a batch's graphs, in the rows of their spaces.

Children, inputs, edges and the groups of equal words belong to a batch and lie in its own memory,
so that the next batch can be planned while this one runs. Everything else lies in a workspace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dropout
from .executable import Executable
from .memory import HostMemory, tensor_of
from .plan import Plan
from .planner import BELOW, KIND, ORDER, Planner
from .roles import Role
from .slices import Spaces
from .spaces import Buffer, Space

Fill = Callable[[Plan, list[int], HostMemory], None]
OF_BATCH = frozenset(
    {
        Role.CHILD,
        Role.CHOICE,
        Role.INDEX,
        Role.INPUT,
        Role.PARENT_POINTERS,
        Role.PARENT_SLOTS,
        Role.PRESENT,
        Role.VERTEX_KEYS,
    }
)
EDGES = Space("edges")


class Filling:
    """Fills the buffers of a batch; made once for what has been compiled, and then not changed."""

    def __init__(self, compiled: Executable, spaces: Spaces, planner: Planner) -> None:
        self._spaces, self._planner = spaces, planner
        buffers = compiled.buffers.values()
        mine = [b for b in buffers if b.role in OF_BATCH]
        # the slots of parents are written with the pointers to them
        self._fill = [self._filler(b) for b in mine if b.role is not Role.PARENT_SLOTS]
        n_values: dict[str, int] = {}  # by input whose rows get gradients: rows of its tables
        for r in compiled.row_sums:
            n_values[r.pull] = max(r.n_rows, n_values.get(r.pull, 0))
        number = spaces.number
        self._groups = [(p, number[Space("pull", p)], n) for p, n in n_values.items()]

    def _number(self, space: Space | None) -> int:
        assert space is not None
        return self._spaces.number[space]

    def fill(self, plan: Plan, counts: np.ndarray, memory: HostMemory) -> dict[str, np.ndarray]:
        """Write the batch's buffers.

        Returns, for every input whose rows get gradients, its distinct values: int32[n_distinct].
        """
        sizes = counts.tolist()
        for fill in self._fill:
            fill(plan, sizes, memory)
        group = self._planner.group
        return {pull: group(pull, sizes[i], n, memory) for pull, i, n in self._groups}

    def _filler(self, b: Buffer) -> Fill:
        """What writes one buffer."""
        id, key, number, planner = b.id, b.key, self._number(b.space), self._planner
        kernels, arity, absent = planner.kernels, planner.arity, -1 if b.dtype == "int32" else 0
        member: Any = self._spaces.members[self._spaces.names[number]]

        def child(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            out, tensor = memory.rows(id, sizes[number], 0, "int32"), memory.tensor
            rows = tensor(KIND), tensor(BELOW)
            kernels["child"](plan.n_rows, arity, key, *rows, out, member)

        def values(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            out, tensor = memory.rows(id, sizes[number], b.ld, b.dtype), memory.tensor
            if not sizes[number]:
                return
            given, n = plan.graph.inputs[str(key)].values, plan.n_rows
            if given.dtype != b.dtype or given.size != n * max(1, b.ld):
                memory.fill(id, absent)  # what no vertex has may be of any type
                return
            where = tensor(ORDER), tensor(KIND)
            if b.ld:
                take = kernels["take_rows" if b.dtype == "float32" else "take_integers"]
                take(n, b.ld, *where, tensor_of(given.reshape(n, -1)), out, member)
            else:
                kernels["take"](n, *where, tensor_of(given), out, member)

        def choices(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            values(plan, sizes, memory)
            rows = memory.read(id)
            np.maximum(rows, 0, out=rows)

        def present(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            out, tensor = memory.rows(id, sizes[number], b.ld, b.dtype), memory.tensor
            held = tensor_of(plan.graph.inputs[str(key)].present, "bool")
            kernels["take_present"](plan.n_rows, tensor(ORDER), tensor(KIND), held, out, member)

        def edges(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            parents = self._number(EDGES)
            planner.edges(plan.n_rows, self._spaces.members[EDGES], sizes[parents], memory)

        def keys(plan: Plan, sizes: list[int], memory: HostMemory) -> None:
            memory.rows(id, sizes[number], b.ld, b.dtype)
            memory.write(id, dropout.vertex_keys(plan.graph.vertex_id[plan.order]))

        makers = {
            Role.CHILD: child,
            Role.CHOICE: choices,
            Role.INDEX: values,
            Role.INPUT: values,
            Role.PARENT_POINTERS: edges,
            Role.PRESENT: present,
            Role.VERTEX_KEYS: keys,
        }
        return makers[b.role]
