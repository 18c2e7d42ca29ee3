"""What elementwise ops of a region do with one element, as expressions of TIR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from .... import dropout
from . import polynomials
from .polynomials import f32

Expr = Any


def constant(value: float) -> Expr:
    """A float32 constant that TVM computes with at run time only, as its bits.

    TVM folds floats as if they were real numbers: of a FloatImm 0 it makes 0 * x = 0 for every x,
    -0 + 0 = -0, and of x / 0 an error. LLVM folds what is exact.
    """
    bits = int(np.float32(value).view("int32"))
    if bits == 0:  # which TVM takes for a null pointer
        return tirx.abs(constant(-0.0))
    return tirx.reinterpret("float32", tirx.IntImm("int32", bits))


def itself(x: Expr) -> Expr:
    """x, which TVM does not know to be x: it takes x - x for 0 and x == x for true, NaN or not."""
    if str(x.ty) != "float32":
        return x
    return tirx.reinterpret("float32", tirx.reinterpret("int32", x))


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


# op -> its meaning, with NumPy's treatment of NaN and infinities
ELEMENTWISE: dict[str, Callable[..., Expr]] = {
    "copy": lambda x: x,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - itself(b),
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
    "equal": lambda a, b: chosen(a == itself(b)),
    "where": lambda c, a, b: tirx.Select(c == f32(0.0), b, a),  # `c != 0` is false of NaN in TVM
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

    TVM's simplifier knows no modulo: it folds constants and multiplies sums out, which the wider
    type allows: a unit is below 2^31.
    """
    if isinstance(unit, tirx.IntImm):
        return u32(unit.value * dropout.UNIT_STRIDE & 0xFFFFFFFF)
    return wrapping_product(unit, dropout.UNIT_STRIDE)


def wrapping_product(x: Expr, factor: int) -> Expr:
    """x * factor modulo 2^32, as uint32.

    TVM's LLVM back end marks integer arithmetic of 32 bits and more as never wrapping (`nuw`,
    `nsw`), and LLVM believes it. In 64 bits this product never wraps; LLVM sees that only the lower
    half is used and multiplies in 32 bits again. TVM refuses a conversion that might not fit.
    """
    wide = x.astype("uint64") * tirx.IntImm("uint64", factor)
    return T.bind((wide & tirx.IntImm("uint64", 0xFFFFFFFF)).astype("uint32"))


def mix(x: Expr) -> Expr:
    """`dropout.mix` of a uint32."""
    for shift, factor in zip(dropout.SHIFTS, (*dropout.MULTIPLIERS, None), strict=True):
        x = T.bind(x ^ (x >> u32(shift)))
        if factor is not None:
            x = wrapping_product(x, factor)
    return x
