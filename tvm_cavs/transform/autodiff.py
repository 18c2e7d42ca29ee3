"""Differentiate: the adjoint of a vertex function is a vertex function over the reversed graph.

Its gather is the sum of what the parents scattered (the adjoint of `scatter`), its scatter goes to
one child (the adjoint of `gather(slot)`), its pulls are saved forward values. So `stages`,
`specialise`, `lower` and the executors have no second version for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from operator import add

from ..errors import TraceError
from ..language import OPS, Builder, Call, Program, Type, Value, full, nothing, without_dead

# Values that the backward pass reads again instead of having the forward pass save them.
_READ_AGAIN = frozenset(
    {"param", "pull", "present", "embedding", "concat", "slice", "reshape", "full", "transpose"}
)


def differentiate(program: Program, output: str = "loss", weight: str | None = None) -> Program:
    """Adjoint of `program` for the sum over all vertices of the scalar pushed as `output`.

    With `weight` every vertex counts as often as its input of that name says: a float32 scalar.

    Writes: `scatter(slot, field)` for every gathered field of every slot, `gradient(name)` for
    every parameter (several calls for one parameter add up). Reads: `saved(name="12")` is value %12
    of `program`.

    Raises:
        TraceError: `output` is not pushed, or is not a scalar.
    """
    _check_scalar(program, output)
    return _swept(program, {output: weight})


def pull_back(program: Program, seeds: Mapping[str, str]) -> Program:
    """Adjoint of `program` for any gradients of its outputs: that of an output is the input that
    `seeds` names for it, and other outputs have none. All else as `differentiate`.
    """
    return _swept(program, seeds)


def _swept(program: Program, seeds: Mapping[str, str | None]) -> Program:
    sweep = _Sweep(program, seeds)
    for i in reversed(range(len(program.calls))):
        _ADJOINTS.get(program.calls[i].op, _of_value)(sweep, i)
    _complete_scatters(program, sweep.builder)
    return without_dead(sweep.builder.finish())


def _check_scalar(program: Program, output: str) -> None:
    losses = [c for _, c in program.select("push") if c["name"] == output]
    if not losses or losses[0].type.shape != ():
        given = f"{losses[0].type}" if losses else "no such output"
        raise TraceError(
            f"{program.name}: to differentiate, push one scalar named {output!r}; found {given}"
        )


class _Sweep:
    """The state of one sweep over a program's calls, from the last to the first.

    seeds: the input that is the gradient of each output; None: it is 1. builder: of the adjoint.
    gradients: the contributions to every value's gradient so far.
    """

    def __init__(self, program: Program, seeds: Mapping[str, str | None]) -> None:
        self.program, self.seeds = program, seeds
        self.builder = Builder(f"adjoint of {program.name}")
        self.primal, self.wanted = _Primal(program, self.builder), _has_gradient(program)
        self.gathers = any(c.op == "gather" for c in program.calls)
        self.gradients: dict[int, list[Value]] = {}

    def add(self, i: int, contribution: Value) -> None:
        """Add to the gradient of value %i."""
        self.gradients.setdefault(i, []).append(contribution)

    def total(self, i: int) -> Value | None:
        """The gradient of value %i; None if nothing contributes to it."""
        found = self.gradients.get(i)
        return reduce(add, found) if found else None


def _of_push(s: _Sweep, i: int) -> None:
    """What has a seed begins the sweep; other outputs have no part in it."""
    c, b = s.program.calls[i], s.builder
    if c["name"] in s.seeds:
        seed = s.seeds[c["name"]]
        s.add(c.args[0], b.call("pull", name=seed, type=c.type) if seed else full(b, 1.0))


def _of_scatter(s: _Sweep, i: int) -> None:
    """What the parents give to a state, if any parent reads one."""
    c = s.program.calls[i]
    if s.gathers:
        s.add(c.args[0], s.builder.call("gather_sum", field=c["field"], type=c.type))


def _of_gather(s: _Sweep, i: int) -> None:
    """The gradient of a child's state goes to that child."""
    c, g = s.program.calls[i], s.total(i)
    g = nothing(s.builder, c.type.shape) if g is None else g
    s.builder.call("scatter", g, field=c["field"], slot=c["slot"])


def _of_param(s: _Sweep, i: int) -> None:
    """One `gradient` for every contribution: a sparse one does not add to a dense one."""
    for g in s.gradients.get(i, ()):
        s.builder.call("gradient", g, name=s.program.calls[i]["name"])


