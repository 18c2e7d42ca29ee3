"""Batching: a plan and compiled stages -> a flat list of kernel calls with integer offsets.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Where slices begin and end is found by a compiled kernel;
Python does one step for each call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from .assemble import Compiled, CompiledGroup, CompiledStep
from .buffers import HostMemory, tensor_of
from .kinds import Kinds
from .plan import Plan, Space
from .plan_kernels import SLICE_COLUMNS
from .planner import Planner
from .stages import STAGES

Call = tuple[Any, tuple[Any, ...]]  # a function and its arguments
ZERO, LEVEL, COUNT = range(SLICE_COLUMNS)  # the first columns of a slice


class Slice(NamedTuple):
    """Rows on which a group's steps run, all of them in one go.

    row: zero, the level, the count of rows, then the first row in every space.
    """

    group: CompiledGroup
    row: list[int]

    @property
    def level(self) -> int:
        return self.row[LEVEL]

    @property
    def n_rows(self) -> int:
        return self.row[COUNT]


Prepared = list[tuple[CompiledStep, Callable[[list[int]], tuple[int, ...]], tuple[Any, ...]]]


class Spaces:
    """The spaces of the compiled stages, and everything about them that batches have in common."""

    def __init__(self, compiled: Compiled, kinds: Kinds) -> None:
        self.groups = (*compiled.forward, *compiled.backward)
        found = [s for g in self.groups for s in g.spaces]
        found += [b.space for b in compiled.buffers.values() if b.space is not None]
        found += [Space("pull", r.pull) for r in compiled.row_sums] + [Space("edges")]
        self.names = [s for s in dict.fromkeys(found) if s.what != "scratch"]
        self.number = {s: i for i, s in enumerate(self.names)}
        self._member = np.array([kinds.members(s) for s in self.names])
        self._base = np.array([s.base for s in self.names])
        uses = [[s in g.spaces for s in self.names] for g in self.groups]
        self.members = {s: _flags(m) for s, m in zip(self.names, self._member, strict=True)}
        self._rules = (
            tensor_of(self._base.astype("int64")),
            tensor_of(np.array([g.stage == "recurrent" for g in self.groups], "int64")),
        )
        members = np.array([g.member for g in self.groups])
        self._flags = tuple(_flags(np.array(f)) for f in (members, uses, self._member))
        self._order = {
            "forward": order_of(compiled.forward),
            "backward": order_of(compiled.backward, len(compiled.forward)),
        }
        self._prepared: dict[tuple[int, int], tuple[int, Prepared]] = {}

    def column(self, space: Space) -> int:
        """Where a slice's row has its first row in a space; that of scratch is always zero."""
        return ZERO if space.what == "scratch" else SLICE_COLUMNS + self.number[space]

    def counts(self, plan: Plan) -> list[int]:
        """Rows of every space in a batch, with those before the first."""
        n_kinds = self._member.shape[1]
        of_kind = np.bincount(plan.cells.kind, plan.cells.count, minlength=n_kinds)
        counts: list[int] = (self._member @ of_kind.astype("int64") + self._base).tolist()
        return counts

    def slices(self, plan: Plan, planner: Planner, memory: HostMemory) -> dict[str, list[Slice]]:
        """The slices of each direction, in the order in which they run."""
        found = self._found(plan, planner, memory)
        return {direction: self._in_order(found, direction) for direction in self._order}

    def _found(self, plan: Plan, planner: Planner, memory: HostMemory) -> list[list[list[int]]]:
        """The rows of every group's slices, by the group's number."""
        n_groups, n_cells = len(self.groups), len(plan.cells.count)
        n_kinds, n_spaces = self._member.shape[1], len(self.names)
        width = SLICE_COLUMNS + n_spaces
        out = memory.rows("plan.slices", (n_groups * n_cells + 1) * width, 0, "int64")
        result = memory.rows("plan.n_slices", n_groups, 0, "int64")
        cells = (memory.tensor(f"plan.cell_{what}") for what in ("level", "kind", "count"))
        planner.kernels["segments"](
            n_groups, n_cells, n_kinds, n_spaces, *cells, *self._rules, out, result, *self._flags
        )
        counts = memory.read("plan.n_slices")[:n_groups].tolist()
        ends = list(accumulate(counts))
        n = ends[-1] if ends else 0
        rows = memory.read("plan.slices")[: n * width].reshape(n, width).tolist()
        return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _in_order(self, found: list[list[list[int]]], direction: str) -> list[Slice]:
        """Eager stages, then recurrent ones level by level, then lazy ones."""
        first, levelled, last = self._order[direction]
        groups = self.groups
        middle = [Slice(groups[g], row) for g in levelled for row in found[g]]
        if len(levelled) > 1 or direction == "backward":
            middle.sort(key=_level, reverse=direction == "backward")
        ends = ([Slice(groups[g], row) for g in some for row in found[g]] for some in (first, last))
        return [*next(ends), *middle, *next(ends)]

    def calls(self, piece: Slice, memory: HostMemory, replaced: Collection[str] = ()) -> list[Call]:
        """The kernel calls of a slice; weight gradients in `replaced` are not added to."""
        row, n_rows, out = piece.row, piece.row[COUNT], []
        for step, arguments, tensors in self._prepare(piece.group, memory):
            function = step.functions[0] if len(step.functions) == 1 else _form(step, n_rows)
            given = arguments(row)
            if step.kind == "outer":
                given = (n_rows, int(step.adds[0][0] not in replaced), *given[1:])
            out.append((function, given + tensors))
        return out

    def _prepare(self, group: CompiledGroup, memory: HostMemory) -> Prepared:
        """The group's steps and their buffers as kernels take them; kept until a buffer moves."""
        key, version = (id(group), id(memory)), memory.version
        kept = self._prepared.get(key)
        if kept is None or kept[0] != version:
            made = [
                (
                    step,
                    self._arguments(group, step),
                    tuple(memory.tensor(name) for name in step.buffers),
                )
                for step in group.steps
            ]
            self._prepared[key] = kept = version, made
        return kept[1]

    def _arguments(
        self, group: CompiledGroup, step: CompiledStep
    ) -> Callable[[list[int]], tuple[int, ...]]:
        """Picks a step's count and starts out of a slice's row."""
        if not step.starts:
            return _count_only
        return itemgetter(COUNT, *(self.column(group.spaces[i]) for i in step.starts))


def replaced(slices: Sequence[Slice]) -> frozenset[str]:
    """The gradients that one call alone makes whole, so that nothing has to be there before."""
    found = [add for piece in slices for step in piece.group.steps for add in step.adds]
    times = Counter(name for name, _ in found)
    return frozenset(name for name, covers in found if covers and times[name] == 1)


def order_of(groups: Sequence[CompiledGroup], first: int = 0) -> tuple[list[int], ...]:
    """Numbers of the eager, recurrent and lazy groups; the first group's is `first`."""
    return tuple([i for i, g in enumerate(groups, first) if g.stage == stage] for stage in STAGES)


def _flags(member: np.ndarray) -> Any:
    return tensor_of(member.astype("uint8").reshape(-1))


def _level(piece: Slice) -> int:
    return piece[1][LEVEL]


def _count_only(row: list[int]) -> tuple[int, ...]:
    return (row[COUNT],)


def _form(step: CompiledStep, n_rows: int) -> Any:
    """The form of a kernel that suits so many rows."""
    return step.functions[bisect_right(step.limits, n_rows) - 1]
