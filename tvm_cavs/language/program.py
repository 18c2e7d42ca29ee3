"""A Program: a flat, typed, printable list of calls, the form in which a vertex function is
analysed.

Value number i is the result of call number i. Reads (pull, gather, param ...) and writes (scatter,
push, gradient ...) are calls too, so a Program is complete: it says everything one vertex does.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ShapeError, TraceError
from .ops import EFFECTS, OPS, READS
from .value import PARAMETERS, Attrs, Type, Value

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# cells and losses count as the user's
_USER_FILES = tuple(f"{_PACKAGE}nn{os.sep}{name}.py" for name in ("cells", "loss"))


@dataclass(frozen=True)
class Call:
    """One line of a Program: `%i = op(%args..., attrs) : type`."""

    op: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...]
    type: Type
    where: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Any:
        return dict(self.attrs)[name]

    def get(self, name: str, default: Any = None) -> Any:
        return dict(self.attrs).get(name, default)

    def text(self) -> str:
        """The call without its number."""
        attrs = [f"{k}={_short(v)}" for k, v in self.attrs if k != "type"]
        return f"{self.op}({', '.join([f'%{a}' for a in self.args] + attrs)}) : {self.type}"


@dataclass(frozen=True)
class Program:
    """What one vertex does: a list of calls in which arguments come before their uses."""

    name: str
    calls: tuple[Call, ...]

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        lines = [
            f"  {c.text()}" if c.op in EFFECTS else f"  %{i} = {c.text()}"
            for i, c in enumerate(self.calls)
        ]
        return "\n".join([f"program {self.name}", *lines])

    def select(self, *ops: str) -> Iterator[tuple[int, Call]]:
        """All calls of the given ops, with their numbers."""
        return ((i, c) for i, c in enumerate(self.calls) if c.op in ops)

    def uses(self) -> list[list[int]]:
        """For every call, the numbers of the calls that use its result."""
        users: list[list[int]] = [[] for _ in self.calls]
        for i, c in enumerate(self.calls):
            for a in dict.fromkeys(c.args):
                users[a].append(i)
        return users

    @property
    def key(self) -> str:
        """Hash of the meaning: two programs with equal keys do the same."""
        text = repr([(c.op, c.args, c.attrs, c.type) for c in self.calls])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def check(program: Program) -> None:
    """Arguments come first, types follow from the ops' rules, no field is written twice.

    Raises:
        TraceError: the program is not well formed.
    """
    written: set[tuple[Any, ...]] = set()
    for i, c in enumerate(program.calls):
        if c.op not in OPS:
            raise TraceError(f"{program.name}: call %{i} has the unknown op {c.op!r}")
        if any(not 0 <= a < i or program.calls[a].op in EFFECTS for a in c.args):
            raise TraceError(
                f"{program.name}: %{i} = {c.text()} uses a value that is not computed before it"
            )
        want = OPS[c.op].infer([program.calls[a].type for a in c.args], dict(c.attrs))
        if want != c.type:
            raise TraceError(f"{program.name}: %{i} = {c.text()} should have type {want}")
        if c.op in ("scatter", "push", "save"):
            key = (c.op, *c.attrs)
            if key in written:
                raise TraceError(
                    f"{program.name}: {c.text()} writes a second time ({c.where or f'%{i}'}); "
                    "expected each field, output and saved value once"
                )
            written.add(key)


Rule = Callable[["Builder", str, "tuple[Value, ...]", dict[str, Any]], "Value | None"]


class Builder:
    """Appends calls to a program under construction.

    Equal reads and look-ups are one call: a table has one gradient for each input that chooses its
    rows. With `shared=True` all equal calls are one (common subexpressions).
    `rule`, if given, sees every call before it is appended and may answer with a value to use
    instead.
    """

    def __init__(self, name: str, shared: bool = False, rule: Rule | None = None) -> None:
        self.name = name
        self.calls: list[Call] = []
        self._shared = shared
        self._rule = rule
        self._known: dict[tuple[Call, str], int] = {}

    def call(self, op: str, *args: Value, where: str | None = None, **attrs: Any) -> Value:
        """Append one call.

        Raises:
            ShapeError: naming the program, the op and the user's line, when the operands do not
            fit. TraceError: an operand belongs to another trace.
        """
        for a in args:
            if not isinstance(a, Value) or a.builder is not self:
                given = (
                    "a value of another trace"
                    if isinstance(a, Value)
                    else f"{type(a).__name__} {a!r}"
                )
                self.refuse(
                    op,
                    f"operand {given}; expected a value of this vertex. "
                    f"Use values made inside forward(self, v); {PARAMETERS}",
                )
        if self._rule is not None:
            answer = self._rule(self, op, args, attrs)
            if answer is not None:
                return answer
        if attrs.get("axis", 0) < 0 and args:
            attrs["axis"] += len(args[0].shape)
        where = user_line() if where is None and not self._shared else where or ""
        try:
            result = OPS[op].infer([a.type for a in args], attrs)
        except ShapeError as error:
            told = f"in {self.name}, {op} ({where or user_line()}): {error}"
            types = [str(a.type) for a in args]
            if any(t not in str(error) for t in types):
                told += f" (operands {', '.join(types)})"
            raise ShapeError(told) from None
        return self.append(
            Call(op, tuple(a.index for a in args), tuple(sorted(attrs.items())), result, where)
        )

    def refuse(self, what: str, problem: str) -> NoReturn:
        """Raise a TraceError that names this program and the user's line."""
        raise TraceError(f"in {self.name}, {what} ({user_line()}): {problem}")

    def append(self, call: Call) -> Value:
        """Append a finished call, or find its equal if the builder shares."""
        once = self._shared or call.op in READS or call.op == "embedding"
        key = (call, str(call["value"]) if call.op == "full" else "")  # 0.0 is not -0.0
        if once and call.op not in EFFECTS and key in self._known:
            return self.value(self._known[key])
        self.calls.append(call)
        self._known[key] = len(self.calls) - 1
        return self.value(len(self.calls) - 1)

    def value(self, index: int) -> Value:
        return Value(self, index, self.calls[index].type)

    def define(self, index: int) -> tuple[str, tuple[Value, ...], Attrs]:
        """How value number `index` was made: op, arguments, attributes."""
        c = self.calls[index]
        return c.op, tuple(self.value(a) for a in c.args), dict(c.attrs)

    def finish(self) -> Program:
        return Program(self.name, tuple(self.calls))


