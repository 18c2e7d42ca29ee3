"""Lower: one stage Program -> steps, each a kernel on whole buffers.

A stage is cut at its matrix products. What lies between two of them is one region (`regions`), and a product
reads its left operand through pieces: gathers, word vectors and concatenations are read where they are and
never copied first. A value gets a place in memory only if another kernel reads it or it leaves the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import netlevel
from .errors import TraceError
from .ops import EFFECTS, READS, Value
from .operands import Piece, operands
from .packing import ColumnSum
from .plan import Space
from .products import Outer, Product
from .program import Builder, Call, Program
from .regions import OWN_LOOP, Array, Constant, Line, Load, Operand, Ref, Region, Store, View

ALL, STATE, EDGES, SCRATCH = Space("all"), Space("state"), Space("edges"), Space("scratch")
VIEWS = frozenset({"slice", "reshape", "transpose"})
PRODUCTS = frozenset({"matmul", "outer", "total", "total_rows"})


@dataclass(frozen=True)
class Buffer:
    """Memory a stage uses. ld > 0: [rows, ld]; ld == 0: a vector. `space` says how many rows, None: net-level."""

    name: str
    ld: int
    space: Space | None
    dtype: str = "float32"


@dataclass(frozen=True)
class Place:
    """Where a value lies: columns from `column` on of a buffer, at its own rows or through an index vector."""

    buffer: Buffer
    column: int = 0
    index: Buffer | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel by its specification; equal specifications are one kernel."""

    kind: str
    spec: Product | Outer | ColumnSum | Region

    @property
    def name(self) -> str:
        return f"{self.kind}_{hashlib.sha256(repr(self.spec).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Step:
    """One kernel call of a stage: called as kernel(n, start of each of `starts`..., buffers...)."""

    kernel: Kernel
    starts: tuple[Space, ...]
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Weights:
    """The right operand of a product: value %index of `program`, packed into buffer `name`."""

    name: str
    program: Program
    index: int
    k: int
    n_columns: int


@dataclass(frozen=True)
class Gradient:
    """One contribution to a parameter: value %index of `program`, made of totals that lie in `totals`."""

    parameter: str
    program: Program
    index: int
    totals: tuple[tuple[int, str], ...]  # call number of a total -> buffer
    count: int = 1  # how often the program adds it

    @property
    def key(self) -> tuple[str, str]:
        """Equal keys are one contribution, whichever kinds of vertices add to it."""
        return self.parameter, _text(self.program, self.index)


@dataclass(frozen=True)
class RowGradient:
    """Contributions to rows of a parameter: buffer [rows with the input, width], rows named by the input."""

    parameter: str
    pull: str
    buffer: str
    width: int


