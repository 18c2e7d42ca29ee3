"""exp, tanh and sigmoid as vectorisable expressions of TIR.

The mathematical library's scalar calls cost 2 to 5 ns each; these cost a few tenths. exp: range
reduction x = n ln 2 + r with |r| <= ln(2)/2, Taylor's polynomial of degree 7, and n put into the
exponent bits (Cody & Waite 1980, chapter 6). tanh: a rational function of degree 13 over 6 (the
minimax fit of Eigen's `ptanh`, MPL-2.0 project; its coefficients are facts). Errors against float64
are tested in test_polynomials.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

Expr = Any

TANH_LIMIT = 8.096653  # here the rational function is 1, with and without fused multiply-add
PTANH_ODD = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_ODD = tuple(c * (1 - 2e-8) for c in PTANH_ODD)  # so that rounding leads no value above 1
TANH_EVEN = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
EXP_TERMS = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP_LOW, EXP_HIGH = -104.0, 88.72284  # exp rounds to 0 below, to infinity above


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.FloatImm("float32", value)


def horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """Polynomial with the highest power's coefficient first."""
    result = f32(coefficients[0])
    for c in coefficients[1:]:
        result = T.bind(result * x + f32(c))
    return result


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent: +-1 beyond +-8.1, never more, NaN for NaN."""
    limited = tirx.min(f32(TANH_LIMIT), x)  # in this order NaN stays
    near = T.bind(tirx.max(f32(-TANH_LIMIT), limited))
    square = T.bind(near * near)
    return T.bind(near * horner(square, TANH_ODD) / horner(square, TANH_EVEN))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)) as 0.5 tanh(x / 2) + 0.5."""
    return T.bind(tanh(T.bind(x * f32(0.5))) * f32(0.5) + f32(0.5))


def exp(x: Expr) -> Expr:
    """e to the x: 0 below -104, infinite above 88.7, NaN for NaN."""
    near = T.bind(tirx.max(f32(EXP_LOW), tirx.min(f32(EXP_HIGH), x)))
    n = T.bind(tirx.floor(near * f32(1.4426950408889634) + f32(0.5)))
    r = T.bind(near - n * f32(LN2_HIGH) - n * f32(LN2_LOW))
    whole = T.bind(n.astype("int32"))
    half = T.bind(whole >> tirx.IntImm("int32", 1))  # 2^n in two factors: n may be -150 or 128
    value = T.bind(horner(r, EXP_TERMS) * _power(half) * _power(T.bind(whole - half)))
    return T.bind(tirx.Select(x <= f32(EXP_HIGH), value, x * f32(float("inf"))))


def _power(n: Expr) -> Expr:
    """2^n for -127 < n < 128."""
    return T.bind(
        tirx.reinterpret("float32", (n + tirx.IntImm("int32", 127)) << tirx.IntImm("int32", 23))
    )
