"""Nothing: what an absent child or input gives, and how far it reaches.

It is a zero that makes every product with it nothing, whatever the other factor: infinity and NaN
too. A sum with it is the other summand. Whoever asks for its number reads 0.0, so that 0/0 is NaN
as everywhere else. So a vertex without a child need not compute the gates of a state that is not
there, only to learn that one is NaN; and it has one meaning, whichever kernels it runs in.

`find` says for every value of a Program under which condition it is there. The reference, the
programs of exact kinds and the masks of kinds whose children may be absent all follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ..language import OPS, Call, Program

Need = int | str  # a slot that holds a child, or an input


@dataclass(frozen=True)
class Presence:
    """When a value is there: if a vertex has everything in any of these sets."""

    any_of: frozenset[frozenset[Need]]

    def __or__(self, other: Presence) -> Presence:
        return _shortest(self.any_of | other.any_of)

    def __and__(self, other: Presence) -> Presence:
        return _shortest(a | b for a in self.any_of for b in other.any_of)

    def holds(self, has: Collection[Need]) -> bool:
        """Whether the value is there at a vertex that has these slots and inputs."""
        return any(all(n in has for n in needs) for needs in self.any_of)

    def given(self, sure: Collection[Need], maybe: Collection[Need]) -> Presence:
        """The condition on what the vertex may have, beside what it has for sure."""
        known = {*sure, *maybe}
        kept = (needs for needs in self.any_of if needs <= known)
        return _shortest(needs - set(sure) for needs in kept)


def _shortest(sets: Iterable[frozenset[Need]]) -> Presence:
    found = set(sets)
    return Presence(frozenset(s for s in found if not any(t < s for t in found)))


ALWAYS, NEVER = Presence(frozenset({frozenset()})), Presence(frozenset())
Runs = tuple[tuple[int, Presence], ...]  # along the first axis: extents, and when they are there


def _any(found: Sequence[Presence]) -> Presence:
    out = NEVER
    for p in found:
        out = out | p
    return out


def _all(found: Sequence[Presence]) -> Presence:
    out = ALWAYS
    for p in found:
        out = out & p
    return out


def _first(found: Sequence[Presence]) -> Presence:
    return found[0]


# op -> when its result is there, given when its operands are; others always are: they read zeros
_REACH: dict[str, Callable[[Sequence[Presence]], Presence]] = {
    **dict.fromkeys("add sub maximum minimum concat".split(), _any),
    "where": lambda found: _any(found[1:]),
    **dict.fromkeys("mul matmul outer pick one_hot embedding total_rows".split(), _all),
    **dict.fromkeys("over neg tanh relu abs sqrt sum max total dropout".split(), _first),
    **dict.fromkeys("slice reshape transpose".split(), _first),
}


def reach(op: str, operands: Sequence[Presence]) -> Presence:
    """When the result of an op is there."""
    return _REACH[op](operands) if op in _REACH else ALWAYS


def presences(program: Program, saved: Mapping[str, Runs] | None = None) -> list[Runs]:
    """For every call, when its result is there; `saved`: the same of an adjoint's saved values."""
    found: list[Runs] = []
    for c in program.calls:
        found.append(_found(program, c, [found[a] for a in c.args], saved or {}))
    return found


def saved_runs(program: Program) -> dict[str, Runs]:
    """When the values are there that an adjoint reads as `saved`."""
    return {str(i): runs for i, runs in enumerate(presences(program))}


def _found(program: Program, c: Call, args: list[Runs], saved: Mapping[str, Runs]) -> Runs:
    shapes = [program.calls[a].type.shape for a in c.args]
    match c.op:
        case "pull" | "present":
            return _whole(c, Presence(frozenset({frozenset({c["name"]})})))
        case "gather" | "child_state":
            return _whole(c, Presence(frozenset({frozenset({c["slot"]})})))
        case "absent":
            return _whole(c, NEVER)
        case "saved":
            return saved.get(c["name"], _whole(c, ALWAYS))
        case "concat" if c["axis"] == 0:
            return _merged(run for runs in args for run in runs)
        case "slice":
            return cut(args[0], c["start"], c["stop"]) if c["axis"] == 0 else args[0]
        case "total":
            return args[0]
        case "sum" | "max" if len(shapes[0]) > 1:
            return args[0]
    if OPS[c.op].elementwise and all(s in ((), c.type.shape) for s in shapes):
        return _elementwise(c, args, shapes)
    return _whole(c, reach(c.op, [overall(runs) for runs in args]))


def overall(runs: Runs) -> Presence:
    """When any of it is there."""
    return _any([p for _, p in runs])


def _whole(c: Call, presence: Presence) -> Runs:
    return ((c.type.shape[0] if c.type.shape else 1, presence),)


def _elementwise(c: Call, args: list[Runs], shapes: list[tuple[int, ...]]) -> Runs:
    long = [runs for runs, s in zip(args, shapes, strict=True) if s]
    out = []
    for start, stop in common(long):
        here = [
            cut(runs, start, stop)[0][1] if s else runs[0][1]
            for runs, s in zip(args, shapes, strict=True)
        ]
        out.append((stop - start, reach(c.op, here)))
    return _merged(out)


def common(several: Sequence[Runs]) -> list[tuple[int, int]]:
    """The ranges of the first axis in which all of these are of one presence; one of scalars."""
    edges = sorted({0, *(e for runs in several for e in accumulate(n for n, _ in runs))})
    return list(zip(edges, edges[1:], strict=False)) or [(0, 1)]


def cut(runs: Runs, start: int, stop: int) -> Runs:
    out, at = [], 0
    for n, p in runs:
        first, last = max(start, at), min(stop, at + n)
        if first < last:
            out.append((last - first, p))
        at += n
    return _merged(out)


def _merged(runs: Iterable[tuple[int, Presence]]) -> Runs:
    out: list[tuple[int, Presence]] = []
    for n, p in runs:
        if out and out[-1][1] == p:
            out[-1] = (out[-1][0] + n, p)
        else:
            out.append((n, p))
    return tuple(out)


def absent_ranges(runs: Runs, has: Collection[Need]) -> list[tuple[int, int]]:
    """The ranges along the first axis that are nothing at a vertex that has these."""
    out: list[tuple[int, int]] = []
    at = 0
    for n, p in runs:
        if not p.holds(has):
            start = out.pop()[0] if out and out[-1][1] == at else at
            out.append((start, at + n))
        at += n
    return out
