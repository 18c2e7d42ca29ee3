"""Batching: a plan and compiled stages -> a flat list of kernel calls with integer offsets.

Eager stages run once over all their rows; recurrent ones level by level, the adjoint's from the
roots down; lazy ones once at the end. Making the list is vectorised over levels; running it is one
loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import dropout
from .assemble import Compiled, CompiledGroup
from .buffers import HostMemory
from .kinds import Kinds
from .plan import Plan, Segments, Space, parent_edges, rows_by_value, segments
from .steps import Buffer

Call = tuple[Any, tuple[Any, ...]]  # a function and its arguments


@dataclass
class Rows:
    """Members and first rows of every space, for one plan; each found once."""

    plan: Plan
    kinds: Kinds
    _starts: dict[Space, np.ndarray] = field(default_factory=dict)
    _counts: dict[Space, int] = field(default_factory=dict)

    def member(self, space: Space) -> np.ndarray:
        """The kinds that have rows in the space: bool[n_kinds]."""
        return self.kinds.members(space)

    def starts(self, space: Space) -> np.ndarray:
        """First row of every cell of the plan, int64[n_cells]."""
        if space not in self._starts:
            self._starts[space] = self.plan.cells.starts(self.member(space), space.base)
        return self._starts[space]

    def count(self, space: Space) -> int:
        """Rows of the space, with those before the first."""
        if space not in self._counts:
            self._counts[space] = self.plan.cells.rows(self.member(space)) + space.base
        return self._counts[space]

    def vertices(self, space: Space) -> np.ndarray:
        """The vertices of the space, in row order."""
        return self.plan.order[self.has(space)]

    def has(self, space: Space) -> np.ndarray:
        """Which rows of the plan are in the space: bool[n_rows]."""
        return self.member(space)[self.plan.kind_of_row]


def find_segments(group: CompiledGroup, rows: Rows) -> Segments:
    """The slices on which a group runs. Scratch begins anew in each."""
    cells = rows.plan.cells
    packed = [s for s in group.spaces if s.what != "scratch"]
    found = segments(
        cells, group.member, [rows.starts(s) for s in packed], group.stage == "recurrent"
    )
    at = dict(zip(packed, found.starts, strict=True))
    zero = np.zeros(len(found.count), "int64")
    return Segments(found.level, found.count, tuple(at.get(s, zero) for s in group.spaces))


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
    runs: Sequence[tuple[CompiledGroup, Segments]], memory: HostMemory, descending: bool
) -> list[Call]:
    """The kernel calls of one direction, in order."""
    eager: list[Call] = []
    recurrent: list[tuple[int, list[Call]]] = []
    lazy: list[Call] = []
    for group, found in runs:
        per_segment = _segment_calls(group, found, memory)
        if group.stage == "recurrent":
            recurrent += zip(found.level.tolist(), per_segment, strict=True)
        else:
            flat = eager if group.stage == "eager" else lazy
            for some in per_segment:
                flat += some
    recurrent.sort(key=lambda item: item[0], reverse=descending)
    return eager + [c for _, some in recurrent for c in some] + lazy


def _segment_calls(group: CompiledGroup, found: Segments, memory: HostMemory) -> list[list[Call]]:
    counts = found.count.tolist()
    out: list[list[Call]] = [[] for _ in counts]
    for step in group.steps:
        tensors = tuple(memory.tensor(name) for name in step.buffers)
        offsets = np.stack([found.count, *(found.starts[i] for i in step.starts)], 1).tolist()
        if len(step.functions) == 1:
            (function,) = step.functions
            for some, at in zip(out, offsets, strict=True):
                some.append((function, (*at, *tensors)))
            continue
        for some, n, at in zip(out, counts, offsets, strict=True):
            function = step.functions[max(0, bisect_right(step.limits, n) - 1)]
            some.append((function, (*at, *tensors)))
    return out
