"""Loaded: what was compiled for all kinds so far, with everything that running it needs.

An executor has one, and gets another when kinds are added. What it has is made together, so that
none of it is ever of other kinds than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..compiler import Compiled, Compiler, Group, Kinds, directly
from ..graph import Kind
from ..language import Parameter
from ..runtime import Batch, Filling, HostMemory, Passes, Plan, Planner, Spaces
from .gradients import Gradients
from .weights import Weights


@dataclass(frozen=True, eq=False)
class Loaded:
    """Compiled kernels, ready to run.

    kinds: of the vertices that they serve. stages: as they were before they were compiled, forward
    first. packed: all kernel calls, with packed weights. direct: the same with weights that are
    read where they lie, once a batch has wanted that.
    """

    kinds: tuple[Kind, ...]
    stages: tuple[Group, ...]
    compiled: Compiled
    spaces: Spaces
    filling: Filling
    weights: Weights
    gradients: Gradients
    packed: Passes
    direct: Passes | None = None

    def with_direct(
        self, compiler: Compiler, parameters: Mapping[str, Parameter], planner: Planner
    ) -> Loaded:
        """Compile the calls that read weights where they lie."""
        groups = directly(self.stages, self.spaces.groups, compiler, parameters)
        return replace(self, direct=Passes(groups, self.spaces, planner.kernels["routine"]))

    def batch(self, plan: Plan, passes: Passes, planner: Planner, memory: HostMemory) -> Batch:
        """Put what kernels read of a batch's graphs into its memory."""
        spaces = self.spaces
        counts = spaces.counts(plan)
        distinct = self.filling.fill(plan, counts, memory)
        cut = spaces.cut(plan, planner, memory)
        return Batch(spaces, plan, passes, cut, spaces.replaced(cut), counts, memory, distinct)


def load(
    compiled: Compiled,
    kinds: Kinds,
    parameters: Mapping[str, Parameter],
    planner: Planner,
    memory: HostMemory,
) -> Loaded:
    """Make everything that running needs; `compiled` is of these kinds, `memory` the network's."""
    spaces = Spaces(compiled)
    for name, (shape, dtype) in compiled.fixed.items():
        memory.fixed(name, shape, dtype)
    return Loaded(
        kinds=tuple(kinds.kinds),
        stages=(*kinds.forward, *kinds.backward),
        compiled=compiled,
        spaces=spaces,
        filling=Filling(compiled, spaces, planner),
        weights=Weights(compiled, parameters, memory),
        gradients=Gradients(kinds.programs, parameters, compiled, memory),
        packed=Passes(spaces.groups, spaces, planner.kernels["routine"]),
    )
