"""Rewrites Program -> Program that keep the meaning and are done once, before anything is compiled.

* `simplify`: the local rules, common subexpressions and dead code, until nothing changes.
* `join_products`: products that share an operand side by side, sums of products stacked.
* `specialise`: F and its adjoint for one kind of vertex, in which what is absent gives nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import pieces, rules
from .absence import Need, Runs, absent_ranges, presences, saved_runs
from .masks import guarded
from .ops import EFFECTS, OPS, Value, full
from .ops import nothing as absent
from .program import Builder, Call, Program, keep, without_dead

Substitution = Callable[[Builder, Call], "Value | None"]


@dataclass(frozen=True, order=True)
class Kind:
    """Which inputs a vertex has: slots that hold a child, and names it can pull.

    `maybe` are those of `slots` that may be empty: such a kind's programs look and mask.
    """

    slots: tuple[int, ...]
    pulls: tuple[str, ...]
    maybe: tuple[int, ...] = ()

    def __str__(self) -> str:
        named = (f"{k}?" if k in self.maybe else f"{k}" for k in self.slots)
        slots = f"children {','.join(named)}" if self.slots else "no child"
        return f"{slots}; {', '.join(self.pulls) or 'no input'}"


class _Rewriter(Builder):
    """A sharing builder with the local rules; `sliced_only`: values used in slices only."""

    def __init__(self, name: str, sliced_only: bool) -> None:
        super().__init__(name, shared=True, rule=rules.apply)
        self.sliced_only: set[int] = set()
        self.push_slices = sliced_only


def simplify(program: Program, push_slices: bool = True) -> Program:
    """Apply the local rules until nothing changes; `push_slices` cuts sliced products up."""
    for _ in range(20):
        better = without_dead(_pass(program, push_slices))
        if better.calls == program.calls:
            return better
        program = better
    raise AssertionError(f"the rules of {program.name} do not settle")


def _pass(
    program: Program,
    push_slices: bool,
    substitute: Substitution | None = None,
    agree: Callable[[int, Value], Value] | None = None,
) -> Program:
    b = _Rewriter(program.name, push_slices)
    only = _sliced_only(program) if push_slices else set()
    new: list[Value | None] = []
    for i, c in enumerate(program.calls):
        value = substitute(b, c) if substitute else None
        if value is None and not (c.op == "gradient" and _is_zero(_at(new, c.args[0]))):
            value = b.call(c.op, *(_at(new, a) for a in c.args), where=c.where, **dict(c.attrs))
            value = agree(i, value) if agree else value
        new.append(value)
        if value is not None and i in only:
            b.sliced_only.add(value.index)
    return b.finish()


def _is_zero(x: Value) -> bool:
    return pieces.is_absent(x) or pieces.constant(x) == 0.0


def _at(values: list[Value | None], i: int) -> Value:
    value = values[i]
    assert value is not None
    return value


def _sliced_only(program: Program) -> set[int]:
    """Values of which only slices are used, directly or after elementwise ops."""
    uses, found = program.uses(), set()
    for i in reversed(range(len(program.calls))):
        c = program.calls[i]
        if c.op not in EFFECTS and len(c.type.shape) == 1 and uses[i]:
            if all(_slices(program.calls[u], c, u in found) for u in uses[i]):
                found.add(i)
    return found


def _slices(user: Call, value: Call, user_is_sliced: bool) -> bool:
    same = user.type.shape == value.type.shape
    return user.op == "slice" or (user_is_sliced and OPS[user.op].elementwise and same)


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
                left, right = (pieces.join(r.b, side, 0) for side in sides)
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
            lambda m: pieces.join(r.b, [r.get(program.calls[i].args[1]) for i in m], 1),
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
        r.made[i] = lambda s=start, w=width: pieces.part(r.b, joint(), s, s + w, axis)  # type: ignore[misc]
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
        return pieces.join(r.b, [r.get(o.args[side]) for o in outers], 0)

    return operand


def _total_outer(r: _Rebuild, program: Program, side: int) -> Callable[[int, Value], Value]:
    def compute(first: int, joined: Value) -> Value:
        shared = r.get(program.calls[program.calls[first].args[0]].args[side])
        pair = (shared, joined) if side == 0 else (joined, shared)
        return r.b.call("total", r.b.call("outer", *pair))

    return compute


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
        if c.op == "present" and c["name"] in kind.pulls:
            return full(b, 1.0)
        if c.op == "saved" and c["name"] in known:
            return full(b, known[c["name"]], c.type.shape)
        lacks = c.op in ("pull", "present") and c["name"] not in kind.pulls
        if lacks or c.op in ("gather", "child_state") and c["slot"] not in kind.slots:
            return absent(b, c.type.shape)
        return None

    def agree(i: int, value: Value) -> Value:
        """The value with nothing exactly where `absence` says so."""
        if program.calls[i].op in EFFECTS or value.type.dtype != "float32":
            return value
        gone = absent_ranges(runs[i], has)
        if not gone:
            return pieces.read(value.builder, value) if pieces.is_absent(value) else value
        return _without(value, gone)

    return without_dead(_pass(program, push_slices=True, substitute=substitute, agree=agree))


def _without(x: Value, gone: list[tuple[int, int]]) -> Value:
    """`x` with nothing in these ranges of its first axis."""
    b, out, at = x.builder, [], 0
    n = x.shape[0] if x.shape else 1
    if pieces.is_absent(x) or gone == [(0, n)]:
        return absent(b, x.shape)
    for start, stop in gone:
        if start > at:
            out.append(pieces.part(b, x, at, start))
        out.append(absent(b, (stop - start, *x.shape[1:])))
        at = stop
    if at < n:
        out.append(pieces.part(b, x, at, n))
    return pieces.join(b, out, 0)