def _of_value(s: _Sweep, i: int) -> None:
    """By the op's own rule, to the operands that a parameter or a child's state can move."""
    c, g = s.program.calls[i], s.total(i)
    rule = OPS[c.op].derivative
    if g is None or rule is None or not s.wanted[i]:
        return
    args = [s.primal(a) for a in c.args]
    parts = rule(g, s.primal(i), args, dict(c.attrs))
    for a, contribution in zip(c.args, parts, strict=True):
        if contribution is not None and s.wanted[a]:
            s.add(a, _match(contribution, s.program.calls[a].type, c.type))


# The adjoints of calls that reach beyond a vertex; all others have a derivative in `OPS`.
_ADJOINTS: dict[str, Callable[[_Sweep, int], None]] = {
    "push": _of_push,
    "scatter": _of_scatter,
    "gather": _of_gather,
    "param": _of_param,
}


def _has_gradient(program: Program) -> list[bool]:
    """For every call, whether a parameter or a child's state can move its result."""
    found: list[bool] = []
    for c in program.calls:
        source = c.op in ("param", "gather") or any(found[a] for a in c.args)
        found.append(source and c.type.dtype == "float32")
    return found


class _Primal:
    """Forward values as the adjoint sees them: read again where that is cheap, saved otherwise."""

    def __init__(self, program: Program, builder: Builder) -> None:
        self._program, self._builder = program, builder
        self._known: dict[int, Value] = {}
        self._states = {c.args[0]: c["field"] for _, c in program.select("scatter")}

    def __call__(self, i: int) -> Value:
        if i not in self._known:
            self._known[i] = self._make(i, self._program.calls[i])
        return self._known[i]

    def _make(self, i: int, c: Call) -> Value:
        b = self._builder
        if c.op == "gather":
            return b.call("child_state", slot=c["slot"], field=c["field"], type=c.type)
        if c.op in _READ_AGAIN or c.type.per == "net":
            return b.call(c.op, *(self(a) for a in c.args), **dict(c.attrs))
        if i in self._states:
            return b.call("own_state", field=self._states[i], type=c.type)
        return b.call("saved", name=str(i), type=c.type)


def _match(g: Value, want: Type, result: Type) -> Value:
    """The gradient `g` of an op's result as the gradient of one operand of type `want`.

    Sums over the axes along which the operand was broadcast and, for a parameter, over vertices.
    """
    if g.shape != want.shape:
        g = _summed(g, want.shape)
    if want.per == "net" and result.per == "vertex" and not _is_total(g):
        g = g.builder.call("total", g)
    return g


def _summed(g: Value, shape: tuple[int, ...]) -> Value:
    """Sum `g` over the axes along which an operand of `shape` was broadcast."""
    call = g.builder.call
    if not shape:
        flat = call("reshape", g, shape=(g.type.size,)) if len(g.shape) > 1 else g
        return call("sum", flat, keep=False)
    wide = (1,) * (len(g.shape) - len(shape)) + shape
    for axis in reversed(range(len(wide))):
        if g.shape[axis] != wide[axis]:
            g = _sum_axis(g, axis)
    return g if g.shape == shape else call("reshape", g, shape=shape)


def _sum_axis(g: Value, axis: int) -> Value:
    """Sum over one axis, which stays with extent 1; ops reduce the last, so it is moved there."""
    call, kept = g.builder.call, (*g.shape[:axis], 1, *g.shape[axis + 1 :])
    if axis == len(g.shape) - 1:
        return call("sum", g, keep=True)
    n, before = g.shape[axis], prod(g.shape[:axis])
    after = prod(g.shape[axis + 1 :])
    if before > 1:
        g = call("transpose", call("reshape", g, shape=(before, n * after)))
    g = call("sum", call("transpose", call("reshape", g, shape=(n, after * before))), keep=False)
    if before > 1:
        g = call("transpose", call("reshape", g, shape=(after, before)))
    return call("reshape", g, shape=kept)


def _is_total(g: Value) -> bool:
    return g.builder.define(g.index)[0] in ("total", "total_rows")


def _complete_scatters(program: Program, b: Builder) -> None:
    """Every slot of every state field gets a gradient, zero where F does not read it."""
    written = {(c["field"], c["slot"]) for c in b.calls if c.op == "scatter"}
    fields = {c["field"]: c.type for _, c in program.select("scatter")}
    slots = {c["slot"] for _, c in program.select("gather")}
    for slot in sorted(slots):
        for name, kind in fields.items():
            if (name, slot) not in written:
                b.call("scatter", nothing(b, kind.shape), field=name, slot=slot)