@dataclass(frozen=True)
class Lowered:
    """A stage ready to compile: steps in order, and what they need."""

    program: Program
    steps: tuple[Step, ...]
    weights: tuple[Weights, ...]
    gradients: tuple[Gradient, ...]
    row_gradients: tuple[RowGradient, ...]
    net_values: tuple[tuple[str, int], ...]  # buffers that NumPy fills with net-level values

    @property
    def buffers(self) -> dict[str, Buffer]:
        """All buffers by name."""
        return {b.name: b for s in self.steps for b in s.buffers}

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces whose starts the steps take."""
        return tuple(dict.fromkeys(s for step in self.steps for s in step.starts))

    def __str__(self) -> str:
        lines = [f"stage {self.program.name}"]
        for s in self.steps:
            lines.append(f"  {s.kernel.name}({', '.join(b.name for b in s.buffers)})")
        return "\n".join(lines)


def expand(program: Program) -> Program:
    """Softmax and log-softmax as their maximum, exponentials and sum."""

    def rule(b: Builder, op: str, args: tuple[Value, ...], attrs: dict[str, object]) -> Value | None:
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
                elif c.op == "total" and self._operand_ready(c) == r:
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
                        f"{self.program.name}: embedding ({c.where or 'here'}) takes a pulled integer and a parameter, "
                        f"given {index.op} and {table.op}; use them without changes, and scale the result instead"
                    )
                rows = Buffer(f"param.{table['name']}", table.type.shape[1], None)
                return Place(rows, index=index_buffer(index["name"]))
        return None

    # -- what has to be in memory

    def _effects(self) -> None:
        """Where the program's writes go: a store of the line, the output of the product, or a copy."""
        for i, c in enumerate(self.calls):
            if c.op not in EFFECTS:
                continue
            if c.op == "gradient":
                self._gradient(c)
                continue
            self._write(c.args[0], self._destination(c))
        for i, c in enumerate(self.calls):
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
            if c.op == "slice" and _is_product(self.calls[c.args[0]]) and c.args[0] not in self.home:
                found.setdefault(c.args[0], []).append((c["start"], i, to))
        for product, slices in found.items():
            slices.sort(key=lambda s: s[0])
            buffers = {to.buffer for _, _, to in slices}
            shifts = {to.column - start for start, _, to in slices}
            covered = sum(self.calls[i].type.size for _, i, _ in slices) == self.calls[product].type.size
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
            elif c.op == "total" or c.op == "outer" and c.type.per == "vertex":
                for a in c.args:
                    self._addressable(a)

    def _settle(self, i: int) -> None:
        """Give line %i a home: where it is stored anyway, or scratch."""
        if not self.stores.get(i):
            self.stores[i] = [self.scratch(max(self.calls[i].type.size, 1))]
        self.home[i] = self.stores[i][0]

    def _read_elsewhere(self, i: int) -> bool:
        for u in self.users(i):
            op = self.calls[u].op
            if op in PRODUCTS and self.calls[u].type.per == "vertex" or op in ("total", "total_rows"):
                return True
            if op == "concat" and not self.is_line(u) and u not in self.home and self._in_product(u):
                return True
            if self.is_line(u) and self.ready[u] > self.ready[i]:
                return True
        return False

    def _in_product(self, i: int) -> bool:
        return any(self.calls[u].op in PRODUCTS or (self.calls[u].op == "concat" and self._in_product(u)) for u in self.users(i))

    def _concat(self, i: int, c: Call) -> None:
        """A concatenation is a line if a region reads it, one buffer if it is stored or all computed, else pieces."""
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
        if i in self.home or self.place(i) is not None or c.op == "outer":
            return
        if c.op == "slice" and len(c.type.shape) == 1 or c.op == "concat" and i not in self.local_concat:
            for a in c.args:
                self._addressable(a)
        elif self.is_line(i):
            self._settle(i)
        else:
            self.home[i] = self.scratch(max(c.type.size, 1))
            self.copied.add(i)
            self.copies.append((i, self.home[i]))

    # -- kernels

    def _region(self, r: int) -> None:
        builder = _RegionBuilder(self, r)
        for i in range(len(self.calls)):
            if self.is_line(i) and self.ready[i] == r:
                builder.line(i)
        for i, to in self.copies:
            if self.ready[i] == r:
                builder.copy(i, to)
        if builder.lines:
            self.steps.append(builder.step())

    def pieces(self, i: int, slots: _Slots, start: int = 0, stop: int | None = None) -> list[Piece]:
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
        slots, to = _Slots(), self.home[i]
        pieces = tuple(self.pieces(c.args[0], slots))
        spec = Product(pieces, c.type.size, to.buffer.ld, to.column)
        weights = self._weights(c.args[1])
        starts, buffers = slots.parameters(pieces)
        packed = Buffer(weights, 0, None)
        self.steps.append(
            Step(Kernel("product", spec), (space_of(to.buffer), *starts), (*buffers, packed, to.buffer))
        )

    def _weights(self, i: int) -> str:
        key = f"{_text(self.program, i)}"
        name = f"pack.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        k, n_columns = self.calls[i].type.shape
        self.weights[name] = Weights(name, self.program, i, k, n_columns)
        return name

    def _total(self, i: int, c: Call) -> None:
        """A sum over vertices, added to its buffer: a weight gradient, or a sum of rows."""
        source, slots = self.calls[c.args[0]], _Slots()
        name = self.totals[i]
        if source.op == "outer":
            left = tuple(self.pieces(source.args[0], slots))
            right = tuple(self.pieces(source.args[1], slots))
            outer = Outer(left, right, c.type.shape[1])
            starts, buffers = slots.parameters(left + right)
            out = Buffer(name, c.type.shape[1], None)
            self.steps.append(Step(Kernel("outer", outer), starts, (*buffers, out)))
            return
        pieces = tuple(self.pieces(c.args[0], slots))
        starts, buffers = slots.parameters(pieces)
        out = Buffer(name, 0, None)
        self.steps.append(Step(Kernel("column_sum", ColumnSum(pieces)), starts, (*buffers, out)))

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
            gradients = [g for _, g in self.program.select("gradient") if t in self._leaves(g.args[0])]
            key = [(g["name"], _text(self.program, g.args[0])) for g in gradients]
            text = f"{_text(self.program, t)} {key}"
            shape = "x".join(map(str, self.calls[t].type.shape)) or "1"
            self.totals[t] = f"total.{shape}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self.totals[t]

    def _leaves(self, i: int) -> set[int]:
        c = self.calls[i]
        return {i} if c.op == "total" else set().union(*(self._leaves(a) for a in c.args))

    def _row_gradient(self, c: Call) -> None:
        index, g = c.args
        names = {self.calls[u]["name"] for u in range(len(self.calls)) if self.calls[u].op == "gradient" and self.calls[self.calls[u].args[0]] is c}
        pull, width = self.calls[index]["name"], self.calls[g].type.size
        for name in sorted(names):
            buffer = Buffer(f"rows.{name}.{pull}", width, Space("pull", pull))
            self._write(g, Place(buffer))
            self.row_gradients.append(RowGradient(name, pull, buffer.name, width))

    def net_buffer(self, i: int) -> Buffer:
        """A vector with net-level value %i: a parameter as it is, or what NumPy evaluates once per step."""
        c = self.calls[i]
        if c.op == "param":
            return Buffer(f"flat.{c['name']}", 0, None)
        name = f"net.{hashlib.sha256(_text(self.program, i).encode()).hexdigest()[:12]}"
        self.net_values[name] = i
        return Buffer(name, 0, None)


