"""Batching: a plan and compiled stages -> a flat list of kernel calls with integer offsets.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Making the list is vectorised over levels; running it is one
loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import dropout
from .assemble import Compiled, CompiledGroup, CompiledStep
from .buffers import HostMemory
from .kinds import Kinds
from .plan import Cut, Plan, Space, cut, parent_edges, rows_by_value
from .steps import Buffer

Call = tuple[Any, tuple[Any, ...]]  # a function and its arguments
MAX_CUTS = 4096


class Spaces:
    """The spaces of the compiled stages as one table, and what repeats from batch to batch."""

    def __init__(self, compiled: Compiled, kinds: Kinds) -> None:
        groups = (*compiled.forward, *compiled.backward)
        found = [s for g in groups for s in g.spaces]
        found += [b.space for b in compiled.buffers.values() if b.space is not None]
        found += [Space("pull", r.pull) for r in compiled.row_sums] + [Space("edges")]
        self.names = [s for s in dict.fromkeys(found) if s.what != "scratch"]
        self.number = {s: i for i, s in enumerate(self.names)}
        self.member = np.array([kinds.members(s) for s in self.names])
        self.base = np.array([[s.base] for s in self.names])
        scratch = len(self.names)  # a last space in which every slice begins at row 0
        self._of_group = {
            id(g): np.array([self.number.get(s, scratch) for s in g.spaces], "int64")
            for g in groups
        }
        self._groups = groups
        self._cuts: dict[tuple[bytes, bytes], list[Cut]] = {}
        self._tensors: dict[int, tuple[Any, ...]] = {}
        self._version = -1

    def cuts(self, rows: Rows) -> list[Cut]:
        """How every group's cells join, found once for each sequence of levels and kinds."""
        cells = rows.plan.cells
        key = cells.kind.tobytes(), cells.level.tobytes()
        if key not in self._cuts:
            if len(self._cuts) >= MAX_CUTS:
                self._cuts.clear()
            self._cuts[key] = [
                cut(cells, g.member, self._packed(g, rows), g.stage == "recurrent")
                for g in self._groups
            ]
        return self._cuts[key]

    def _packed(self, g: CompiledGroup, rows: Rows) -> list[np.ndarray]:
        return [rows.table[self.number[s]] for s in g.spaces if s.what != "scratch"]

    def segments(self, rows: Rows) -> dict[int, Table]:
        """The slices of every group, by the group's id."""
        out = {}
        for g, c in zip(self._groups, self.cuts(rows), strict=True):
            s = c.segments(rows.plan.cells, list(rows.table[self._of_group[id(g)]]))
            out[id(g)] = Table(s.level, np.vstack([s.count, *s.starts]))
        return out

    def tensors(self, step: CompiledStep, memory: HostMemory) -> tuple[Any, ...]:
        """The step's buffers as kernels take them; kept until a buffer grows."""
        if memory.version != self._version:
            self._tensors.clear()
            self._version = memory.version
        if id(step) not in self._tensors:
            self._tensors[id(step)] = tuple(memory.tensor(name) for name in step.buffers)
        return self._tensors[id(step)]


@dataclass(frozen=True)
class Table:
    """The slices of one group: int64[n] levels; int64[1 + n_spaces, n] counts and first rows."""

    level: np.ndarray
    columns: np.ndarray


class Rows:
    """Where the cells of one plan begin in every space: `table` int64[n_spaces + 1, n_cells]."""

    def __init__(self, plan: Plan, spaces: Spaces) -> None:
        self.plan, self.spaces = plan, spaces
        sizes = np.where(spaces.member[:, plan.cells.kind], plan.cells.count, 0)
        ends = np.cumsum(sizes, axis=1)
        self.table = np.vstack([ends - sizes + spaces.base, np.zeros((1, sizes.shape[1]), "int64")])
        self._counts = (ends[:, -1:] + spaces.base)[:, 0].tolist()

    def count(self, space: Space) -> int:
        """Rows of the space, with those before the first."""
        return int(self._counts[self.spaces.number[space]])

    def member(self, space: Space) -> np.ndarray:
        """The kinds that have rows in the space: bool[n_kinds]."""
        return np.asarray(self.spaces.member[self.spaces.number[space]])

    def has(self, space: Space) -> np.ndarray:
        """Which rows of the plan are in the space: bool[n_rows]."""
        return self.member(space)[self.plan.kind_of_row]

    def vertices(self, space: Space) -> np.ndarray:
        """The vertices of the space, in row order."""
        return self.plan.order[self.has(space)]


