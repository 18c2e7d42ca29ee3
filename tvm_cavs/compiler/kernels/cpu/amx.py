"""Blocks of products on AMX: registers of 16 rows x 64 bytes, which the processor calls tiles.

One instruction multiplies 16 rows of 32 bfloat16 with 16 words of 16 columns (see `bfloat16.py`)
and adds to 16 x 16 float32. A block of a result is 16 or 32 rows by 16 or 32 columns, so that what
is loaded is used twice. TVM knows none of this: it is written in LLVM's own language, linked into
the kernel, and called with addresses. Denormal inputs count as zero, and no flag is raised.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..loopnest import Buffer, Expr, int64, with_llvm
from .bfloat16 import LLVM as ROUNDING

SIDE = 16  # rows of a tile register, and columns
STEP = 16  # words of the sum that one instruction takes
SUMS = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}  # registers, by (rows, columns) of the block
LEFT, RIGHT = (4, 5), (6, 7)


def padded(n: int) -> int:
    """A number of rows, columns or words, as whole registers take them."""
    return -(-n // SIDE) * SIDE


def linked(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with the functions that this module's calls name."""
    return with_llvm(func, ROUNDING + _module())


def begin() -> None:
    """Shapes the registers of this thread; before its first block."""
    _call("begin")


def end() -> None:
    """Gives the registers back, which costs other threads less when they are switched to."""
    _call("end")


def block(
    height: int,
    width: int,
    left: tuple[Buffer, list[Expr]],
    right: tuple[Buffer, list[Expr]],
    out: tuple[Buffer, list[Expr]],
    n_words: Expr,
) -> None:
    """out[i, j] = the sum of products over `n_words` words of row i and of column j.

    Each operand is a buffer and where in it the block begins. The words are whole steps of 16: what
    is beyond the sum's end has to be zero in both operands. All of the block is written, and rows
    and columns beyond the result's are made of anything.
    """
    where: list[Expr] = []
    for buffer, at in (left, right, out):
        where += tirx.address_of(buffer[tuple(at)]), int64(_stride(buffer))
    steps = (n_words + STEP - 1) // STEP
    _call(f"block_{height}_{width}", *where, int64(steps))


def _stride(buffer: Buffer) -> int:
    """Bytes from one row of a buffer to the next."""
    return int(buffer.shape[-1]) * np.dtype(str(buffer.dtype)).itemsize


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(tirx.call_extern("void", f"tvm_cavs_amx_{name}", *arguments))


def _module() -> str:
    """All functions in LLVM's language."""
    return "\n".join([_HEAD, *(_block(*counts) for counts in product((1, 2), (1, 2)))])


def _configuration() -> str:
    """64 bytes: palette 1, then for each of eight registers its bytes a row, and its rows."""
    row_bytes = [byte for _ in range(8) for byte in (64).to_bytes(2, "little")]
    values = [1, *[0] * 15, *row_bytes, *[0] * 16, *[SIDE] * 8, *[0] * 8]
    return ", ".join(f"i8 {value}" for value in values)


_HEAD = f"""
@tvm_cavs_amx_shapes = private constant [64 x i8] [{_configuration()}], align 64
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

define weak_odr hidden void @tvm_cavs_amx_begin() {{
  call void @llvm.x86.ldtilecfg(ptr @tvm_cavs_amx_shapes)
  ret void
}}

define weak_odr hidden void @tvm_cavs_amx_end() {{
  call void @llvm.x86.tilerelease()
  ret void
}}
"""


