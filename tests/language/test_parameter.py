"""Parameters and gradients: what is copied, what follows, what fits, what counts as a change."""

import copy
import itertools
import os
import pickle
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.locks import fork_beside
from tvm_cavs.arguments import shown
from tvm_cavs.errors import ConfigError, ShapeError, TraceError
from tvm_cavs.language import init
from tvm_cavs.language.parameter import ANYONE, Changing, RowSparse, made_rows, take_gradients


def filled(*shape: int) -> cavs.Parameter:
    parameter = cavs.Parameter(shape)
    parameter.set_data(np.arange(np.prod(shape)).reshape(shape))
    return parameter


def test_what_it_is_made_of() -> None:
    matrix, vector = cavs.Parameter((2, 3)), cavs.Parameter(4)  # type: ignore[arg-type]
    assert isinstance(matrix.init, init.Xavier) and isinstance(vector.init, init.Zeros)
    assert (matrix.shape, vector.shape) == ((2, 3), (4,))
    given = init.Constant(2.0)
    assert cavs.Parameter((3,), given).init is given
    p = cavs.Parameter((3,), lr_mult=0, decay_mult=0.5)
    assert (p.lr_mult, p.decay_mult, p.version, p.name) == (0, 0.5, 0, "")
    assert p.grad is None and p.checked_grad() is None and p.changing is ANYONE.lock
    for factor, wrong in itertools.product(("lr_mult", "decay_mult"), (-1, float("nan"))):
        with pytest.raises(ConfigError) as refused:
            cavs.Parameter((3,), **{factor: wrong})  # type: ignore[arg-type]
        said = f"Parameter({factor}=...): expected a finite number of 0 or more, given {wrong}"
        assert str(refused.value) == said
    for wrong_init in (init.Xavier, 0.5, "zeros"):
        with pytest.raises(ShapeError, match="expected an initialiser") as error:
            cavs.Parameter((3,), wrong_init)  # type: ignore[arg-type]
        assert str(error.value).endswith(f", given {shown(wrong_init)}")


def test_without_data_there_is_nothing_to_read_or_write() -> None:
    p = cavs.Parameter((2,))
    for use in (lambda: p.data, lambda: p.memory, p.writing):
        with pytest.raises(TraceError, match="has no data yet"):
            use()
    assert p.version == 0
    for name, called in (("", "?"), ("W", "W")):
        p.name = name
        with pytest.raises(TraceError, match=rf"^parameter {re.escape(called)} \(2,\) has no"):
            _ = p.data
        assert repr(p) == f"Parameter({called}, (2,))"


def test_data_are_copied_in_and_followed() -> None:
    p, given = cavs.Parameter((2, 2)), np.ones((2, 2), "float32")
    p.set_data(given)
    view, memory = p.data, p.memory
    given[:] = 7
    assert view.tolist() == [[1, 1], [1, 1]] and not view.flags.writeable
    assert memory.flags.writeable and memory.ctypes.data % 64 == 0
    for again in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], "float64")):
        p.set_data(again)
        assert view is p.data and memory is p.memory and view.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1


def test_every_change_is_another_version() -> None:
    p = filled(3)
    seen = [p.version]
    p.set_data([1, 2, 3])
    seen.append(p.version)
    with p.writing() as data:
        seen.append(p.version)
        data *= 2
    seen.append(p.version)
    assert len(set(seen)) == 4 and seen == sorted(seen) and p.data.tolist() == [2, 4, 6]
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1
    with pytest.raises(RuntimeError), p.writing():
        raise RuntimeError
    assert p.version > seen[-1], "what was written before it failed is there"


def test_data_are_set_while_their_lock_is_held() -> None:
    """Those that are there and the first ones: before it and after it all is one version's."""
    seen: list[tuple[int, Any]] = []

    class Lock:
        def __enter__(self) -> None:
            seen.append((p.version, None if p._data is None else p.data.tolist()))

        def __exit__(self, *_: object) -> None:
            seen.append((p.version, p.data.tolist()))

    p = cavs.Parameter((2,))
    p.changed_by = SimpleNamespace(lock=Lock())  # type: ignore[assignment]
    p.set_data([1, 2])
    p.set_data([3, 4])
    assert seen == [(0, None), (1, [1, 2]), (1, [1, 2]), (2, [3, 4])]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("changing", [ANYONE, Changing()])
def test_a_forked_process_sets_data_though_a_thread_was_doing_so(changing: Changing) -> None:
    p = filled(2)
    p.changed_by = changing
    fork_beside([p.changing], lambda: p.set_data([1, 2]))
    assert p.data.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["", "W"])
@pytest.mark.parametrize("wrong", [[1, 2], [[1, 2, 3]], [1, 2, float("inf")], [1, float("nan"), 3]])
def test_data_that_do_not_fit_change_nothing(wrong: Any, name: str) -> None:
    p = filled(3)
    p.name = name
    before = p.version
    for given in (wrong, np.array(wrong, "float32")):
        with pytest.raises(ShapeError, match=rf"^parameter {name or '[?]'}: expected .*"):
            p.set_data(given)
    assert p.data.tolist() == [0, 1, 2] and p.version == before


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_copy_has_memory_of_its_own_and_no_gradient(again: Any) -> None:
    p = filled(2, 2)
    p.name, p.grad = "W", np.ones((2, 2))
    q = again(p)
    assert q.grad is None and q.name == "W" and q.changing is ANYONE.lock
    p.set_data(np.zeros((2, 2)))
    assert q.data.tolist() == [[0, 1], [2, 3]] and not q.data.flags.writeable
    with q.writing() as data:
        data[:] = 5
    assert q.data.tolist() == [[5, 5], [5, 5]] and not p.data.any()
    assert again(cavs.Parameter((2,))).version == 0


