"""Buffers stay where they are as long as they are large enough, and say when they moved."""

import itertools
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.series_in_python import InPython
from tvm_cavs.runtime import room
from tvm_cavs.runtime.batch_inputs import Filling
from tvm_cavs.runtime.memory import (
    GROWTH,
    INT32,
    READ_ONLY,
    Both,
    HostMemory,
    ready,
    table,
    tensor_of,
)
from tvm_cavs.runtime.planner import KIND, ORDER
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.room import Layout, Room, what_fits
from tvm_cavs.runtime.spaces import (
    ALL,
    PARTS,
    SCRATCH,
    STATE,
    Buffer,
    RowGradient,
    Space,
    choice_buffer,
    index_buffer,
)

ONE, TWO, OTHER = (BufferId(Role.PLAN, name) for name in ("one", "two", "other"))


def test_a_buffer_grows_only_where_it_has_to() -> None:
    memory = HostMemory()
    capacities = []
    for n_rows in (0, 1, 4, 4, 3, 5, 6, 7):
        version = memory.version
        tensor = memory.rows(ONE, n_rows, 3, "float32")
        held = memory.read(ONE)
        assert tensor.shape == held.shape == (len(held), 3) and len(held) >= n_rows
        moved = len(capacities) == 0 or len(held) != capacities[-1]
        assert memory.version == version + moved
        held[:] = n_rows
        assert (np.from_dlpack(memory.tensor(ONE)) == n_rows).all()
        capacities.append(len(held))
    # at first as asked, then a quarter more
    assert capacities == [1, 1, 5, 5, 5, 5, 7, 7] and GROWTH == 1.25
    memory.rows(ONE, 9, 3, "float32", spare=False)
    assert len(memory.read(ONE)) == 9
    vector = memory.rows(TWO, 2, 0, "int32")
    assert vector.shape == (2,) and memory.read(TWO).dtype == np.int32
    fixed = memory.fixed(OTHER, (2, 5))
    assert memory.fixed(OTHER, (2, 5)) is fixed and (memory.read(OTHER) == 0).all()


def test_what_is_beneath_is_seen_and_not_taken() -> None:
    beneath = HostMemory()
    beneath.fixed(ONE, (3,))
    above = HostMemory(beneath)
    assert ONE not in above and ONE in beneath
    above.read(ONE)[:] = 7.0
    assert above.read(ONE) is beneath.read(ONE) and above.tensor(ONE) is beneath.tensor(ONE)
    above.fixed(ONE, (2,))
    assert ONE in above and len(above.read(ONE)) == 2 and len(beneath.read(ONE)) == 3
    for missing in (above.read, above.tensor, beneath.tensor):
        with pytest.raises(KeyError):
            missing(OTHER)
    above.fixed(TWO, (5,), "int64")
    assert above.sizes() == {ONE: 8, TWO: 40} and beneath.sizes() == {ONE: 12}
    beneath.bind(OTHER, beneath.read(ONE)[:2])  # the same memory counts once
    assert beneath.sizes() == {ONE: 12}


def test_a_call_sees_the_batch_first_and_both_versions() -> None:
    batch, workspace = HostMemory(), HostMemory()
    for memory in (batch, workspace):
        memory.fixed(ONE, (2,))
    workspace.fixed(TWO, (2,))
    both = Both(batch, workspace)
    assert both.tensor(ONE) is batch.tensor(ONE) and both.tensor(TWO) is workspace.tensor(TWO)
    seen = {both.version}
    for memory in (batch, workspace, batch):
        memory.bind(OTHER, np.zeros(16, "float32"))
        seen.add(both.version)
    assert len(seen) == 4


def test_parts_of_a_buffer_are_written_where_they_belong() -> None:
    memory = HostMemory()
    memory.rows(ONE, 5, 0, "float32")
    memory.fill(ONE, 9.0)
    memory.write(ONE, np.array([1.0, 2.0], "float32"), start=2)
    memory.write(ONE, np.array([3.0], "float32"))
    assert memory.read(ONE).tolist() == [3.0, 9.0, 1.0, 2.0, 9.0]


