"""Differentiate: the adjoint of a vertex function is a vertex function over the reversed graph.

Its gather is the sum of what the parents scattered (the adjoint of `scatter`), its scatter goes to
one child (the adjoint of `gather(slot)`), its pulls are saved forward values. So `stages`,
`rewrite`, `lower` and the executors have no second version for the backward pass.
"""

from __future__ import annotations

from math import prod

from .errors import TraceError
from .ops import OPS, Type, Value, full, nothing
from .program import Builder, Call, Program, without_dead

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
    losses = [c for _, c in program.select("push") if c["name"] == output]
    if not losses or losses[0].type.shape != ():
        given = f"{losses[0].type}" if losses else "no such output"
        raise TraceError(
            f"{program.name}: to differentiate, push one scalar named {output!r}; found {given}"
        )
    b = Builder(f"adjoint of {program.name}")
    primal, wanted = _Primal(program, b), _has_gradient(program)
    grads: dict[int, list[Value]] = {}
    gathers = any(c.op == "gather" for c in program.calls)

    def total(i: int) -> Value | None:
        found = grads.get(i)
        if not found:
            return None
        result = found[0]
        for g in found[1:]:
            result = result + g
        return result

    for i in reversed(range(len(program.calls))):
        c = program.calls[i]
        if c.op == "push":
            if c["name"] == output:
                seed = b.call("pull", name=weight, type=Type(())) if weight else full(b, 1.0)
                grads.setdefault(c.args[0], []).append(seed)
        elif c.op == "scatter" and gathers:  # else no parent reads it
            state = b.call("gather_sum", field=c["field"], type=c.type)
            grads.setdefault(c.args[0], []).append(state)
        elif c.op == "gather":
            g = total(i)
            b.call(
                "scatter",
                nothing(b, c.type.shape) if g is None else g,
                field=c["field"],
                slot=c["slot"],
            )
        elif c.op == "param":
            for g in grads.get(i, ()):  # several: a sparse one does not add to a dense one
                b.call("gradient", g, name=c["name"])
        elif (g := total(i)) is not None and (rule := OPS[c.op].derivative) is not None:
            if not wanted[i]:
                continue
            args = [primal(a) for a in c.args]
            parts = rule(g, primal(i), args, dict(c.attrs))
            for a, contribution in zip(c.args, parts, strict=True):
                if contribution is not None and wanted[a]:
                    matched = _match(contribution, program.calls[a].type, c.type)
                    grads.setdefault(a, []).append(matched)
    _complete_scatters(program, b)
    return without_dead(b.finish())


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