def _is_product(c: Call) -> bool:
    """A matrix product at every vertex. (One of the net alone is evaluated by NumPy.)"""
    return c.op == "matmul" and c.type.per == "vertex"


def _text(program: Program, i: int) -> str:
    """How value %i is computed, independent of numbering."""
    c = program.calls[i]
    return f"{c.op}({', '.join(_text(program, a) for a in c.args)}; {c.attrs})"


def index_buffer(pull: str) -> Buffer:
    """The vector with an integer input of the vertices that have it."""
    return Buffer(f"index.{pull}", 0, Space("pull", pull), "int32")


def space_of(buffer: Buffer) -> Space:
    assert buffer.space is not None, buffer
    return buffer.space


class _Slots:
    """Numbers buffers for the pieces of one kernel."""

    def __init__(self) -> None:
        self.sources: list[Buffer] = []
        self.indices: list[Buffer] = []

    def number(self, place: Place) -> tuple[int, int | None]:
        index = None if place.index is None else _position(self.indices, place.index)
        return _position(self.sources, place.buffer), index

    def parameters(self, pieces: tuple[Piece, ...]) -> tuple[tuple[Space, ...], tuple[Buffer, ...]]:
        """Starts and buffers in the order of the kernel's parameters."""
        needs = operands(pieces)
        starts = [space_of(self.sources[s]) for s in needs.starts]
        starts += [space_of(self.indices[s]) for s in needs.indices]
        buffers = [self.sources[s] for s, _ in needs.sources] + [self.indices[s] for s in needs.indices]
        return tuple(starts), tuple(buffers)


