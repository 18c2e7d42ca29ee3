"""Filling: what kernels read of a batch's graphs, in the rows of their spaces.

Children, inputs, edges and the groups of equal words belong to a batch and lie in its own memory,
so that the next batch can be planned while this one runs. Everything else lies in the network's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dropout
from .assemble import Compiled
from .batching import Spaces
from .buffers import HostMemory, tensor_of
from .plan import Plan, Space
from .planner import Planner
from .steps import Buffer
from .vertex import Parameter

OF_BATCH = frozenset({"child", "index", "pull", "edges", "dropout"})
EDGES = Space("edges")


class Filling:
    """Fills the buffers of a batch; made once for what has been compiled."""

    def __init__(
        self,
        compiled: Compiled,
        spaces: Spaces,
        planner: Planner,
        parameters: Mapping[str, Parameter],
    ) -> None:
        self._spaces, self._planner = spaces, planner
        mine = {n: b for n, b in compiled.buffers.items() if n.partition(".")[0] in OF_BATCH}
        self._buffers = list(mine.values())
        tables = {r.pull: parameters[r.parameter].shape[0] for r in compiled.row_sums}
        self._counters = {pull: tensor_of(np.zeros(n, "int32")) for pull, n in tables.items()}
        self._others = [b for n, b in compiled.buffers.items() if n not in mine]
        self._room: dict[str, int] = {}

    def make_room(self, counts: list[int], scratch_rows: int, memory: HostMemory) -> None:
        """Let the network's buffers hold this batch; they only grow."""
        for b in self._others:
            assert b.space is not None
            n = scratch_rows if b.space.what == "scratch" else counts[self._spaces.number[b.space]]
            if n > self._room.get(b.name, -1):
                memory.rows(b.name, n, b.ld, b.dtype)
                self._room[b.name] = len(memory.read(b.name))

    def fill(self, plan: Plan, counts: list[int], memory: HostMemory) -> dict[str, np.ndarray]:
        """Write the batch's buffers.

        Returns, for every input whose rows get gradients, its distinct values: int32[n_distinct].
        """
        for b in self._buffers:
            assert b.space is not None
            self._fill(b, plan, counts, memory)
        return {
            pull: self._planner.group(
                pull, counts[self._spaces.number[Space("pull", pull)]], counter, memory
            )
            for pull, counter in self._counters.items()
        }

    def _fill(self, b: Buffer, plan: Plan, counts: list[int], memory: HostMemory) -> None:
        what, _, key = b.name.partition(".")
        n, kernels, tensor = plan.n_rows, self._planner.kernels, memory.tensor
        assert b.space is not None
        member: Any = self._spaces.members[b.space]
        count = counts[self._spaces.number[b.space]]
        if what == "child":
            out = memory.rows(b.name, count, 0, "int32")
            arity, slot = self._planner.arity, int(key)
            kernels["child"](n, arity, slot, tensor("plan.kind"), tensor("plan.below"), out, member)
        elif what in ("index", "pull"):
            out = memory.rows(b.name, count, b.ld, b.dtype)
            values = plan.graph.inputs[key].values
            where = tensor("plan.order"), tensor("plan.kind")
            if b.ld:
                given = tensor_of(values.reshape(n, -1))
                kernels["take_rows"](n, b.ld, *where, given, out, member)
            else:
                kernels["take"](n, *where, tensor_of(values), out, member)
        elif b.name == "edges.pointers":
            room = counts[self._spaces.number[EDGES]]
            self._planner.edges(n, self._spaces.members[EDGES], room, memory)
        elif what == "dropout":
            memory.rows(b.name, count, b.ld, b.dtype)
            memory.write(b.name, dropout.vertex_keys(plan.graph.vertex_id[plan.order]))
