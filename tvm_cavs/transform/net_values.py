"""Net-level values: what there is one of for the whole network, as expressions of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ..expressions import Expression, Line
from ..language import OPS, Program

LEAVES = ("param", "total")


def expression(program: Program, i: int, leaf: Callable[[int], Hashable]) -> Expression:
    """Net-level value %i, with what it is made of; `leaf(k)` names parameter or total %k."""
    lines: list[Line] = []
    place: dict[int, int] = {}

    def add(k: int) -> int:
        if k not in place:
            c = program.calls[k]
            if c.op in LEAVES:
                line = Line(c.op, (), {}, c.type.shape, leaf=leaf(k))
            else:
                compute = OPS[c.op].numpy
                assert compute is not None, c.op
                line = Line(c.op, tuple(map(add, c.args)), dict(c.attrs), c.type.shape, compute)
            lines.append(line)
            place[k] = len(lines) - 1
        return place[k]

    add(i)
    return Expression(tuple(lines))


def net_value(program: Program, i: int, leaf: Callable[[int], Any]) -> Any:
    """Net-level value %i by NumPy, float32; `leaf(k)` gives parameter or total %k."""
    return expression(program, i, lambda k: k).value(leaf)
