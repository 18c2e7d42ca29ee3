"""Updates: three steps against the published formulas, row-sparse against dense, any size."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_cavs.compiler import SQUARES
from tvm_cavs.errors import ConfigError, ShapeError
from tvm_cavs.row_sparse import RowSparse
from tvm_cavs.training.optim import OPTIMIZERS, Hyper, check_hyper
from tvm_cavs.training.updates import GRAIN, Gradient, Updates

LR, DECAY = 0.1, 0.01


@pytest.fixture(scope="module")
def updates(cache: Path) -> dict[str, Updates]:
    return {name: Updates(name, cache) for name in OPTIMIZERS}


def run(
    updates: Updates, w: np.ndarray, gradients: list[Any], decay: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """The weight after one update for each gradient."""
    optimizer = OPTIMIZERS[updates.name]
    w = w.astype("float32")
    states = tuple(np.zeros_like(w) for _ in optimizer.states)
    for t, g in enumerate(gradients, start=1):
        numbers = updates.numbers(Hyper(LR, decay, t, optimizer.extra))
        updates.prepared(w, g, states, numbers, scale)()
    return w


def by_hand(name: str, w: Any, gradients: Any, decay: float) -> Any:
    """The published formulas, written out without any concern for speed."""
    v: Any = 0.0
    a: Any = 0.0
    m: Any = 0.0
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
def test_three_steps_by_hand(name: str, decay: float, updates: dict[str, Updates]) -> None:
    rng = np.random.default_rng(0)
    w, gradients = rng.standard_normal((7, 5)), rng.standard_normal((3, 7, 5))
    expected = by_hand(name, w, gradients, decay)
    got = run(updates[name], w, list(gradients), decay)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-7)
    scaled = run(updates[name], w, list(gradients * 8), decay, scale=0.125)
    np.testing.assert_array_equal(scaled, got)


@pytest.mark.parametrize(("name", "size"), [("sgd", 0.2), ("adagrad", 0.1), ("adam", 0.1)])
def test_first_step_in_closed_form(name: str, size: float, updates: dict[str, Updates]) -> None:
    """From zero state Adagrad and Adam move by lr whatever the gradient, SGD by lr times it."""
    w = run(updates[name], np.zeros(1), [np.array([2.0])])
    np.testing.assert_allclose(w, -size, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e-7])
@pytest.mark.parametrize(("name", "eps"), [("adagrad", 1e-10), ("adam", 1e-8), ("adamw", 1e-8)])
def test_what_is_added_to_a_root_is_added_outside(
    name: str, eps: float, size: float, updates: dict[str, Updates]
) -> None:
    """Of gradients as small as it."""
    w = run(updates[name], np.zeros(1), [np.array([size])])
    np.testing.assert_allclose(w, -LR * size / (size + eps), rtol=1e-4)


def test_rows_move_the_states_that_are_given_now(updates: dict[str, Updates]) -> None:
    """Not those of a step before, of the same weight."""
    w, values = np.zeros((2, 1), "float32"), np.ones((2, 1), "float32")
    numbers = updates["adagrad"].numbers(Hyper(1.0, 0.0, 1, OPTIMIZERS["adagrad"].extra))
    states = [np.full((2, 1), size, "float32") for size in (0.0, 3.0)]
    for given in states:
        updates["adagrad"].prepared(w, RowSparse(np.arange(2), values), (given,), numbers)()
    assert [s.ravel().tolist() for s in states] == [[1.0, 1.0], [4.0, 4.0]]
    np.testing.assert_allclose(w, -1.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "tasks"), [(1, 1), (15, 1), (16, 1), (33, 1), (GRAIN + 5, 1), (GRAIN + 5, 2)]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_size_in_every_part(
    name: str, n: int, tasks: int, updates: dict[str, Updates], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elements do not know of each other, wherever vectors and threads divide them.

    The number of threads is set here: by itself it is what another test has used before.
    """
    monkeypatch.setattr("tvm_cavs.training.updates.threads_in_use", lambda: tasks)
    rng = np.random.default_rng(1)
    w, gradients = rng.standard_normal(n), rng.standard_normal((2, n))
    whole = run(updates[name], w, list(gradients), DECAY)
    np.testing.assert_allclose(whole, by_hand(name, w, gradients, DECAY), rtol=1e-5, atol=2e-6)
    at = slice(n // 2, n // 2 + 1)
    alone = run(updates[name], w[at], list(gradients[:, at]), DECAY)
    np.testing.assert_allclose(alone, whole[at], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("width", [200, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_row_sparse_equals_dense_on_the_touched_rows(
    name: str, width: int, decay: float, updates: dict[str, Updates]
) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((500, width)).astype("float32")
    rows = rng.permutation(np.flatnonzero(rng.random(500) < 0.6)).astype("int32")
    values = rng.standard_normal((2, len(rows), width)).astype("float32")
    sparse = run(updates[name], w, [RowSparse(rows, v) for v in values], decay)
    dense = run(updates[name], w[rows], list(values), decay)
    np.testing.assert_allclose(sparse[rows], dense, rtol=1e-6, atol=1e-7)
    others = np.setdiff1d(np.arange(500), rows)
    np.testing.assert_array_equal(sparse[others], w[others])


def test_no_rows(updates: dict[str, Updates]) -> None:
    empty = RowSparse(np.zeros(0, "int32"), np.zeros((0, 2), "float32"))
    np.testing.assert_array_equal(run(updates["adam"], np.ones((3, 2)), [empty]), 1.0)


def test_a_wrong_shape_is_refused(updates: dict[str, Updates]) -> None:
    wrong: list[tuple[Gradient, str]] = [
        (np.ones((2, 3)), "(2, 3): expected (3, 2)"),
        (RowSparse(np.array([0]), np.ones((1, 3))), "(1, 3): expected (1, 2)"),
    ]
    for gradient, said in wrong:
        with pytest.raises(ShapeError, match=re.escape(f"gradient of shape {said}, as of its par")):
            run(updates["sgd"], np.ones((3, 2)), [gradient])


def test_the_gradient_is_not_changed(updates: dict[str, Updates]) -> None:
    g = np.ones(3, "float32")
    for name in OPTIMIZERS:
        run(updates[name], np.ones(3), [g, g], DECAY)
    np.testing.assert_array_equal(g, 1.0)


def test_a_gradient_that_may_only_be_read_is_read_anew(updates: dict[str, Updates]) -> None:
    """Its owner may change it between two steps."""
    w, owned = np.zeros(3, "float32"), np.ones(3, "float32")
    view = owned.view()
    view.flags.writeable = False
    numbers = updates["sgd"].numbers(Hyper(1.0, 0.0, 1, {}))
    for factor in (1.0, 2.0):
        owned[:] = factor
        updates["sgd"].prepared(w, view, (), numbers)()
    np.testing.assert_array_equal(w, -3.0)


def test_threads_share_the_update_of_many_elements(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Of a weight, and of rows of a table; of fewer one thread makes all."""
    made = Updates("sgd", cache)
    monkeypatch.setattr("tvm_cavs.training.updates.threads_in_use", lambda: 3)
    numbers = made.numbers(Hyper(1.0, 0.0, 1, {}))
    for size in (GRAIN - 1, GRAIN):
        w = np.zeros(size, "float32")
        made.prepared(w, np.ones(size, "float32"), (), numbers)()
        assert (w == -1.0).all()
    width = 64
    for n in (GRAIN // width - 1, GRAIN // width):
        w = np.zeros((n, width), "float32")
        rows = RowSparse(np.arange(n), np.ones((n, width), "float32"))
        made.prepared(w, rows, (), numbers)()
        assert (w == -1.0).all()
    assert list(made._functions) == [(None, 1), (None, 3), (width, 1), (width, 3)]


def test_gradients_that_are_gone_are_not_kept(cache: Path) -> None:
    made = Updates("sgd", cache)
    for n in range(1, 5):
        given = [np.ones(n, "float32"), np.ones(n + 1, "float32")]
        assert made.norm(given) == pytest.approx((2 * n + 1) ** 0.5)
        assert [id(flat.values) for flat in made._flat.values()] == [id(g) for g in given]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_and_all_of_one_weight_in_turn(name: str, updates: dict[str, Updates]) -> None:
    """What is kept for one sort of gradient is not taken for the other."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((4, 3))
    dense = list(rng.standard_normal((6, 4, 3)).astype("float32"))
    mixed = [g if t % 3 else RowSparse(np.arange(4), g) for t, g in enumerate(dense)]
    expected = run(updates[name], w, dense)
    np.testing.assert_allclose(run(updates[name], w, mixed), expected, rtol=1e-6, atol=1e-7)


def test_the_norm_of_what_may_only_be_read_is_taken_anew(updates: dict[str, Updates]) -> None:
    """Its owner may change it between two steps."""
    owned = np.ones(4, "float32")
    view = owned.view()
    view.flags.writeable = False
    assert updates["sgd"].norm([view]) == 2.0
    owned[:] = 3.0
    assert updates["sgd"].norm([view]) == 6.0


@pytest.mark.parametrize("size", [1, 15, 16 * 8 * 64 - 1, 16 * 8 * 64, 3 * 16 * 8 * 64 + 17])
def test_the_norm_is_that_of_float64(updates: dict[str, Updates], size: int) -> None:
    g = np.random.default_rng(size).standard_normal(size).astype("float32")
    expected = np.linalg.norm(g.astype("float64"))
    assert updates["sgd"].norm([g]) == pytest.approx(expected, rel=1e-6)
    g[size // 2] = np.nan
    assert np.isnan(updates["sgd"].norm([g]))
    g[size // 2] = -np.inf
    assert np.isinf(updates["sgd"].norm([g]))


def test_the_norm_has_the_same_bits_for_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, updates: dict[str, Updates]
) -> None:
    """Of gradients on both sides of what threads share; each task's sums go to their own places."""
    generator, found = np.random.default_rng(5), []
    gradients = [
        generator.standard_normal(n).astype("float32")
        for n in (GRAIN - 1, GRAIN, 5 * SQUARES + 17, 9 * SQUARES - 1, 40 * SQUARES)
    ]
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr("tvm_cavs.training.updates.threads_in_use", lambda n=threads: n)
        found.append([updates["sgd"].norm([g]) for g in gradients])
    assert found[1:] == found[:1] * 3
    assert {1, 2, 3, 7} <= updates["sgd"]._norms.keys()
    for g, norm in zip(gradients, found[0], strict=True):
        assert norm == pytest.approx(np.linalg.norm(g.astype("float64")), rel=1e-6)


@pytest.mark.parametrize("exponent", range(-38, 38, 4))
def test_the_norm_is_right_where_squares_leave_float32(
    updates: dict[str, Updates], exponent: int
) -> None:
    g = np.array([3.0, 4.0, 0.0], "float32") * np.float32(10.0**exponent)
    expected = np.linalg.norm(g.astype("float64"))
    assert updates["sgd"].norm([g]) == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_norm_of_several_gradients(updates: dict[str, Updates]) -> None:
    sparse = RowSparse(np.array([3]), np.array([[2.0, 4.0]], np.float32))
    none = RowSparse(np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    norm = updates["adam"].norm
    assert norm([np.array([[1.0], [2.0]], np.float32), sparse, none]) == 5.0
    assert norm([]) == 0.0


TINY = float(np.finfo("float32").tiny)
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("momentum", {"momentum": 0}),
        ("momentum", {"momentum": BELOW_ONE}),
        ("adagrad", {"eps": TINY}),
        ("adagrad", {"eps": 1}),  # of which other numbers have to be below
        ("adam", {"beta1": 0.0, "beta2": BELOW_ONE, "eps": 100.0}),
        ("adamw", {}),
        ("sgd", {}),
    ],
)
def test_numbers_at_the_ends_of_what_they_may_be_are_taken(name: str, given: Any) -> None:
    check_hyper(name, given)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sgd", {"eps": 1.0}, "optimizer 'sgd' does not take eps; it takes nothing beyond lr."),
        ("adam", {"b": 1, "a": 2}, "'adam' does not take a, b; it takes beta1, beta2, eps."),
        ("momentum", {"momentum": -0.1}, "momentum: momentum: expected a finite number of 0 or"),
        ("momentum", {"momentum": True}, "momentum: momentum: expected a finite number of 0 or"),
        ("momentum", {"momentum": 1}, "momentum = 1; expected at least 0 and below 1 (as float32)"),
        ("momentum", {"momentum": 1 - 1e-9}, "below 1 (as float32). Its default is 0.9."),
        ("adam", {"beta2": 1.0}, "adam: beta2 = 1.0; expected at least 0 and below 1 (as float32)"),
        ("adam", {"beta2": 1.0}, "below 1 (as float32). Its default is 0.999."),
        ("adamw", {"beta1": -1e-9}, "adamw: beta1: expected a finite number of 0 or more"),
        ("adagrad", {"eps": 0}, "adagrad: eps = 0; expected above 1.2e-38, as float32 holds it"),
        ("adagrad", {"eps": 1e-39}, "adagrad: eps = 1e-39; expected above 1.2e-38, as float32"),
        ("adam", {"eps": TINY / 2}, "is 0/0. Its default is 1e-08."),
        ("adam", {"beta1": 0.5, "eps": -1.0}, "adam: eps: expected a finite number of 0 or more"),
    ],
)
def test_numbers_beyond_what_they_may_be_are_refused(name: str, given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_hyper(name, given)
