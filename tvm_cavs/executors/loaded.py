"""Loaded: what was compiled for all kinds so far, with everything that running it needs.

An executor has one, and gets another when kinds are added. What it has is made together and never
changed, so that none of it is ever of other kinds than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..compiler import Compiler, Kinds, assemble, directly
from ..language import Parameter
from ..runtime import Gradients, HostMemory, Passes, Planner, Prepared, Ranks, Workspace
from .weights import Weights


@dataclass(frozen=True, eq=False)
class Loaded:
    """Compiled kernels, ready to run.

    kinds: what they serve, not to be changed. prepared: what all batches have in common; its calls
    read packed weights. direct: the same calls with weights that are read where they lie, once a
    batch has wanted that.
    """

    kinds: Kinds
    ranks: Ranks
    prepared: Prepared
    weights: Weights
    gradients: Gradients
    direct: Passes | None = None

    def with_direct(self, compiler: Compiler, parameters: Mapping[str, Parameter]) -> Loaded:
        """Compile the calls that read weights where they lie."""
        stages, prepared = (*self.kinds.forward, *self.kinds.backward), self.prepared
        groups = directly(stages, prepared.spaces.groups, compiler, parameters)
        routine = prepared.planner.kernels["routine"]
        return replace(self, direct=Passes(groups, prepared.spaces, routine))

    def knowing(self, kinds: Kinds) -> Loaded:
        """The same, where more sets of inputs are known to be of the same kinds."""
        ranks = self.prepared.planner.ranks(kinds.number, kinds.rank, kinds.maybe)
        return replace(self, kinds=kinds, ranks=ranks)

    def workspace(self, found: Workspace | None) -> Workspace:
        """The one that was found, if it is for these kernels, or a new one."""
        return self.prepared.workspace(found, self.weights.memory)


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
    return Loaded(
        kinds=kinds,
        ranks=planner.ranks(kinds.number, kinds.rank, kinds.maybe),
        prepared=Prepared(compiled, planner),
        weights=Weights(compiled, parameters, memory),
        gradients=Gradients(compiled, parameters),
    )
