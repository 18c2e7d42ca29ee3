"""What a stage adds to parameters: gradients made of sums over vertices, and gradients of rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .plan import Space
from .program import Program
from .steps import Buffer, Gradient, RowGradient, identity


@dataclass(frozen=True)
class Contributions:
    """What the gradient calls of a program need.

    totals: for every sum over vertices, by call number, the buffer it is added to. rows: rows of
    parameters' gradients, with the value that goes there and the buffer.
    """

    totals: dict[int, str]
    gradients: tuple[Gradient, ...]
    rows: tuple[tuple[int, RowGradient, Buffer], ...]


def contributions(program: Program) -> Contributions:
    """Read off what a program contributes to parameters."""
    calls, written = program.calls, [c for _, c in program.select("gradient")]
    dense = [c for c in written if calls[c.args[0]].op != "total_rows"]
    leaves = {c.args[0]: _leaves(program, c.args[0]) for c in dense}
    totals: dict[int, str] = {}
    alone: set[int] = set()  # totals that one gradient consists of
    for t in sorted(set().union(*leaves.values())):
        users = [c for c in dense if t in leaves[c.args[0]]]
        uses = [(c["name"], identity(program, c.args[0])) for c in users]
        totals[t] = _total_buffer(program, t, uses)
        if len(users) == 1 and users[0].args[0] == t:
            alone.add(t)
    gradients = dict.fromkeys(
        Gradient(
            c["name"],
            program,
            c.args[0],
            tuple((t, totals[t]) for t in sorted(leaves[c.args[0]])),
            written.count(c),
            c.args[0] in alone,
        )
        for c in dense
    )
    return Contributions(totals, tuple(gradients), _rows(program))


def _total_buffer(program: Program, t: int, uses: list[tuple[str, str]]) -> str:
    """Buffer of a total: kinds that use it for the same gradients in the same way share it."""
    shape = "x".join(map(str, program.calls[t].type.shape)) or "1"
    text = f"{identity(program, t)} {uses}"
    return f"total.{shape}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


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
