"""Filling: what kernels read of a batch's graphs, in the rows of their spaces.

Children, inputs, edges and the groups of equal words belong to a batch and lie in its own memory,
so that the next batch can be planned while this one runs. Everything else lies in a workspace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import dropout
from ..graph import Field
from .executable import Executable
from .memory import BOOL, HostMemory, tensor_of
from .needs import Need, Needs
from .plan import BELOW, KIND, ORDER, Plan
from .planner import Planner
from .roles import BufferId, Role
from .routine import Argument, Column, Given, Held, Number, Rows
from .series import Call, integer, rows_of
from .slices import Spaces
from .spaces import Buffer, Space

OF_BATCH = frozenset(
    {
        Role.CHILD,
        Role.CHOICE,
        Role.INDEX,
        Role.INPUT,
        Role.PARENT_POINTERS,
        Role.PARENT_SLOTS,
        Role.PRESENT,
        Role.VERTEX_KEYS,
    }
)
EDGES = Space("edges")
PARENT_POINTERS, PARENT_SLOTS = BufferId(Role.PARENT_POINTERS), BufferId(Role.PARENT_SLOTS)
NEXT = BufferId(Role.PLAN, "next")


class Taking(NamedTuple):
    """An input that is brought into the rows of a space, or whether it is there."""

    buffer: Buffer
    dtype: np.dtype[Any]
    instead: Any  # a tensor of no values, where an input is of another type

    def tensor(self, field: Field, n: int) -> Any:
        """The input at n vertices, as the kernel takes it; None if it is of another type."""
        if self.buffer.role is Role.PRESENT:
            return tensor_of(field.present, BOOL)
        ld, values = self.buffer.ld, field.values
        if values.dtype != self.dtype or values.size != n * max(1, ld):
            return None
        return tensor_of(values.reshape(n, -1) if ld else values)


def edge_needs(parents: int, all_rows: int, arity: int) -> list[Need]:
    """The buffers of `edge_call`: the places of two sizes, the vertices with children, and all."""
    return [
        Need(PARENT_POINTERS, all_rows, more=1),
        Need(PARENT_SLOTS, parents, each=arity),
        Need(NEXT, all_rows),
    ]


def edge_call(planner: Planner, member: Held) -> Call:
    """PARENT_POINTERS and PARENT_SLOTS: the slots that each row fills.

    Args:
        member: the kinds that have children, uint8[n_kinds].
    """
    buffers = rows_of(KIND, BELOW, PARENT_POINTERS, PARENT_SLOTS, NEXT)
    return planner.kernels["edges"], (integer(0), Number(planner.arity), *buffers, member)


class Grouped:
    """The rows of an input, those of equal values together.

    DISTINCT gets the values, in the order in which they come, without -1, which stands where there
    is none; GROUP_POINTERS and GROUP_ROWS where each is.
    """

    def __init__(self, pull: str) -> None:
        self.pull = pull
        self._index, self._distinct, self._pointers, self._rows, self._counts = (
            BufferId(role, pull)
            for role in (
                Role.INDEX,
                Role.DISTINCT,
                Role.GROUP_POINTERS,
                Role.GROUP_ROWS,
                Role.GROUP_COUNTS,
            )
        )
        self._n = BufferId(Role.PLAN, ("distinct", pull))

    def needs(self, size: int, n_values: int) -> list[Need]:
        """The buffers, for rows of a size; values are below `n_values`."""
        return [
            Need(self._distinct, size),
            Need(self._pointers, size, more=1),
            Need(self._rows, size),
            Need(self._counts, size, each=0, more=n_values),  # of zeros, which the kernel leaves
            Need(self._n, size, dtype="int64", each=0, more=1),
        ]

    def arguments(self, n: Column) -> list[Argument]:
        """Those of the kernel, for n rows."""
        made = self._distinct, self._pointers, self._rows, self._counts, self._n
        return [n, *rows_of(self._index, *made)]

    def values(self, memory: HostMemory) -> np.ndarray:
        """The distinct values: int32[n_distinct]."""
        return memory.read(self._distinct)[: int(memory.read(self._n)[0])]


class Filling:
    """Fills the buffers of a batch; made once for what has been compiled, and then not changed."""

    def __init__(self, compiled: Executable, spaces: Spaces, planner: Planner) -> None:
        self._spaces, self._planner = spaces, planner
        self._needs: list[Need] = []  # in rows of spaces, and in all rows
        self._takings: list[Taking] = []
        calls: list[Call] = []
        mine = [b for b in compiled.buffers.values() if b.role in OF_BATCH]
        for b in mine:
            calls += self._calls(b)
        self._keys = [b.id for b in mine if b.role is Role.VERTEX_KEYS]
        self._choices = [b.id for b in mine if b.role is Role.CHOICE]
        n_values: dict[str, int] = {}  # by input whose rows get gradients: rows of its tables
        for r in compiled.row_sums:
            n_values[r.pull] = max(r.n_rows, n_values.get(r.pull, 0))
        self._groups = [(spaces.number[Space("pull", p)], Grouped(p)) for p in n_values]
        for i, (number, grouped) in enumerate(self._groups):
            n = integer(1 + len(self._takings) + i)
            calls.append((planner.kernels["group"], grouped.arguments(n)))
            self._needs += grouped.needs(number, n_values[grouped.pull])
        self._room = Needs(self._needs, len(spaces.names) + 1)
        self._series = planner.series(calls, 1 + len(self._takings) + len(self._groups))

    def _number(self, space: Space | None) -> int:
        assert space is not None
        return self._spaces.number[space]

    def _member(self, number: int) -> Held:
        return Held(self._spaces.members[self._spaces.names[number]])

    def _calls(self, b: Buffer) -> list[Call]:
        """The kernel that writes a buffer, if there is one; notes what room the buffer takes."""
        if b.role is Role.PARENT_SLOTS:  # written with the pointers to them
            return []
        if b.role is Role.PARENT_POINTERS:
            parents, all_rows = self._number(EDGES), len(self._spaces.names)
            self._needs += edge_needs(parents, all_rows, self._planner.arity)
            return [edge_call(self._planner, self._member(parents))]
        number = self._number(b.space)
        self._needs.append(Need(b.id, number, b.ld, b.dtype))
        if b.role is Role.VERTEX_KEYS:  # NumPy writes them
            return []
        out = Rows(b.id), self._member(number)
        return [self._child(b, out) if b.role is Role.CHILD else self._take(b, out)]

    def _child(self, b: Buffer, out: tuple[Argument, ...]) -> Call:
        """Rows of the children in a slot."""
        sizes = integer(0), Number(self._planner.arity), Number(int(str(b.key)))
        return self._planner.kernels["child"], (*sizes, *rows_of(KIND, BELOW), *out)

    def _take(self, b: Buffer, out: tuple[Argument, ...]) -> Call:
        """An input, or whether it is there."""
        place, kernels = len(self._takings), self._planner.kernels
        instead = tensor_of(np.zeros((1, max(1, b.ld)) if b.ld else 1, b.dtype))
        self._takings.append(Taking(b, np.dtype(b.dtype), instead))
        n, given = integer(1 + place), (*rows_of(ORDER, KIND), Given(place), *out)
        if b.role is Role.PRESENT:
            return kernels["take_present"], (n, *given)
        if not b.ld:
            return kernels["take"], (n, *given)
        kernel = kernels["take_rows" if b.dtype == "float32" else "take_integers"]
        return kernel, (n, Number(b.ld), *given)

    def fill(self, plan: Plan, counts: np.ndarray, memory: HostMemory) -> dict[str, np.ndarray]:
        """Write the batch's buffers.

        Returns, for every input whose rows get gradients, its distinct values: int32[n_distinct].
        """
        n, sizes, inputs = plan.n_rows, counts.tolist(), plan.graph.inputs
        self._room.make_room(memory, [*sizes, n])
        integers, given = [n], []
        for taking in self._takings:
            b = taking.buffer
            tensor = taking.tensor(inputs[str(b.key)], n)
            if tensor is None:  # what no vertex has may be of any type
                memory.fill(b.id, -1 if b.dtype == "int32" else 0)
                tensor = taking.instead
                integers.append(0)
            else:
                integers.append(n)
            given.append(tensor)
        integers += [sizes[number] for number, _ in self._groups]
        self._series.run(memory, integers, given)
        for id in self._choices:
            rows = memory.read(id)
            np.maximum(rows, 0, out=rows)
        for id in self._keys:
            memory.write(id, dropout.vertex_keys(plan.graph.vertex_id[plan.order]))
        return {grouped.pull: grouped.values(memory) for _, grouped in self._groups}
