"""Simplify: the local rules, common subexpressions and dead code, until nothing changes."""

from __future__ import annotations

from collections.abc import Callable

from ..language import EFFECTS, OPS, Builder, Call, Program, Value, without_dead
from . import blocks, rules

Substitution = Callable[[Builder, Call], "Value | None"]


class _Rewriter(Builder):
    """A sharing builder with the local rules; `sliced_only`: values used in slices only."""

    def __init__(self, name: str, sliced_only: bool) -> None:
        super().__init__(name, shared=True, rule=rules.apply)
        self.sliced_only: set[int] = set()
        self.push_slices = sliced_only


def simplify(program: Program, push_slices: bool = True) -> Program:
    """Apply the local rules until nothing changes; `push_slices` cuts sliced products up."""
    for _ in range(20):
        better = without_dead(_pass(program, push_slices))
        if better.calls == program.calls:
            return better
        program = better
    raise AssertionError(f"the rules of {program.name} do not settle")


def _pass(
    program: Program,
    push_slices: bool,
    substitute: Substitution | None = None,
    agree: Callable[[int, Value], Value] | None = None,
) -> Program:
    b = _Rewriter(program.name, push_slices)
    only = _sliced_only(program) if push_slices else set()
    new: list[Value | None] = []
    for i, c in enumerate(program.calls):
        value = substitute(b, c) if substitute else None
        if value is None and not (c.op == "gradient" and _is_zero(_at(new, c.args[0]))):
            value = b.call(c.op, *(_at(new, a) for a in c.args), where=c.where, **dict(c.attrs))
            value = agree(i, value) if agree else value
        new.append(value)
        if value is not None and i in only:
            b.sliced_only.add(value.index)
    return b.finish()


def _is_zero(x: Value) -> bool:
    return blocks.is_absent(x) or blocks.constant(x) == 0.0


def _at(values: list[Value | None], i: int) -> Value:
    value = values[i]
    assert value is not None
    return value


def _sliced_only(program: Program) -> set[int]:
    """Values of which only slices are used, directly or after elementwise ops."""
    uses, found = program.uses(), set()
    for i in reversed(range(len(program.calls))):
        c = program.calls[i]
        if c.op not in EFFECTS and len(c.type.shape) == 1 and uses[i]:
            if all(_slices(program.calls[u], c, u in found) for u in uses[i]):
                found.add(i)
    return found


def _slices(user: Call, value: Call, user_is_sliced: bool) -> bool:
    same = user.type.shape == value.type.shape
    return user.op == "slice" or (user_is_sliced and OPS[user.op].elementwise and same)