def allocate(
    compiled: Compiled, memory: HostMemory, rows: Rows, scratch_rows: int, arity: int
) -> None:
    """Make room for the batch; buffers only grow."""
    for name, (shape, dtype) in compiled.fixed.items():
        memory.fixed(name, shape, dtype)
    for b in compiled.buffers.values():
        memory.rows(b.name, _rows_of(b, rows, scratch_rows, arity), b.ld, b.dtype)


def _rows_of(b: Buffer, rows: Rows, scratch_rows: int, arity: int) -> int:
    assert b.space is not None
    if b.space.what == "scratch":
        return scratch_rows
    n = rows.count(b.space)
    return n * arity if b.name == "edges.slots" else n + (b.name == "edges.pointers")


def fill(compiled: Compiled, memory: HostMemory, rows: Rows) -> None:
    """Write what kernels read of the graph: children, inputs, edges, an absent child's zeros."""
    graph = rows.plan.graph
    for name, b in compiled.buffers.items():
        assert b.space is not None
        what, _, key = name.partition(".")
        if what == "child":
            memory.write(name, rows.plan.children[rows.has(b.space), int(key)] + 1)
        elif what in ("index", "pull"):
            values = graph.inputs[key].values[rows.vertices(b.space)]
            memory.write(name, values.reshape(len(values), -1) if b.ld else values)
        elif name == "edges.pointers":
            pointers, slots = parent_edges(rows.plan, rows.member(Space("edges")))
            memory.write("edges.pointers", pointers)
            memory.write("edges.slots", slots)
        elif name == "dropout.vertices":
            memory.write(name, dropout.vertex_keys(graph.vertex_id[rows.plan.order]))
        elif what == "state":
            memory.read(name)[0] = 0.0
    for name in compiled.cleared:
        memory.fill(name, 0.0)


def group_rows(compiled: Compiled, memory: HostMemory, rows: Rows) -> dict[str, np.ndarray]:
    """Group, for every input whose rows get gradients, the rows of equal values, for the sums.

    Returns the distinct values of each such input: int32[n_distinct], ascending.
    """
    found = {}
    for pull in dict.fromkeys(r.pull for r in compiled.row_sums):
        values = rows.plan.graph.inputs[pull].values[rows.vertices(Space("pull", pull))]
        found[pull], pointers, positions = rows_by_value(values)
        for name, array in ((f"pointers.{pull}", pointers), (f"edges.{pull}", positions)):
            memory.rows(name, len(array), 0, "int32")
            memory.write(name, array)
    return found


def calls(
    groups: Sequence[CompiledGroup],
    found: Mapping[int, Table],
    spaces: Spaces,
    memory: HostMemory,
    descending: bool,
) -> list[Call]:
    """The kernel calls of one direction, in order."""
    eager: list[Call] = []
    recurrent: list[tuple[int, list[Call]]] = []
    lazy: list[Call] = []
    for group in groups:
        table = found[id(group)]
        per_segment = slice_calls(group, table, spaces, memory)
        if group.stage == "recurrent":
            recurrent += zip(table.level.tolist(), per_segment, strict=True)
        else:
            flat = eager if group.stage == "eager" else lazy
            for some in per_segment:
                flat += some
    recurrent.sort(key=lambda item: item[0], reverse=descending)
    return eager + [c for _, some in recurrent for c in some] + lazy


def slice_calls(
    group: CompiledGroup, table: Table, spaces: Spaces, memory: HostMemory
) -> list[list[Call]]:
    """For every slice, the calls of the group's steps."""
    slices = table.columns.T.tolist()
    out: list[list[Call]] = [[] for _ in slices]
    for step in group.steps:
        tensors = spaces.tensors(step, memory)
        (first, *_), several = step.functions, len(step.functions) > 1
        for some, row in zip(out, slices, strict=True):
            function = step.functions[bisect_right(step.limits, row[0]) - 1] if several else first
            some.append((function, (row[0], *[row[i + 1] for i in step.starts], *tensors)))
    return out