def test_a_gradient_that_is_given_becomes_float32_and_is_looked_at_once() -> None:
    p = filled(3)
    given = np.array([1.0, 2.0, 3.0])
    p.grad = given
    assert isinstance(p.grad, np.ndarray) and p.grad.dtype == np.float32
    given[0] = 9
    assert p.grad.tolist() == [1, 2, 3]
    p.grad = [4, 5, 6]
    assert isinstance(p.grad, np.ndarray) and p.checked_grad() is p.grad
    p.grad = None
    assert p.grad is None and p.checked_grad() is None
    for name, called in (("", "?"), ("W", "W")):
        p.name = name
        with pytest.raises(ShapeError) as error:
            p.grad = "abc"
        assert str(error.value).startswith(f"gradient of {called}: ")


@pytest.mark.parametrize("wrong", [np.ones(2), np.ones((3, 1)), np.ones((4, 3)), 1.0])
def test_a_gradient_of_another_shape_is_refused_when_it_is_used(wrong: Any) -> None:
    p = filled(3)
    p.grad = wrong
    for name, called in (("", "?"), ("W", "W")):
        p.name = name
        with pytest.raises(ShapeError) as error:
            p.checked_grad()
        said = f"gradient of shape {np.shape(wrong)}: expected (3,), as of its parameter {called}"
        assert str(error.value) == said


@pytest.mark.parametrize(
    ("rows", "width", "said"),
    [
        ([0, 3], 2, ""),
        ([], 2, ""),
        ([4], 2, "gradient of {}: row 4 is none of its rows 0..3"),
        ([9, 0, 7], 2, "gradient of {}: row 9 is none of its rows 0..3"),
        ([0, 2, 9], 3, "gradient of shape (3, 3): expected (3, 2), as of its parameter {}"),
    ],
)
def test_rows_of_a_gradient_are_rows_of_its_parameter(rows: Any, width: int, said: str) -> None:
    p = filled(4, 2)
    p.grad = RowSparse(rows, np.ones((len(rows), width)))
    for name, called in (("", "?"), ("W", "W")):
        p.name = name
        if not said:
            assert p.checked_grad() is p.grad
        else:
            with pytest.raises(ShapeError) as error:
                p.checked_grad()
            assert str(error.value) == said.format(called)


@pytest.mark.parametrize("rows", [[], [0]])
def test_the_only_row_of_a_parameter_is_its_row(rows: list[int]) -> None:
    p = filled(1, 2)
    p.grad = RowSparse(rows, np.ones((len(rows), 2)))
    assert p.checked_grad() is p.grad


def test_rows_are_copied_distinct_and_read_only() -> None:
    rows, values = np.array([2, 0]), np.ones((2, 3))
    g = RowSparse(rows, values)
    rows[0], values[0, 0] = 5, 9
    assert g.rows.tolist() == [2, 0] and g.rows.dtype == np.int32 and not g.rows.flags.writeable
    assert g.values[0, 0] == 1 and g.values.dtype == np.float32
    for again in (copy.copy(g), copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert again.rows.tolist() == [2, 0] and not again.rows.flags.writeable


@pytest.mark.parametrize(
    ("rows", "values", "said"),
    [
        ([1, 1], np.ones((2, 3)), "a row comes twice; add up the values of equal rows."),
        ([2, 0, 2], np.ones((3, 1)), "a row comes twice; add up the values of equal rows."),
        ([-1, 0], np.ones((2, 3)), "a row: expected a whole number from 0 to .*, given -1$"),
        ([0, 2**31], np.ones((2, 3)), "a row: expected a whole number .*, given 2147483648$"),
        ([0.5, 1], np.ones((2, 3)), "a row: expected a whole number from 0 to .*, given 0.5$"),
        ([True], np.ones((1, 3)), "a row: expected a whole number from 0 to .*, given True$"),
        (3, np.ones((1, 3)), "rows: expected a list or an array of row numbers, given int 3"),
        (
            [0, 1],
            np.ones((3, 4)),
            r"2 rows and values of shape \[3, 4\]; expected values of shape \[2, width\].$",
        ),
        ([0, 1], np.ones(2), r"2 rows and values of shape \[2\]; expected"),
        ([0], np.ones((1, 2, 3)), r"1 rows and values of shape \[1, 2, 3\]; expected"),
        ([0], [["a"]], "values: expected integers or floats, got"),
    ],
)
def test_what_is_no_gradient_of_rows_is_refused(rows: Any, values: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=f"^RowSparse: {said}"):
        RowSparse(rows, values)


def test_gradients_that_an_executor_made_are_taken_as_they_are() -> None:
    ps = {"a": filled(2), "b": filled(3)}
    made = {"a": np.ones(2, "float32"), "b": np.ones(3, "float32"), "c": np.ones(1, "float32")}
    take_gradients(ps, made)
    assert ps["a"].grad is made["a"] and ps["b"].checked_grad() is made["b"]
    take_gradients(ps)
    assert ps["a"].grad is None and ps["b"].grad is None
    rows = made_rows(np.array([1], "int32"), np.ones((1, 2), "float32"))
    assert not rows.rows.flags.writeable
