"""Places: where the values of a stage lie in memory while its kernels run, and how kernels read it.

What a vertex function reads and what it gives lies in buffers of its own, whatever else a stage
does: `source`, `destination`. Where all other values lie is found by `buffer_assignment`, and read
off its result here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import TraceError
from ...language import EFFECTS, READS, Call, Program
from ...runtime import ALL, EDGES, STATE, Buffer, Role, Space, choice_buffer, index_buffer
from .specs import Piece
from .steps import Place, Slots

PRODUCTS = frozenset({"matmul", "outer", "total", "total_rows"})
VIEWS = frozenset({"slice", "reshape", "transpose"})


def is_product(c: Call) -> bool:
    """A matrix product at every vertex. (One of the net alone is evaluated by NumPy.)"""
    return c.op == "matmul" and c.type.per == "vertex"


def is_concat(c: Call) -> bool:
    """A concatenation at every vertex."""
    return c.op == "concat" and c.type.per == "vertex"


def is_computed(c: Call) -> bool:
    """Whether a region computes the result element by element; concatenations are open."""
    other = VIEWS | READS - {"gather_sum", "child_present"} | EFFECTS | PRODUCTS
    other |= {"full", "absent", "embedding", "concat"}
    return c.type.per == "vertex" and c.op not in other


def source(program: Program, i: int) -> Place | None:
    """Where a read lies; None for what is computed.

    Raises:
        TraceError: an embedding of something else than rows of a parameter, chosen by an input.
    """
    c = program.calls[i]
    width = max(c.type.size, 1)
    match c.op:
        case "pull" if c.get("absent") is not None:
            return Place(choice_buffer(c["name"]))
        case "pull" if c.type.dtype == "int32" and not c.type.shape:
            return Place(index_buffer(c["name"]))
        case "pull":
            space = Space("pull", c["name"])
            return Place(Buffer(Role.INPUT, c["name"], width, space, c.type.dtype))
        case "present":
            return Place(Buffer(Role.PRESENT, c["name"], width, Space("pull", c["name"])))
        case "gather" | "child_state":
            child = Buffer(Role.CHILD, c["slot"], 0, Space("slot", c["slot"]), "int32")
            return Place(Buffer(Role.STATE, c["field"], width, STATE), index=child)
        case "own_state":
            return Place(Buffer(Role.STATE, c["field"], width, STATE))
        case "saved":
            return Place(_saved(c))
        case "embedding":
            return _rows_of_table(program, c)
    return None


def _rows_of_table(program: Program, c: Call) -> Place:
    index, table = (program.calls[a] for a in c.args)
    if table.op != "param" or index.op != "pull":
        raise TraceError(
            f"{program.name}: embedding ({c.where or 'here'}) takes a pulled integer and a "
            f"parameter, given {index.op} and {table.op}; use them without changes, and scale the "
            "result instead"
        )
    rows = Buffer(Role.PARAMETER, table["name"], table.type.shape[1], None)
    chosen = source(program, c.args[0])
    assert chosen is not None, "a pulled integer lies in memory"
    return Place(rows, index=chosen.buffer)


def _saved(c: Call) -> Buffer:
    """What a `save` writes and a `saved` reads."""
    width, space = max(c.type.size, 1), Space("save", c["name"])
    return Buffer(Role.SAVED, c["name"], width, space, c.type.dtype)


def destination(c: Call, arity: int) -> Place:
    """Where a scatter, a save or a push puts its value."""
    width = max(c.type.size, 1)
    if c.op == "scatter" and c.get("slot") is not None:
        return Place(Buffer(Role.ADJOINT, c["field"], arity * width, EDGES), c["slot"] * width)
    if c.op == "scatter":
        return Place(Buffer(Role.STATE, c["field"], width, STATE))
    if c.op == "save":
        return Place(_saved(c))
    return Place(Buffer(Role.PUSHED, c["name"], width, ALL, c.type.dtype))


@dataclass(frozen=True)
class BufferAssignment:
    """Where the values of one program lie.

    ready: for every call, the first region that can read its result. lines: the calls that regions
    compute. home: memory of values that other kernels read. stores: where a region puts the results
    of its lines. copies: values that a region copies to a place, of which those in `copied` are
    read there.
    """

    program: Program
    arity: int
    ready: tuple[int, ...]
    lines: frozenset[int]
    home: Mapping[int, Place]
    stores: Mapping[int, tuple[Place, ...]]
    copies: tuple[tuple[int, Place], ...]
    copied: frozenset[int]

    def place(self, i: int) -> Place | None:
        """Where a value with a home or a read lies."""
        return self.home.get(i) or source(self.program, i)

    def pieces(self, i: int, slots: Slots, start: int = 0, stop: int | None = None) -> list[Piece]:
        """Columns start:stop of operand %i as pieces of buffers."""
        c = self.program.calls[i]
        stop = max(c.type.size, 1) if stop is None else stop
        place = self.place(i)
        if place is not None:
            buffer, index = slots.number(place)
            return [Piece(stop - start, buffer, place.buffer.ld, place.column + start, index)]
        if c.op == "slice":
            return self.pieces(c.args[0], slots, c["start"] + start, c["start"] + stop)
        assert c.op == "concat", f"{c.text()} lies nowhere"
        return self._parts(c, slots, start, stop)

    def _parts(self, c: Call, slots: Slots, start: int, stop: int) -> list[Piece]:
        """The pieces of a concatenation that is nowhere as one."""
        out, at = [], 0
        for a in c.args:
            size = self.program.calls[a].type.size
            first, last = max(start - at, 0), min(stop - at, size)
            if first < last:
                out += self.pieces(a, slots, first, last)
            at += size
        return out
