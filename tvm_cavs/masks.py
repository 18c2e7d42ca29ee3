"""Masks: a Program whose children may be absent, where empty slots read zeros -> one that looks.

A product with what may be absent is given up where it is (`absence`), whatever its other factor. A
matrix product needs no mask: a row of zeros times finite parameters is zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from . import pieces
from .absence import ALWAYS, NEVER, Need, Presence, Runs, find
from .ops import Type, Value, nothing
from .program import Builder, Program

_MASKED = frozenset({"mul", "over", "neg"})  # the others make 0.0 of zeros


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
    return _Guard(program, find(program, saved), sure, maybe).run()


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
            value = self.b.call(c.op, *args, where=c.where, **dict(c.attrs))
            self.new.append(self._masked(value, self.runs[i]) if c.op in _MASKED else value)
        return self.b.finish()

    def _masked(self, x: Value, runs: Runs) -> Value:
        if len(runs) == 1:
            return self._where(runs[0][1], x)
        return pieces.join(self.b, [self._where(p, piece) for piece, p in self._cut(x, runs)], 0)

    def _cut(self, x: Value, runs: Runs) -> list[tuple[Value, Presence]]:
        out, at = [], 0
        for n, p in runs:
            out.append((pieces.part(self.b, x, at, at + n) if x.shape else x, p))
            at += n
        return out

    def _where(self, p: Presence, x: Value) -> Value:
        """x where p holds, else nothing."""
        if p in (ALWAYS, NEVER):  # what is never there vanishes by itself
            return x
        return self.b.call("where", self._number(p), x, nothing(self.b, x.shape))

    def _number(self, p: Presence) -> Value:
        """1.0 where p holds, else 0.0."""
        found = None
        for needs in sorted(p.any_of, key=lambda n: sorted(map(str, n))):
            every = None
            for slot in sorted(needs, key=str):
                one = self.b.call("child_present", slot=slot, type=Type(()))
                every = one if every is None else every * one
            assert every is not None, "a condition that always holds needs no number"
            found = every if found is None else self.b.call("maximum", found, every)
        assert found is not None
        return found

    def _gradient(self, left: int, right: int) -> Value:
        """The sum of outer products; each part only of vertices where both of its sides are."""
        rows = self._cut(self.new[left], self.runs[left])
        columns = self._cut(self.new[right], self.runs[right])
        made = [[self._part(x, p, g, q) for g, q in columns] for x, p in rows]
        return pieces.join(self.b, [pieces.join(self.b, parts, 1) for parts in made], 0)

    def _part(self, x: Value, p: Presence, g: Value, q: Presence) -> Value:
        x = x if p == q else self._where(q, x)
        g = g if p == q else self._where(p, g)
        return self.b.call("total", self.b.call("outer", x, g))
