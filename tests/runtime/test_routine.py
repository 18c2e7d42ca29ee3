"""Routines: tables of calls make the calls that Python would make, and say why one fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import host_kernels_in_numpy as oracle

tvm_ffi = pytest.importorskip("tvm_ffi")
pytest.importorskip("tvm")

from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.host import host_kernels
from tvm_cavs.runtime.memory import HostMemory, tensor_of
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.routine import TENSOR, Column, Entry, Frames, Routine, Rows, Unless
from tvm_cavs.runtime.slices import Slice
from tvm_cavs.runtime.tables import (
    COUNT,
    FORM_COLUMNS,
    GROUP,
    MOVE_COLUMNS,
    SLICE_COLUMNS,
    STEP_COLUMNS,
)

pytestmark = pytest.mark.compiles
WIDTH = SLICE_COLUMNS + 2
A, B, WHOLE = (BufferId(Role.SCRATCH, key) for key in ("a", "b", "whole"))


@pytest.fixture(scope="module")
def kernel(cache: Path) -> Any:
    return host_kernels(Compiler("host", 1, cache))["routine"]


class Recorder:
    """Kernels that write down what they were called with; those named in `fails` refuse."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fails: set[str] = set()
        self.kernels: dict[str, Any] = {}

    def kernel(self, name: str) -> Any:
        def run(*args: Any) -> None:
            plain = tuple(a if isinstance(a, int) else a.data_ptr() for a in args)
            self.calls.append((name, plain))
            if name in self.fails:
                raise ValueError(f"{name} does not like {plain[0]}")

        self.kernels[name] = tvm_ffi.convert(run)
        return self.kernels[name]


