"""Slices: a plan and compiled stages -> slices, and which kernel calls run on them.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Where slices begin and end, and their order, is found by
compiled kernels; nothing here is done for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .executable import CompiledGroup, Executable
from .memory import HostMemory, table
from .plan import Plan
from .planner import CELL_BUFFERS, RESULT, Planner
from .roles import BufferId, Role
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


@dataclass(frozen=True)
class Cut:
    """How a batch was cut into slices, which lie in its memory in the order in which they run.

    sizes: slices of every group. n_forward, n: slices of the first direction, of both. most_rows:
    of one slice.
    """

    sizes: tuple[int, ...]
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

    def __init__(self, compiled: Executable) -> None:
        self.groups = (*compiled.forward, *compiled.backward)
        self.names = list(compiled.members)
        self.number = {s: i for i, s in enumerate(self.names)}
        self._member = np.array(list(compiled.members.values()))
        self._base = np.array([s.base for s in self.names])
        uses = [[s in g.spaces for s in self.names] for g in self.groups]
        self.members = {s: _flags(m) for s, m in zip(self.names, self._member, strict=True)}
        stages = [NUMBER_OF_STAGE[g.stage] for g in self.groups]
        self._stages, self._bases = table(stages, "int64"), table(self._base, "int64")
        self._n_forward = len(compiled.forward)
        members = np.array([g.member for g in self.groups])
        self._flags = tuple(_flags(np.array(f)) for f in (members, uses, self._member))
        self._replaced: dict[tuple[int, ...], frozenset[BufferId]] = {}

    def column(self, space: Space) -> int:
        """Where a slice's row has its first row in a space; that of scratch is always zero."""
        return ZERO if space.what == "scratch" else SLICE_COLUMNS + self.number[space]

    def counts(self, plan: Plan) -> np.ndarray:
        """Rows of every space in a batch, with those before the first: int64[n_spaces]."""
        n_kinds = self._member.shape[1]
        of_kind = np.bincount(plan.cells.kind, plan.cells.count, minlength=n_kinds)
        return self._member @ of_kind.astype("int64") + self._base

    @property
    def width(self) -> int:
        """Integers of a slice."""
        return SLICE_COLUMNS + len(self.names)

    def cut(self, plan: Plan, planner: Planner, memory: HostMemory) -> Cut:
        """Find the slices of all groups and the order in which they run; they are memory's."""
        return self.cut_cells(len(plan.cells.count), plan.n_levels, self._bases, planner, memory)

    def cut_cells(
        self, n_cells: int, n_levels: int, bases: Any, planner: Planner, memory: HostMemory
    ) -> Cut:
        """The same of cells that lie in memory.

        Args:
            bases: where the rows of every space begin, int64[n_spaces] as a tensor.
        """
        n_groups, n_kinds, n_spaces = len(self.groups), self._member.shape[1], len(self.names)
        most = n_groups * n_cells + 1
        slices = memory.rows(SLICES, most * self.width, 0, "int64")
        sizes = memory.rows(SIZES, n_groups, 0, "int64")
        order = memory.rows(SLICE_ORDER, most, 0, "int32")
        keys = memory.rows(SLICE_KEYS, 2 * (n_levels + 2), 0, "int64")
        cells = map(memory.tensor, CELL_BUFFERS)
        kernels, stages = planner.kernels, self._stages
        given = *cells, bases, stages, slices, sizes, *self._flags
        kernels["segments"](n_groups, n_cells, n_kinds, n_spaces, *given)
        given = slices, sizes, stages, keys, planner.result(memory), order
        kernels["arrange"](n_groups, self._n_forward, n_levels, self.width, *given)
        found = memory.read(SIZES)[:n_groups].tolist()
        return Cut(tuple(found), *memory.read(RESULT).tolist())

    def slices(self, cut: Cut, memory: HostMemory) -> list[Slice]:
        """The slices of both directions in the order in which they run, to be looked at."""
        order = memory.read(SLICE_ORDER)[: cut.n]
        rows = memory.read(SLICES)[: cut.n * self.width].reshape(cut.n, self.width)[order]
        return [Slice(self.groups[row[GROUP]], row) for row in rows.tolist()]

    def replaced(self, cut: Cut) -> frozenset[BufferId]:
        """The gradients that one call alone makes whole, so that nothing has to be there before."""
        key = tuple(min(size, 2) for size in cut.sizes)
        if key not in self._replaced:
            self._replaced[key] = replaced(list(zip(self.groups, key, strict=True)))
        return self._replaced[key]


def replaced(groups: Sequence[tuple[CompiledGroup, int]]) -> frozenset[BufferId]:
    """The gradients that one call alone makes whole; `groups` with how often each runs."""
    times: Counter[BufferId] = Counter()
    covered = set()
    for group, often in groups:
        if not often:
            continue
        for buffer, covers in (add for step in group.steps for add in step.adds):
            times[buffer] += often
            covered |= {buffer} if covers else set()
    return frozenset(buffer for buffer in covered if times[buffer] == 1)


def _flags(member: np.ndarray) -> Any:
    return table(member.reshape(-1), "uint8")
