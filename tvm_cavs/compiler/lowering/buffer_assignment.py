"""Buffer assignment: one program -> where its values lie, in passes.

A value gets a place only if another kernel reads it or it leaves the stage. A concatenation is
nowhere if a product can read its parts where they are; a product writes straight to where its
result, or all slices of it, should go. Each pass is a function of what the passes before it found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...language import EFFECTS, Call, Program
from ...runtime import SCRATCH, Buffer, Role, RowGradient
from ...transform import ALL, Options
from .places import (
    PRODUCTS,
    VIEWS,
    BufferAssignment,
    destination,
    is_computed,
    is_concat,
    is_product,
    source,
)
from .steps import Place

Write = tuple[int, Place]  # a value, and where it is to be put
Rows = Sequence[tuple[int, RowGradient, Buffer]]


def assign_buffers(
    program: Program, arity: int, rows: Rows, options: Options = ALL
) -> BufferAssignment:
    """All passes in turn.

    Args:
        rows: values that are gradients of rows, with their buffers.

    Raises:
        TraceError: the program uses an op in a way that has no kernel.
    """
    regions = find_regions(program, options.fusion)
    outputs = find_outputs(program, arity, rows)
    aliased = alias_products(program, outputs)
    joined = join_concatenations(regions, outputs, options.gather)
    live = find_live(regions, joined, options.gather)
    scratch = allocate_scratch(regions, live, joined, outputs, aliased)
    writes = place_writes(regions, joined, outputs, aliased, scratch)
    return BufferAssignment(
        program,
        arity,
        ready=regions.ready,
        lines=regions.lines,
        home={i: scratch.get(i) or writes.first(i) for i in live},
        stores={i: places for i, places in writes.stores.items() if i in regions.lines},
        copies=writes.copies,
        copied=frozenset(i for i in live if not regions.is_written(i, joined)),
    )


@dataclass(frozen=True)
class Regions:
    """Which values regions compute, and when.

    users: for every value, the calls that use it, directly or through a view. ready: the first
    region that can read it. lines: the calls that regions compute.
    """

    program: Program
    users: tuple[frozenset[int], ...]
    ready: tuple[int, ...]
    lines: frozenset[int]

    def is_written(self, i: int, joined: Collection[int]) -> bool:
        """Whether what makes %i can put it in memory; all else has to be copied there."""
        return i in self.lines or i in joined or is_product(self.program.calls[i])

    def is_in_product(self, i: int) -> bool:
        """Whether a product reads %i, maybe inside of concatenations."""
        ops = ((u, self.program.calls[u].op) for u in self.users[i])
        return any(op in PRODUCTS or (op == "concat" and self.is_in_product(u)) for u, op in ops)


def find_regions(program: Program, fusion: bool) -> Regions:
    """Which values regions compute; without fusion each region computes one."""
    users = find_users(program)
    return Regions(program, users, order_regions(program, fusion), find_lines(program, users))


def find_users(program: Program) -> tuple[frozenset[int], ...]:
    """For every value, the calls that use it, directly or through a view."""
    found: list[frozenset[int]] = [frozenset()] * len(program.calls)
    uses = program.uses()
    for i in reversed(range(len(found))):
        views = [u for u in uses[i] if program.calls[u].op in VIEWS]
        found[i] = frozenset(uses[i]).difference(views).union(*(found[v] for v in views))
    return tuple(found)


def order_regions(program: Program, fusion: bool) -> tuple[int, ...]:
    """For every call, the first region that can read its result.

    That is the one that computes it, if a region does.
    """
    ready: list[int] = []
    last = -1
    for c in program.calls:
        vertex = (a for a in c.args if program.calls[a].type.per == "vertex")
        now = max((ready[a] for a in vertex), default=0)
        if not fusion and (c.op == "concat" or is_computed(c)):
            now = last = max(now, last + 1)
        ready.append(now + 1 if is_product(c) else now)
    return tuple(ready)


def find_lines(program: Program, users: Sequence[frozenset[int]]) -> frozenset[int]:
    """The calls that regions compute.

    A concatenation is one if a region reads it, or if it is none of vectors.
    """
    lines = {i for i, c in enumerate(program.calls) if is_computed(c)}
    for i in reversed(range(len(program.calls))):
        c = program.calls[i]
        if is_concat(c):
            of_vectors = c["axis"] == 0 and len(c.type.shape) == 1
            if not of_vectors or not lines.isdisjoint(users[i]):
                lines.add(i)
    return frozenset(lines)


def find_outputs(program: Program, arity: int, rows: Rows) -> tuple[Write, ...]:
    """What leaves the stage, and where it is to be put."""
    effects = (c for c in program.calls if c.op in EFFECTS - {"gradient"})
    found = [(c.args[0], destination(c, arity)) for c in effects]
    return *found, *((value, Place(buffer)) for value, _, buffer in rows)


def alias_products(program: Program, outputs: Sequence[Write]) -> dict[int, Place]:
    """Products whose slices go side by side into one buffer, and where: they write there."""
    found: dict[int, list[Write]] = {}
    for i, to in outputs:
        c = program.calls[i]
        if c.op == "slice" and is_product(program.calls[c.args[0]]):
            found.setdefault(c.args[0], []).append((i, to))
    places = {product: _side_by_side(program, product, s) for product, s in found.items()}
    return {product: place for product, place in places.items() if place is not None}


def _side_by_side(program: Program, product: int, slices: Sequence[Write]) -> Place | None:
    """Where a product would lie that has its slices where they are to be put."""
    calls = program.calls
    buffers = {to.buffer for _, to in slices}
    shifts = {to.column - calls[i]["start"] for i, to in slices}
    covered = sum(calls[i].type.size for i, _ in slices) == calls[product].type.size
    if len(buffers) == 1 and len(shifts) == 1 and covered and min(shifts) >= 0:
        return Place(buffers.pop(), shifts.pop())
    return None


def join_concatenations(
    regions: Regions, outputs: Sequence[Write], gather: bool
) -> tuple[int, ...]:
    """The concatenations that are one buffer, to which their parts are written; last ones first.

    Those are stored; or products read them, and all of it is computed or nothing is gathered.
    """
    calls, lines = regions.program.calls, regions.lines
    stored, joined = {i for i, _ in outputs}, []
    for i, c in reversed(list(enumerate(calls))):
        if is_concat(c) and i not in lines:
            computed = all(a in lines or calls[a].op == "concat" for a in c.args)
            if i in stored or ((computed or not gather) and regions.is_in_product(i)):
                joined.append(i)
                stored.update(c.args)
    return tuple(joined)


def find_live(regions: Regions, joined: Collection[int], gather: bool) -> tuple[int, ...]:
    """The values that other kernels read in memory. Users come before what they use.

    gather: whether products read through an index.
    """

    def found() -> Iterator[int]:
        for i, c in reversed(list(enumerate(regions.program.calls))):
            line = i in regions.lines and _is_read_elsewhere(regions, joined, i)
            if line or i in joined or is_product(c):
                yield i
            for a in _operands(regions.program, c):
                yield from _addressed(regions, joined, gather, a)

    return tuple(dict.fromkeys(found()))


def _is_read_elsewhere(regions: Regions, joined: Collection[int], i: int) -> bool:
    """Whether another kernel than its region's reads line %i."""
    lines, ready = regions.lines, regions.ready
    for u in regions.users[i]:
        c = regions.program.calls[u]
        if c.op == "total" or (c.op in PRODUCTS and c.type.per == "vertex"):
            return True
        if u in lines and ready[u] > ready[i]:
            return True
        in_pieces = c.op == "concat" and u not in lines and u not in joined
        if in_pieces and regions.is_in_product(u):
            return True
    return False