def slices_of(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """Slices by (group, rows, first row in either space)."""
    made = np.zeros((len(rows), WIDTH), "int64")
    for row, (group, count, *starts) in zip(made, rows, strict=True):
        row[[GROUP, COUNT]], row[SLICE_COLUMNS:] = (group, count), starts
    return made


@pytest.fixture
def parts() -> tuple[Recorder, list[list[Entry]], HostMemory]:
    """Two groups, of two steps and of one; the first step has two forms."""
    calls, memory = Recorder(), HostMemory()
    memory.rows(A, 4, 0, "float32")
    memory.rows(B, 2, 3, "float32")
    first, second = (Column(SLICE_COLUMNS + i) for i in range(2))
    few, many, other, last = map(calls.kernel, ("few", "many", "other", "last"))
    groups = [
        [
            Entry((few, many), (1, 8), (Column(COUNT), first, Rows(A))),
            Entry((other,), (1,), (Column(COUNT), Unless(WHOLE), second, Rows(B), Rows(A))),
        ],
        [Entry((last,), (1,), (Column(COUNT), second, first, Rows(B)))],
    ]
    return calls, groups, memory


def test_every_call_in_order_with_its_form_and_arguments(kernel: Any, parts: Any) -> None:
    calls, groups, memory = parts
    frames = Frames(Routine(kernel, groups, (9, 9)))
    slices = slices_of((0, 7, 10, 20), (1, 1, 11, 21), (0, 8, 12, 22), (1, 5, 13, 23))
    order = np.array([2, 0, 3, 1], "int32")
    given = WIDTH, tensor_of(order), tensor_of(slices.reshape(-1))
    frames.run(memory, 1, 3, *given)
    a, b = (memory.tensor(buffer).data_ptr() for buffer in (A, B))
    expected = [
        ("few", (7, 10, a)),
        ("other", (7, 1, 20, b, a)),
        ("last", (5, 23, 13, b)),
        ("last", (1, 21, 11, b)),
    ]
    assert calls.calls == expected
    listed = []
    for row in slices[order[1:]].tolist():
        for entry in groups[row[GROUP]]:
            function, arguments = entry.call(row, memory, ())
            function(*arguments)
            listed.append(calls.calls.pop())
    assert listed == expected
    calls.calls.clear()
    frames.choose(frozenset({WHOLE}))
    memory.rows(B, 9, 3, "float32")  # moves
    frames.run(memory, 0, 1, *given)
    b = memory.tensor(B).data_ptr()
    assert calls.calls == [("many", (8, 12, a)), ("other", (8, 0, 22, b, a))]
    frames.run(memory, 2, 0, *given)
    assert len(calls.calls) == 2


def test_a_group_runs_on_parts_of_its_rows(kernel: Any, parts: Any) -> None:
    """Starts move along with the part; the form follows its rows, not those of the slice."""
    calls, groups, memory = parts
    frames = Frames(Routine(kernel, groups, (8, 2)))
    slices = tensor_of(slices_of((0, 17, 10, 20), (1, 4, 11, 21)).reshape(-1))
    frames.run(memory, 0, 2, WIDTH, tensor_of(np.array([0, 1], "int32")), slices)
    a, b = (memory.tensor(buffer).data_ptr() for buffer in (A, B))
    assert calls.calls == [
        ("many", (8, 10, a)),
        ("other", (8, 1, 20, b, a)),
        ("many", (8, 18, a)),
        ("other", (8, 1, 28, b, a)),
        ("few", (1, 26, a)),
        ("other", (1, 1, 36, b, a)),
        ("last", (2, 21, 11, b)),
        ("last", (2, 23, 13, b)),
    ]
    group: Any = SimpleNamespace(most_rows=8)
    listed = Slice(group, slices_of((0, 17, 10, 20))[0].tolist()).parts()  # as Python makes them
    found = [(part.n_rows, part.row[SLICE_COLUMNS:]) for part in listed]
    assert found == [(8, [10, 20]), (8, [18, 28]), (1, [26, 36])]


@pytest.mark.parametrize("seed", range(6))
def test_the_calls_of_random_slices_against_numpy(seed: int, kernel: Any, parts: Any) -> None:
    calls, groups, memory = parts
    rng = np.random.default_rng(seed)
    routine = Routine(kernel, groups, rng.integers(1, 12, 2).tolist())
    frames = Frames(routine)
    rows = [(rng.integers(2), *rng.integers(1, 40, 3)) for _ in range(9)]
    slices, order = slices_of(*rows), rng.permutation(9).astype("int32")
    frames.run(memory, 2, 6, WIDTH, tensor_of(order), tensor_of(slices.reshape(-1)))
    tables = [np.from_dlpack(t) for t in (routine.groups, routine.parts, *routine.tables)]
    steps, forms, moves = (
        table.reshape(-1, n)
        for table, n in zip(tables[2:], (STEP_COLUMNS, FORM_COLUMNS, MOVE_COLUMNS), strict=True)
    )
    kernels = {f.__chandle__(): name for name, f in calls.kernels.items()}
    data = {t.__chandle__(): t.data_ptr() for t in map(memory.tensor, (A, B))}
    words = frames._words.copy()
    given = slices[order[2:8]], *tables[:2], steps, forms, moves, words
    assert calls.calls == [
        (kernels[handle], tuple(data[v] if what == TENSOR else v for what, v in frame.tolist()))
        for handle, frame in oracle.routine(*given)
    ]


def test_a_call_that_fails_ends_the_routine_and_says_why(kernel: Any, parts: Any) -> None:
    calls, groups, memory = parts
    frames = Frames(Routine(kernel, groups, (9, 9)))
    slices = slices_of((0, 7, 10, 20), (1, 3, 11, 21), (0, 8, 12, 22))
    given = WIDTH, tensor_of(np.array([0, 1, 2], "int32")), tensor_of(slices.reshape(-1))
    calls.fails = {"last"}
    with pytest.raises(ValueError, match="last does not like 3"):
        frames.run(memory, 0, 3, *given)
    assert [name for name, _ in calls.calls] == ["few", "other", "last", "last"]
    calls.fails, calls.calls = set(), []
    frames.run(memory, 0, 3, *given)
    assert [name for name, _ in calls.calls] == ["few", "other", "last", "many", "other"]


@pytest.mark.parametrize("chosen", [frozenset(), frozenset({WHOLE})])
def test_a_call_that_failed_is_made_again_as_it_was(
    kernel: Any, parts: Any, chosen: frozenset[BufferId]
) -> None:
    calls, groups, memory = parts
    frames = Frames(Routine(kernel, groups, (9, 9)))
    frames.choose(chosen)
    slices = slices_of((1, 3, 11, 21), (0, 7, 10, 20), (0, 8, 12, 22))
    given = WIDTH, tensor_of(np.array([1, 2, 0], "int32")), tensor_of(slices.reshape(-1))
    calls.fails = {"other"}
    with pytest.raises(ValueError, match="other does not like 8"):
        frames.run(memory, 1, 2, *given)
    a, b = (memory.tensor(buffer).data_ptr() for buffer in (A, B))
    assert calls.calls[1:] == 2 * [("other", (8, int(not chosen), 22, b, a))]


def test_a_call_that_fails_only_once_is_said_with_its_slice(kernel: Any) -> None:
    rows: list[int] = []

    def run(n: int) -> None:
        rows.append(n)
        if len(rows) == 1:
            raise ValueError("not at first")

    groups = [[Entry((tvm_ffi.convert(run),), (1,), (Column(COUNT),))]]
    slices = slices_of((0, 5, 3, 4))
    given = WIDTH, tensor_of(np.zeros(1, "int32")), tensor_of(slices.reshape(-1))
    with pytest.raises(RuntimeError, match=r"on slice \[0, 0, 5, 0, 3, 4\] and, called once more"):
        Frames(Routine(kernel, groups, (9,))).run(HostMemory(), 0, 1, *given)
    assert rows == [5, 5]


def test_a_routine_of_nothing(kernel: Any) -> None:
    frames = Frames(Routine(kernel, [[], []], (9, 9)))
    slices = slices_of((0, 1, 0, 0), (1, 1, 0, 0))
    given = WIDTH, tensor_of(np.array([0, 1], "int32")), tensor_of(slices.reshape(-1))
    frames.run(HostMemory(), 0, 2, *given)


def test_frames_run_in_another_memory(kernel: Any, parts: Any) -> None:
    """Of the same version, as memories of two batches are."""
    calls, groups, memory = parts
    other = HostMemory()
    other.rows(A, 4, 0, "float32")
    other.rows(B, 2, 3, "float32")
    assert other.version == memory.version
    frames = Frames(Routine(kernel, groups, (9, 9)))
    slices = tensor_of(slices_of((1, 3, 11, 21)).reshape(-1))
    for each in (memory, other, memory):
        frames.run(each, 0, 1, WIDTH, tensor_of(np.zeros(1, "int32")), slices)
        assert calls.calls.pop() == ("last", (3, 21, 11, each.tensor(B).data_ptr()))
