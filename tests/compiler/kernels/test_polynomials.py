"""Functions of one number against float64, relative to the result, over all of float32.

The sample has every exponent and sign; `python scripts/accuracy.py` takes all 2^32 arguments.
"""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("tvm")

from helpers.targets import label, runnable
from tvm_cavs.compiler import accuracy
from tvm_cavs.compiler.accuracy import FUNCTIONS, WIDTH, Error
from tvm_cavs.errors import TargetError

pytestmark = pytest.mark.compiles

# Units in the last place, with and without fused multiply-add. silu and gelu multiply x by a
# sigmoid that may be subnormal, and gelu's argument is rounded before: see docs/numerics.md.
BOUNDS = {
    "exp": 1.25, "log": 1.0, "sqrt": 0.5, "tanh": 6.0, "sigmoid": 2.5, "relu": 0.0, "abs": 0.0,
    "neg": 0.0, "silu": 60.0, "gelu": 250.0,
}  # fmt: skip
RELATIVE = {"silu": 1e-5, "gelu": 2e-5}  # where the result is normal; others follow from BOUNDS
INF, NAN = float("inf"), float("nan")


@cache
def sample() -> tuple[np.ndarray, accuracy.Values]:
    """Numbers of every exponent and sign, subnormal, infinite and NaN; and their true functions."""
    spread = np.arange(0, 1 << 32, 8191, dtype="uint64")
    mantissas = np.array([0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF], "uint64")
    edges = (np.arange(512, dtype="uint64")[:, None] << np.uint64(23)) + mantissas
    x = np.concatenate([spread, edges.ravel()]).astype("uint32").view("float32")
    dense = [np.linspace(-limit, limit, 100_001, dtype="float32") for limit in (1, 18, 110, 170)]
    x = np.concatenate([x, *dense])
    x = np.resize(x, -(-len(x) // WIDTH) * WIDTH)
    return x, accuracy.truth(x)


@cache
def found(number: int) -> dict[str, Error]:
    """The errors of every function on target `number`."""
    x, want = sample()
    return accuracy.errors(x, accuracy.compiled(runnable()[number])(x), want)


@pytest.mark.parametrize("number", range(len(runnable())), ids=[label(t) for t in runnable()])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_right_relative_to_its_result(name: str, number: int) -> None:
    error = found(number)[name]
    assert error.wrong == 0, f"{error.wrong} results are NaN, or have a sign, where they must not"
    assert error.ulp <= BOUNDS[name], f"{name}({error.at}) is off by {error.ulp} units"
    assert error.relative <= RELATIVE.get(name, BOUNDS[name] * 2.0**-23)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "sigmoid", "silu"])
def test_the_reference_is_as_right(name: str) -> None:
    x, want = sample()
    with np.errstate(all="ignore"):
        if name == "silu":
            got = x * accuracy.op("sigmoid")(x)
        else:
            got = accuracy.op(name)(x)
    assert got.dtype == np.float32
    error = accuracy.error(x, got, want[name])
    assert error.wrong == 0 and error.ulp <= max(4.0, BOUNDS[name]), error


def test_an_error_is_seen() -> None:
    x, want = sample()
    right = want["sigmoid"].astype("float32")
    assert accuracy.error(x, right, want["sigmoid"]).ulp <= 0.5
    tail = np.where(x < -17, np.float32(0), right)  # what 0.5 tanh(x / 2) + 0.5 gives
    assert accuracy.error(x, tail, want["sigmoid"]).relative == 1.0
    flushed = np.where(np.abs(right) < 2.0**-126, np.float32(0), right)
    assert accuracy.error(x, flushed, want["sigmoid"]).ulp > 1e6
    assert accuracy.error(x, np.where(np.isnan(x), 0, right), want["sigmoid"]).wrong > 100
    assert accuracy.error(x, right * np.float32(1 + 3e-7), want["sigmoid"]).ulp > 2.5
    assert accuracy.error(x, np.where(x == 0, -right, right), want["sigmoid"]).wrong > 0


