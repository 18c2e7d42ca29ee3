"""Slices: a plan and compiled stages -> slices, and which kernel calls run on them.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Where slices begin and end, and their order, is found by
compiled kernels; nothing here is done for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .area import Area
from .executable import CompiledGroup, Executable
from .memory import HostMemory, table
from .needs import Need, Needs
from .plan import CELL_BUFFERS, Plan
from .planner import RESULT, Planner
from .roles import BufferId, Role
from .routine import Given, Held, Number
from .series import Call, integer, rows_of
from .spaces import Space
from .tables import COUNT, GROUP, LEVEL, NUMBER_OF_STAGE, SLICE_COLUMNS, ZERO

SLICES, SIZES, SLICE_ORDER, SLICE_KEYS = (
    BufferId(Role.PLAN, what) for what in ("slices", "sizes", "slice_order", "slice_keys")
)


class Slice(NamedTuple):
    """Rows on which a group's steps run, all of them in one go.

    row: zero, the level, the count of rows, the group's number, then the first row in every space.
    """

    group: CompiledGroup
    row: list[int]

    @property
    def level(self) -> int:
        return self.row[LEVEL]

    @property
    def n_rows(self) -> int:
        return self.row[COUNT]

    @property
    def number(self) -> int:
        """The group's."""
        return self.row[GROUP]

    def parts(self) -> list[Slice]:
        """The same rows, as many at a time as the group's steps take."""
        most, made = self.group.most_rows, []
        for offset in range(0, self.n_rows, most):
            row = [*self.row[:SLICE_COLUMNS], *(s + offset for s in self.row[SLICE_COLUMNS:])]
            row[COUNT] = min(most, self.n_rows - offset)
            made.append(Slice(self.group, row))
        return made


class Cut(NamedTuple):
    """How a batch was cut into slices, which lie in its memory in the order in which they run.

    often: how often every group runs: never, once, or 2 for more. n_forward, n: slices of the first
    direction, of both. most_rows: of one slice.
    """

    often: tuple[int, ...]
    n_forward: int
    n: int
    most_rows: int

    def place(self, direction: str) -> tuple[int, int]:
        """The first slice of a direction in that order, and how many there are."""
        if direction == "forward":
            return 0, self.n_forward
        return self.n_forward, self.n - self.n_forward


class Spaces:
    """The spaces of the compiled stages, and everything about them that batches have in common."""

    def __init__(self, compiled: Executable, planner: Planner) -> None:
        self.groups = (*compiled.forward, *compiled.backward)
        self.names = list(compiled.members)
        self.number = {s: i for i, s in enumerate(self.names)}
        self._member = np.array(list(compiled.members.values()))
        uses = [[s in g.spaces for s in self.names] for g in self.groups]
        self.members = {s: _flags(m) for s, m in zip(self.names, self._member, strict=True)}
        stages = [NUMBER_OF_STAGE[g.stage] for g in self.groups]
        self._bases = table([s.base for s in self.names], "int64")
        members = np.array([g.member for g in self.groups])
        flags = [Held(_flags(np.array(f))) for f in (members, uses, self._member)]
        calls = self._cut_calls(Held(table(stages, "int64")), flags, len(compiled.forward), planner)
        self._cut = planner.series(calls, 2)
        self._needs = Needs(
            [
                Need(SLICES, 0, dtype="int64", each=self.width),
                Need(SLICE_ORDER, 0),
                Need(SLICE_KEYS, 1, dtype="int64"),
                Need(SIZES, 0, dtype="int64", each=0, more=len(self.groups)),
                Need(RESULT, 0, dtype="int64", each=0, more=3),
            ],
            2,
        )
        self._replaced: dict[tuple[int, ...], dict[BufferId, Area]] = {}

    def _cut_calls(
        self, stages: Held, flags: Sequence[Held], n_forward: int, planner: Planner
    ) -> list[Call]:
        """The slices of all groups, and their order; given: where the rows of spaces begin."""
        kernels, n_cells, n_levels, bases = planner.kernels, integer(0), integer(1), Given(0)
        n_groups, n_spaces = Number(len(self.groups)), Number(len(self.names))
        of_cells = rows_of(*CELL_BUFFERS)
        slices, sizes, keys, result, order = rows_of(SLICES, SIZES, SLICE_KEYS, RESULT, SLICE_ORDER)
        n_kinds = Number(self._member.shape[1])
        first = n_groups, n_cells, n_kinds, n_spaces, *of_cells, bases, stages, slices, sizes
        then = n_groups, Number(n_forward), n_levels, Number(self.width), slices, sizes, stages
        return [
            (kernels["segments"], (*first, *flags)),
            (kernels["arrange"], (*then, keys, result, order)),
        ]

    def column(self, space: Space) -> int:
        """Where a slice's row has its first row in a space; that of scratch is always zero."""
        return ZERO if space.what == "scratch" else SLICE_COLUMNS + self.number[space]

    def counts(self, cut: Cut, memory: HostMemory) -> np.ndarray:
        """Rows of every space in a batch, with those before the first: int64[n_spaces].

        After the last slice stands where the rows of every space end.
        """
        end = cut.n * self.width + SLICE_COLUMNS
        return memory.read(SLICES)[end : end + len(self.names)].copy()

    @property
    def width(self) -> int:
        """Integers of a slice."""
        return SLICE_COLUMNS + len(self.names)

    def cut(self, plan: Plan, memory: HostMemory) -> Cut:
        """Find the slices of all groups and the order in which they run; they are memory's."""
        return self.cut_cells(plan.n_cells, plan.n_levels, self._bases, memory)

    def cut_cells(self, n_cells: int, n_levels: int, bases: Any, memory: HostMemory) -> Cut:
        """The same of cells that lie in memory.

        Args:
            bases: where the rows of every space begin, int64[n_spaces] as a tensor.
        """
        n_slices, n_keys = len(self.groups) * n_cells + 1, 2 * (n_levels + 2)
        self._needs.make_room(memory, (n_slices, n_keys))
        self._cut.run(memory, (n_cells, n_levels), (bases,))
        sizes: list[int] = memory.read(SIZES)[: len(self.groups)].tolist()
        often = tuple([2 if size > 1 else size for size in sizes])
        return Cut(often, *memory.read(RESULT).tolist())

    def slices(self, cut: Cut, memory: HostMemory) -> list[Slice]:
        """The slices of both directions in the order in which they run, to be looked at."""
        order = memory.read(SLICE_ORDER)[: cut.n]
        rows = memory.read(SLICES)[: cut.n * self.width].reshape(cut.n, self.width)[order]
        return [Slice(self.groups[row[GROUP]], row) for row in rows.tolist()]

    def replaced(self, cut: Cut) -> Mapping[BufferId, Area]:
        """The gradients that one call alone makes, and where: nothing has to be there before."""
        often = cut.often
        if often not in self._replaced:
            self._replaced[often] = replaced(list(zip(self.groups, often, strict=True)))
        return self._replaced[often]


def replaced(groups: Sequence[tuple[CompiledGroup, int]]) -> dict[BufferId, Area]:
    """The gradients that one call alone makes, and where; `groups` with how often each runs."""
    times: Counter[BufferId] = Counter()
    areas: dict[BufferId, Area] = {}
    for group, often in groups:
        if not often:
            continue
        for buffer, area in (add for step in group.steps for add in step.adds):
            times[buffer] += often
            areas |= {} if area is None else {buffer: area}
    return {buffer: area for buffer, area in areas.items() if times[buffer] == 1}


def _flags(member: np.ndarray) -> Any:
    return table(member.reshape(-1), "uint8")
