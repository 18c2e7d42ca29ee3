"""Places: where the values of a stage lie in memory while its kernels run.

A value gets a place only if another kernel reads it or it leaves the stage. A concatenation is
nowhere if a product can read its parts where they are; a product writes straight to where its
result, or all slices of it, should go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import TraceError
from .operands import Piece
from .ops import EFFECTS, READS
from .options import ALL as EVERYTHING
from .options import Options
from .plan import Space
from .program import Call, Program
from .roles import Role
from .steps import ALL, EDGES, SCRATCH, STATE, Buffer, Place, RowGradient, Slots, index_buffer

PRODUCTS = frozenset({"matmul", "outer", "total", "total_rows"})
VIEWS = frozenset({"slice", "reshape", "transpose"})


def is_product(c: Call) -> bool:
    """A matrix product at every vertex. (One of the net alone is evaluated by NumPy.)"""
    return c.op == "matmul" and c.type.per == "vertex"


def _is_computed(c: Call) -> bool:
    """Whether a region computes the result element by element."""
    other = VIEWS | READS - {"gather_sum", "child_present"} | EFFECTS | PRODUCTS
    other |= {"full", "absent", "embedding", "concat"}
    return c.type.per == "vertex" and c.op not in other


@dataclass
class Places:
    """Where the values of one program lie; found when it is made.

    ready: for every call, the first region that can read its result. home: memory of values that
    other kernels read. stores: where a region puts the results of its lines. copies: values that a
    region copies to a place, of which those in `copied` are read there.

    Raises:
        TraceError: the program uses an op in a way that has no kernel.
    """

    program: Program
    arity: int
    rows: tuple[tuple[int, RowGradient, Buffer], ...]
    options: Options = EVERYTHING
    home: dict[int, Place] = field(default_factory=dict)
    stores: dict[int, list[Place]] = field(default_factory=dict)
    copies: list[tuple[int, Place]] = field(default_factory=list)
    copied: set[int] = field(default_factory=set)
    _local_concat: set[int] = field(default_factory=set)
    _scratches: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls, self.uses = self.program.calls, self.program.uses()
        self.ready = self._ready()
        for c in self.calls:
            if c.op in EFFECTS - {"gradient"}:
                self._write(c.args[0], self._destination(c))
        for value, _, buffer in self.rows:
            self._write(value, Place(buffer))
        self._alias_products()
        self._homes()

    def _ready(self) -> list[int]:
        """For every call, the first region that can read its result.

        That is the one that computes it, if a region does. Without fusion each computes one value.
        """
        ready: list[int] = []
        last = -1
        for c in self.calls:
            now = max((ready[a] for a in c.args if self.calls[a].type.per == "vertex"), default=0)
            if not self.options.fusion and (c.op == "concat" or _is_computed(c)):
                now = last = max(now, last + 1)
            ready.append(now + 1 if is_product(c) else now)
        return ready

    def is_line(self, i: int) -> bool:
        """Whether a region computes %i."""
        c = self.calls[i]
        return i in self._local_concat if c.op == "concat" else _is_computed(c)

    def users(self, i: int) -> Iterator[int]:
        """The calls that use %i, directly or through a view."""
        for u in self.uses[i]:
            if self.calls[u].op in VIEWS:
                yield from self.users(u)
            else:
                yield u

    def _scratch(self, i: int) -> Place:
        c = self.calls[i]
        ld = max(c.type.size, 1)
        number = self._scratches[ld] = self._scratches.get(ld, 0) + 1
        kind = () if c.type.dtype == "float32" else (c.type.dtype,)
        return Place(Buffer(Role.SCRATCH, (*kind, ld, number), ld, SCRATCH, c.type.dtype))

    def place(self, i: int) -> Place | None:
        """Where a value with a home or a read lies."""
        return self.home.get(i) or self.source(i)

    def source(self, i: int) -> Place | None:
        """Where a read lies that is not copied first."""
        c = self.calls[i]
        width = max(c.type.size, 1)
        match c.op:
            case "pull" if c.type.dtype == "int32" and not c.type.shape:
                return Place(index_buffer(c["name"]))
            case "pull":
                space = Space("pull", c["name"])
                return Place(Buffer(Role.INPUT, c["name"], width, space, c.type.dtype))
            case "gather" | "child_state":
                child = Buffer(Role.CHILD, c["slot"], 0, Space("slot", c["slot"]), "int32")
                return Place(Buffer(Role.STATE, c["field"], width, STATE), index=child)
            case "own_state":
                return Place(Buffer(Role.STATE, c["field"], width, STATE))
            case "saved":
                return Place(self._saved(c))
            case "embedding":
                index, table = (self.calls[a] for a in c.args)
                if table.op != "param" or index.op != "pull":
                    raise TraceError(
                        f"{self.program.name}: embedding ({c.where or 'here'}) takes a pulled "
                        f"integer and a parameter, given {index.op} and {table.op}; use them "
                        "without changes, and scale the result instead"
                    )
                rows = Buffer(Role.PARAMETER, table["name"], table.type.shape[1], None)
                return Place(rows, index=index_buffer(index["name"]))
        return None

    def pieces(self, i: int, slots: Slots, start: int = 0, stop: int | None = None) -> list[Piece]:
        """Columns start:stop of operand %i as pieces of buffers."""
        c = self.calls[i]
        stop = max(c.type.size, 1) if stop is None else stop
        place = self.place(i)
        if place is not None:
            source, index = slots.number(place)
            return [Piece(stop - start, source, place.buffer.ld, place.column + start, index)]
        if c.op == "slice":
            return self.pieces(c.args[0], slots, c["start"] + start, c["start"] + stop)
        if c.op == "concat":
            out, at = [], 0
            for a in c.args:
                first, last = max(start - at, 0), min(stop - at, self.calls[a].type.size)
                if first < last:
                    out += self.pieces(a, slots, first, last)
                at += self.calls[a].type.size
            return out
        if c.op == "reshape":
            return self.pieces(c.args[0], slots, start, stop)
        raise TraceError(f"{self.program.name}: a product cannot read {c.text()} ({c.where})")

    def _saved(self, c: Call) -> Buffer:
        """What a `save` writes and a `saved` reads."""
        width, space = max(c.type.size, 1), Space("save", c["name"])
        return Buffer(Role.SAVED, c["name"], width, space, c.type.dtype)

    def _destination(self, c: Call) -> Place:
        width = max(c.type.size, 1)
        if c.op == "scatter" and c.get("slot") is not None:
            ld = self.arity * width
            return Place(Buffer(Role.ADJOINT, c["field"], ld, EDGES), c["slot"] * width)
        if c.op == "scatter":
            return Place(Buffer(Role.STATE, c["field"], width, STATE))
        if c.op == "save":
            return Place(self._saved(c))
        return Place(Buffer(Role.PUSHED, c["name"], width, ALL, c.type.dtype))

    def _write(self, i: int, to: Place) -> None:
        c = self.calls[i]
        if c.type.per == "vertex" and (self.is_line(i) or c.op == "concat"):
            self.stores.setdefault(i, []).append(to)
        elif is_product(c) and i not in self.home:
            self.home[i] = to
        else:
            self.copies.append((i, to))

    def _alias_products(self) -> None:
        """A product whose slices go side by side into one buffer writes there itself."""
        found: dict[int, list[tuple[int, int, Place]]] = {}
        for i, to in self.copies:
            c = self.calls[i]
            if c.op == "slice" and is_product(self.calls[c.args[0]]) and c.args[0] not in self.home:
                found.setdefault(c.args[0], []).append((c["start"], i, to))
        for product, slices in found.items():
            slices.sort(key=lambda s: s[0])
            buffers = {to.buffer for _, _, to in slices}
            shifts = {to.column - start for start, _, to in slices}
            covered = (
                sum(self.calls[i].type.size for _, i, _ in slices) == self.calls[product].type.size
            )
            if len(buffers) == 1 and len(shifts) == 1 and covered and min(shifts) >= 0:
                self.home[product] = Place(buffers.pop(), shifts.pop())
                gone = {(i, to) for _, i, to in slices}
                self.copies = [copy for copy in self.copies if copy not in gone]

    def _homes(self) -> None:
        """Memory for what other kernels read. Users are settled before what they use."""
        for i in reversed(range(len(self.calls))):
            c = self.calls[i]
            if c.op == "concat" and c.type.per == "vertex":
                self._concat(i, c)
            elif is_product(c) and i not in self.home:
                self.home[i] = self._scratch(i)
            elif self.is_line(i) and i not in self.home and self._read_elsewhere(i):
                self._settle(i)
            if is_product(c):
                self._addressable(c.args[0])
            elif c.op == "total":
                source = self.calls[c.args[0]]
                for a in source.args if source.op == "outer" else c.args:
                    self._addressable(a)

    def _settle(self, i: int) -> None:
        """Give line %i a home: where it is stored anyway, or scratch."""
        if not self.stores.get(i):
            self.stores[i] = [self._scratch(i)]
        self.home[i] = self.stores[i][0]

    def _read_elsewhere(self, i: int) -> bool:
        for u in self.users(i):
            op = self.calls[u].op
            if (
                op in PRODUCTS
                and self.calls[u].type.per == "vertex"
                or op in ("total", "total_rows")
            ):
                return True
            if (
                op == "concat"
                and not self.is_line(u)
                and u not in self.home
                and self._in_product(u)
            ):
                return True
            if self.is_line(u) and self.ready[u] > self.ready[i]:
                return True
        return False

    def _in_product(self, i: int) -> bool:
        return any(
            self.calls[u].op in PRODUCTS or (self.calls[u].op == "concat" and self._in_product(u))
            for u in self.users(i)
        )

    def _concat(self, i: int, c: Call) -> None:
        """A concatenation is a line if a region reads it.

        Otherwise it is one buffer if it is stored, all of it is computed or nothing is gathered by
        products; else pieces.
        """
        if i in self.home or i in self._local_concat:
            return
        if any(self.is_line(u) for u in self.users(i)) or c["axis"] != 0 or len(c.type.shape) != 1:
            self._local_concat.add(i)
            if self._read_elsewhere(i):
                self._settle(i)
            return
        computed = all(self.is_line(a) or self.calls[a].op == "concat" for a in c.args)
        computed = computed or not self.options.gather
        if not self.stores.get(i) and not (computed and self._in_product(i)):
            return
        self._settle(i)
        for to in self.stores.pop(i):
            at = to.column
            for a in c.args:
                self._write(a, Place(to.buffer, at))
                at += self.calls[a].type.size

    def _addressable(self, i: int) -> None:
        """Make sure that product operand %i can be read as pieces."""
        c = self.calls[i]
        if c.op == "concat" and c.type.per == "vertex":
            self._concat(i, c)
        place = self.place(i)
        if place is not None and (self.options.gather or place.index is None):
            return
        if (
            c.op == "slice"
            and len(c.type.shape) == 1
            or c.op == "concat"
            and i not in self._local_concat
        ):
            for a in c.args:
                self._addressable(a)
        elif self.is_line(i):
            self._settle(i)
        elif is_product(c):
            self.home[i] = self._scratch(i)
        else:
            self.home[i] = self._scratch(i)
            self.copied.add(i)
            self.copies.append((i, self.home[i]))
