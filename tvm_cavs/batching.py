"""Batching: a plan and compiled stages -> a flat list of kernel calls with integer offsets.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Where slices begin and end is found by a compiled kernel;
Python does one step for each call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from .assemble import Compiled, CompiledGroup, CompiledStep
from .buffers import HostMemory, tensor_of
from .kinds import Kinds
from .plan import Plan, Space
from .plan_kernels import SLICE_COLUMNS
from .planner import Planner

Call = tuple[Any, tuple[Any, ...]]  # a function and its arguments
ZERO, LEVEL, COUNT = range(SLICE_COLUMNS)  # the first columns of a slice


@dataclass(frozen=True)
class Table:
    """The slices of one group: each a list of zero, level, count and the first row in each space.

    packed: the spaces of the other columns.
    """

    rows: list[list[int]]
    packed: tuple[Space, ...]

    @property
    def level(self) -> np.ndarray:
        """int64[n]."""
        return np.array([row[LEVEL] for row in self.rows], "int64")

    @property
    def count(self) -> np.ndarray:
        """Rows of each slice: int64[n]."""
        return np.array([row[COUNT] for row in self.rows], "int64")

    def column(self, space: Space) -> int:
        """Where a slice has its first row in a space; that of scratch is always zero."""
        if space.what == "scratch":
            return ZERO
        return SLICE_COLUMNS + self.packed.index(space)


class GroupTables:
    """What finds the slices of one group, batch after batch."""

    def __init__(self, group: CompiledGroup, spaces: Spaces) -> None:
        self.group = group
        self.packed = tuple(s for s in group.spaces if s.what != "scratch")
        self._by_level = int(group.stage == "recurrent")
        at = [spaces.number[s] for s in self.packed]
        self._member = tensor_of(group.member.astype("uint8"))
        self._spaces = tensor_of(spaces.member[at].astype("uint8").reshape(-1))
        self._base = tensor_of(spaces.base[at].astype("int64"))
        empty = Table([], self.packed)
        self._arguments = [
            itemgetter(COUNT, *(empty.column(group.spaces[i]) for i in step.starts))
            if step.starts
            else _count_only
            for step in group.steps
        ]

    def table(self, plan: Plan, planner: Planner, memory: HostMemory) -> Table:
        """The slices of a batch."""
        n_cells, n_kinds = len(plan.cells.count), len(self.group.member)
        width = SLICE_COLUMNS + len(self.packed)
        out = memory.rows("plan.slices", (n_cells + 1) * width, 0, "int64")
        cells = (memory.tensor(f"plan.cell_{what}") for what in ("level", "kind", "count"))
        planner.kernels["segments"](
            n_cells,
            n_kinds,
            len(self.packed),
            self._by_level,
            *cells,
            self._base,
            out,
            planner.result,
            self._member,
            self._spaces,
        )
        n = planner.value()
        found = memory.read("plan.slices")[: n * width].reshape(n, width)
        return Table(found.tolist(), self.packed)

    def calls(self, table: Table, spaces: Spaces, memory: HostMemory) -> list[list[Call]]:
        """For every slice, the calls of the group's steps."""
        columns = []
        for step, arguments in zip(self.group.steps, self._arguments, strict=True):
            tensors, function = spaces.tensors(step, memory), step.functions[0]
            if len(step.functions) == 1:
                columns.append([(function, arguments(row) + tensors) for row in table.rows])
            else:
                columns.append(
                    [(_form(step, row[COUNT]), arguments(row) + tensors) for row in table.rows]
                )
        return [list(calls) for calls in zip(*columns, strict=True)]


def _count_only(row: list[int]) -> tuple[int, ...]:
    return (row[COUNT],)


def _form(step: CompiledStep, n_rows: int) -> Any:
    """The form of a kernel that suits so many rows."""
    return step.functions[bisect_right(step.limits, n_rows) - 1]


class Spaces:
    """The spaces of the compiled stages, and everything about them that batches have in common."""

    def __init__(self, compiled: Compiled, kinds: Kinds) -> None:
        groups = (*compiled.forward, *compiled.backward)
        found = [s for g in groups for s in g.spaces]
        found += [b.space for b in compiled.buffers.values() if b.space is not None]
        found += [Space("pull", r.pull) for r in compiled.row_sums] + [Space("edges")]
        self.names = [s for s in dict.fromkeys(found) if s.what != "scratch"]
        self.number = {s: i for i, s in enumerate(self.names)}
        self.member = np.array([kinds.members(s) for s in self.names])
        self.base = np.array([s.base for s in self.names])
        self.members = {
            s: tensor_of(m.astype("uint8")) for s, m in zip(self.names, self.member, strict=True)
        }
        self.forward = tuple(GroupTables(g, self) for g in compiled.forward)
        self.backward = tuple(GroupTables(g, self) for g in compiled.backward)
        self._of_group = {id(t.group): t for t in (*self.forward, *self.backward)}
        self._tensors: dict[tuple[int, int], tuple[int, tuple[Any, ...]]] = {}

    def slice_calls(
        self, group: CompiledGroup, table: Table, memory: HostMemory
    ) -> list[list[Call]]:
        """For every slice of a group, the calls of its steps."""
        return self._of_group[id(group)].calls(table, self, memory)

    def counts(self, plan: Plan) -> list[int]:
        """Rows of every space in a batch, with those before the first."""
        n_kinds = self.member.shape[1]
        of_kind = np.bincount(plan.cells.kind, plan.cells.count, minlength=n_kinds)
        return (self.member @ of_kind.astype("int64") + self.base).tolist()

    def tables(self, plan: Plan, planner: Planner, memory: HostMemory) -> dict[int, Table]:
        """The slices of every group, by the group's id."""
        return {key: t.table(plan, planner, memory) for key, t in self._of_group.items()}

    def tensors(self, step: CompiledStep, memory: HostMemory) -> tuple[Any, ...]:
        """The step's buffers as kernels take them; kept until a buffer moves."""
        key, version = (id(step), id(memory)), memory.version
        kept = self._tensors.get(key)
        if kept is None or kept[0] != version:
            kept = version, tuple(memory.tensor(name) for name in step.buffers)
            self._tensors[key] = kept
        return kept[1]


def in_order(
    groups: Sequence[GroupTables],
    tables: Mapping[int, Table],
    spaces: Spaces,
    memory: HostMemory,
    descending: bool,
) -> list[Call]:
    """The kernel calls of one direction: eager, then level by level, then lazy."""
    stages: dict[str, list[Call]] = {"eager": [], "lazy": []}
    levels: list[tuple[int, list[Call]]] = []
    for g in groups:
        table = tables[id(g.group)]
        found = g.calls(table, spaces, memory)
        if g.group.stage == "recurrent":
            levels += zip([row[LEVEL] for row in table.rows], found, strict=True)
        else:
            stages[g.group.stage] += [call for calls in found for call in calls]
    levels.sort(key=itemgetter(0), reverse=descending)
    return stages["eager"] + [c for _, calls in levels for c in calls] + stages["lazy"]