LARGEST, ONE_MORE, LEAST = 3.4028234663852886e38, 1 + 2.0**-23, 2.0**-149


@pytest.mark.parametrize(
    ("got", "want", "ulp", "relative", "wrong"),
    [
        (ONE_MORE, 1.0, 1.0, 2.0**-23, 0),
        (1.0, ONE_MORE, 1.0, 2.0**-23 / ONE_MORE, 0),
        (-ONE_MORE, -1.0, 1.0, 2.0**-23, 0),
        (2 - 2.0**-23, 2.0, 0.5, 2.0**-24, 0),
        (3.0, 2.0, 2.0**22, 0.5, 0),
        (LEAST, 0.0, 1.0, 2.0**-23, 0),
        (0.0, LEAST, 1.0, 2.0**-23, 0),
        (INF, 1e39, 0.0, 0.0, 0),
        (LARGEST, 1e39, 1.0, 2.0**-24, 0),
        (INF, LARGEST, 1.0, 2.0**-24, 0),
        (-INF, -INF, 0.0, 0.0, 0),
        (NAN, NAN, 0.0, 0.0, 0),
        (NAN, 1.0, 0.0, 0.0, 1),
        (1.0, NAN, 0.0, 0.0, 1),
        (0.0, -0.0, 0.0, 0.0, 1),
        (-INF, 1e39, 2.0**25, 2.0, 1),
    ],
)
def test_errors_are_counted_in_units_in_the_last_place(
    got: float, want: float, ulp: float, relative: float, wrong: int
) -> None:
    """What is infinite counts as the first number that rounds to it."""
    x = np.array([5.0, 7.0, 9.0], "float32")
    made, truth = np.array([2.0, got, 2.0], "float32"), np.array([2.0, want, 2.0])
    error = accuracy.error(x, made, truth)
    assert (error.ulp, error.wrong) == (ulp, wrong)
    assert error.relative == pytest.approx(relative, rel=1e-6)
    assert error.at == (7.0 if ulp else 5.0)


def test_of_two_errors_the_worse_and_all_that_is_wrong() -> None:
    one, two = accuracy.Error(2.0, 7.0, 0.5, 1), accuracy.Error(1.0, 8.0, 0.75, 2)
    assert one.worse(two) == two.worse(one) == accuracy.Error(2.0, 7.0, 0.75, 3)


@pytest.mark.parametrize(
    ("x", "exp", "tanh", "sigmoid"),
    [
        (0.0, 1.0, 0.0, 0.5),
        (INF, INF, 1.0, 1.0),
        (-INF, 0.0, -1.0, 0.0),
        (-1000.0, 0.0, -1.0, 0.0),
        (1e-45, 1.0, 1e-45, 0.5),
        (89.0, INF, 1.0, 1.0),
    ],
)
def test_exact_values(x: float, exp: float, tanh: float, sigmoid: float) -> None:
    got = compiled_here()(np.full(WIDTH, x, "float32"))
    want = np.array([exp, tanh, sigmoid], "float32")
    assert [got[n][0] for n in ("exp", "tanh", "sigmoid")] == want.tolist()


@cache
def compiled_here():  # type: ignore[no-untyped-def]
    return accuracy.compiled()


def test_nan_among_numbers_stays_alone() -> None:
    mixed = np.where(np.arange(WIDTH) % 3 == 0, NAN, np.arange(WIDTH) + 1.0).astype("float32")
    for name, got in compiled_here()(mixed).items():
        assert np.array_equal(np.isnan(got), np.isnan(mixed)), name


def test_tanh_stays_within_one() -> None:
    x = np.linspace(4, 10, 1 << 20, dtype="float32")
    assert np.abs(compiled_here()(x)["tanh"]).max() == 1.0


def test_the_functions_of_another_target_are_those_that_are_compiled():
    with pytest.raises(TargetError, match="mtriple is 'x'"):
        accuracy.compiled({"kind": "llvm", "mtriple": "x"})