def test_arrays_are_given_as_they_are_where_kernels_can_take_them() -> None:
    plain, int64 = np.arange(6, dtype="int32").reshape(2, 3), np.dtype("int64")
    assert ready(plain, INT32) is plain and ready(plain, None) is plain
    for made, dtype in ((plain.T, None), (plain, int64), (plain[:, ::2], INT32)):
        found = ready(made, dtype)
        assert found is not made and found.flags.c_contiguous and (found == made).all()
        assert found.dtype == (dtype or made.dtype)
    assert ready(np.zeros((0, 3), "int32"), int64).shape == (1,)
    assert np.from_dlpack(table([], "int32")).tolist() == [0]
    assert np.from_dlpack(table([3, 5], "int64")).tolist() == [3, 5]


@pytest.mark.parametrize("known", [True, False])
def test_read_only_arrays_are_copied_for_a_numpy_that_cannot_give_them(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvm_cavs.runtime.memory.READ_ONLY", known and READ_ONLY)
    given = np.arange(3.0)
    assert tensor_of(given).data_ptr() == given.ctypes.data
    given.setflags(write=False)
    made = tensor_of(given)
    assert (made.data_ptr() == given.ctypes.data) == (known and READ_ONLY)
    assert np.from_dlpack(made).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("fixed", "each"), [(0, 10), (500, 10), (3, 1000), (10**6, 7)])
