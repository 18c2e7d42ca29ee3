"""bfloat16 operands: words of two rounded values, and the instruction that multiplies words.

A word is a uint32: two neighbours of the reduction, the first in its low half. `dot` adds both of
their products to a float32 accumulator, one `vdpbf16ps` for 16 lanes. TVM's LLVM code generator
has no bfloat16 type, so what needs one is written in LLVM's own language, linked into the kernel
and inlined there. The instructions take denormal inputs for zero.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import Piece
from ..loopnest import LINE, Buffer, Expr, int64, loop, scratch, with_llvm
from .operands import Bound, Load, pick_rows, row_length, source_row

LANES = 16  # float32 of an AVX-512 register: words of one instruction
WORD, HALF = "uint32", "uint16"

LLVM = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)

define weak_odr hidden <16 x float> @tvm_cavs_bf16_dot(
    <16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %new = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %new
}

define weak_odr hidden <16 x i16> @tvm_cavs_bf16_round_16(<16 x float> %x) alwaysinline {
  %rounded = fptrunc <16 x float> %x to <16 x bfloat>
  %bits = bitcast <16 x bfloat> %rounded to <16 x i16>
  ret <16 x i16> %bits
}

define weak_odr hidden i16 @tvm_cavs_bf16_round_1(float %x) alwaysinline {
  %rounded = fptrunc float %x to bfloat
  %bits = bitcast bfloat %rounded to i16
  ret i16 %bits
}
"""


def linked(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel with the functions that this module's expressions call."""
    return with_llvm(func, LLVM)


def words(n: Expr) -> Expr:
    """Words that `n` values take; the second half of an odd last one is zero."""
    return (n + 1) // 2


def dot(total: Expr, a: Expr, b: Expr) -> Expr:
    """total + a[0] * b[0] + a[1] * b[1], float32x16, for 16 pairs of words."""
    return tirx.call_pure_extern(f"float32x{LANES}", "tvm_cavs_bf16_dot", total, a, b)


def rounded(x: Expr, lanes: int) -> Expr:
    """1 or 16 float32, rounded to the nearest bfloat16, ties to even: the bits, as uint16."""
    dtype = HALF if lanes == 1 else f"{HALF}x{lanes}"
    return tirx.call_pure_extern(dtype, f"tvm_cavs_bf16_round_{lanes}", x)


def word(low: Expr, high: Expr | None = None, *, lanes: int) -> Expr:
    """1 or 16 words of two float32 each; without `high` the second is zero."""
    lower = widened(low, lanes)
    return lower if high is None else T.bitwise_or(lower, upper(high, lanes))


def upper(high: Expr, lanes: int) -> Expr:
    """1 or 16 words whose first value is zero."""
    return T.shift_left(widened(high, lanes), constant(16, lanes))


def widened(x: Expr, lanes: int) -> Expr:
    return rounded(x, lanes).astype(WORD if lanes == 1 else f"{WORD}x{lanes}")


def constant(value: int, lanes: int) -> Expr:
    """The same word in every lane."""
    scalar = tirx.IntImm(WORD, value)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def strips(width: int, emit: Callable[[Expr, int], None]) -> None:
    """`emit(j, lanes)` over range(width): 16 columns at once, what is left over one by one."""
    full, rest = divmod(width, LANES)
    if full:
        with loop(full) as v:
            emit(v * LANES, LANES)
    if rest:
        with loop(rest) as j:
            emit(int64(full * LANES) + j, 1)


def span(begin: Expr, lanes: int) -> Expr:
    """The index of `lanes` elements from `begin` on."""
    return int64(begin) if lanes == 1 else tirx.Ramp(int64(begin), int64(1), lanes)


HALVES_OF_LINE = 2 * LINE


def column_packer(
    pieces: tuple[Piece, ...], bound: Bound, block: int
) -> Callable[[Expr, Expr], Load]:
    """`operands.packer` in words: `load(i, p)` holds columns 2p and 2p + 1 of row `first + i`."""
    rows, fill = rounded_rows(pieces, bound, block, 2)

    def pack(first: Expr, count: Expr) -> Load:
        fill(first, count)
        return lambda i, p: T.reinterpret(WORD, rows[i, tirx.Ramp(p * 2, 1, 2)])

    return pack


def rounded_rows(
    pieces: tuple[Piece, ...], bound: Bound, block: int, multiple: int
) -> tuple[Buffer, Callable[[Expr, Expr], None]]:
    """Room for a block of rounded rows, and `fill(first, count)`, which packs rows into it.

    Each is followed by zeros up to a `multiple` of columns.
    """
    k = sum(piece.width for piece in pieces)
    lines = -(-k // HALVES_OF_LINE) | 1  # odd, as in row_length
    rows = scratch([block, lines * HALVES_OF_LINE], dtype=HALF)

    def fill(first: Expr, count: Expr) -> None:
        with loop(count) as i:
            picked = pick_rows(pieces, bound, first + i)
            offset = 0
            for piece in pieces:
                round_piece(piece, i, offset, source_row(piece, bound, picked, first + i))
                offset += piece.width
            with loop(-k % multiple) as j:
                T.buffer_store(rows, tirx.IntImm(HALF, 0), [i, k + j])

    def round_piece(piece: Piece, i: Expr, offset: int, row: Expr) -> None:
        source = bound.sources[piece.source]

        def put(j: Expr, lanes: int) -> None:
            value = rounded(source[row, span(j + piece.column, lanes)], lanes)
            T.buffer_store(rows, value, [i, span(j + offset, lanes)])

        strips(piece.width, put)

    return rows, fill


def row_packer(pieces: tuple[Piece, ...], bound: Bound, block: int) -> Callable[[Expr, Expr], Load]:
    """`operands.packer` in words: `load(p, k)` holds rows 2p and 2p + 1 of the block, column k."""
    pairs, fill = paired_rows(pieces, bound, block)

    def pack(first: Expr, count: Expr) -> Load:
        fill(first, count)
        return lambda p, k: pairs[p, k]

    return pack


def paired_rows(
    pieces: tuple[Piece, ...], bound: Bound, block: int
) -> tuple[Buffer, Callable[[Expr, Expr], None]]:
    """Room for a block of rows in pairs, and `fill(first, count)`, which packs rows into it."""
    k = sum(piece.width for piece in pieces)
    pairs = scratch([block // 2, row_length(k)], dtype=WORD)

    def fill(first: Expr, count: Expr) -> None:
        def put_rows(p: Expr, *rows: Expr) -> None:
            picked = [pick_rows(pieces, bound, first + i) for i in rows]
            offset = 0
            for piece in pieces:
                at = [
                    source_row(piece, bound, some, first + i)
                    for some, i in zip(picked, rows, strict=True)
                ]
                join_piece(piece, p, offset, at)
                offset += piece.width

        by_pair(count, put_rows)

    def join_piece(piece: Piece, p: Expr, offset: int, rows: list[Expr]) -> None:
        source = bound.sources[piece.source]

        def put(j: Expr, lanes: int) -> None:
            values = [source[row, span(j + piece.column, lanes)] for row in rows]
            T.buffer_store(pairs, word(*values, lanes=lanes), [p, span(j + offset, lanes)])

        strips(piece.width, put)

    return pairs, fill


def by_pair(count: Expr, emit: Callable[..., None]) -> None:
    """`emit(p, 2p, 2p + 1)` over range(count), at last `emit(p, 2p)` if the count is odd."""
    with loop(count // 2) as p:
        emit(p, p * 2, p * 2 + 1)
    with T.If(count % 2 == 1), T.Then():
        emit(count // 2, count - 1)
