"""Loaded: what was compiled for all kinds so far, with everything that running it needs.

An executor has one, and gets another when kinds are added. What it has is made together and never
changed, so that none of it is ever of other kinds than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..compiler import Compiled, Compiler, Kinds, assemble, directly
from ..language import Parameter
from ..runtime import (
    Batch,
    Filling,
    HostMemory,
    Layout,
    Passes,
    Plan,
    Planner,
    Ranks,
    Spaces,
    Workspace,
)
from .gradients import Gradients
from .weights import Weights


@dataclass(frozen=True, eq=False)
class Loaded:
    """Compiled kernels, ready to run.

    kinds: what they serve, not to be changed. packed: all kernel calls, with packed weights.
    direct: the same with weights that are read where they lie, once a batch has wanted that.
    """

    kinds: Kinds
    ranks: Ranks
    compiled: Compiled
    spaces: Spaces
    layout: Layout
    filling: Filling
    weights: Weights
    gradients: Gradients
    packed: Passes
    direct: Passes | None = None

    def with_direct(
        self, compiler: Compiler, parameters: Mapping[str, Parameter], planner: Planner
    ) -> Loaded:
        """Compile the calls that read weights where they lie."""
        stages = (*self.kinds.forward, *self.kinds.backward)
        groups = directly(stages, self.spaces.groups, compiler, parameters)
        return replace(self, direct=Passes(groups, self.spaces, planner.kernels["routine"]))

    def knowing(self, kinds: Kinds, planner: Planner) -> Loaded:
        """The same, where more sets of inputs are known to be of the same kinds."""
        ranks = planner.ranks(kinds.number, kinds.rank, kinds.maybe)
        return replace(self, kinds=kinds, ranks=ranks)

    def batch(self, plan: Plan, passes: Passes, planner: Planner, memory: HostMemory) -> Batch:
        """Put what kernels read of a batch's graphs into its memory."""
        spaces = self.spaces
        counts = spaces.counts(plan)
        distinct = self.filling.fill(plan, counts, memory)
        cut = spaces.cut(plan, planner, memory)
        return Batch(spaces, plan, passes, cut, spaces.replaced(cut), counts, memory, distinct)

    def workspace(self, found: Workspace | None) -> Workspace:
        """The one that was found, if it is for these kernels, or a new one."""
        if found is not None and found.layout is self.layout:
            return found
        return Workspace(self.layout, self.weights.memory)


def load(
    kinds: Kinds,
    compiler: Compiler,
    parameters: Mapping[str, Parameter],
    planner: Planner,
    memory: HostMemory,
) -> Loaded:
    """Compile what is new for these kinds, and make everything that running needs.

    Args:
        memory: where the values of the parameters are.
    """
    compiled = assemble(kinds, compiler, parameters)
    spaces = Spaces(compiled)
    return Loaded(
        kinds=kinds,
        ranks=planner.ranks(kinds.number, kinds.rank, kinds.maybe),
        compiled=compiled,
        spaces=spaces,
        layout=Layout(compiled, spaces),
        filling=Filling(compiled, spaces, planner),
        weights=Weights(compiled, parameters, memory),
        gradients=Gradients(kinds.programs, parameters, compiled),
        packed=Passes(spaces.groups, spaces, planner.kernels["routine"]),
    )
