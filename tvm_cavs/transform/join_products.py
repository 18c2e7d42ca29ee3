"""Products that share an operand side by side, sums of products stacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ..language import Builder, Program, Value, without_dead
from . import blocks
from .simplify import simplify
from .stages import depends_on_gather, feeds_scatter


def join_products(program: Program) -> Program:
    """One wide product for products with the same operand, one stacked product for a sum of
    products.

    Only products of the same stage are joined: an eager one must not wait for a recurrent one.
    """
    for step in (_stack, _join_matmul, _join_totals):
        program = simplify(step(program), push_slices=False)
    return program


def _stage_of(program: Program) -> list[tuple[bool, bool]]:
    return list(zip(depends_on_gather(program), feeds_scatter(program), strict=True))


class _Rebuild:
    """Rebuilds a program on demand; `made` holds what a pass has decided for a call's result."""

    def __init__(self, program: Program) -> None:
        self.program, self.b = program, Builder(program.name, shared=True)
        self.made: dict[int, Callable[[], Value]] = {}
        self._done: dict[int, Value] = {}

    def get(self, i: int) -> Value:
        if i not in self._done:
            c = self.program.calls[i]
            if i in self.made:
                self._done[i] = self.made[i]()
            else:
                self._done[i] = self.b.call(
                    c.op, *(self.get(a) for a in c.args), where=c.where, **dict(c.attrs)
                )
        return self._done[i]

    def finish(self) -> Program:
        for i in range(len(self.program.calls)):
            self.get(i)
        return without_dead(self.b.finish())


def _stack(program: Program) -> Program:
    """a @ U + b @ V -> concat(a, b) @ [U; V], for products that are used nowhere else."""
    r, uses, stage = _Rebuild(program), program.uses(), _stage_of(program)
    times = Counter(a for c in program.calls for a in c.args)
    inner = {i for i, _ in program.select("add") if _single(program, uses, i) and times[i] == 1}
    for i, _ in program.select("add"):
        if i in inner:
            continue
        terms = _terms(program, inner, i)
        groups: dict[Any, list[int]] = {}
        for t in terms:
            if program.calls[t].op == "matmul" and times[t] == 1:
                groups.setdefault(stage[program.calls[t].args[0]][0], []).append(t)
        if any(len(g) > 1 for g in groups.values()):
            r.made[i] = _sum_of(r, program, terms, groups)
    return r.finish()


def _single(program: Program, uses: list[list[int]], i: int) -> bool:
    """Whether the sum `i` is a term of one other sum of its shape, and nothing else."""
    users = [program.calls[u] for u in uses[i]]
    return len(users) == 1 and users[0].op == "add" and users[0].type == program.calls[i].type


def _terms(program: Program, inner: set[int], i: int) -> list[int]:
    out: list[int] = []
    for a in program.calls[i].args:
        out += _terms(program, inner, a) if a in inner else [a]
    return out


def _sum_of(
    r: _Rebuild, program: Program, terms: list[int], groups: dict[Any, list[int]]
) -> Callable[[], Value]:
    def make() -> Value:
        stacked: dict[int, Value] = {}
        skip: set[int] = set()
        for members in groups.values():
            if len(members) > 1:
                sides = [[r.get(program.calls[t].args[k]) for t in members] for k in (0, 1)]
                left, right = (blocks.join(r.b, side, 0) for side in sides)
                stacked[members[0]] = left @ right
                skip.update(members[1:])
        values = [stacked[t] if t in stacked else r.get(t) for t in terms if t not in skip]
        total = values[0]
        for v in values[1:]:
            total = total + v
        return total

    return make


def _join_matmul(program: Program) -> Program:
    """x @ U, x @ V -> slices of x @ [U V]."""
    r, stage = _Rebuild(program), _stage_of(program)
    groups: dict[Any, list[int]] = {}
    for i, c in program.select("matmul"):
        groups.setdefault((c.args[0], stage[i]), []).append(i)
    for members in groups.values():
        _join_group(
            r,
            members,
            lambda m: blocks.join(r.b, [r.get(program.calls[i].args[1]) for i in m], 1),
            _times(r, program),
        )
    return r.finish()


def _times(r: _Rebuild, program: Program) -> Callable[[int, Value], Value]:
    return lambda first, w: r.get(program.calls[first].args[0]) @ w


def _join_group(
    r: _Rebuild,
    members: list[int],
    operand: Callable[[list[int]], Value],
    compute: Callable[[int, Value], Value],
    axis: int = 0,
) -> None:
    """Give every member its slice of one joint result along `axis` (of the result)."""
    if len(members) < 2:
        return
    made: list[Value] = []
    start = 0

    def joint() -> Value:
        if not made:
            made.append(compute(members[0], operand(members)))
        return made[0]

    for i in members:
        width = r.program.calls[i].type.shape[axis]
        r.made[i] = lambda s=start, w=width: blocks.part(r.b, joint(), s, s + w, axis)  # type: ignore[misc]
        start += width


def _join_totals(program: Program) -> Program:
    """Weight gradients: with one left operand side by side, with one right operand stacked."""
    for side in (0, 1):
        r, stage = _Rebuild(program), _stage_of(program)
        groups: dict[Any, list[int]] = {}
        for i, c in program.select("total"):
            source = program.calls[c.args[0]]
            if source.op == "outer":
                groups.setdefault((source.args[side], stage[i], stage[c.args[0]]), []).append(i)
        for members in groups.values():
            _join_group(
                r, members, _others(r, program, 1 - side), _total_outer(r, program, side), 1 - side
            )
        program = without_dead(r.finish())
    return program


def _others(r: _Rebuild, program: Program, side: int) -> Callable[[list[int]], Value]:
    def operand(members: list[int]) -> Value:
        outers = [program.calls[program.calls[i].args[0]] for i in members]
        return blocks.join(r.b, [r.get(o.args[side]) for o in outers], 0)

    return operand


def _total_outer(r: _Rebuild, program: Program, side: int) -> Callable[[int, Value], Value]:
    def compute(first: int, joined: Value) -> Value:
        shared = r.get(program.calls[program.calls[first].args[0]].args[side])
        pair = (shared, joined) if side == 0 else (joined, shared)
        return r.b.call("total", r.b.call("outer", *pair))

    return compute
