"""Slots: a workspace is one call's, and gone where the call was cut short."""

import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tvm_ffi")

from tvm_cavs.runtime.memory import HostMemory
from tvm_cavs.runtime.slices import SLICE_ORDER, SLICES
from tvm_cavs.runtime.workspace import KEPT, Slots, Workspace


def workspace() -> Workspace:
    layout: Any = SimpleNamespace(fixed={}, growing=[], n_spaces=2, n_parts=1, width=1)
    return Workspace(layout, HostMemory())


def test_a_call_finds_what_the_last_one_left() -> None:
    slots, made = Slots(2), workspace()
    assert slots.call(lambda found: (found, made)) is None
    assert slots.last is made and slots.n_busy == 0
    assert slots.call(lambda found: (found, made)) is made


def test_a_call_that_was_cut_short_leaves_nothing() -> None:
    slots, made = Slots(1), workspace()
    slots.call(lambda _: (None, made))

    def cut_short(found: Workspace | None) -> Any:
        assert found is made and slots.n_busy == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slots.call(cut_short)
    assert slots.last is None and slots.n_busy == 0
    assert slots.call(lambda found: (found, workspace())) is None


def test_a_call_in_the_midst_of_another_has_a_workspace_of_its_own() -> None:
    slots, made = Slots(1), workspace()
    slots.call(lambda _: (None, made))

    def outer(found: Workspace | None) -> Any:
        assert found is made
        return slots.call(lambda inner: (inner, workspace())), found

    assert slots.call(outer) is None
    assert slots.last is made


def test_calls_of_several_threads_wait_for_a_slot() -> None:
    slots, go, begun = Slots(1), threading.Event(), threading.Event()
    order: list[str] = []

    def slow(_: Workspace | None) -> Any:
        begun.set()
        go.wait()
        order.append("slow")
        return None, workspace()

    def quick(_: Workspace | None) -> Any:
        order.append("quick")
        return None, workspace()

    threads = [threading.Thread(target=slots.call, args=(use,)) for use in (slow, quick)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    threads[1].join(0.05)
    go.set()
    for t in threads:
        t.join()
    assert order == ["slow", "quick"]


def test_calls_at_once_have_different_workspaces() -> None:
    slots, both = Slots(2), threading.Barrier(2)
    given = [workspace(), workspace()]

    def use(i: int) -> None:
        def work(found: Workspace | None) -> Any:
            both.wait()
            return None, given[i] if found is None else found

        slots.call(work)

    for _ in range(2):
        threads = [threading.Thread(target=use, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    found = [slot.workspace for slot in slots._all]
    assert {id(w) for w in found} == {id(w) for w in given}


class NoCalls:
    """Passes without a call, and their frames."""

    def frames(self) -> Any:
        return self

    def choose(self, replaced: Any) -> None:
        pass

    def run(self, *given: Any) -> None:
        pass


def test_batches_that_are_long_gone_leave_nothing() -> None:
    """A workspace holds the memories of a few batches only, whatever it keeps for them."""
    made, passes, memories = workspace(), NoCalls(), []
    cut = SimpleNamespace(place=lambda direction: (0, 0))
    for _ in range(3 * KEPT):
        memory = HostMemory()
        memory.rows(SLICE_ORDER, 1, 0, "int32")
        memory.rows(SLICES, 1, 0, "int64")
        batch: Any = SimpleNamespace(passes=passes, memory=memory, cut=cut, replaced=frozenset())
        made.run(batch, "forward")
        memories.append(weakref.ref(memory))
    del batch, memory
    assert sum(held() is not None for held in memories) <= KEPT
