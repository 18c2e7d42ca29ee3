"""Collects what one region computes: calls of a Program -> lines over arrays."""

from __future__ import annotations

from ...language import Program
from ...runtime import ALL, EDGES, PARTS, Buffer, BufferId, Role, Space, space_of
from .places import VIEWS, BufferAssignment, source
from .region import (
    Array,
    Constant,
    Line,
    Load,
    Operand,
    Ref,
    Region,
    Room,
    Store,
    View,
    places_in_room,
    too_wide,
)
from .steps import Kernel, Place, Step, identity


class RegionBuilder:
    """Collects the lines of region number `number` and the arrays they touch.

    net_values: buffers that the region reads net-level values from, with the call they hold.
    """

    def __init__(self, places: BufferAssignment, number: int) -> None:
        self.places, self.number = places, number
        self.net_values: dict[BufferId, int] = {}
        self.arrays: list[tuple[Buffer, bool]] = []
        self.lines: list[Line] = []
        self.line_of: dict[int, int] = {}

    def array(self, buffer: Buffer, by_row: bool) -> int:
        """Number of the region's array for a buffer; each way of reading it is an array."""
        if (buffer, by_row) not in self.arrays:
            self.arrays.append((buffer, by_row))
        return self.arrays.index((buffer, by_row))

    def operand(self, i: int) -> Operand:
        """How a line reads value %i."""
        low = self.places
        calls = low.program.calls
        c = calls[i]
        if i in self.line_of:
            return Ref(self.line_of[i])
        if c.op == "full":
            return Constant(c["value"])
        if c.op == "absent":
            return Constant(-1, "int32")
        being_copied = i in low.copied and low.ready[i] == self.number
        place = source(low.program, i) if being_copied else low.place(i)
        if place is not None:
            if place.index is None:
                return Load(self.array(place.buffer, True), place.column)
            return Load(
                self.array(place.buffer, False), place.column, self.array(place.index, True)
            )
        if c.op in VIEWS:
            base, shape = self.operand(c.args[0]), calls[c.args[0]].type.shape
            if c.op == "slice" and isinstance(base, Load) and len(shape) == 1:
                return Load(base.array, base.column + c["start"], base.index)
            return View(base, c.op, shape, c.get("axis", 0), c.get("start", 0))
        assert c.type.per == "net", c.text()
        return Load(self.array(self._net_buffer(low.program, i), False))

    def line(self, i: int) -> None:
        """Append the line that computes %i and gives it to its stores."""
        low, calls = self.places, self.places.program.calls
        c = calls[i]
        args = [self.operand(a) for a in c.args]
        shapes = [calls[a].type.shape for a in c.args]
        attrs = [(k, v) for k, v in c.attrs if k != "type"]
        if c.op == "gather_sum":
            slots = Buffer(Role.ADJOINT, c["field"], low.arity * c.type.size, EDGES)
            pointers, edges = (
                Buffer(Role.PARENT_POINTERS, (), 0, ALL, "int32"),
                Buffer(Role.PARENT_SLOTS, (), 0, EDGES, "int32"),
            )
            args = [
                Load(self.array(slots, False)),
                Load(self.array(pointers, True)),
                Load(self.array(edges, False)),
            ]
            shapes, attrs = [(), (), ()], [("arity", low.arity)]
        elif c.op == "child_present":
            child = Buffer(Role.CHILD, c["slot"], 0, Space("slot", c["slot"]), "int32")
            args, shapes, attrs = [Load(self.array(child, True))], [()], []
        elif c.op == "dropout":
            keys = (
                Buffer(Role.VERTEX_KEYS, (), 0, ALL, "uint32"),
                Buffer(Role.SITE_KEYS, (), 0, None, "uint32"),
            )
            args += [Load(self.array(keys[0], True)), Load(self.array(keys[1], False))]
            shapes += [(), ()]
        stores = tuple(self.store(to) for to in low.stores.get(i, ()))
        self.line_of[i] = len(self.lines)
        self.lines.append(
            Line(c.op, tuple(args), tuple(shapes), c.type.shape, c.type.dtype, tuple(attrs), stores)
        )

    def copy(self, i: int, to: Place) -> None:
        """Append a line that copies %i, a read or a view, to a place."""
        c = self.places.program.calls[i]
        line = Line(
            "copy",
            (self.operand(i),),
            (c.type.shape,),
            c.type.shape,
            c.type.dtype,
            (),
            (self.store(to),),
        )
        self.lines.append(line)

    def store(self, to: Place) -> Store:
        """How a line writes to a place."""
        return Store(self.array(to.buffer, True), to.column)

    def _net_buffer(self, program: Program, i: int) -> Buffer:
        """A vector with net-level value %i: a parameter, or what NumPy evaluates once per step."""
        c = program.calls[i]
        if c.op == "param":
            return Buffer(Role.FLAT_PARAMETER, c["name"], 0, None)
        buffer = Buffer(Role.NET_VALUE, identity(program, i), 0, None)
        self.net_values[buffer.id] = i
        return buffer

    def step(self) -> Step:
        """The kernel call of the finished region."""
        rooms = self._rooms()
        arrays = tuple(
            Array(f"a{k}", b.dtype, b.ld, by_row) for k, (b, by_row) in enumerate(self.arrays)
        )
        starts = tuple(space_of(b) for b, by_row in self.arrays if by_row)
        kernel = Kernel("region", Region(arrays, tuple(self.lines), rooms))
        return Step(kernel, starts, tuple(b for b, _ in self.arrays))

    def _rooms(self) -> tuple[Room, ...]:
        """Rooms for what is too wide for a stack, one for each dtype; regions share them."""
        wide, rooms = too_wide(self.lines), []
        for dtype in sorted({self.lines[i].dtype for i in wide}):
            chosen = [i for i in wide if self.lines[i].dtype == dtype]
            firsts, width = places_in_room(self.lines, chosen)
            room = Buffer(Role.SCRATCH, ("room", dtype, width), width, PARTS, dtype)
            rooms.append(Room(self.array(room, False), tuple(zip(chosen, firsts, strict=True))))
        return tuple(rooms)
