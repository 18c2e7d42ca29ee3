"""Programs of a network: F with its loss and their adjoint, made and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..errors import TraceError
from ..graph import COPIES, Policy, Read
from ..language import Call, Program, Type, bounds, keep, without_dead
from .autodiff import differentiate, pull_back

LEAST_GAIN = 1 << 14  # multiplications a vertex, on average; to save less takes as long
LEAST_PER_LEVEL = 16  # vertices on a level, on average; smaller batches are done before
SEED = "tvm_cavs.gradient."  # how the input begins that is an output's gradient


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


def check_names(forward: Program) -> None:
    for _, c in forward.select("pull", "present"):
        if c["name"] == COPIES or c["name"].startswith(SEED):
            raise TraceError(
                f"{forward.name}: the input name {c['name']!r} is reserved; use another"
            )


def counted(programs: Programs) -> Programs:
    """The programs of training when the loss of a vertex counts as often as its COPIES say."""
    forward = programs.forward
    read = Call("pull", (), (("name", COPIES), ("type", Type(()))), Type(()))
    return Programs(
        Program(forward.name, (*forward.calls, read)),
        differentiate(forward, weight=COPIES),
        programs.arity,
    )


def seeded(programs: Programs) -> Programs:
    """The programs of inference with an adjoint whose inputs are the gradients of the outputs.

    The gradient of output `name`, which is a float32 one, is the input SEED + `name`; every vertex
    has it.
    """
    forward = programs.forward
    outputs = {c["name"]: c.type for _, c in forward.select("push") if c.type.dtype == "float32"}
    reads = (
        Call("pull", (), (("name", SEED + name), ("type", type)), type)
        for name, type in outputs.items()
    )
    return Programs(
        Program(forward.name, (*forward.calls, *reads)),
        pull_back(forward, {name: SEED + name for name in outputs}),
        programs.arity,
    )


def only_pushes(program: Program, names: set[str]) -> Program:
    """The program without the other pushes, and without what only they needed."""
    live = {i for i, c in enumerate(program.calls) if c.op != "push" or c["name"] in names}
    return without_dead(keep(program, live))


def choose_policy(forward: Program, sharing: bool | None) -> Policy | None:
    """How equal vertices are shared when they run `forward`; None where they are not.

    With `sharing` None that is where dropout does not make them differ, and where it saves time:
    what is saved of matrix products must be worth LEAST_GAIN a vertex.

    Raises:
        TraceError: sharing is True, and dropout makes all vertices differ.
    """
    differ = any(c.op == "dropout" for c in forward.calls)
    if sharing is False or (differ and sharing is None):
        return None
    if differ:
        raise TraceError(
            f"{forward.name}: sharing=True, but dropout makes equal vertices differ. Leave "
            "sharing at None, which shares where there is no dropout, or take dropout out"
        )
    reads = forward.select("pull", "present")
    names = tuple(dict.fromkeys(c["name"] for _, c in reads))
    if sharing:
        return Policy(names)
    operands = (forward.calls[a].type for _, c in forward.select("matmul") for a in c.args)
    least = LEAST_GAIN / max(1, sum(t.size for t in operands if t.per == "net"))
    return Policy(names, least, LEAST_PER_LEVEL) if least < 1.0 else None