def _operands(program: Program, c: Call) -> Sequence[int]:
    """What a product, or a sum over vertices, reads as pieces of buffers."""
    if is_product(c):
        return c.args[:1]
    if c.op == "total":
        summed = program.calls[c.args[0]]
        return summed.args if summed.op == "outer" else c.args
    return ()


def _addressed(regions: Regions, joined: Collection[int], gather: bool, i: int) -> Iterator[int]:
    """The values that must lie in memory so that operand %i can be read as pieces."""
    c, place = regions.program.calls[i], source(regions.program, i)
    if place is not None and (gather or place.index is None):
        return
    in_pieces = c.op == "concat" and i not in regions.lines and i not in joined
    if in_pieces or (c.op == "slice" and len(c.type.shape) == 1):
        for a in c.args:
            yield from _addressed(regions, joined, gather, a)
    else:
        yield i


def allocate_scratch(
    regions: Regions,
    live: Sequence[int],
    joined: Sequence[int],
    outputs: Sequence[Write],
    aliased: Collection[int],
) -> dict[int, Place]:
    """Memory for the live values that are not put anywhere else, numbered by width.

    Stages and kinds share the scratch buffers of one width and number.
    """
    calls = regions.program.calls
    stored = {*aliased, *(i for i, _ in outputs), *(a for i in joined for a in calls[i].args)}
    numbers: Counter[int] = Counter()
    scratch = {}
    for i in live:
        if i not in stored or not regions.is_written(i, joined):
            ld, dtype = max(calls[i].type.size, 1), calls[i].type.dtype
            numbers[ld] += 1
            key = (ld, numbers[ld]) if dtype == "float32" else (dtype, ld, numbers[ld])
            scratch[i] = Place(Buffer(Role.SCRATCH, key, ld, SCRATCH, dtype))
    return scratch


@dataclass(frozen=True)
class Writes:
    """How values get where they are to be put.

    products: where a product writes. stores: where lines, and concatenations in one buffer, go.
    copies: what a region copies, and to where.
    """

    products: Mapping[int, Place]
    stores: Mapping[int, tuple[Place, ...]]
    copies: tuple[Write, ...]

    def first(self, i: int) -> Place:
        """Where a value can be read."""
        return self.products[i] if i in self.products else self.stores[i][0]


def place_writes(
    regions: Regions,
    joined: Sequence[int],
    outputs: Sequence[Write],
    aliased: Mapping[int, Place],
    scratch: Mapping[int, Place],
) -> Writes:
    """How outputs, live values and the parts of joined concatenations get where they belong."""
    calls = regions.program.calls
    products, copies = dict(aliased), list[Write]()
    stores: defaultdict[int, list[Place]] = defaultdict(list)

    def write(i: int, to: Place) -> None:
        if i in regions.lines or is_concat(calls[i]):
            stores[i].append(to)
        elif is_product(calls[i]) and i not in products:
            products[i] = to
        else:
            copies.append((i, to))

    for i, to in outputs:
        if calls[i].op != "slice" or calls[i].args[0] not in aliased:
            write(i, to)
    for i, to in scratch.items():
        write(i, to)
    for i in joined:
        for to in stores[i]:
            for a, place in _parts(regions.program, i, to):
                write(a, place)
    return Writes(products, {i: tuple(to) for i, to in stores.items()}, tuple(copies))


def _parts(program: Program, i: int, to: Place) -> Iterator[Write]:
    """Where the parts of concatenation %i lie if it lies at `to`."""
    at = to.column
    for a in program.calls[i].args:
        yield a, Place(to.buffer, at)
        at += program.calls[a].type.size
