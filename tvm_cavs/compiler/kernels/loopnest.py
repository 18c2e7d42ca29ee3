"""Pieces from which kernels without a schedule are written: arguments, loops with roles, copies.

A kernel is built with TVM's IR builder, a hundred times faster than parsing text. Everything is
int64: TVM refuses index arithmetic of mixed types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from ..target_rules import KERNEL, ROLE

LINE = 16  # float32 of a cache line

Expr = Any  # a TIR expression, or an int that becomes one
Buffer = Any
Emit = Callable[[Expr], None]


def int64(value: Expr) -> Expr:
    """A Python int as an int64 constant; an expression as it is."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def zero() -> Expr:
    """float32 zero."""
    return tirx.FloatImm("float32", 0.0)


def kernel(name: str, kind: str, emit: Callable[[], None]) -> tirx.PrimFunc:
    """The function that `emit` writes: arguments first (`scalars`, `arrays`), then its loops."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, KERNEL: kind})
        emit()
    return builder.get()


def with_llvm(func: tirx.PrimFunc, text: str) -> tirx.PrimFunc:
    """The kernel together with functions in LLVM's language, which it calls by name."""
    body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", text, func.body)
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def scalars(names: Sequence[str]) -> list[Expr]:
    """int64 arguments."""
    return [T.arg(name, T.int64()) for name in names]


def arrays(shapes: Sequence[tuple[str, tuple[int | None, ...], str]]) -> list[Buffer]:
    """Whole-buffer arguments: (name, shape, dtype); None in a shape is any number of rows."""
    handles = [T.arg(f"{name}_handle", T.handle()) for name, _, _ in shapes]
    return [
        T.match_buffer(
            handle, [T.int64() if d is None else int64(d) for d in shape], dtype, align=4
        )
        for handle, (_, shape, dtype) in zip(handles, shapes, strict=True)
    ]


def scratch(shape: Sequence[int], scope: str = "global", dtype: str = "float32") -> Buffer:
    """A buffer of fixed size that lives where it is written.

    In scope "local" it is on the stack, where LLVM turns it into registers; without the annotation
    TVM would fetch it from its pool and give it back at every pass of the loop around it.
    """
    stack = {"disable_lower_builtin": True} if scope == "local" else None
    return T.alloc_buffer([int64(d) for d in shape], dtype, scope=scope, annotations=stack)


def loop(extent: Expr, role: str | None = None) -> Any:
    """`for i in range(extent)`, with a role for the schedule (one turn has none)."""
    plain = role is None or (isinstance(extent, int) and extent == 1)
    return T.serial(int64(0), int64(extent), annotations=None if plain else {ROLE: role})


def vectors(width: int, lanes: int, emit: Emit) -> None:
    """`emit(j)` for j in range(width), in vectors; what is left over is one short vector."""
    full, rest = divmod(width, lanes)
    if full:
        with loop(full) as v, loop(lanes, "lane") as lane:
            emit(v * lanes + lane)
    if rest:
        with loop(rest, "lane") as lane:
            emit(int64(full * lanes) + lane)


def tile(
    rows: int,
    width: int,
    lanes: int,
    emit: Callable[[Expr, Expr], None],
    guard: Callable[[Expr], Expr] | None = None,
) -> None:
    """`emit(r, j)` over a register tile of rows x width, in rows where `guard(r)` holds.

    What is left over of a row is one short vector.
    """
    full, rest = divmod(width, lanes)

    def row(r: Expr) -> None:
        if full:
            with loop(full, "vector") as v, loop(lanes, "lane") as lane:
                emit(r, v * lanes + lane)
        if rest:
            with loop(rest, "lane") as lane:
                emit(r, int64(full * lanes) + lane)

    with loop(rows, "row") as r:
        if guard is None:
            row(r)
        else:
            with T.If(guard(r)), T.Then():
                row(r)


def prefetch(element: Expr) -> None:
    """Asks for the cache line of an element, to be written soon; a wrong address does no harm."""
    ask(element, write=1, keep=3)


def prefetch_read(element: Expr, far: bool = False) -> None:
    """`prefetch` of an element to be read soon or, if that is `far` off, only into the L2 cache."""
    ask(element, write=0, keep=2 if far else 3)


def ask(element: Expr, write: int, keep: int) -> None:
    place = tirx.address_of(element)
    arguments = [place, *(tirx.IntImm("int32", flag) for flag in (write, keep, 1))]  # of data
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", *arguments))


def either(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """`if condition: then() else: otherwise()`."""
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def hold(value: Expr) -> Expr:
    """An int64 in a variable of its own.

    TVM substitutes a let everywhere; a chain of them becomes a tree that takes seconds to simplify.
    """
    cell = scratch([1], "local", "int64")
    T.buffer_store(cell, int64(value), [int64(0)])
    return cell[int64(0)]


def turned(i: Expr, n: Expr, turn: Expr) -> Expr:
    """The i-th of n things: from first to last in even turns, from last to first in odd ones.

    What an even turn read last is still in a cache when the odd one begins with it.
    """
    return i + turn % 2 * (n - 1 - i * 2)


def part(index: Expr, parts: int, total: Expr) -> tuple[Expr, Expr]:
    """(begin, count) of one of `parts` even parts of range(total)."""
    if parts == 1:
        return int64(0), int64(total)
    begin = hold(index * total // parts)
    return begin, hold((index + 1) * total // parts - begin)
