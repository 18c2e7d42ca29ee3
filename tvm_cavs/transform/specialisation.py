"""F and its adjoint for one kind of vertex, in which absent inputs are zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..graph import Kind
from ..language import EFFECTS, Builder, Call, Program, Value, full, keep, without_dead
from ..language import nothing as absent
from . import blocks
from .absence import Need, Runs, absent_ranges, presences, saved_runs
from .join_products import join_products
from .masks import guarded
from .simplify import _pass, simplify


def canonical(program: Program, joined: bool = True) -> Program:
    """All rewrites in order: what is handed to `stages`; `joined` False leaves out the last."""
    program = simplify(program)
    return _numbers(join_products(program) if joined else program)


def _numbers(program: Program) -> Program:
    """With constants for what is nothing: 0.0, or in a sum -0.0, which changes no summand."""
    b = Builder(program.name, shared=True)
    new: list[Value | None] = []
    for c in program.calls:
        if c.op == "absent" and c.type.dtype == "float32":
            new.append(None)
            continue
        args = [
            full(b, -0.0 if c.op == "add" else 0.0, program.calls[a].type.shape)
            if (value := new[a]) is None
            else value
            for a in c.args
        ]
        new.append(b.call(c.op, *args, where=c.where, **dict(c.attrs)))
    return b.finish()


def specialise(
    forward: Program, adjoint: Program | None, kind: Kind, joined: bool = True
) -> tuple[Program, Program | None]:
    """F and its adjoint for one kind of vertex, rewritten; F saves exactly what the adjoint reads.

    What absent children and inputs give is nothing (an absent integer chooses nothing), so their
    products vanish: see `absence`. `joined`: whether products are joined.
    """
    name = f"{forward.name} [{kind}]"
    if adjoint is None:
        return replace(canonical(_specialised(forward, kind, {}), joined), name=name), None
    wanted, runs = [c["name"] for _, c in adjoint.select("saved")], saved_runs(forward)
    probe = simplify(_specialised(_saving(forward, wanted), kind, {}))
    known = {
        c["name"]: probe.calls[c.args[0]]["value"]
        for _, c in probe.select("save")
        if probe.calls[c.args[0]].op == "full"
    }
    backward = canonical(_specialised(adjoint, kind, known, runs), joined)
    needed = [c["name"] for _, c in backward.select("saved")]
    first = canonical(_specialised(_saving(forward, needed), kind, {}), joined)
    return replace(first, name=name), replace(backward, name=f"{adjoint.name} [{kind}]")


def _saving(forward: Program, names: list[str]) -> Program:
    """`forward` that also saves the values with the given numbers."""
    saves = [Call("save", (int(n),), (("name", n),), forward.calls[int(n)].type) for n in names]
    return Program(forward.name, (*forward.calls, *saves))


def _specialised(
    program: Program,
    kind: Kind,
    known: Mapping[str, float],
    saved: Mapping[str, Runs] | None = None,
) -> Program:
    """The program with what this kind lacks as `absent`, and masked where it may lack something.

    known: saved values that are constants. saved: when saved values are there.
    """
    has: frozenset[Need] = frozenset((*kind.slots, *kind.pulls))
    dead = {
        i for i, c in program.select("scatter") if c.get("slot", None) not in (None, *kind.slots)
    }
    program = keep(program, set(range(len(program.calls))) - dead)
    if kind.maybe:
        program = guarded(program, saved or {}, has - set(kind.maybe), kind.maybe)
    runs = presences(program, saved)

    def substitute(b: Builder, c: Call) -> Value | None:
        if c.op == "pull" and c["name"] not in kind.pulls and c.type.dtype == "int32":
            return b.call("absent", type=c.type)
        if c.op == "present" and c["name"] in has.difference(kind.maybe):
            return full(b, 1.0)
        if c.op == "saved" and c["name"] in known:
            return full(b, known[c["name"]], c.type.shape)
        return None

    def agree(i: int, value: Value) -> Value:
        """The value with nothing exactly where `absence` says so."""
        if program.calls[i].op in EFFECTS or value.type.dtype != "float32":
            return value
        gone = absent_ranges(runs[i], has)
        return _without(value, gone) if gone else value

    return without_dead(_pass(program, push_slices=True, substitute=substitute, agree=agree))


def _without(x: Value, gone: list[tuple[int, int]]) -> Value:
    """`x` with nothing in these ranges of its first axis."""
    b, out, at = x.builder, [], 0
    n = x.shape[0] if x.shape else 1
    if gone == [(0, n)]:
        return absent(b, x.shape)
    for start, stop in gone:
        if start > at:
            out.append(blocks.part(b, x, at, start))
        out.append(absent(b, (stop - start, *x.shape[1:])))
        at = stop
    if at < n:
        out.append(blocks.part(b, x, at, n))
    return blocks.join(b, out, 0)
