"""Needs: buffers grow with a batch's sizes, and are not looked at again while they hold it."""

from typing import Any

import pytest

from tvm_cavs.errors import OutOfMemoryError
from tvm_cavs.runtime import memory as memory_module
from tvm_cavs.runtime.memory import HostMemory
from tvm_cavs.runtime.needs import Need, Needs
from tvm_cavs.runtime.roles import BufferId, Role

A, B, C, D, E = (BufferId(Role.SCRATCH, name) for name in "abcde")
NEEDS = [
    Need(A, 0),
    Need(B, 0, each=3, more=2),
    Need(C, 1, ld=4, dtype="float32", more=1),
    Need(D, 1, dtype="int64", each=0, more=7),
    Need(E, 0, more=40),  # has more to spare than those above once it has grown
]


def rows(memory: HostMemory) -> list[int]:
    return [len(memory.read(need.buffer)) for need in NEEDS]


def test_buffers_have_the_rows_that_a_batch_needs() -> None:
    memory, needs = HostMemory(), Needs(NEEDS, 2)
    needs.make_room(memory, (5, 3))
    assert rows(memory) == [5, 17, 4, 7, 45]
    assert memory.read(C).shape == (4, 4) and memory.read(C).dtype == "float32"
    assert memory.read(D).dtype == "int64"


@pytest.mark.parametrize("first", [(5, 3), (1, 9), (0, 0)])
@pytest.mark.parametrize("then", [(5, 3), (6, 3), (5, 4), (2, 30), (40, 1), (7, 3), (8, 5)])
def test_every_buffer_holds_every_batch(first: Any, then: Any) -> None:
    """Also where one size grows alone, and where a buffer has more to spare than another."""
    memory, needs = HostMemory(), Needs(NEEDS, 2)
    for sizes in (first, then, (9, 9), (12, 9), first, then):
        needs.make_room(memory, sizes)
        for need in NEEDS:
            wanted = sizes[need.size] * need.each + need.more
            assert len(memory.read(need.buffer)) >= wanted, need


def test_a_batch_that_fits_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, needs = HostMemory(), Needs(NEEDS, 2)
    needs.make_room(memory, (5, 3))
    needs.make_room(memory, (6, 3))  # with some to spare
    version = memory.version
    monkeypatch.setattr(HostMemory, "rows", None)
    for sizes in ((6, 3), (5, 1), (0, 0)):
        needs.make_room(memory, sizes)
    assert memory.version == version


def test_other_memory_is_given_room_of_its_own() -> None:
    one, other, needs = HostMemory(), HostMemory(), Needs(NEEDS, 2)
    needs.make_room(one, (5, 3))
    needs.make_room(other, (2, 1))
    assert rows(other) == [2, 8, 2, 7, 42]


def test_room_that_there_is_not_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, needs = HostMemory(), Needs(NEEDS, 2)

    def refuse(*_: Any) -> Any:
        raise OutOfMemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(memory_module, "_room", refuse)
        with pytest.raises(OutOfMemoryError, match="no more"):
            needs.make_room(memory, (5, 3))
    needs.make_room(memory, (5, 3))
    assert rows(memory) == [5, 17, 4, 7, 45]
