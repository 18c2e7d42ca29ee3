"""Split a Program into its stages: what can run for all vertices before, level by level, and after.

* eager: depends on no gather; * recurrent: depends on a gather and feeds a scatter; * lazy: the
  rest. The same split serves F and its adjoint (weight gradients feed no scatter, so they are lazy:
  one large product over all vertices instead of one per level). A value that crosses from one stage
  to a later one is saved under a name made from how it is computed, so kinds of vertices that
  compute it alike share its buffer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..language import EFFECTS, READS, Builder, Program, Value, without_dead


def depends_on_gather(program: Program) -> list[bool]:
    """For every call, whether it needs another vertex to have run."""
    depends: list[bool] = []
    for c in program.calls:
        depends.append(c.op in ("gather", "gather_sum") or any(depends[a] for a in c.args))
    return depends


def feeds_scatter(program: Program) -> list[bool]:
    """For every call, whether another vertex needs it."""
    feeds = [c.op == "scatter" for c in program.calls]
    for i in reversed(range(len(program.calls))):
        for a in program.calls[i].args:
            feeds[a] = feeds[a] or feeds[i]
    return feeds


STAGES = ("eager", "recurrent", "lazy")
_READ_AGAIN = READS - {"gather", "gather_sum"} | {"full", "embedding"}
# Cheaper to compute twice than to store and load.
_CHEAP = frozenset("add sub mul neg relu greater equal where maximum minimum one_hot".split())
_VIEWS = frozenset({"slice", "concat", "reshape", "transpose"})


@dataclass(frozen=True)
class Stages:
    """The three parts of one program. Each is a Program; an empty one has no calls."""

    eager: Program
    recurrent: Program
    lazy: Program

    def __str__(self) -> str:
        return "\n".join(f"-- {name}\n{getattr(self, name)}" for name in STAGES)

    def __iter__(self) -> Iterator[Program]:
        return iter((self.eager, self.recurrent, self.lazy))


def classify(program: Program) -> list[str]:
    """The stage of every call."""
    depends, feeds = depends_on_gather(program), feeds_scatter(program)
    pairs = zip(depends, feeds, strict=True)
    return ["eager" if not d else "recurrent" if f else "lazy" for d, f in pairs]


def split(program: Program, lazy: bool = True) -> Stages:
    """Cut `program` into eager, recurrent and lazy; with `lazy` False, what is lazy is recurrent.

    Values are read again in a later stage where that is a read, a view of one, or the scattered
    state; otherwise the earlier stage saves them.
    """
    stage = [s if lazy or s == "eager" else "recurrent" for s in classify(program)]
    for i, c in enumerate(program.calls):
        if c.op in EFFECTS:
            stage[i] = (
                "recurrent" if c.op == "scatter" and stage[i] != "eager" else stage[c.args[0]]
            )
    _delay_totals(program, stage)
    names = _names(program)
    again = _read_again(program)
    parts: dict[str, Program] = {}
    crossing: frozenset[int] = frozenset()
    for s in reversed(STAGES):
        kept = sorted(i for i in crossing if stage[i] == s)
        parts[s], read = _part(program, stage, s, names, again, kept)
        crossing |= read
    return Stages(**parts)


def _delay_totals(program: Program, stage: list[str]) -> None:
    """A sum over vertices is taken in the stage that completes the gradient it belongs to.

    So is an outer product that is summed: it is never stored.
    """
    uses = program.uses()
    summed: list[bool] = []
    for c in program.calls:
        inherited = c.type.per == "net" and any(summed[a] for a in c.args)
        summed.append(c.op in ("total", "total_rows") or inherited)
    for i in reversed(range(len(summed))):
        if summed[i] or program.calls[i].op == "outer":
            stage[i] = max((stage[i], *(stage[u] for u in uses[i])), key=STAGES.index)


def _names(program: Program) -> list[str]:
    """A name for every value: the one it is saved under, or a hash of how it is computed."""
    names: list[str] = []
    for c in program.calls:
        text = repr((c.op, c.attrs, [names[a] for a in c.args]))
        names.append("v" + hashlib.sha256(text.encode()).hexdigest()[:8])
    for _, c in program.select("save"):
        names[c.args[0]] = c["name"]
    return names


def _read_again(program: Program) -> list[bool]:
    """Values that a later stage can have without saving them."""
    again: list[bool] = []
    for c in program.calls:
        view = c.op in _VIEWS | _CHEAP and all(again[a] for a in c.args)
        net = (
            c.type.per == "net"
            and c.op not in ("total", "total_rows")
            and all(again[a] for a in c.args)
        )
        again.append(c.op in _READ_AGAIN or view or net)
    return again


def _part(
    program: Program,
    stage: list[str],
    mine: str,
    names: list[str],
    again: list[bool],
    kept: list[int],
) -> tuple[Program, frozenset[int]]:
    """The calls of one stage, which saves `kept`, and the values that cross to it."""
    b = Builder(f"{program.name}, {mine}", shared=True)
    states = {c.args[0]: c["field"] for _, c in program.select("scatter") if c.get("slot") is None}
    new: dict[int, int] = {}
    crossing: set[int] = set()

    def get(i: int) -> Value:
        c = program.calls[i]
        if i in new:
            return b.value(new[i])
        if stage[i] == mine or again[i]:
            value = b.call(c.op, *(get(a) for a in c.args), where=c.where, **dict(c.attrs))
        elif c.op == "gather":
            value = b.call("child_state", **dict(c.attrs))
        elif i in states:
            value = b.call("own_state", field=states[i], type=c.type)
        else:
            crossing.add(i)
            value = b.call("saved", name=names[i], type=c.type)
        new[i] = value.index
        return value

    saved = {c["name"] for _, c in program.select("save")}
    for i, c in enumerate(program.calls):
        if c.op in EFFECTS and stage[i] == mine:
            b.call(c.op, get(c.args[0]), where=c.where, **dict(c.attrs))
    for i in kept:
        if names[i] not in saved:
            b.call("save", get(i), name=names[i])
    return without_dead(b.finish()), frozenset(crossing)
