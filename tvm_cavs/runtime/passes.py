"""Passes: all kernel calls of a compiled network, as one routine for every memory.

There may be two: one multiplies with packed weights, which a step packs once; the other reads
weights where they lie, which costs less where few vertices share them (`direct`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from .executable import CompiledGroup, CompiledStep
from .memory import Both
from .roles import BufferId
from .routine import Argument, Call, Column, Entry, Frames, Routine, Rows, Unless
from .slices import Cut, Slice, Spaces
from .tables import COUNT, GROUP, LEVEL


class Passes:
    """Both directions' calls.

    Args:
        groups: all groups, those of the forward pass first. spaces: theirs. kernel: the routine's.
    """

    def __init__(
        self, groups: Sequence[CompiledGroup], spaces: Spaces, kernel: Callable[..., Any]
    ) -> None:
        self._groups, self._spaces = groups, spaces
        self._entries = [[self._entry(g, step) for step in g.steps] for g in groups]
        self._routine = Routine(kernel, self._entries, [g.most_rows for g in groups])
        self._packs: dict[tuple[int, ...], tuple[BufferId, ...]] = {}

    @property
    def groups(self) -> Sequence[CompiledGroup]:
        """All groups, those of the forward pass first."""
        return self._groups

    def _entry(self, group: CompiledGroup, step: CompiledStep) -> Entry:
        starts = [Column(self._spaces.column(group.spaces[i])) for i in step.starts]
        buffers = map(Rows, step.buffers)
        own: list[Argument] = []
        if step.kind == "outer":
            own = [Unless(step.adds[0][0])]
        elif step.kind == "product":  # which reads its weights in turn forwards and backwards
            own = [Column(LEVEL)]
        return Entry(step.functions, step.limits, (Column(COUNT), *own, *starts, *buffers))

    def packs(self, cut: Cut) -> tuple[BufferId, ...]:
        """The packed weights that a batch reads."""
        often = cut.often
        if often not in self._packs:
            read = (g.packs for g, runs in zip(self._groups, often, strict=True) if runs)
            self._packs[often] = tuple(dict.fromkeys(p for packs in read for p in packs))
        return self._packs[often]

    def frames(self) -> Frames:
        """The arguments of all calls, for one memory."""
        return Frames(self._routine)

    def calls(
        self, parts: Sequence[Slice], memory: Both, replaced: Collection[BufferId]
    ) -> list[Call]:
        """The same calls, in order, to be made one by one from Python."""
        rows = [part.row for part in parts]
        return [e.call(row, memory, replaced) for row in rows for e in self._entries[row[GROUP]]]
