"""exp, tanh and sigmoid as vectorisable expressions of TIR, to a few units in the last place.

The mathematical library's scalar calls cost 2 to 5 ns each; these cost a few tenths. They are right
relative to the result wherever float32 has numbers, subnormal ones included; docs/numerics.md has
what all 2^32 arguments gave. Coefficients are minimax fits of the relative error.

exp: x = n ln 2 + r with |r| <= ln(2)/2 (Cody & Waite 1980, chapter 6). Adding 1.5 * 2^23 to
x / ln 2 rounds it to n and leaves n, with whatever else was added, in the lowest bits; shifted by
23 they are the exponent of a float32, the `scale`. No integer is added and no float converted, so
there is nothing that may wrap or that NaN makes undefined.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

Expr = Any

ROUND = 1.5 * 2**23  # added to a float32 below 2^22, it rounds to a whole number
EXPONENT_OF_1 = 127
LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # multiples of the first up to 2^14 are exact
EXP_TERMS = (
    0.001381422195676882,
    0.008368898660712339,
    0.041668405719826516,
    0.1666651913023363,
    0.49999993346453236,
    1.0,
    1.0,
)  # of e^r on |r| <= 0.3475, to 3.2e-9
# Between these exp's result is neither 0 nor infinite; at the limits it is, without being rounded.
EXP_LOW, EXP_HIGH = -104.6, 89.0
EXP_SHIFT_LOW, EXP_SHIFT_HIGH = 24, -64  # so that n + shift is an exponent: n is -151 to 128
# sigmoid is 1 from the first on, and 0 from minus the second on: there the scale is infinite.
SIGMOID_ONE, SIGMOID_ZERO, SIGMOID_SHIFT = 17.4, 158.7, -101
TANH_LIMIT = 9.02  # from here on tanh rounds to 1
TANH_NUMERATOR = (
    1.3384265251659144e-08,
    2.0635819964809343e-05,
    0.0034974573645740747,
    0.1338268667459488,
    1.0,
)  # of tanh(x) / x in x^2, to 4e-8; the rounding of coefficients is part of the fit
TANH_DENOMINATOR = (
    7.790247877892398e-07,
    0.0003288516600150615,
    0.025884360074996948,
    0.46716007590293884,
    1.0,
)


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.FloatImm("float32", value)


def horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """Polynomial with the highest power's coefficient first."""
    result = f32(coefficients[0])
    for c in coefficients[1:]:
        result = T.bind(result * x + f32(c))
    return result


def between(low: float, x: Expr, high: float) -> Expr:
    """x limited on both sides; NaN stays (in this order of the operands)."""
    return T.bind(tirx.max(f32(low), tirx.min(f32(high), x)))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent: never beyond +-1, x itself where x^2 is nothing, NaN for NaN."""
    near = between(-TANH_LIMIT, x, TANH_LIMIT)
    square = T.bind(near * near)
    slope = T.bind(horner(square, TANH_NUMERATOR) / horner(square, TANH_DENOMINATOR))
    return between(-1.0, T.bind(near * slope), 1.0)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)), both sides of the division times 2^-101 so that neither overflows.

    From -87.3 down the quotient is subnormal, and rounded once; NaN for NaN.
    """
    near = between(-SIGMOID_ZERO, x, SIGMOID_ONE)
    fraction, scale = _powers(near, -1.0, f32(ROUND + EXPONENT_OF_1 + SIGMOID_SHIFT))
    one = f32(2.0**SIGMOID_SHIFT)
    return T.bind(one / T.bind(fraction * scale + one))


def exp(x: Expr) -> Expr:
    """e to the x: 0 below -104, infinite above 88.7, NaN for NaN."""
    near = between(EXP_LOW, x, EXP_HIGH)
    low, high = EXP_SHIFT_LOW, EXP_SHIFT_HIGH
    negative = near < f32(0.0)  # TVM binds no vectors of booleans
    magic = tirx.Select(
        negative, f32(ROUND + EXPONENT_OF_1 + low), f32(ROUND + EXPONENT_OF_1 + high)
    )
    fraction, scale = _powers(near, 1.0, T.bind(magic))
    back = tirx.Select(negative, f32(2.0**-low), f32(2.0**-high))
    return T.bind(T.bind(fraction * scale) * T.bind(back))


def _powers(x: Expr, sign: float, magic: Expr) -> tuple[Expr, Expr]:
    """e^(sign x) = e^r 2^n -> e^r, and 2^(n + magic - ROUND - EXPONENT_OF_1)."""
    word = T.bind(tirx.reinterpret("int32", x * f32(sign * LOG2_E) + magic))
    # By way of the word, as TVM would take `y + magic - magic` for y.
    n = T.bind(tirx.reinterpret("float32", word) - magic)
    r = T.bind(x - n * f32(sign * LN2_HIGH) - n * f32(sign * LN2_LOW))  # times sign
    degree = len(EXP_TERMS) - 1
    fraction = horner(r, tuple(c * sign ** (degree - k) for k, c in enumerate(EXP_TERMS)))
    return fraction, T.bind(tirx.reinterpret("float32", word << tirx.IntImm("int32", 23)))
