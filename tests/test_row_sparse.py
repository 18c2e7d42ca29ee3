"""Row-sparse gradients as one adds them up and scales them, against dense arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvm_cavs as cavs
from helpers.gradient_check import dense
from tvm_cavs.errors import ShapeError
from tvm_cavs.row_sparse import RowSparse

N_ROWS, WIDTH = 6, 2
SHAPE = N_ROWS, WIDTH
ROWS = st.lists(st.integers(0, N_ROWS - 1), unique=True)


def made(rows: list[int]) -> RowSparse:
    values = np.arange(1, 1 + len(rows) * WIDTH, dtype="float32").reshape(-1, WIDTH)
    return RowSparse(rows, values)


@given(ROWS, ROWS, st.floats(-8, 8, width=32))
def test_sums_and_multiples(a: list[int], b: list[int], factor: float) -> None:
    one, other = made(a), made(b)
    full = np.full(SHAPE, 0.5, "float32")
    for got, want in (
        (one + other, dense(one, SHAPE) + dense(other, SHAPE)),
        (one * factor, dense(one, SHAPE) * np.float32(factor)),
        (np.float32(factor) * one, dense(one, SHAPE) * np.float32(factor)),
        (sum([one, other, one]), dense(one, SHAPE) * 2 + dense(other, SHAPE)),
        (full + one, full + dense(one, SHAPE)),
        (other + full, full + dense(other, SHAPE)),
    ):
        np.testing.assert_array_equal(dense(got, SHAPE), want)
    assert isinstance(one + other, RowSparse) and isinstance(factor * one, RowSparse)
    assert (full == 0.5).all(), "what is added to stays as it is"


@pytest.mark.parametrize(
    "copied", [lambda g: 0 + g, lambda g: g + 0, lambda g: g * 1, lambda g: sum([g])]
)
def test_a_result_has_memory_of_its_own(copied) -> None:
    before = made([1, 4])
    after = copied(before)
    before.values[:] = 9
    assert after.rows.tolist() == [1, 4] and after.values.tolist() == [[1, 2], [3, 4]]
    assert not after.rows.flags.writeable


def test_what_is_of_another_table_is_refused() -> None:
    one = made([1, 4])
    with pytest.raises(ShapeError, match=r"rows of 2 numbers plus rows of 3; expected gradients"):
        one + RowSparse([0], [[1.0, 2.0, 3.0]])
    for shape in ((4, 2), (6, 3), (6,)):
        words = rf"rows of 2 numbers, up to row 4, plus an array of shape \[{shape[0]}"
        for add in (lambda a: a + one, lambda a: one + a):
            with pytest.raises(ShapeError, match=words):
                add(np.zeros(shape, "float32"))
    for strange in ("1", None, [1.0, 2.0], 1):
        with pytest.raises(TypeError, match="unsupported operand"):
            one + strange
    for strange in (np.ones(2), [1.0, 2.0]):
        with pytest.raises(TypeError):
            one * strange
    for strange in (np.nan, "2", None, True, one):
        with pytest.raises(ShapeError, match="RowSparse: a factor: expected a finite number"):
            one * strange


def test_batches_that_take_a_step_together() -> None:
    """The sum of their gradients is that of one batch of them all."""
    net = cavs.Network(cavs.nn.TreeLSTM(9, 4, 5, 3))
    net.initialize(seed=0)
    net.hybridize("reference", dtype="float64")
    loss_fn = cavs.loss.SoftmaxCrossEntropy()
    graphs = [
        cavs.Graph.from_children([[], [], [0, 1]], {"word": [*words, None], "label": [0, 1, 2]})
        for words in ([3, 1], [1, 8], [3, 3])
    ]

    def total(parts: list[cavs.Graph]) -> dict:
        found = dict.fromkeys(net.parameters(), 0)
        for part in parts:
            with cavs.record():
                loss = loss_fn(net(part))
            loss.backward()
            found = {name: found[name] + p.grad for name, p in net.parameters().items()}
        return found

    one_by_one, together = total(graphs), total([cavs.batch(graphs)])
    for name, p in net.parameters().items():
        got, want = (dense(found[name], p.shape) for found in (one_by_one, together))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
