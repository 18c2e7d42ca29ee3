"""Workspaces: memory in which one call runs at a time, and the slots that hand them out.

The one idea: a call takes the workspace out of its slot, and puts it back when it has succeeded. So
a call that was interrupted, anywhere and by anything, leaves no workspace that is half changed. The
next call makes a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock, get_ident
from typing import TypeVar

from ..renewal import renewed_after_fork
from .batch_memory import Batch
from .memory import Both, HostMemory
from .passes import Passes
from .room import Layout, Room
from .routine import Frames
from .slices import SLICE_ORDER, SLICES

Made = TypeVar("Made")
KEPT = 8  # memories of batches whose frames a workspace keeps


class Workspace:
    """What one call at a time writes to.

    Args:
        layout: the buffers. beneath: the memory of the weights, which is only read.
    """

    def __init__(self, layout: Layout, beneath: HostMemory) -> None:
        self.layout, self.memory = layout, HostMemory(beneath)
        for buffer, (shape, dtype) in layout.fixed.items():
            self.memory.fixed(buffer, shape, dtype)
        self._room = Room(layout, self.memory)
        self._both: dict[HostMemory, Both] = {}
        self._frames: dict[tuple[Passes, HostMemory], Frames] = {}

    def make_room(self, batch: Batch) -> None:
        """Let the buffers hold this batch; they only grow.

        Raises:
            OutOfMemoryError: they would take more than may be taken; nothing has changed.
        """
        self._room.make(batch)

    def seen_by(self, batch: Batch) -> Both:
        """All memory that the calls of a batch see."""
        if batch.memory not in self._both:
            if len(self._both) >= KEPT:  # those of batches that are long gone
                self._both.clear()
                self._frames.clear()
            self._both[batch.memory] = Both(batch.memory, self.memory)
        return self._both[batch.memory]

    def run(self, batch: Batch, direction: str) -> None:
        """Make the calls of one direction; gradients in `replaced` are written, not added to."""
        memory, key = self.seen_by(batch), (batch.passes, batch.memory)
        frames = self._frames.get(key)
        if frames is None:
            frames = self._frames[key] = batch.passes.frames()
        frames.choose(batch.replaced)
        order, slices = batch.memory.tensor(SLICE_ORDER), batch.memory.tensor(SLICES)
        frames.run(memory, *batch.cut.place(direction), self.layout.width, order, slices)


class Slot:
    """A place for one call. workspace: that of the last one; "idle" if it left none, None in use.

    lock: held by the thread whose call it is; a handler of a signal may call again in its midst.
    """

    __slots__ = ("lock", "workspace")

    def __init__(self) -> None:
        self.lock = RLock()
        self.workspace: Workspace | str | None = "idle"


class Slots:
    """Places for as many calls at once as there are cores; more calls wait for one.

    Args:
        n: how many.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._renew()
        renewed_after_fork(self, Slots._renew)

    def _renew(self) -> None:
        """Empty places: the threads that are in them are not there in a forked process."""
        self._all = [Slot() for _ in range(self._n)]

    @property
    def n_busy(self) -> int:
        """Calls that run now."""
        return sum([slot.workspace is None for slot in self._all])

    @property
    def last(self) -> Workspace | None:
        """The workspace of the slot that is used first; None while a call has it, or before any."""
        workspace = self._all[0].workspace
        return workspace if isinstance(workspace, Workspace) else None

    def call(self, use: Callable[[Workspace | None], tuple[Made, Workspace | None]]) -> Made:
        """What `use` makes, given a workspace that no other call has, and returns beside it.

        It is given None if there is none yet, and may leave another.
        """
        slot = self._choose()
        with slot.lock:
            found, slot.workspace = slot.workspace, None
            try:
                made, slot.workspace = use(found if isinstance(found, Workspace) else None)
                return made
            finally:
                if slot.workspace is None:
                    slot.workspace = "idle"

    def _choose(self) -> Slot:
        for slot in self._all:
            if slot.workspace is not None:
                return slot
        return self._all[get_ident() % len(self._all)]
