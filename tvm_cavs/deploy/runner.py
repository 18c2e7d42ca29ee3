"""Runner: one program of an exported model, ready to plan and to run batches."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import GraphError
from ..graph import Graph
from ..renewal import renewed_after_fork
from ..runtime import Batch, BatchMemory, Passes, Planner, Prepared, UnknownKindsError
from .program import Deployed


class Runner:
    """Plans batches for a program; made once, and then not changed.

    Args:
        name: the model's, for errors.
    """

    def __init__(self, deployed: Deployed, name: str) -> None:
        self.deployed, self._name = deployed, name
        planner = Planner(deployed.host, deployed.arity, deployed.pulls)
        self.ranks = planner.ranks(deployed.number, deployed.rank, deployed.maybe)
        self.prepared = Prepared(deployed.executable, planner)
        routine, spaces = planner.kernels["routine"], self.prepared.spaces
        self._direct = Passes(deployed.direct, spaces, routine) if deployed.direct else None
        self.outputs = [(o.name, o.buffer, o.shape) for o in deployed.outputs]
        self._renew()
        renewed_after_fork(self, Runner._renew)

    def _renew(self) -> None:
        self._memory_of_batches = BatchMemory()

    def plan(self, graph: Graph) -> Batch:
        """A batch, ready to run.

        Raises:
            GraphError: some of its vertices have no kernels.
        """
        memory, prepared = self._memory_of_batches.take(), self.prepared
        try:
            plan = prepared.planner.plan(graph, memory, self.ranks)
        except UnknownKindsError as unknown:
            raise self.refusal(unknown.masks) from None
        made = prepared.batch(plan, self._passes_of(plan.n_rows), memory)
        self._memory_of_batches.give(made)
        return made

    def _passes_of(self, n_rows: int) -> Passes:
        """With packed weights or without, by the size of the batch alone, as in training."""
        small = n_rows <= self.deployed.direct_vertices
        return self._direct if small and self._direct is not None else self.prepared.passes

    def refusal(self, masks: Iterable[int]) -> GraphError:
        """What is said of vertices of which some have no kernels."""
        known, pulls, arity = self.ranks.number, self.deployed.pulls, self.deployed.arity
        mask = next(m for m in masks if m | self.ranks.maybe not in known)
        slots = [str(k) for k in range(arity) if mask >> k & 1]
        seeds = {str(buffer.key) for buffer in self.deployed.seeds.values()}
        has = [p for i, p in enumerate(pulls) if mask >> (arity + i) & 1 and p not in seeds]
        return GraphError(
            f"{self._name} was exported for the vertices of its data, among which none has "
            f"children in slots {', '.join(slots) or 'none'} and the inputs "
            f"{', '.join(has) or 'none'}. Export it with data that have such vertices."
        )
