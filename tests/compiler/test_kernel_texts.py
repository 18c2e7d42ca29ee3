"""Kernels of every sort for CPUs that this machine need not be: their text is what it was.

What runs here is compared with NumPy elsewhere. But this machine may have no AMX and no bfloat16,
and a kernel that no longer asks for its weights ahead is right all the same. Nothing is compiled.
A digest that changes is meant, or an error.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("tvm")

import schedules
from helpers.printed import digest, kernel_text
from helpers.products import BLOCKS, PACK, WHOLE, one_source, two_pieces
from helpers.targets import X86
from schedules import layout
from schedules.choice import only
from schedules.knobs import product_knobs
from schedules.target import simd
from tvm_cavs.compiler.host import MAKERS
from tvm_cavs.compiler.kernels.cpu import direct_product, outer, pack, product, sums
from tvm_cavs.compiler.kernels.update import Update, squares, update
from tvm_cavs.compiler.lowering import specs
from tvm_cavs.compiler.lowering.specs import Piece
from tvm_cavs.training.optim import OPTIMIZERS, Hyper

TARGETS = {
    "plain": {**X86, "mcpu": "x86-64"},
    "haswell": {**X86, "mcpu": "haswell", "num-cores": 2, "model": "l1=32K l2=256K"},
    "zen4": {**X86, "mcpu": "znver4", "num-cores": 2, "model": "l1=32K l2=1024K"},
    "amx": {**X86, "mcpu": "sapphirerapids", "num-cores": 3, "model": "l1=48K l2=2048K"},
}
SIZES = ((5, 1), (37, 75), (150, 40), (131, 2))
ODD = specs.Pack(  # rectangles that begin and end within words; nothing is left over
    ((60, 3), (1, 60), (7, 60)),
    (
        specs.Placement(0, 0, 0, (0, 60), (0, 3), transposed=True),
        specs.Placement(1, 3, 0, (0, 1), (0, 60)),
        specs.Placement(2, 4, 0, (0, 1), (0, 60)),
        specs.Placement(2, 5, 0, (2, 7), (0, 60)),
    ),
    10,
    60,
)
Made = Iterator[tuple[str, Any]]  # a sort of kernels, and one of them


def products(target: Any, k: int, n: int, precision: str) -> Made:
    for v in layout.product_variants(target, k, n, precision):
        for adds, pieces in ((False, two_pieces(k)), (True, one_source(k))):
            spec = specs.Product(pieces, n, n + 2 * (not adds), int(not adds), accumulate=adds)
            spec = replace(spec, precision=precision)
            yield f"product {precision}", product.product(spec, v.tile, "kernel")
    (v, *_) = layout.product_variants(target, k, n, precision)
    ld = layout.panels(n, v.tile) * v.tile.columns
    plain = specs.Product((Piece(k, 0, k),), n, ld, cover=True, precision=precision)
    yield f"product {precision}", product.product(plain, v.tile, "kernel")


def outers(target: Any, k: int, n: int, precision: str) -> Made:
    right = (Piece(n, 2, n + 2, 1),)
    for v in layout.outer_variants(target, k, n, precision):
        for left, added in ((two_pieces(k), None), (one_source(k), 3), ((Piece(k, 0, k),), 0)):
            spec = specs.Outer(left, right, n + 1, 1, 2, added, precision)
            yield f"outer {precision}", outer.outer(spec, v.tile, "kernel")


def of_sizes(target: Any) -> Made:
    for k, n in SIZES:
        for precision in ("float32", "bf16"):
            if layout.operand_precision(k, precision) == precision and (
                precision == "float32" or simd(target).bf16
            ):
                yield from products(target, k, n, precision)
                yield from outers(target, k, n, precision)
        for transposed in (False, True):
            for v in layout.direct_variants(target, k, n, transposed):
                spec = specs.Product(two_pieces(k), n, n + 2, 1, accumulate=transposed)
                where = specs.DirectWeights(200, 2, 3, transposed)
                made = direct_product.direct_product(spec, where, v.tile, "kernel")
                yield f"direct{' transposed' * transposed}", made


def of_knobs(target: Any) -> Made:
    """Products as measuring may want them, and one over some rows of the weights at a time."""
    usual = product_knobs(target, 37, 75, "float32")
    spec = specs.Product(two_pieces(37), 75, 75)
    for change in ({"even": True}, {"ahead": 4}, {"next_panel": True}):
        for v in layout.product_variants(target, 37, 75, chosen=only(replace(usual, **change))):
            yield "product with knobs", product.product(spec, v.tile, "kernel")
    (v, *_) = layout.product_variants(target, 37, 75)
    deep = replace(v.tile, depth=16, block=2 * v.tile.heights[0])
    for adds in (False, True):
        spec = specs.Product(one_source(37), 75, 77, 1, accumulate=adds)
        yield "product by windows", product.product(spec, deep, "kernel")


def others(target: Any) -> Made:
    lanes = simd(target).lanes
    for precision in ("float32", "bf16") if simd(target).bf16 else ("float32",):
        for spec in (PACK, WHOLE, ODD, BLOCKS):
            cut = layout.product_variants(target, spec.k, spec.n_columns, precision)[0].tile
            made = pack.pack(replace(spec, precision=precision), cut, "kernel")
            yield f"pack {precision}", made
    narrow = specs.Pack(((131, 2),), (specs.Placement(0, 0, 0, (0, 131), (0, 2)),), 131, 2)
    cut = layout.product_variants(target, 131, 2)[0].tile
    yield "pack narrow", pack.pack(narrow, cut, "kernel")
    for pieces in (two_pieces(37), one_source(37)):
        made = sums.column_sum(specs.ColumnSum(pieces, 3), lanes, "kernel")
        yield "column_sum", made
    for tasks in (1, 3):
        for spec in (specs.SegmentSum(7, 9), specs.SegmentSum(33, 40, 2, 35)):
            yield "segment_sum", sums.segment_sum(spec, lanes, "kernel", tasks)
    yield "squares", squares(lanes, 1, "kernel")
    for name, row in OPTIMIZERS.items():
        numbers = tuple(row.numbers(Hyper(0.1, 0.01, 3, dict(row.extra))))
        for width, tasks in ((None, 1), (None, 2), (21, 2)):
            spec = Update(name, numbers, width)
            yield f"update {name}", update(spec, row.states, row.rule, lanes, tasks, "kernel")


@pytest.mark.parametrize("name", TARGETS)
def test_kernels_of_a_target(name: str, golden: Any) -> None:
    target, texts = schedules.make_target(TARGETS[name]), dict[str, list[str]]()
    for makers in (of_sizes, of_knobs, others):
        for sort, func in makers(target):
            texts.setdefault(sort, []).append(kernel_text(func, target))
    rows = [f"{sort}: {len(each)} kernels, {digest(each)}" for sort, each in texts.items()]
    golden(f"kernels_{name}", "\n".join(rows))


def test_kernels_of_the_host(golden: Any) -> None:
    """They plan and call the others, and are the same for every CPU."""
    target = schedules.make_target(TARGETS["zen4"])
    rows = [f"{name}: {digest(kernel_text(make(name), target))}" for name, make in MAKERS.items()]
    golden("kernels_host", "\n".join(rows))