def user_line() -> str:
    """`file.py, line 14` and its text: the innermost frame outside this package (built-in cells
    count).
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGE) or name.startswith(_USER_FILES):
            text = linecache.getline(name, frame.f_lineno).strip()
            return f"{os.path.basename(name)}, line {frame.f_lineno}" + (
                f": {text}" if text else ""
            )
        frame = frame.f_back  # type: ignore[assignment]
    return "no user code"


def without_dead(program: Program) -> Program:
    """The program without the calls that no write depends on."""
    live: set[int] = set()
    for i in reversed(range(len(program.calls))):
        if i in live or program.calls[i].op in EFFECTS:
            live.update((i, *program.calls[i].args))
    return keep(program, live)


def keep(program: Program, live: set[int]) -> Program:
    """The program with only the given calls, renumbered."""
    new: dict[int, int] = {}
    calls: list[Call] = []
    for i, c in enumerate(program.calls):
        if i in live:
            new[i] = len(calls)
            calls.append(Call(c.op, tuple(new[a] for a in c.args), c.attrs, c.type, c.where))
    return Program(program.name, tuple(calls))


def bounds(program: Program) -> Mapping[str, int]:
    """For every integer input that chooses, of how many: the fewest of the tables and vectors.

    It chooses as it is or after it was cut, joined or reshaped.
    """
    limit: dict[str, int] = {}
    for _, index, n in _choices(program):
        for source in _integers(program, index):
            if source.op == "pull":
                limit[source["name"]] = min(n, limit.get(source["name"], n))
    return limit


def check_choices(program: Program) -> None:
    """No computed index can leave what it chooses from.

    Raises:
        ShapeError: an argmax has more elements than there are to choose from.
    """
    for c, index, n in _choices(program):
        for source in _integers(program, index):
            m = 0 if source.op != "argmax" else program.calls[source.args[0]].type.size
            if m > n:
                raise ShapeError(
                    f"in {program.name}, {c.op} ({c.where}): the index is an argmax of {m} "
                    f"elements, but there are {n} to choose from; take the argmax of {n} at most"
                )


def _choices(program: Program) -> Iterator[tuple[Call, int, int]]:
    """Every call that chooses, the number of its index, and of how many it chooses."""
    for _, c in program.select("embedding", "pick", "one_hot"):
        if c.op == "one_hot":
            yield c, c.args[0], c["depth"]
        else:
            index, chosen = c.args if c.op == "embedding" else c.args[::-1]
            yield c, index, program.calls[chosen].type.shape[0]


def _integers(program: Program, i: int) -> Iterator[Call]:
    """The reads and computations that integer %i comes from: all else only moves integers."""
    c = program.calls[i]
    if c.op in ("slice", "reshape", "transpose", "concat"):
        for a in c.args:
            yield from _integers(program, a)
    else:
        yield c
