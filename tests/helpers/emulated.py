"""bfloat16 and AMX in plain arithmetic, in LLVM's language, for machines that have neither.

`emulating()` replaces the texts that kernels are linked with: by the same functions, which do with
integers and float32 what the instructions do, and like them raise no flag. So everything else of a
kernel runs anywhere: what is packed, which words, rows and columns are read and written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tvm_cavs.compiler.kernels.cpu import amx, bfloat16

N = 16  # lanes
WORDS = f"<{N} x i32>"
INFINITY = 0x7F800000  # bits of float32


def _same(value: int) -> str:
    return "<" + ", ".join([f"i32 {value}"] * N) + ">"


def _round(lanes: int) -> str:
    """To the nearest, ties to even, by the bits; what is no number stays none."""
    f, i, h = (t if lanes == 1 else f"<{N} x {t}>" for t in ("float", "i32", "i16"))
    b = "i1" if lanes == 1 else f"<{N} x i1>"
    c = str if lanes == 1 else _same
    return f"""
define weak_odr hidden {h} @tvm_cavs_bf16_round_{lanes}({f} %x) alwaysinline {{
  %bits = bitcast {f} %x to {i}
  %upper = lshr {i} %bits, {c(16)}
  %odd = and {i} %upper, {c(1)}
  %half = add {i} %bits, {c(0x7FFF)}
  %more = add {i} %half, %odd
  %near = lshr {i} %more, {c(16)}
  %quiet = or {i} %upper, {c(64)}
  %plain = and {i} %bits, {c(0x7FFFFFFF)}
  %nan = icmp ugt {i} %plain, {c(INFINITY)}
  %picked = select {b} %nan, {i} %quiet, {i} %near
  %short = trunc {i} %picked to {h}
  ret {h} %short
}}
"""


def _half(name: str, source: str, upper: bool) -> str:
    """One of two values of each word; what is no number is quiet, as no flag is to be raised."""
    step = f"and {WORDS} %{source}, {_same(-65536)}" if upper else None
    return f"""
  %{name}i = {step or f"shl {WORDS} %{source}, {_same(16)}"}
  %{name}p = and {WORDS} %{name}i, {_same(0x7FFFFFFF)}
  %{name}n = icmp ugt {WORDS} %{name}p, {_same(INFINITY)}
  %{name}q = or {WORDS} %{name}i, {_same(0x400000)}
  %{name}s = select <{N} x i1> %{name}n, {WORDS} %{name}q, {WORDS} %{name}i
  %{name} = bitcast {WORDS} %{name}s to <{N} x float>"""


DOT = f"""
define weak_odr hidden <{N} x float> @tvm_cavs_bf16_dot(
    <{N} x float> %sum, <{N} x i32> %a, <{N} x i32> %b) alwaysinline {{
{_half("al", "a", False)}{_half("bl", "b", False)}{_half("ah", "a", True)}{_half("bh", "b", True)}
  %l = fmul <{N} x float> %al, %bl
  %h = fmul <{N} x float> %ah, %bh
  %first = fadd <{N} x float> %sum, %l
  %both = fadd <{N} x float> %first, %h
  ret <{N} x float> %both
}}
"""


def _block(rows: int, columns: int) -> str:
    """One element of A's rows after the other, times 16 columns of B."""
    return f"""
define weak_odr hidden void @tvm_cavs_amx_block_{rows}_{columns}(
    ptr %a, i64 %lda, ptr %b, i64 %ldb, ptr %c, i64 %ldc, i64 %steps) {{
entry:
  %n = shl i64 %steps, 4
  br label %start
start:
  %part = phi i64 [0, %entry], [%part1, %store]
  %i = lshr i64 %part, {1 if columns > N else 0}
  %side = and i64 %part, {1 if columns > N else 0}
  %shift = shl i64 %side, 6
  %arow = mul i64 %i, %lda
  %pa = getelementptr i8, ptr %a, i64 %arow
  %pb = getelementptr i8, ptr %b, i64 %shift
  %crow = mul i64 %i, %ldc
  %cat = add i64 %crow, %shift
  %pc = getelementptr i8, ptr %c, i64 %cat
  br label %test
test:
  %k = phi i64 [0, %start], [%k1, %turn]
  %sum = phi <{N} x float> [zeroinitializer, %start], [%new, %turn]
  %more = icmp ult i64 %k, %n
  br i1 %more, label %turn, label %store
turn:
  %ka = shl i64 %k, 2
  %pak = getelementptr i8, ptr %pa, i64 %ka
  %word = load i32, ptr %pak, align 4
  %one = insertelement <{N} x i32> poison, i32 %word, i32 0
  %all = shufflevector <{N} x i32> %one, <{N} x i32> poison, <{N} x i32> zeroinitializer
  %kb = mul i64 %k, %ldb
  %pbk = getelementptr i8, ptr %pb, i64 %kb
  %words = load <{N} x i32>, ptr %pbk, align 4
  %new = call <{N} x float> @tvm_cavs_bf16_dot(
      <{N} x float> %sum, <{N} x i32> %all, <{N} x i32> %words)
  %k1 = add i64 %k, 1
  br label %test
store:
  store <{N} x float> %sum, ptr %pc, align 4
  %part1 = add i64 %part, 1
  %next = icmp ult i64 %part1, {rows * columns // N}
  br i1 %next, label %start, label %done
done:
  ret void
}}
"""


BFLOAT16 = _round(1) + _round(N) + DOT
NOTHING = "".join(
    f"define weak_odr hidden void @tvm_cavs_amx_{name}() {{\n  ret void\n}}\n"
    for name in ("begin", "end")
)


@contextmanager
def emulating() -> Iterator[None]:
    """Kernels that are made inside run on any machine."""
    blocks = "".join(_block(N * r, N * c) for r in (1, 2) for c in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "LLVM", BFLOAT16)
        patch.setattr(amx, "ROUNDING", BFLOAT16)
        patch.setattr(amx, "_module", lambda: NOTHING + blocks)
        yield
