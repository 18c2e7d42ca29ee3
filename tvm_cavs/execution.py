"""What an executor is: the boundary between a network's programs and whatever runs them.

`Programs` go in once, a `Graph` (a batch) at every call; executors differ in speed, never in
meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .errors import TargetError
from .graph import Graph
from .inputs import Read
from .program import Program, bounds
from .vertex import Parameter, RowSparse


@dataclass(frozen=True)
class Programs:
    """What is run: F (with its loss in training), its adjoint (None for inference), the arity."""

    forward: Program
    adjoint: Program | None
    arity: int

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """The inputs that F reads."""
        limits = bounds(self.forward)
        found: dict[tuple[str, tuple[int, ...] | None, str], None] = {}
        for _, c in self.forward.select("pull", "present"):
            shape, dtype = (c.type.shape, c.type.dtype) if c.op == "pull" else (None, "")
            found[c["name"], shape, dtype] = None
        return tuple(Read(*each, limits.get(each[0])) for each in found)

    @cached_property
    def row_sparse(self) -> frozenset[str]:
        """Parameters whose every gradient is a sum over the rows that were looked up."""
        if self.adjoint is None:
            return frozenset()
        kinds: dict[str, set[str]] = {}
        for _, c in self.adjoint.select("gradient"):
            kinds.setdefault(c["name"], set()).add(self.adjoint.calls[c.args[0]].op)
        return frozenset(name for name, ops in kinds.items() if ops == {"total_rows"})


@dataclass(frozen=True)
class Seeds:
    """What dropout depends on besides the vertex: the network's seed and the step."""

    seed: int = 0
    step: int = 0


@dataclass(frozen=True)
class Result:
    """Pushed outputs by name, one row per vertex in the batch's order: float32[n_vertices, ...]."""

    outputs: Mapping[str, np.ndarray]


class Executor(Protocol):
    """Runs the programs it was made with."""

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Do once what graphs like these will need, such as compiling; `forward` does the rest."""
        ...

    def forward(self, graph: Graph, seeds: Seeds) -> Result: ...

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients of the sum of `loss`, for the last forward pass.

        The arrays may be reused by the next.
        """
        ...


@runtime_checkable
class PlanningExecutor(Executor, Protocol):
    """An executor that splits `forward`, so that one batch is planned while another runs.

    n_threads: the cores that a pass keeps busy.
    """

    n_threads: int

    def plan(self, graph: Graph, ahead: bool = False) -> Any:
        """What can be done for a batch without the parameters.

        With `ahead` it may be called from another thread while the batch before runs, and answers
        None if the batch has to wait for that.
        """
        ...

    def run(self, planned: Any, seeds: Seeds) -> Result:
        """The forward pass of a batch that `plan` has planned."""
        ...


Factory = Callable[..., Executor]  # (programs, parameters, **options)
GROUP = "tvm_cavs.executors"  # of entry points; those of this package need not be installed
BUILT_IN = (
    EntryPoint("reference", "tvm_cavs.reference:ReferenceExecutor", GROUP),
    EntryPoint("tvm", "tvm_cavs.executor:TvmExecutor", GROUP),
)
_REGISTERED: dict[str, Callable[[], Factory]] = {e.name: e.load for e in BUILT_IN}


def register(name: str, load: Callable[[], Factory]) -> None:
    """Offer an executor under `name`; `load` imports it when it is first used.

    Packages can do the same with an entry point in the group `tvm_cavs.executors`.
    """
    _REGISTERED[name] = load


def names() -> list[str]:
    """All executors that can be chosen."""
    return sorted({*_REGISTERED, *(e.name for e in entry_points(group=GROUP))})


def factory(name: str) -> Factory:
    """The executor called `name`.

    Raises:
        TargetError: there is none.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]()
    for e in entry_points(group=GROUP):
        if e.name == name:
            return e.load()  # type: ignore[no-any-return]
    raise TargetError(f"executor {name!r}: expected one of {', '.join(names())}")


def check_options(name: str, make: Factory, options: Mapping[str, Any]) -> None:
    """The executor takes these options.

    Raises:
        TargetError: it does not.
    """
    taken = list(inspect.signature(make).parameters.values())[2:]
    known = [p.name for p in taken if p.kind is not p.VAR_KEYWORD]
    unknown = [o for o in options if o not in known]
    if unknown and len(known) == len(taken):
        raise TargetError(
            f"executor {name!r} has no option {', '.join(unknown)}; "
            f"expected {', '.join(known) or 'none'}"
        )


def check_parameters(programs: Programs, parameters: Mapping[str, Parameter]) -> None:
    """Every parameter the programs read exists and has data."""
    for _, c in programs.forward.select("param"):
        _ = parameters[c["name"]].data
