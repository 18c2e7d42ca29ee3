"""Types and values: what a vertex function computes with while it is traced.

A Value stands for one number, vector or array of ONE vertex; every operation on it appends a call
to the program under construction and gives the Value of the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NoReturn, Protocol

import numpy as np

from ..meanings import ABSENT as ABSENT

Attrs = Mapping[str, Any]
PARAMETERS = "arrays are Parameters, made in __init__ as attributes or lists of them"


@dataclass(frozen=True)
class Type:
    """Type of a value: its shape at one vertex, its dtype, and what there is one of it for.

    `per` is "vertex" (one per vertex), "net" (one for the whole network: parameters, constants,
    sums over all vertices) or "edge" (one per child, reserved for variable fan-in).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    per: str = "vertex"

    def __str__(self) -> str:
        shape = f"[{'x'.join(map(str, self.shape))}]" if self.shape else ""
        return f"{self.dtype}{shape}" + ("" if self.per == "vertex" else f" per {self.per}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=int))


class Recorder(Protocol):
    """Whatever can append a call to a program; `program.Builder` does."""

    calls: list[Any]

    def call(self, op: str, *args: Value, **attrs: Any) -> Value: ...
    def value(self, index: int) -> Value: ...
    def define(self, index: int) -> tuple[str, tuple[Value, ...], Attrs]: ...
    def refuse(self, what: str, problem: str) -> NoReturn: ...


@dataclass(frozen=True, eq=False)
class Value:
    """A value while a vertex function is traced. Supports `+ - * / @`, `> < >= <=` and x[10:20]."""

    builder: Recorder
    index: int
    type: Type

    __array_ufunc__ = None  # NumPy arrays and scalars leave operators to this class

    def __repr__(self) -> str:
        return f"Value(%{self.index} = {self.builder.calls[self.index].text()})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def _with(self, op: str, other: Any, swap: bool = False) -> Value:
        b = self.builder
        if isinstance(other, Real):
            number = float(other)
            if number == 0.0 and (op == "add" or op == "sub" and not swap):
                return self
            if op == "div" and not swap and abs(number) > 0.0:  # and not NaN
                op = "over"
            other = full(b, number)
        if not isinstance(other, Value):
            given = type(other).__name__
            b.refuse(op, f"expected a value or a number, given {given}; {PARAMETERS}")
        return b.call(op, other, self) if swap else b.call(op, self, other)

    def __add__(self, other: Any) -> Value:
        return self._with("add", other)

    def __radd__(self, other: Any) -> Value:
        return self._with("add", other, swap=True)

    def __sub__(self, other: Any) -> Value:
        return self._with("sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self._with("sub", other, swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._with("mul", other)

    def __rmul__(self, other: Any) -> Value:
        return self._with("mul", other, swap=True)

    def __truediv__(self, other: Any) -> Value:
        return self._with("div", other)

    def __rtruediv__(self, other: Any) -> Value:
        return self._with("div", other, swap=True)

    def __matmul__(self, other: Any) -> Value:
        return self.builder.call("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Value:
        return self.builder.call("matmul", other, self)

    def __neg__(self) -> Value:
        return self.builder.call("neg", self)

    def __gt__(self, other: Any) -> Value:
        return self._with("greater", other)

    def __lt__(self, other: Any) -> Value:
        return self._with("greater", other, swap=True)

    def __ge__(self, other: Any) -> Value:
        return 1.0 - (self < other)

    def __le__(self, other: Any) -> Value:
        return 1.0 - (self > other)

    def __eq__(self, other: object) -> NoReturn:
        self.builder.refuse("==", "a value is not known while tracing; use equal(a, b)")

    def __ne__(self, other: object) -> NoReturn:
        self.builder.refuse("!=", "a value is not known while tracing; use 1.0 - equal(a, b)")

    __hash__ = object.__hash__

    def __getitem__(self, key: slice) -> Value:
        """Elements from `start` to before `stop` along the first axis, as in NumPy."""
        problem = f"a {self.type} takes slices like x[10:20], given x[{key!r}]"
        if not isinstance(key, slice) or not (key.step is None or isinstance(key.step, Integral)):
            self.builder.refuse("slice", problem)
        if key.step not in (None, 1):
            self.builder.refuse("slice", f"{problem}; equal parts are split(x, n)")
        ends = [end for end in (key.start, key.stop) if end is not None]
        if not all(isinstance(end, Integral) and not isinstance(end, bool) for end in ends):
            self.builder.refuse("slice", f"expected whole numbers, given {key!r}")
        start, stop, _ = key.indices(self.type.shape[0] if self.type.shape else 0)
        return self.builder.call("slice", self, start=start, stop=stop, axis=0)

    def __bool__(self) -> bool:
        self.builder.refuse(
            "branch",
            f"a {self.type} has no truth value: a vertex function is traced once, so it cannot "
            "branch on values; use where(condition, a, b)",
        )


def nothing(builder: Recorder, shape: tuple[int, ...] = ()) -> Value:
    """What an absent child or input gives: see `absence`."""
    return builder.call("absent", type=Type(tuple(shape), "float32", "net"))


def full(builder: Recorder, value: float, shape: tuple[int, ...] = ()) -> Value:
    """A constant, the same for every vertex."""
    return builder.call("full", value=float(value), shape=tuple(shape))
