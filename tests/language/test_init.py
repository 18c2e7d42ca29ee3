"""Initialisers: shapes, spreads, and that a seed decides everything."""

import itertools
import re

import numpy as np
import pytest

from tvm_cavs.errors import ConfigError, ShapeError
from tvm_cavs.language import init

ALL = [
    init.Zeros(),
    init.Constant(0.5),
    init.Normal(0.1),
    init.Uniform(0.1),
    init.Xavier(),
    init.Xavier(n_blocks=4),
    init.Orthogonal(),
    init.Orthogonal(n_blocks=4),
]


@pytest.mark.parametrize("initializer", ALL, ids=str)
def test_shape_dtype_and_seed(initializer):
    first = initializer(np.random.default_rng(3), (6, 8))
    assert first.shape == (6, 8)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, initializer(np.random.default_rng(3), (6, 8)))


def test_spread():
    rng = np.random.default_rng(0)
    shape = (200, 600)
    assert init.Normal(0.1)(rng, shape).std() == pytest.approx(0.1, rel=0.01)
    for initializer, a in [
        (init.Uniform(0.3), 0.3),
        (init.Xavier(), (6 / 800) ** 0.5),
        (init.Xavier(n_blocks=3), (6 / 400) ** 0.5),
    ]:
        values = initializer(rng, shape)
        assert np.abs(values).max() <= a
        assert values.std() == pytest.approx(a / 3**0.5, rel=0.01)
        assert values.mean() == pytest.approx(0.0, abs=0.01 * a)


@pytest.mark.parametrize("shape", [(8, 8), (8, 5), (5, 8)])
def test_orthogonal(shape):
    q = init.Orthogonal(gain=2.0)(np.random.default_rng(0), shape) / 2.0
    gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-6)


def test_orthogonal_matrices_are_uniform():
    """No direction is preferred: an element is as often above 0 as below."""
    drawn = (init.Orthogonal()(np.random.default_rng(seed), (3, 3)) for seed in range(200))
    above = np.mean([q > 0 for q in drawn], axis=0)
    assert (0.35 < above).all() and (above < 0.65).all()


def test_orthogonal_blocks_are_each_orthogonal():
    q = init.Orthogonal(n_blocks=3)(np.random.default_rng(0), (4, 12))
    for block in np.split(q, 3, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("make", [init.Orthogonal, init.Xavier])
def test_blocks_are_drawn_one_by_one(make):
    """Gates that begin alike would stay alike."""
    blocks = np.split(make(n_blocks=3)(np.random.default_rng(0), (4, 12)), 3, axis=1)
    for one, other in itertools.combinations(blocks, 2):
        assert not np.isclose(one, other).any()


def test_array_is_copied():
    values = np.ones((2, 3), "float32")
    made = init.Array(values)
    given = made(np.random.default_rng(0), (2, 3))
    given[0, 0] = values[0, 0] = 5
    assert made.values[0, 0] == 1 and not made.values.flags.writeable


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (
            lambda: init.Constant(float("nan")),
            "Constant(value=...): expected a finite number, given nan",
        ),
        (
            lambda: init.Normal(-2.5),
            "Normal(std=...): expected a finite number of 0 or more, given -2.5",
        ),
        (
            lambda: init.Uniform(-0.1),
            "Uniform(a=...): expected a finite number of 0 or more, given -0.1",
        ),
        (
            lambda: init.Xavier(0),
            "Xavier(n_blocks=...): expected a whole number of 1 or more, given 0",
        ),
        (
            lambda: init.Orthogonal(float("inf")),
            "Orthogonal(gain=...): expected a finite number, given inf",
        ),
        (
            lambda: init.Orthogonal(n_blocks=-3),
            "Orthogonal(n_blocks=...): expected a whole number of 1 or more, given -3",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make, wrong):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == f"init.{wrong}"


def test_refusals():
    rng = np.random.default_rng(0)
    with pytest.raises(ShapeError, match=r"array has shape \[2, 3\], the parameter \[3, 2\]\."):
        init.Array(np.ones((2, 3)))(rng, (3, 2))
    said = r"^Orthogonal\(n_blocks=4\): .* divide into 4 blocks, got shape \[5, 6\]\."
    with pytest.raises(ShapeError, match=said):
        init.Orthogonal(n_blocks=4)(rng, (5, 6))
    for shape in ((8,), (2, 2, 4), ()):
        said = re.escape(f"into 1 blocks, got shape {list(shape)}. Use Xavier() for other shapes.")
        with pytest.raises(ShapeError, match=said):
            init.Orthogonal()(rng, shape)


@pytest.mark.parametrize("make", [init.Normal, init.Uniform, init.Orthogonal, init.Constant])
def test_numbers_may_be_zero(make):
    values = make(0)(np.random.default_rng(0), (3, 2))
    assert values.dtype == np.float32 and not values.any()


@pytest.mark.parametrize("gain", [-2, 2, np.float64(2), np.float32(2)])
def test_a_gain_of_any_type_makes_float32(gain):
    made = init.Orthogonal(gain)(np.random.default_rng(0), (3, 2))
    one = init.Orthogonal()(np.random.default_rng(0), (3, 2))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.float32(gain) * one)