def _block(n_rows: int, n_columns: int) -> str:
    """A block of 16 * n_rows by 16 * n_columns.

    Registers are loaded right before their first use, so that multiplying goes on meanwhile. What
    the next step loads is asked into the nearest cache, some lines after each multiplication:
    measured on Emerald Rapids, that is worth 1.6 where another guest shares the core, and nothing
    where none does.
    """
    rows, columns = range(n_rows), range(n_columns)
    sums = [(SUMS[r, c], LEFT[r], RIGHT[c]) for r in rows for c in columns]
    lines = [
        f"define weak_odr hidden void @tvm_cavs_amx_block_{SIDE * n_rows}_{SIDE * n_columns}(",
        "    ptr %a, i64 %lda, ptr %b, i64 %ldb, ptr %c, i64 %ldc, i64 %steps) {",
        "entry:",
        "  %arows = shl i64 %lda, 4",
        "  %crows = shl i64 %ldc, 4",
        "  %bstep = shl i64 %ldb, 4",
        "  %cfar = getelementptr i8, ptr %c, i64 %crows",
        *[f"  call void @llvm.x86.tilezero(i8 {total})" for total, _, _ in sums],
        "  %some = icmp ugt i64 %steps, 0",
        "  br i1 %some, label %loop, label %done",
        "loop:",
        "  %k = phi i64 [0, %entry], [%next, %loop]",
        "  %ka = shl i64 %k, 6",
        "  %kb = mul i64 %k, %bstep",
        "  %pa0 = getelementptr i8, ptr %a, i64 %ka",
        "  %pa1 = getelementptr i8, ptr %pa0, i64 %arows",
        "  %pb0 = getelementptr i8, ptr %b, i64 %kb",
        "  %pb1 = getelementptr i8, ptr %pb0, i64 64",
    ]
    operands = {LEFT[r]: (f"pa{r}", "lda") for r in rows}
    operands |= {RIGHT[c]: (f"pb{c}", "ldb") for c in columns}
    soon = [_ask(f"pa{r}", "lda", i, 64) for r in rows for i in range(SIDE)]
    soon += [_ask(f"pb{c}", "ldb", SIDE + i, 0) for c in columns for i in range(SIDE)]
    each = -(-len(soon) // len(sums))
    lines += _ask_for_sums(n_rows, n_columns)
    for i, (total, *both) in enumerate(sums):
        for register in both:
            if register in operands:
                base, stride = operands.pop(register)
                load = f"@llvm.x86.tileloadd64(i8 {register}, ptr %{base}, i64 %{stride})"
                lines.append(f"  call void {load}")
        lines.append(f"  call void @llvm.x86.tdpbf16ps(i8 {total}, i8 {both[0]}, i8 {both[1]})")
        lines += [line for one in soon[i * each : (i + 1) * each] for line in one]
    lines += [
        "  %next = add i64 %k, 1",
        "  %more = icmp ult i64 %next, %steps",
        "  br i1 %more, label %loop, label %done",
        "done:",
    ]
    for (r, c), total in SUMS.items():
        if r in rows and c in columns:
            at = f"%at{r}{c}"
            lines.append(f"  {at} = getelementptr i8, ptr %{'cfar' if r else 'c'}, i64 {64 * c}")
            lines.append(f"  call void @llvm.x86.tilestored64(i8 {total}, ptr {at}, i64 %ldc)")
    return "\n".join([*lines, "  ret void", "}", ""])


def _ask_for_sums(n_rows: int, n_columns: int) -> list[str]:
    """Asks for the lines of one row after the other of the result, a few each step."""
    lines = ["  %turn = and i64 %k, 15", "  %place = mul i64 %turn, %ldc"]
    for r in range(n_rows):
        lines.append(f"  %sum{r} = getelementptr i8, ptr %{'c' if not r else 'cfar'}, i64 %place")
        for c in range(n_columns):
            lines.append(f"  %sum{r}{c} = getelementptr i8, ptr %sum{r}, i64 {64 * c}")
            lines.append(f"  call void @llvm.prefetch.p0(ptr %sum{r}{c}, i32 1, i32 3, i32 1)")
    return lines


def _ask(base: str, stride: str, row: int, offset: int) -> list[str]:
    """Asks for the line at `base` + row * stride + offset; beyond the end that does no harm."""
    name = f"{base}_{row}"
    return [
        f"  %skip_{name} = mul i64 %{stride}, {row}",
        f"  %row_{name} = getelementptr i8, ptr %{base}, i64 %skip_{name}",
        f"  %line_{name} = getelementptr i8, ptr %row_{name}, i64 {offset}",
        f"  call void @llvm.prefetch.p0(ptr %line_{name}, i32 0, i32 3, i32 1)",
    ]
