"""What is decided for kernels, over targets and sizes, is what it was: it was measured to be fast.

A decision that changes shows here as a line to read. Nothing of it changes what is computed, so no
other test would notice that a constant is twice as large.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("tvm")

import schedules
from helpers.targets import X86
from schedules import layout
from schedules.domains import adjusted, domains
from schedules.knobs import (
    direct_knobs,
    outer_knobs,
    part_bytes,
    product_knobs,
    region_knobs,
    step_knobs,
)
from schedules.target import simd, threads
from schedules.tiles import Strip, Tile, is_narrow, window

# Every vector unit; caches that are unknown, small, large and far; one thread and several.
TARGETS = {
    "plain": {**X86, "mcpu": "x86-64"},
    "sandybridge": {**X86, "mcpu": "sandybridge", "model": "l1=32K l2=256K"},
    "haswell": {**X86, "mcpu": "haswell", "num-cores": 2, "model": "l1=32K l2=128K"},
    "zen4": {**X86, "mcpu": "znver4", "num-cores": 4, "model": "l1=32K l2=1024K"},
    "skylake": {
        **X86, "mcpu": "skylake-avx512", "num-cores": 3, "model": "l1=32K l2=2048K"
    },
    "amx": {**X86, "mcpu": "sapphirerapids", "num-cores": 2, "model": "l1=48K l2=2048K"},
    "arm": {
        "kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 2,
        "model": "l1=64K l2=8192K",
    },
}  # fmt: skip
SIZES = (
    (1, 1),
    (16, 4),
    (31, 8),
    (32, 9),
    (64, 5),
    (64, 20),
    (200, 33278),
    (300, 450),
    (512, 1280),
    (600, 600),
    (3000, 40),
)


def said(made: Any) -> str:
    """Tiles and knobs by what is not as usual of them."""
    values = {f.name: (getattr(made, f.name), f.default) for f in fields(made)}
    shown = [f"{name}={value}" for name, (value, usual) in values.items() if value != usual]
    return f"{type(made).__name__}({', '.join(shown).replace(' ', '')})"


def variants(found: Iterable[layout.Variant]) -> str:
    return "; ".join(f"{v.suffix or 'serial'} from {v.min_rows}: {said(v.tile)}" for v in found)


def lines(target: Any) -> Iterator[str]:
    yield f"{simd(target)}, {threads(target)} threads, {part_bytes(target)} bytes of a part"
    yield f"step: {step_knobs(target)}"
    for seconds in (1e-9, 5e-8, 1e-5):
        yield f"region of {seconds}: {variants(layout.region_variants(target, seconds))}"
    for width in (1, 100, 5000):
        rows = layout.part_rows(width, threads(target), part_bytes(target))
        yield f"parts of products {width} wide: {rows} rows"
    for k, n in SIZES:
        for precision in ("float32", "bf16") if simd(target).bf16 else ("float32",):
            made = layout.operand_precision(k, precision)
            deep, narrow = window(target, k), is_narrow(target, k, n, made)
            yield f"{k}x{n} {precision}: {made}, window {deep}" + ", narrow" * narrow
            if made != precision:
                continue
            product = layout.product_variants(target, k, n, precision)
            yield f"  product {variants(product)}"
            words = -(-k // 2) if precision == "bf16" else k
            yield f"    weights {layout.weights_shape(words, n, product[0].tile)}"
            yield f"  outer {variants(layout.outer_variants(target, k, n, precision))}"
        for transposed in (False, True):
            found = layout.direct_variants(target, k, n, transposed)
            yield f"  direct{' transposed' * transposed} {variants(found)}"


def choices(target: Any) -> Iterator[str]:
    """What tuning may choose from, and what becomes of a block that fits no tile."""
    defaults = [make(target, 300, 450, "float32") for make in (product_knobs, outer_knobs)]
    defaults += [direct_knobs(target, 450, False), direct_knobs(target, 450, True)]
    if simd(target).amx:
        defaults += [make(target, 300, 450, "bf16") for make in (product_knobs, outer_knobs)]
    for default in (*defaults, region_knobs(target)):
        yield f"{said(default)}: {domains(default, target)}"
        if hasattr(default, "block"):
            for block in (1, default.block + 1, 9999):
                changed = adjusted(type(default)(**{**vars(default), "block": block}))
                yield f"  block {block}: {said(changed)}"


@pytest.mark.parametrize("name", TARGETS)
def test_decisions(name: str, golden: Any) -> None:
    target = schedules.make_target(TARGETS[name])
    text = "\n".join([*lines(target), "-- choices", *choices(target)])
    golden(f"decisions_{name}", text)


def test_tasks_and_columns_of_tiles() -> None:
    """The few numbers that are worked out from a tile."""
    tile = Tile(8, 3, (4, 2, 1), 12, parts=(2, 3))
    assert (tile.columns, tile.tasks, Strip(8, (3, 1)).tasks) == (24, 6, 3)
    assert tile.with_vectors(2) == Tile(8, 2, (4, 2, 1), 12, parts=(2, 3))


@pytest.mark.parametrize(("l1", "rows"), [("l1=32K ", 320), ("l1=48K ", 512), ("", 512)])
def test_a_panel_of_a_weight_gradient_on_amx_stays_in_the_nearest_cache(l1: str, rows: int) -> None:
    """Two thirds of it, in whole steps; but the packed rows of the other operand have a limit."""
    amx = {**X86, "mcpu": "sapphirerapids", "num-cores": 1, "model": f"{l1}l2=2048K"}
    target = schedules.make_target(amx)
    assert outer_knobs(target, 512, 1280, "bf16").block == rows
    assert outer_knobs(target, 4096, 1280, "bf16").block == 128
