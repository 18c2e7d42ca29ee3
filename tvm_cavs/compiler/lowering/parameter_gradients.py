"""What a stage adds to parameters: gradients made of sums over vertices, and gradients of rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from math import prod

from ...language import Call, Program
from ...runtime import Buffer, BufferId, Role, RowGradient, Space, gradient_buffer
from .rectangles import extent, flatten
from .steps import Gradient, Spot, identity

Range = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A rectangle of a sum, half open in rows and columns, and where it is added up."""

    rows: Range
    columns: Range
    spot: Spot

    @property
    def area(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    def meets(self, other: Part) -> bool:
        """Whether the two have an element in common."""
        return _meet(self.rows, other.rows) and _meet(self.columns, other.columns)


def _meet(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@dataclass(frozen=True)
class Contributions:
    """What the gradient calls of a program need.

    totals: for every sum over vertices, by call number, the parts that it is added up in.
    gradients: what has to be put together from sums. rows: rows of parameters' gradients, with the
    value that goes there and the buffer.
    """

    totals: dict[int, tuple[Part, ...]]
    gradients: tuple[Gradient, ...]
    rows: tuple[tuple[int, RowGradient, Buffer], ...]


def contributions(program: Program) -> Contributions:
    """Read off what a program contributes to parameters."""
    calls, written = program.calls, [c for _, c in program.select("gradient")]
    dense = [c for c in written if calls[c.args[0]].op != "total_rows"]
    leaves = {c.args[0]: _leaves(program, c.args[0]) for c in dense}
    totals: dict[int, tuple[Part, ...]] = {}
    apart: dict[int, BufferId] = {}  # sums in buffers of their own
    for t in sorted(set().union(*leaves.values())):
        users = [c for c in dense if t in leaves[c.args[0]]]
        parts = _in_gradients(program, t, users)
        if parts is None:
            uses = [(c["name"], identity(program, c.args[0])) for c in users]
            parts = (_total_buffer(program, t, uses),)
            apart[t] = parts[0].spot.buffer
        totals[t] = parts
    gradients = dict.fromkeys(
        Gradient(
            c["name"],
            program,
            c.args[0],
            tuple((t, apart[t]) for t in sorted(leaves[c.args[0]] & apart.keys())),
            written.count(c),
        )
        for c in dense
        if leaves[c.args[0]] & apart.keys() or not leaves[c.args[0]]
    )
    return Contributions(totals, tuple(gradients), _rows(program))


def _in_gradients(program: Program, t: int, users: list[Call]) -> tuple[Part, ...] | None:
    """Where the parts of sum %t lie in the gradients made of it, if each lies in one place.

    A sum of rows is added up in a vector, so one in the shape of a matrix lies nowhere.
    """
    shape, parts = program.calls[t].type.shape, []
    if not sums_outer(program, t) and len(shape) != 1:
        return None
    for c in users:
        whole = program.calls[c.args[0]].type.shape
        found = flatten(program, c.args[0], "total", sums=True)
        if found is None or len(shape) != len(whole):
            return None
        ld, buffer = whole[1] if len(whole) == 2 else 0, gradient_buffer(c["name"])
        for r in found:
            if r.leaf == t:
                if r.transposed:
                    return None
                parts.append(Part(r.rows, r.columns, Spot(buffer, ld, r.row, r.column)))
    n_rows, n_columns = extent(shape)
    whole_area = sum(p.area for p in parts) == n_rows * n_columns
    if not whole_area or any(p.meets(q) for p, q in combinations(parts, 2)):
        return None
    return tuple(parts)


def _total_buffer(program: Program, t: int, uses: list[tuple[str, str]]) -> Part:
    """A total's own buffer: kinds that use it for the same gradients in the same way share it."""
    shape = program.calls[t].type.shape
    text = f"{identity(program, t)} {uses}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    buffer = BufferId(Role.TOTAL, ("x".join(map(str, shape)) or "1", digest))
    if sums_outer(program, t):
        return Part((0, shape[0]), (0, shape[1]), Spot(buffer, shape[1]))
    return Part((0, 1), (0, prod(shape)), Spot(buffer, 0))


def sums_outer(program: Program, t: int) -> bool:
    """Whether sum %t is a weight gradient; others are sums of rows, whatever their shape."""
    return program.calls[program.calls[t].args[0]].op == "outer"


def total_shape(program: Program, t: int) -> tuple[int, ...]:
    """The shape of a buffer in which sum %t is added up: a matrix or a vector."""
    shape = program.calls[t].type.shape
    return shape if sums_outer(program, t) else (prod(shape),)


def _leaves(program: Program, i: int) -> frozenset[int]:
    """The totals that value %i is made of."""
    found, waiting = set(), {i}
    while waiting:
        k = waiting.pop()
        if program.calls[k].op == "total":
            found.add(k)
        else:
            waiting.update(program.calls[k].args)
    return frozenset(found)


def _rows(program: Program) -> tuple[tuple[int, RowGradient, Buffer], ...]:
    """A table has one gradient for each input that chooses its rows: see `Builder`."""
    out: list[tuple[int, RowGradient, Buffer]] = []
    for _, c in program.select("gradient"):
        source = program.calls[c.args[0]]
        if source.op != "total_rows":
            continue
        index, g = source.args
        name, pull, width = c["name"], program.calls[index]["name"], program.calls[g].type.size
        buffer = Buffer(Role.ROW_GRADIENT, (name, pull), width, Space("pull", pull))
        out.append((g, RowGradient(name, pull, buffer.id, width, source["rows"]), buffer))
    return tuple(out)


def summed_with(program: Program) -> dict[int, int]:
    """Sums of rows that a weight gradient takes in the same pass: the sum's call -> the other's."""
    calls = program.calls
    outers: dict[int, int] = {}
    for i, c in program.select("total"):
        if sums_outer(program, i):
            outers.setdefault(calls[c.args[0]].args[1], i)
    totals = [(i, c.args[0]) for i, c in program.select("total")]
    return {i: outers[v] for i, v in totals if v in outers}
