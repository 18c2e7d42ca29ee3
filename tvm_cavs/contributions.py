"""What a stage adds to parameters: gradients made of sums over vertices, and gradients of rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .netlevel import extent, flatten
from .plan import Space
from .program import Call, Program
from .steps import Buffer, Gradient, RowGradient, Spot, identity


@dataclass(frozen=True)
class Contributions:
    """What the gradient calls of a program need.

    totals: for every sum over vertices, by call number, where it is added up. gradients: what has
    to be put together from sums. rows: rows of parameters' gradients, with the value that goes
    there and the buffer.
    """

    totals: dict[int, Spot]
    gradients: tuple[Gradient, ...]
    rows: tuple[tuple[int, RowGradient, Buffer], ...]


def contributions(program: Program) -> Contributions:
    """Read off what a program contributes to parameters."""
    calls, written = program.calls, [c for _, c in program.select("gradient")]
    dense = [c for c in written if calls[c.args[0]].op != "total_rows"]
    leaves = {c.args[0]: _leaves(program, c.args[0]) for c in dense}
    totals: dict[int, Spot] = {}
    apart: dict[int, Spot] = {}  # sums in buffers of their own
    for t in sorted(set().union(*leaves.values())):
        users = [c for c in dense if t in leaves[c.args[0]]]
        spot = _in_gradient(program, t, users[0]) if len(users) == 1 else None
        if spot is None:
            uses = [(c["name"], identity(program, c.args[0])) for c in users]
            spot = apart[t] = _total_buffer(program, t, uses)
        totals[t] = spot
    gradients = dict.fromkeys(
        Gradient(
            c["name"],
            program,
            c.args[0],
            tuple((t, totals[t].buffer) for t in sorted(leaves[c.args[0]] & apart.keys())),
            written.count(c),
        )
        for c in dense
        if leaves[c.args[0]] & apart.keys() or not leaves[c.args[0]]
    )
    return Contributions(totals, tuple(gradients), _rows(program))


def gradient_buffer(parameter: str) -> str:
    """The buffer with the gradient of a parameter, in its shape."""
    return f"grad.{parameter}"


def _in_gradient(program: Program, t: int, gradient: Call) -> Spot | None:
    """Where sum %t lies in the only gradient that it is part of, if it is a rectangle of it."""
    found = flatten(program, gradient.args[0], "total", sums=True) or []
    mine = [r for r in found if r.leaf == t]
    shape, whole = program.calls[t].type.shape, program.calls[gradient.args[0]].type.shape
    if len(mine) != 1 or len(shape) != len(whole):
        return None
    (r,) = mine
    n_rows, n_columns = extent(shape)
    if r.transposed or r.rows != (0, n_rows) or r.columns != (0, n_columns):
        return None
    ld = whole[1] if len(whole) == 2 else 0
    return Spot(gradient_buffer(gradient["name"]), ld, r.row, r.column)


def _total_buffer(program: Program, t: int, uses: list[tuple[str, str]]) -> Spot:
    """A total's own buffer: kinds that use it for the same gradients in the same way share it."""
    shape = program.calls[t].type.shape
    text = f"{identity(program, t)} {uses}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"total.{'x'.join(map(str, shape)) or '1'}.{digest}"
    return Spot(name, shape[1] if len(shape) == 2 else 0)


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
        buffer = Buffer(f"rows.{name}.{pull}", width, Space("pull", pull))
        out.append((g, RowGradient(name, pull, buffer.name, width), buffer))
    return tuple(out)


def summed_with(program: Program) -> dict[int, int]:
    """Sums of rows that a weight gradient takes in the same pass: the sum's call -> the other's."""
    calls = program.calls
    outers: dict[int, int] = {}
    for i, c in program.select("total"):
        if calls[c.args[0]].op == "outer":
            outers.setdefault(calls[c.args[0]].args[1], i)
    totals = [(i, c.args[0]) for i, c in program.select("total")]
    return {i: outers[v] for i, v in totals if v in outers}
