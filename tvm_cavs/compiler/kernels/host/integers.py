"""Pieces of kernels that compute with integers: arguments, counters, elements as int64."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from ..loopnest import Buffer, Expr, int64, scratch

Shapes = list[tuple[str, tuple[int | None, ...], str]]


def ints(*names: str) -> Shapes:
    """Arguments int32[...]."""
    return [(name, (None,), "int32") for name in names]


def longs(*names: str) -> Shapes:
    """Arguments int64[...]."""
    return [(name, (None,), "int64") for name in names]


def flags(*names: str, dtype: str = "uint8") -> Shapes:
    """Arguments uint8[...] or bool[...]."""
    return [(name, (None,), dtype) for name in names]


class Counter:
    """An int64 that a loop counts up."""

    def __init__(self, start: Expr = 0) -> None:
        self._cell = scratch([1], "local", "int64")
        self.set(start)

    def set(self, value: Expr) -> None:
        T.buffer_store(self._cell, int64(value), [int64(0)])

    def add(self, value: Expr = 1) -> None:
        self.set(self.value + value)

    @property
    def value(self) -> Expr:
        return self._cell[int64(0)]


def at(buffer: Buffer, *index: Expr) -> Expr:
    """An element as int64."""
    return buffer[index].astype("int64")


def put(buffer: Buffer, index: Expr, value: Expr) -> None:
    """buffer[index] = value, as the buffer's dtype."""
    value = int64(value)
    dtype = str(buffer.dtype)
    T.buffer_store(buffer, value if dtype == "int64" else value.astype(dtype), [int64(index)])


def when(condition: Expr, then: Callable[[], None]) -> None:
    """`if condition: then()`."""
    with T.If(condition), T.Then():
        then()