def _position(items: list[Buffer], item: Buffer) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)


class _RegionBuilder:
    """Collects the lines of one region and the arrays they touch."""

    def __init__(self, lowering: _Lowering, number: int) -> None:
        self.lowering, self.number = lowering, number
        self.arrays: list[tuple[Buffer, bool]] = []
        self.lines: list[Line] = []
        self.line_of: dict[int, int] = {}

    def array(self, buffer: Buffer, by_row: bool) -> int:
        if (buffer, by_row) not in self.arrays:
            self.arrays.append((buffer, by_row))
        return self.arrays.index((buffer, by_row))

    def operand(self, i: int) -> Operand:
        low = self.lowering
        c = low.calls[i]
        if i in self.line_of:
            return Ref(self.line_of[i])
        if c.op == "full":
            return Constant(c["value"])
        if c.op == "absent":
            return Constant(-1, "int32")
        being_copied = i in low.copied and low.ready[i] == self.number
        if not being_copied and (place := low.place(i)) is not None:
            if place.index is None:
                return Load(self.array(place.buffer, True), place.column)
            return Load(self.array(place.buffer, False), place.column, self.array(place.index, True))
        if c.op in VIEWS:
            source, shape = self.operand(c.args[0]), low.calls[c.args[0]].type.shape
            if c.op == "slice" and isinstance(source, Load) and len(shape) == 1:
                return Load(source.array, source.column + c["start"], source.index)
            return View(source, c.op, shape, c.get("axis", 0), c.get("start", 0))
        assert c.type.per == "net", c.text()
        return Load(self.array(low.net_buffer(i), False))

    def line(self, i: int) -> None:
        c, low = self.lowering.calls[i], self.lowering
        args = [self.operand(a) for a in c.args]
        shapes = [low.calls[a].type.shape for a in c.args]
        attrs = [(k, v) for k, v in c.attrs if k != "type"]
        if c.op == "gather_sum":
            slots = Buffer(f"adjoint.{c['field']}", low.arity * c.type.size, EDGES)
            pointers, edges = Buffer("edges.pointers", 0, ALL, "int32"), Buffer("edges.slots", 0, EDGES, "int32")
            args = [Load(self.array(slots, False)), Load(self.array(pointers, True)), Load(self.array(edges, False))]
            shapes, attrs = [(), (), ()], [("arity", low.arity)]
        elif c.op == "dropout":
            keys = (Buffer("dropout.vertices", 0, ALL, "uint32"), Buffer("dropout.keys", 0, None, "uint32"))
            args += [Load(self.array(keys[0], True)), Load(self.array(keys[1], False))]
            shapes += [(), ()]
        stores = tuple(self.store(to) for to in low.stores.get(i, ()))
        self.line_of[i] = len(self.lines)
        self.lines.append(Line(c.op, tuple(args), tuple(shapes), c.type.shape, c.type.dtype, tuple(attrs), stores))

    def copy(self, i: int, to: Place) -> None:
        c = self.lowering.calls[i]
        line = Line("copy", (self.operand(i),), (c.type.shape,), c.type.shape, c.type.dtype, (), (self.store(to),))
        self.lines.append(line)

    def store(self, to: Place) -> Store:
        return Store(self.array(to.buffer, True), to.column)

    def step(self) -> Step:
        arrays = tuple(
            Array(f"a{k}", b.dtype, b.ld, by_row) for k, (b, by_row) in enumerate(self.arrays)
        )
        starts = tuple(space_of(b) for b, by_row in self.arrays if by_row)
        kernel = Kernel("region", Region(arrays, tuple(self.lines)))
        return Step(kernel, starts, tuple(b for b, _ in self.arrays))


__all__ = ["OWN_LOOP", "Buffer", "Gradient", "Kernel", "Lowered", "RowGradient", "Step", "Weights", "lower"]
