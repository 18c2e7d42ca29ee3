"""Masks: a Program for vertices that may lack something, which then reads zeros -> one that looks.

A child or an input that is not there is read as zeros, an integer as -1. A product with what may be
absent is given up where it is (`absence`), whatever its other factor; a sum is the other summand,
-0.0 too. A matrix product needs no mask: a row of zeros times finite parameters is 0.0, and no sum
of products is -0.0, so that it still can be stacked with others. A table is read with an index that
is 0 where it is absent, and its row given up there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..language import Builder, Call, Program, Type, Value, full, nothing
from . import blocks
from .absence import ALWAYS, NEVER, Need, Presence, Runs, common, cut, overall, presences

_MASKED = frozenset({"mul", "over", "neg", "embedding"})  # of others, sums too, zeros make 0.0


def guarded(
    program: Program,
    saved: Mapping[str, Runs],
    sure: Collection[Need],
    maybe: Collection[Need],
) -> Program:
    """The program for vertices that have `sure`, and of `maybe` any.

    Args:
        saved: when the values are there that it reads as `saved`.
    """
    return _Guard(program, presences(program, saved), sure, maybe).run()


class _Guard:
    def __init__(
        self, program: Program, runs: list[Runs], sure: Collection[Need], maybe: Collection[Need]
    ) -> None:
        self.program, self.b = program, Builder(program.name, shared=True)
        self.runs = [tuple((n, p.given(sure, maybe)) for n, p in r) for r in runs]
        self.new: list[Value] = []

    def run(self) -> Program:
        for i, c in enumerate(self.program.calls):
            if c.op == "total" and self.program.calls[c.args[0]].op == "outer":
                self.new.append(self._gradient(*self.program.calls[c.args[0]].args))
                continue
            args = [self.new[a] for a in c.args]
            if c.op == "embedding":
                args[0] = self._row(c.args[0])
            value = self.b.call(c.op, *args, where=c.where, **dict(c.attrs))
            if c.op in _MASKED:
                value = self._either(self.runs[i], value, nothing(self.b, value.shape))
            elif c.op in ("add", "sub"):
                value = self._sum(c, value, *args)
            elif c.op == "equal" and args[0].type.dtype == "int32":
                value = self._equal(c, value)
            self.new.append(value)
        return self.b.finish()

    def _sum(self, c: Call, value: Value, x: Value, y: Value) -> Value:
        """A sum or difference: one of its operands where the other is not there."""
        if any(self._has_product(a) for a in c.args) or {x.shape, y.shape} != {value.shape}:
            return value
        left, right = (self.runs[a] for a in c.args)
        value = self._either(right, value, x)
        if c.op == "sub":  # what is nothing has no sign
            y = self._either(right, -y, nothing(self.b, y.shape))
        return self._either(left, value, y)

    def _row(self, i: int) -> Value:
        """The integer %i as a table can be read with it."""
        if all(p in (ALWAYS, NEVER) for _, p in self.runs[i]):
            return self.new[i]
        return self.b.call("pull", absent=0, **dict(self.program.calls[i].attrs))

    def _equal(self, c: Call, value: Value) -> Value:
        """Whether integers are equal: one that is there never is to one that is not."""
        runs = [self.runs[a] for a in c.args if self.new[a].shape == value.shape]
        pieces = []
        for start, stop in common(runs):
            piece = blocks.part(self.b, value, start, stop) if value.shape else value
            p, q = (self._presence(a, value.shape, start, stop) for a in c.args)
            if p != q:
                same = self.b.call("equal", self._number(p), self._number(q))
                piece = self.b.call("where", same, piece, full(self.b, 0.0))
            pieces.append(piece)
        return blocks.join(self.b, pieces, 0)

    def _presence(self, i: int, shape: tuple[int, ...], start: int, stop: int) -> Presence:
        """When elements start:stop of %i, which may be broadcast to `shape`, are there."""
        whole = self.new[i].shape == shape
        return cut(self.runs[i], start, stop)[0][1] if whole else overall(self.runs[i])

    def _has_product(self, i: int) -> bool:
        """Whether %i is a matrix product or a sum with one."""
        c = self.program.calls[i]
        return c.op == "matmul" or c.op == "add" and any(self._has_product(a) for a in c.args)

    def _either(self, runs: Runs, x: Value, y: Value) -> Value:
        """x where `runs` hold, else y; of what never holds x, which vanishes by itself."""
        if all(p in (ALWAYS, NEVER) for _, p in runs):
            return x
        pairs = zip(self._cut(x, runs), self._cut(y, runs), strict=True)
        pieces_of = [self._where(p, a, b) for (a, p), (b, _) in pairs]
        return blocks.join(self.b, pieces_of, 0)

    def _cut(self, x: Value, runs: Runs) -> list[tuple[Value, Presence]]:
        out, at = [], 0
        for n, p in runs:
            out.append((blocks.part(self.b, x, at, at + n) if len(runs) > 1 else x, p))
            at += n
        return out

    def _where(self, p: Presence, x: Value, y: Value) -> Value:
        return x if p in (ALWAYS, NEVER) else self.b.call("where", self._number(p), x, y)

    def _number(self, p: Presence) -> Value:
        """1.0 where p holds, else 0.0."""
        if p in (ALWAYS, NEVER):
            return full(self.b, float(p == ALWAYS))
        found = None
        for needs in sorted(p.any_of, key=lambda n: sorted(map(str, n))):
            every = None
            for need in sorted(needs, key=str):
                one = self._there(need)
                every = one if every is None else every * one
            assert every is not None, "a condition that always holds needs no number"
            found = every if found is None else self.b.call("maximum", found, every)
        assert found is not None
        return found

    def _there(self, need: Need) -> Value:
        """1.0 where a vertex has it, else 0.0."""
        if isinstance(need, str):
            return self.b.call("present", name=need, type=Type(()))
        return self.b.call("child_present", slot=need, type=Type(()))

    def _gradient(self, left: int, right: int) -> Value:
        """The sum of outer products; each part only of vertices where both of its sides are."""
        rows = self._cut(self.new[left], self.runs[left])
        columns = self._cut(self.new[right], self.runs[right])
        made = [[self._part(x, p, g, q) for g, q in columns] for x, p in rows]
        return blocks.join(self.b, [blocks.join(self.b, parts, 1) for parts in made], 0)

    def _part(self, x: Value, p: Presence, g: Value, q: Presence) -> Value:
        if p != q:
            x, g = (self._where(r, v, nothing(self.b, v.shape)) for r, v in ((q, x), (p, g)))
        return self.b.call("total", self.b.call("outer", x, g))