def test_what_is_said_to_fit_fits(fixed: int, each: int) -> None:
    """As many graphs as there is room for beside what no batch changes, and no more."""
    graph = cavs.batch([cavs.Graph.from_sequence(3)] * 100)
    need = fixed + 100 * each
    for wanted in (1, 7, 50, 99):
        most = fixed + each * wanted + each // 2
        text = what_fits(graph, need, fixed, most)
        vertices, graphs = map(int, re.findall(r"[\d,]+(?= (?:vertices|such))", text))
        assert graphs == wanted and 3 * wanted <= vertices < 3 * wanted + 3
        assert text == f"A batch of {vertices} vertices, about {graphs} such graphs, fits."
    few = what_fits(graph, need, fixed, fixed + each * 2 // 3)
    assert few.startswith("About 1 vertices fit, less than one such graph: make graphs smaller")


@pytest.mark.parametrize("rows", list(itertools.permutations((9, 4, 7))))
def test_words_are_counted_up_to_the_largest_table(rows: tuple[int, ...]) -> None:
    """Of an input that chooses rows of several."""

    def gradient(name: str, pull: str, n_rows: int) -> RowGradient:
        return RowGradient(name, pull, BufferId(Role.ROW_GRADIENT, (name, pull)), 2, n_rows)

    sums = [gradient(f"E{k}", "word", n) for k, n in enumerate(rows)]
    compiled: Any = SimpleNamespace(buffers={}, row_sums=[*sums, gradient("E0", "other", 3)])
    number = {Space("pull", "word"): 1, Space("pull", "other"): 0}
    spaces: Any = SimpleNamespace(number=number, names=[*number][::-1])
    planner: Any = SimpleNamespace(kernels={"group": None}, series=InPython)
    memory, plan = HostMemory(), SimpleNamespace(n_rows=7, graph=SimpleNamespace(inputs={}))
    filling = Filling(compiled, spaces, planner)
    filling._series = SimpleNamespace(run=lambda memory, integers, given: told.append(integers))
    told: list[list[int]] = []
    filling.fill(plan, np.array([5, 6]), memory)
    assert told == [[7, 6, 5]]
    counts = {
        pull: len(memory.read(BufferId(Role.GROUP_COUNTS, pull))) for pull in ("word", "other")
    }
    assert counts == {"word": 9, "other": 3}


@pytest.mark.parametrize("given", [[3, None, 0], [0.5, None, 1.5]])
def test_what_chooses_nothing_is_below_zero_and_of_a_table_the_first_row(given: list[Any]) -> None:
    """Inputs of another type, which no vertex has that runs, choose nothing at all."""
    space, memory = Space("pull", "word"), HostMemory()
    buffers = index_buffer("word"), choice_buffer("word")
    compiled: Any = SimpleNamespace(buffers={b.id: b for b in buffers}, row_sums=[])
    spaces: Any = SimpleNamespace(number={space: 0}, names=[space], members={space: None})
    integers = isinstance(given[0], int)

    def take(n: int, order: Any, kind: Any, values: Any, out: Any, member: Any) -> None:
        assert n == (3 if integers else 0)
        if n:
            np.from_dlpack(out)[:3] = [3, -1, 0]

    planner: Any = SimpleNamespace(kernels={"take": take}, arity=2, series=InPython)
    for each in (ORDER, KIND):
        memory.rows(each, 3, 0, "int32")
    plan: Any = SimpleNamespace(graph=cavs.Graph.from_sequence(3, {"word": given}), n_rows=3)
    Filling(compiled, spaces, planner).fill(plan, np.array([3]), memory)
    index, choice = (memory.read(b.id).tolist() for b in buffers)
    assert index == ([3, -1, 0] if integers else [-1] * 3)
    assert choice == ([3, 0, 0] if integers else [0] * 3)


def test_what_a_batch_is_said_to_need_is_what_its_buffers_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Vectors too; beside it what is answered is copied."""
    told: dict[str, int] = {}
    monkeypatch.setattr(room, "check_room", lambda what, sizes, *_: told.update(sizes))
    buffers = [
        Buffer(Role.STATE, "h", 3, STATE),
        Buffer(Role.PUSHED, "loss", 0, ALL),
        Buffer(Role.PUSHED, "best", 0, ALL, "int32"),
        Buffer(Role.SAVED, "wide", 2, ALL, "int64"),
        Buffer(Role.SCRATCH, "few", 0, SCRATCH),
        Buffer(Role.SCRATCH, "parts", 5, PARTS),
    ]
    spaces: Any = SimpleNamespace(names=[ALL, STATE], number={ALL: 0, STATE: 1}, width=6)
    compiled: Any = SimpleNamespace(buffers={b.id: b for b in buffers}, fixed={}, n_parts=2)
    memory, graph = HostMemory(), cavs.Graph.from_sequence(7)
    batch: Any = SimpleNamespace(
        counts=np.array([7, 8]),
        cut=SimpleNamespace(most_rows=4),
        plan=SimpleNamespace(graph=graph),
    )
    place = Room(Layout(compiled, spaces), memory)
    place.make(batch)
    copies = told.pop("copies of outputs")
    taken = {str(b): n for b, n in memory.sizes().items()}
    assert told == taken and copies == taken["push.loss"] + taken["push.best"]
    told.clear()
    for fits in ([7, 8], [2, 3]):
        batch.counts = np.array(fits)
        place.make(batch)
        assert not told and {str(b): n for b, n in memory.sizes().items()} == taken
    batch.counts = np.array([2, 9])
    place.make(batch)
    assert told == taken | {"state.h": 9 * 3 * 4, "copies of outputs": copies}


def test_an_identity_is_shown_so_that_no_other_is_shown_alike() -> None:
    keys: list[Any] = ["0", 0, ("0",), (0,), ("a", 0), ("a", "0"), "a, 0", ()]
    made = [BufferId(role, key) for role in (Role.CHILD, Role.INDEX) for key in keys]
    assert len({repr(b) for b in made}) == len(made)
    assert repr(made[4]) == f"BufferId({Role.CHILD!r}, ('a', 0))"
    with pytest.raises(AttributeError, match="^a BufferId does not change, key neither; make"):
        made[4].key = "b"
    assert [str(BufferId(Role.CHILD, key)) for key in ((), 0, ("a", 0))] == [
        "child",
        "child.0",
        "child.a.0",
    ]
