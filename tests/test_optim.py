"""Update rules: one step by hand, state over two steps, row-sparse against dense."""

import numpy as np
import pytest

from tvm_cavs.optim import BLOCK, OPTIMIZERS, Hyper, global_norm, update
from tvm_cavs.vertex import RowSparse

LR, DECAY = 0.1, 0.01


def run(name, w, gradients, decay=0.0, lr=LR):
    """The weight after one update per gradient, in the precision of `w`."""
    optimizer = OPTIMIZERS[name]
    w = w.copy()
    states = tuple(np.zeros_like(w) for _ in optimizer.states)
    for t, g in enumerate(gradients, start=1):
        update(optimizer, w, g, states, Hyper(lr, decay, t, optimizer.extra))
    return w


def by_hand(name, w, gradients, decay):
    """The published formulas, written out without any concern for speed."""
    v = a = m = 0.0
    for t, g in enumerate(gradients, start=1):
        if name != "adamw":
            g = g + decay * w
        if name == "sgd":
            w = w - LR * g
        elif name == "momentum":
            v = 0.9 * v + g
            w = w - LR * v
        elif name == "adagrad":
            a = a + g**2
            w = w - LR * g / (np.sqrt(a) + 1e-10)
        else:
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g**2
            step = LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            w = w - step - (LR * decay * w if name == "adamw" else 0.0)
    return w


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_by_hand(name, decay):
    rng = np.random.default_rng(0)
    w, gradients = rng.standard_normal((4, 3)), rng.standard_normal((3, 4, 3))
    expected = by_hand(name, w, gradients, decay)
    np.testing.assert_allclose(run(name, w, gradients, decay), expected, rtol=1e-12)


@pytest.mark.parametrize(("name", "size"), [("sgd", 0.2), ("adagrad", 0.1), ("adam", 0.1)])
def test_first_step_in_closed_form(name, size):
    """From zero state Adagrad and Adam move by lr whatever the gradient, SGD by lr times it."""
    w = run(name, np.zeros(1), [np.array([2.0])])
    np.testing.assert_allclose(w, -size, rtol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_blocks_do_not_change_the_result(name):
    rng = np.random.default_rng(1)
    w = rng.standard_normal(2 * BLOCK + 5).astype(np.float32)
    gradients = rng.standard_normal((2, w.size)).astype(np.float32)
    whole = run(name, w, gradients, DECAY)
    pieces = [
        run(name, w[i : i + 999], gradients[:, i : i + 999], DECAY) for i in range(0, w.size, 999)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
    assert whole.dtype == np.float32


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_row_sparse_equals_dense_on_the_touched_rows(name, decay):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((500, 200)).astype(np.float32)  # more rows than one block holds
    rows = np.flatnonzero(rng.random(500) < 0.6).astype(np.int32)
    values = rng.standard_normal((2, len(rows), 200)).astype(np.float32)
    sparse = run(name, w, [RowSparse(rows, v) for v in values], decay)
    np.testing.assert_array_equal(sparse[rows], run(name, w[rows], values, decay))
    others = np.setdiff1d(np.arange(500), rows)
    np.testing.assert_array_equal(sparse[others], w[others])


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_row_sparse_equals_the_dense_update_without_decay(name):
    rng = np.random.default_rng(3)
    w = rng.standard_normal((6, 2))
    rows, values = np.array([1, 4]), rng.standard_normal((2, 2))
    dense = np.zeros((6, 2))
    dense[rows] = values
    sparse = run(name, w, [RowSparse(rows, values)] * 2)
    np.testing.assert_array_equal(sparse, run(name, w, [dense] * 2))


def test_the_gradient_is_not_changed():
    g = np.ones(3)
    for name in OPTIMIZERS:
        run(name, np.ones(3), [g, g], DECAY)
    np.testing.assert_array_equal(g, 1.0)


def test_global_norm():
    sparse = RowSparse(np.array([3]), np.array([[2.0, 4.0]], np.float32))
    assert global_norm([np.array([[1.0], [2.0]], np.float32), sparse]) == 5.0
    assert global_norm([]) == 0.0
    assert np.isnan(global_norm([np.array([1.0, np.nan])]))
    big = np.full(3 * BLOCK, 0.5, np.float32)
    assert global_norm([big]) == pytest.approx(0.5 * big.size**0.5)
