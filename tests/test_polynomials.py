"""exp, tanh and sigmoid against float64, over all of float32 sampled by bit pattern."""

from collections.abc import Callable

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import schedules  # noqa: E402
from schedules.target import simd  # noqa: E402
from tvm_cavs.region_kernel import region  # noqa: E402
from tvm_cavs.regions import Array, Line, Load, Region, Store  # noqa: E402

pytestmark = pytest.mark.compiles

WIDTH, STRIDE = 32, 1021  # every 1021st of the 2^32 bit patterns
NAMES = ("exp", "tanh", "sigmoid")
TINY, LARGEST = np.finfo("float32").smallest_normal, np.finfo("float32").max
INF, NAN = float("inf"), float("nan")

Values = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def compute() -> Callable[[np.ndarray], Values]:
    """float32[n] -> all three functions of it, by one compiled kernel."""
    target = schedules.host_target(1)
    arrays = tuple(Array(name, "float32", WIDTH, True) for name in ("x", *NAMES))
    lines = tuple(
        Line(name, (Load(0),), ((WIDTH,),), (WIDTH,), stores=(Store(1 + i),))
        for i, name in enumerate(NAMES)
    )
    func = region(Region(arrays, lines), simd(target).lanes, 1, "functions")
    mod, unclaimed = schedules.schedule(tvm.IRModule({"functions": func}), target)
    assert unclaimed == ()
    kernel = tvm.compile(mod, target=target, tir_pipeline=schedules.pipeline())["functions"]

    def run(x: np.ndarray) -> Values:
        padded = np.zeros((-(-len(x) // WIDTH), WIDTH), "float32")
        padded.ravel()[: len(x)] = x
        tensors = [tvm.runtime.tensor(padded)]
        tensors += [tvm.runtime.tensor(np.full_like(padded, 7.0)) for _ in NAMES]
        kernel(len(padded), *[0] * len(tensors), *tensors)
        return {n: t.numpy().ravel()[: len(x)] for n, t in zip(NAMES, tensors[1:], strict=True)}

    return run


@pytest.fixture(scope="module")
def sample(compute: Callable[[np.ndarray], Values]) -> tuple[np.ndarray, Values]:
    """Numbers of every size and sign, denormals and infinities included, and their functions."""
    x = np.arange(0, 1 << 32, STRIDE, dtype="uint64").astype("uint32").view("float32")
    edges = np.array([0.0, -0.0, INF, -INF, TINY, LARGEST, -LARGEST, 1e-45, -1e-45], "float32")
    x = np.concatenate([edges, np.linspace(-110, 110, 200_001, dtype="float32"), x])
    x = x[~np.isnan(x)]
    return x, compute(x)


def test_tanh(sample: tuple[np.ndarray, Values]) -> None:
    x, got = sample
    error = np.abs(got["tanh"] - np.tanh(x.astype("float64")))
    assert error.max() < 3.5e-7, f"tanh({x[error.argmax()]}) is off by {error.max():.1e}"
    assert np.abs(got["tanh"]).max() <= 1.0
    small = (np.abs(x) < 0.1) & (np.abs(x) > 1e-30)
    assert (error[small] / np.abs(x[small])).max() < 4e-7
    assert np.array_equal(np.signbit(got["tanh"]), np.signbit(x))


def test_sigmoid(sample: tuple[np.ndarray, Values]) -> None:
    x, got = sample
    error = np.abs(got["sigmoid"] - (0.5 * np.tanh(0.5 * x.astype("float64")) + 0.5))
    assert error.max() < 2e-7, f"sigmoid({x[error.argmax()]}) is off by {error.max():.1e}"
    assert got["sigmoid"].min() >= 0.0 and got["sigmoid"].max() <= 1.0


def test_exp(sample: tuple[np.ndarray, Values]) -> None:
    x, got = sample
    with np.errstate(over="ignore"):
        want = np.exp(x.astype("float64"))
        rounded = want.astype("float32")
    normal = (rounded >= TINY) & np.isfinite(rounded)
    error = np.abs(got["exp"][normal] - want[normal]) / want[normal]
    assert error.max() < 1e-7, f"exp({x[normal][error.argmax()]}) is off by {error.max():.1e}"
    assert np.array_equal(got["exp"][np.isinf(rounded)], rounded[np.isinf(rounded)])
    denormal = rounded < TINY
    assert np.abs(got["exp"][denormal] - rounded[denormal]).max() <= np.float32(1e-45)
    assert np.all(got["exp"][np.isneginf(x)] == 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(compute: Callable[[np.ndarray], Values], name: str) -> None:
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], "uint32").view("float32")
    mixed = np.where(np.arange(64) % 3 == 0, NAN, np.arange(64.0) - 32).astype("float32")
    assert np.isnan(compute(nans)[name]).all()
    assert np.array_equal(np.isnan(compute(mixed)[name]), np.isnan(mixed))


@pytest.mark.parametrize(
    ("x", "exp", "tanh", "sigmoid"),
    [(0.0, 1.0, 0.0, 0.5), (INF, INF, 1.0, 1.0), (-INF, 0.0, -1.0, 0.0), (-1000.0, 0.0, -1.0, 0.0)],
)
def test_exact_values(
    compute: Callable[[np.ndarray], Values], x: float, exp: float, tanh: float, sigmoid: float
) -> None:
    got = compute(np.array([x], "float32"))
    assert [got[n][0] for n in NAMES] == [exp, tanh, sigmoid]
