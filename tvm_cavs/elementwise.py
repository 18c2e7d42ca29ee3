"""What elementwise ops of a region do with one element, as expressions of TIR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from . import dropout, polynomials
from .polynomials import f32

Expr = Any


def chosen(condition: Expr) -> Expr:
    """1 where the condition holds, else 0."""
    return tirx.Select(condition, f32(1.0), f32(0.0))


def is_number(x: Expr) -> Expr:
    """Not NaN. (TVM takes `x == x` for true.)"""
    return x <= f32(float("inf"))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger one, or NaN if either is (TIR's own `max` forgets a NaN on one side)."""
    return tirx.Select(is_number(a), tirx.Select(a > b, a, b), a)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller one, or NaN if either is."""
    return tirx.Select(is_number(a), tirx.Select(a < b, a, b), a)


def opaque(x: Expr) -> Expr:
    """x, of which TVM's simplifier knows nothing. It takes 0 * x, 0 / x and x - x for 0, x + 0 for
    x and x == x for true, which infinities, NaN and -0.0 belie; LLVM knows better.
    """
    return tirx.reinterpret("float32", tirx.reinterpret("int32", x))


# op -> its meaning, with NumPy's treatment of NaN and infinities
ELEMENTWISE: dict[str, Callable[..., Expr]] = {
    "copy": lambda x: x,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "over": lambda a, b: a / b,
    "neg": lambda a: a * f32(-1.0),
    "sigmoid": polynomials.sigmoid,
    "tanh": polynomials.tanh,
    "relu": lambda a: tirx.Select(a <= f32(0.0), f32(0.0), a),
    "exp": polynomials.exp,
    "log": tirx.log,
    "sqrt": tirx.sqrt,
    "abs": tirx.abs,
    "maximum": maximum,
    "minimum": minimum,
    "greater": lambda a, b: chosen(a > b),
    "equal": lambda a, b: chosen(a == b),
    "where": lambda c, a, b: tirx.Select(c == f32(0.0), b, a),  # (TVM's != is false for NaN)
}


def one_hot(index: Expr, position: Expr) -> Expr:
    """1 at the position that the index names; an absent index (-1) names none."""
    return chosen(index.astype("int64") == position)


def is_child(row: Expr) -> Expr:
    """1 where the row of states is a child's: row 0 holds zeros, for absent ones."""
    return chosen(row > tirx.IntImm("int32", 0))


def u32(value: int) -> Expr:
    """An unsigned constant."""
    return tirx.IntImm("uint32", value)


def dropped(x: Expr, key: Expr, unit: Expr, rate: float) -> Expr:
    """x / (1 - rate), or 0 where the hash of the row's key and the unit says so; see `dropout`."""
    bits = mix(T.bind(key ^ times_stride(unit))) >> u32(32 - dropout.BITS)
    kept = bits >= u32(dropout.threshold(rate))
    return tirx.Select(kept, x * f32(1.0 / (1.0 - rate)), f32(0.0))


def times_stride(unit: Expr) -> Expr:
    """unit * UNIT_STRIDE modulo 2^32.

    TVM's simplifier knows no modulo: it folds constants and multiplies sums out. So constants are
    folded here, and the hash combines by exclusive or.
    """
    if isinstance(unit, tirx.IntImm):
        return u32(unit.value * dropout.UNIT_STRIDE & 0xFFFFFFFF)
    return unit.astype("uint32") * u32(dropout.UNIT_STRIDE)


def mix(x: Expr) -> Expr:
    """`dropout.mix` of a uint32."""
    for shift, factor in zip(dropout.SHIFTS, (*dropout.MULTIPLIERS, None), strict=True):
        x = T.bind(x ^ (x >> u32(shift)))
        if factor is not None:
            x = T.bind(x * u32(factor))
    return x
