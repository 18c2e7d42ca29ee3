"""Lower: one stage Program -> steps, each a kernel on whole buffers.

A stage is cut at its matrix products. What lies between two of them is one region (`regions`), and
a product reads its left operand through pieces: gathers, word vectors and concatenations are read
where they are and never copied first. A value gets a place in memory only if another kernel reads
it or it leaves the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import TraceError
from .operands import Piece
from .ops import EFFECTS, READS, Value
from .plan import Space
from .products import Outer, Product
from .program import Builder, Call, Program
from .region_builder import VIEWS, RegionBuilder
from .steps import (
    ALL,
    EDGES,
    SCRATCH,
    STATE,
    Buffer,
    Gradient,
    Kernel,
    Lowered,
    Place,
    RowGradient,
    Slots,
    Step,
    Weights,
    index_buffer,
    space_of,
    text_of,
)
from .sums import ColumnSum

PRODUCTS = frozenset({"matmul", "outer", "total", "total_rows"})


def expand(program: Program) -> Program:
    """Softmax and log-softmax as their maximum, exponentials and sum."""

    def rule(
        b: Builder, op: str, args: tuple[Value, ...], attrs: dict[str, object]
    ) -> Value | None:
        if op not in ("softmax", "log_softmax"):
            return None
        shifted = b.call("sub", args[0], b.call("max", args[0], keep=True))
        e = b.call("exp", shifted)
        total = b.call("sum", e, keep=True)
        return e / total if op == "softmax" else shifted - b.call("log", total)

    b = Builder(program.name, shared=True, rule=rule)
    new: list[Value] = []
    for c in program.calls:
        new.append(b.call(c.op, *(new[a] for a in c.args), where=c.where, **dict(c.attrs)))
    return b.finish()


def lower(program: Program, arity: int) -> Lowered:
    """Steps of one stage (or of a whole Program that has no stages to cut).

    Args:
        arity: slots of a vertex, the row layout of what an adjoint scatters.

    Raises:
        TraceError: the program uses an op in a way that has no kernel.
    """
    return _Lowering(expand(program), arity).run()


@dataclass
class _Lowering:
    program: Program
    arity: int
    steps: list[Step] = field(default_factory=list)
    home: dict[int, Place] = field(default_factory=dict)
    stores: dict[int, list[Place]] = field(default_factory=dict)
    copies: list[tuple[int, Place]] = field(default_factory=list)
    copied: set[int] = field(default_factory=set)  # values whose home a copy fills
    local_concat: set[int] = field(default_factory=set)
    scratches: dict[int, int] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    gradients: list[Gradient] = field(default_factory=list)
    row_gradients: list[RowGradient] = field(default_factory=list)
    net_values: dict[str, int] = field(default_factory=dict)
    totals: dict[int, str] = field(default_factory=dict)

    def run(self) -> Lowered:
        self.calls, self.uses = self.program.calls, self.program.uses()
        self.ready = self._ready()
        self._effects()
        self._homes()
        for r in range(max(self.ready, default=0) + 1):
            self._region(r)
            for i, c in enumerate(self.calls):
                if _is_product(c) and self.ready[i] == r + 1:
                    self._product(i, c)
                elif c.op == "total" and self._operand_ready(c) == r and i not in self._summed():
                    self._total(i, c)
        return Lowered(
            self.program,
            tuple(self.steps),
            tuple(self.weights.values()),
            tuple(self.gradients),
            tuple(self.row_gradients),
            tuple(self.net_values.items()),
        )

    # -- when and where values exist

    def _ready(self) -> list[int]:
        """For every call, the first region that can read its result."""
        ready: list[int] = []
        for c in self.calls:
            now = max((ready[a] for a in c.args if self.calls[a].type.per == "vertex"), default=0)
            ready.append(now + 1 if _is_product(c) else now)
        return ready

    def _operand_ready(self, total: Call) -> int:
        return self.ready[total.args[0]]

    def is_line(self, i: int) -> bool:
        """Whether a region computes %i."""
        c = self.calls[i]
        if c.op == "concat":
            return i in self.local_concat
        other = c.op in VIEWS | READS - {"gather_sum"} | EFFECTS | PRODUCTS | {"full", "embedding"}
        return c.type.per == "vertex" and not other

    def users(self, i: int) -> Iterator[int]:
        """The calls that use %i, directly or through a view."""
        for u in self.uses[i]:
            if self.calls[u].op in VIEWS:
                yield from self.users(u)
            else:
                yield u

    def scratch(self, ld: int) -> Place:
        number = self.scratches[ld] = self.scratches.get(ld, 0) + 1
        return Place(Buffer(f"scratch.{ld}.{number}", ld, SCRATCH))

    def place(self, i: int) -> Place | None:
        """Where a read or a value with a home lies."""
        if i in self.home:
            return self.home[i]
        c = self.calls[i]
        width = max(c.type.size, 1)
        match c.op:
            case "pull" if c.type.dtype == "int32":
                return Place(index_buffer(c["name"]))
            case "pull":
                return Place(Buffer(f"pull.{c['name']}", width, Space("pull", c["name"])))
            case "gather" | "child_state":
                child = Buffer(f"child.{c['slot']}", 0, Space("slot", c["slot"]), "int32")
                return Place(Buffer(f"state.{c['field']}", width, STATE), index=child)
            case "own_state":
                return Place(Buffer(f"state.{c['field']}", width, STATE))
            case "saved":
                return Place(Buffer(f"save.{c['name']}", width, Space("save", c["name"])))
            case "embedding":
                index, table = (self.calls[a] for a in c.args)
                if table.op != "param" or index.op != "pull":
                    raise TraceError(
                        f"{self.program.name}: embedding ({c.where or 'here'}) takes a pulled "
                        f"integer and a parameter, given {index.op} and {table.op}; use them "
                        "without changes, and scale the result instead"
                    )
                rows = Buffer(f"param.{table['name']}", table.type.shape[1], None)
                return Place(rows, index=index_buffer(index["name"]))
        return None

    # -- what has to be in memory

    def _effects(self) -> None:
        """Where the program's writes go: a store of a line, the output of a product, or a copy."""
        for c in self.calls:
            if c.op not in EFFECTS:
                continue
            if c.op == "gradient":
                self._gradient(c)
                continue
            self._write(c.args[0], self._destination(c))
        for c in self.calls:
            if c.op == "total_rows":
                self._row_gradient(c)
        self._alias_products()

    def _destination(self, c: Call) -> Place:
        width = max(c.type.size, 1)
        if c.op == "scatter" and c.get("slot") is not None:
            ld = self.arity * width
            return Place(Buffer(f"adjoint.{c['field']}", ld, EDGES), c["slot"] * width)
        if c.op == "scatter":
            return Place(Buffer(f"state.{c['field']}", width, STATE))
        if c.op == "save":
            return Place(Buffer(f"save.{c['name']}", width, Space("save", c["name"])))
        return Place(Buffer(f"push.{c['name']}", width, ALL, c.type.dtype))

    def _write(self, i: int, to: Place) -> None:
        c = self.calls[i]
        if c.type.per == "vertex" and (self.is_line(i) or c.op == "concat"):
            self.stores.setdefault(i, []).append(to)
        elif _is_product(c) and i not in self.home:
            self.home[i] = to
        else:
            self.copies.append((i, to))

    def _alias_products(self) -> None:
        """A product whose slices go side by side into one buffer writes there itself."""
        found: dict[int, list[tuple[int, int, Place]]] = {}
        for i, to in self.copies:
            c = self.calls[i]
            if (
                c.op == "slice"
                and _is_product(self.calls[c.args[0]])
                and c.args[0] not in self.home
            ):
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
            elif _is_product(c) and i not in self.home:
                self.home[i] = self.scratch(c.type.size)
            elif self.is_line(i) and i not in self.home and self._read_elsewhere(i):
                self._settle(i)
            if _is_product(c):
                self._addressable(c.args[0])
            elif c.op == "total":
                source = self.calls[c.args[0]]
                for a in source.args if source.op == "outer" else c.args:
                    self._addressable(a)

    def _settle(self, i: int) -> None:
        """Give line %i a home: where it is stored anyway, or scratch."""
        if not self.stores.get(i):
            self.stores[i] = [self.scratch(max(self.calls[i].type.size, 1))]
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

        Otherwise it is one buffer if it is stored or all of it is computed, else pieces.
        """
        if i in self.home or i in self.local_concat:
            return
        if any(self.is_line(u) for u in self.users(i)) or c["axis"] != 0 or len(c.type.shape) != 1:
            self.local_concat.add(i)
            if self._read_elsewhere(i):
                self._settle(i)
            return
        computed = all(self.is_line(a) or self.calls[a].op == "concat" for a in c.args)
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
        if i in self.home or self.place(i) is not None:
            return
        if (
            c.op == "slice"
            and len(c.type.shape) == 1
            or c.op == "concat"
            and i not in self.local_concat
        ):
            for a in c.args:
                self._addressable(a)
        elif self.is_line(i):
            self._settle(i)
        elif _is_product(c):
            self.home[i] = self.scratch(c.type.size)
        else:
            self.home[i] = self.scratch(max(c.type.size, 1))
            self.copied.add(i)
            self.copies.append((i, self.home[i]))

    # -- kernels

    def _region(self, r: int) -> None:
        builder = RegionBuilder(self, r)
        for i in range(len(self.calls)):
            if self.is_line(i) and self.ready[i] == r:
                builder.line(i)
        for i, to in self.copies:
            if self.ready[i] == r:
                builder.copy(i, to)
        if builder.lines:
            self.steps.append(builder.step())

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

    def _product(self, i: int, c: Call) -> None:
        slots, to = Slots(), self.home[i]
        pieces = tuple(self.pieces(c.args[0], slots))
        spec = Product(pieces, c.type.size, to.buffer.ld, to.column)
        weights = self._weights(c.args[1])
        starts, buffers = slots.parameters(pieces)
        packed = Buffer(weights, 0, None)
        self.steps.append(
            Step(
                Kernel("product", spec),
                (space_of(to.buffer), *starts),
                (*buffers, packed, to.buffer),
            )
        )

    def _weights(self, i: int) -> str:
        key = f"{text_of(self.program, i)}"
        name = f"pack.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        k, n_columns = self.calls[i].type.shape
        self.weights[name] = Weights(name, self.program, i, k, n_columns)
        return name

    def _total(self, i: int, c: Call) -> None:
        """A sum over vertices, added to its buffer: a weight gradient, or a sum of rows."""
        source, slots = self.calls[c.args[0]], Slots()
        name = self.totals[i]
        if source.op == "outer":
            left = tuple(self.pieces(source.args[0], slots))
            right = tuple(self.pieces(source.args[1], slots))
            bias = [Buffer(self.totals[t], 0, None) for t, o in self._summed().items() if o == i]
            outer = Outer(left, right, c.type.shape[1], sums=bool(bias))
            starts, buffers = slots.parameters(left + right)
            out = Buffer(name, c.type.shape[1], None)
            self.steps.append(Step(Kernel("outer", outer), starts, (*buffers, out, *bias)))
            return
        pieces = tuple(self.pieces(c.args[0], slots))
        starts, buffers = slots.parameters(pieces)
        out = Buffer(name, 0, None)
        self.steps.append(Step(Kernel("column_sum", ColumnSum(pieces)), starts, (*buffers, out)))

    def _summed(self) -> dict[int, int]:
        """Sums of rows that a weight gradient takes in the same pass, with that gradient."""
        outers: dict[int, int] = {}
        for i, c in self.program.select("total"):
            if self.calls[c.args[0]].op == "outer":
                outers.setdefault(self.calls[c.args[0]].args[1], i)
        totals = [(i, c.args[0]) for i, c in self.program.select("total")]
        return {i: outers[v] for i, v in totals if v in outers}

    def _gradient(self, c: Call) -> None:
        """Remember which totals a parameter's gradient is made of."""
        if self.calls[c.args[0]].op != "total_rows":
            totals = tuple((t, self._total_buffer(t)) for t in sorted(self._leaves(c.args[0])))
            count = sum(g == c for _, g in self.program.select("gradient"))
            contribution = Gradient(c["name"], self.program, c.args[0], totals, count)
            if contribution not in self.gradients:
                self.gradients.append(contribution)

    def _total_buffer(self, t: int) -> str:
        """Buffer of a total: kinds that use it for the same gradients in the same way share it."""
        if t not in self.totals:
            gradients = [
                g for _, g in self.program.select("gradient") if t in self._leaves(g.args[0])
            ]
            key = [(g["name"], text_of(self.program, g.args[0])) for g in gradients]
            text = f"{text_of(self.program, t)} {key}"
            shape = "x".join(map(str, self.calls[t].type.shape)) or "1"
            self.totals[t] = f"total.{shape}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self.totals[t]

    def _leaves(self, i: int) -> set[int]:
        c = self.calls[i]
        return {i} if c.op == "total" else set().union(*(self._leaves(a) for a in c.args))

    def _row_gradient(self, c: Call) -> None:
        index, g = c.args
        names = {
            self.calls[u]["name"]
            for u in range(len(self.calls))
            if self.calls[u].op == "gradient" and self.calls[self.calls[u].args[0]] is c
        }
        pull, width = self.calls[index]["name"], self.calls[g].type.size
        for name in sorted(names):
            buffer = Buffer(f"rows.{name}.{pull}", width, Space("pull", pull))
            self._write(g, Place(buffer))
            self.row_gradients.append(RowGradient(name, pull, buffer.name, width))

    def net_buffer(self, i: int) -> Buffer:
        """A vector with net-level value %i: a parameter, or what NumPy evaluates once per step."""
        c = self.calls[i]
        if c.op == "param":
            return Buffer(f"flat.{c['name']}", 0, None)
        name = f"net.{hashlib.sha256(text_of(self.program, i).encode()).hexdigest()[:12]}"
        self.net_values[name] = i
        return Buffer(name, 0, None)


def _is_product(c: Call) -> bool:
    """A matrix product at every vertex. (One of the net alone is evaluated by NumPy.)"""
    return c.op == "matmul" and c.type.per == "vertex"
