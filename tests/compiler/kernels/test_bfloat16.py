"""bfloat16 products: the law with rounded operands, every row count and odd size, and who may.

The oracle rounds by bit arithmetic and multiplies in float64. Kernels are compiled for CPUs that
have the instruction on any machine; where this one lacks it, some run with the instruction
emulated (`helpers/emulated.py`), and what else would run is skipped.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import schedules
import tvm_cavs as cavs
from helpers.emulated import emulating
from helpers.law import dense
from helpers.products import (
    BLOCKS,
    GUARD,
    PACK,
    WHOLE,
    assembled,
    call,
    inputs,
    one_source,
    result,
    sum_counts,
    two_pieces,
)
from helpers.random_graphs import random_graph
from schedules import layout
from schedules.target import simd
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.kernels.cpu import outer, pack, product
from tvm_cavs.compiler.lowering import specs
from tvm_cavs.compiler.lowering.specs import Piece, Placement
from tvm_cavs.errors import TargetError
from tvm_cavs.runs.config import load_config

HOST = schedules.host_target(2)
HAS_BF16 = simd(HOST).bf16
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no AVX512_BF16")
MODELS = ("cooperlake", "sapphirerapids", "znver4", "znver5")


def without_amx(target: tvm.target.Target) -> tvm.target.Target:
    """The same CPU, as if its system allowed no AMX."""
    features = [f for f in schedules.host.instructions(target) if f.startswith("amx")]
    held = [str(f) for f in target.attrs.get("mattr") or () if str(f)[1:] not in features]
    return tvm.target.Target({**target.export(), "mattr": [*held, *(f"-{f}" for f in features)]})


def model(name: str) -> tvm.target.Target:
    return schedules.make_target({"kind": "llvm", "mcpu": name}, 2)


# By instruction: those of this machine if it has them, else of another, which compile only.
TARGETS = {
    "vdpbf16ps": without_amx(HOST) if HAS_BF16 else model("znver4"),
    "amx": HOST if simd(HOST).amx else model("sapphirerapids"),
}
TARGET = HOST if HAS_BF16 else TARGETS["vdpbf16ps"]


def runs(instruction: str) -> bool:
    return simd(HOST).amx if instruction == "amx" else HAS_BF16


KERNEL_TOLERANCE = 1e-4  # of sums of up to 170 products near 1, against exact sums
GRADIENT_TOLERANCE = 2e-2  # against float32, of the largest element
SIZES = ((1, 1), (5, 40), (32, 16), (33, 5), (150, 35), (33, 170))  # K, N
COUNTS = (*range(21), 140, 300 - 16)
ODD = specs.Pack(  # rectangles that begin and end within words; nothing is left over
    ((60, 3), (1, 60), (7, 60)),
    (
        Placement(0, 0, 0, (0, 60), (0, 3), transposed=True),
        Placement(1, 3, 0, (0, 1), (0, 60)),
        Placement(2, 4, 0, (0, 1), (0, 60)),
        Placement(2, 5, 0, (2, 7), (0, 60)),
    ),
    10,
    60,
)
EDGES = ((0, 6), (1, 5), (1, 6), (2, 5), (5, 1))  # first row, rows
TURNED = specs.Pack(  # they begin and end within words in every way
    tuple((20, n) for _, n in EDGES),
    tuple(
        Placement(i, row, 20 * i, (0, 20), (0, n), transposed=True)
        for i, (row, n) in enumerate(EDGES)
    ),
    8,
    20 * len(EDGES),
)
PACKS = {
    "pack_holes": PACK,
    "pack_whole": WHOLE,
    "pack_odd": ODD,
    "pack_turned": TURNED,
    "pack_blocks": BLOCKS,
}


def bits(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even: its upper 16 bits, as uint32."""
    raw = np.ascontiguousarray(values, "float32").view("uint32")
    nearest = (raw + np.uint32(0x7FFF) + (raw >> 16 & 1)) >> 16
    return np.where(np.isnan(values), raw >> 16 | 64, nearest).astype("uint32")


def rounded(values: np.ndarray) -> np.ndarray:
    """What bfloat16 holds of float32 values, as float64."""
    return (bits(values) << 16).view("float32").astype("float64")


def packed(weights: np.ndarray, tile: layout.Tile) -> np.ndarray:
    """[k, n] as words uint32[panels, ceil(k / 2), NR], zeros in the rest."""
    k, n = weights.shape
    depth, columns = layout.weights_shape((k + 1) // 2, n, tile)[1:]
    whole = np.zeros((2 * depth, layout.panels(n, tile) * columns), "uint32")
    whole[:k, :n] = bits(weights)
    words = whole[0::2] | whole[1::2] << 16
    return np.ascontiguousarray(words.reshape(len(words), -1, tile.columns).transpose(1, 0, 2))


def all_specs(target: tvm.target.Target) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Products and weight gradients of all sizes in all forms: (spec, variant) by name."""
    muls, outers = {}, {}
    for k, n in SIZES:
        for v in layout.product_variants(target, k, n, "bf16"):
            tag = f"{k}_{n}{v.suffix}"
            muls[f"product_{tag}"] = specs.Product(two_pieces(k), n, n + 2, 1), v
            muls[f"adding_{tag}"] = specs.Product(one_source(k), n, n, accumulate=True), v
        for v in layout.outer_variants(target, k, n, "bf16"):
            tag = f"{k}_{n}{v.suffix}"
            right = (Piece(n, 2, n + 2, 1),)
            outers[f"outer_{tag}"] = specs.Outer(two_pieces(k), right, n + 1, 1), v
    gathered = (Piece(30, 1, 33, 1, 1), Piece(41, 2, 41))
    (first, *_) = layout.outer_variants(target, 37, 71, "bf16")
    outers["outer_sums"] = specs.Outer(one_source(37), gathered, 71, sums=0), first
    (*_, split) = layout.outer_variants(target, 37, 8, "bf16")
    in_order = specs.Outer((Piece(37, 0, 37),), (Piece(8, 1, 8),), 8, sums=0)
    outers["outer_split_rows"] = in_order, split
    outers["outer_blocks"] = in_order, replace(first, tile=replace(first.tile, block=64))
    tile = layout.product_variants(target, 37, 70, "bf16")[0]
    short = replace(tile.tile, block=2 * tile.tile.heights[0])
    muls["product_blocks"] = specs.Product(two_pieces(37), 70, 70), replace(tile, tile=short)
    wide = layout.panels(70, tile.tile) * tile.tile.columns
    muls["covering"] = specs.Product(one_source(37), 70, wide, cover=True), tile
    found = [
        {x: (replace(s, precision="bf16"), v) for x, (s, v) in d.items()} for d in (muls, outers)
    ]
    return found[0], found[1]


SPECS = {instruction: all_specs(target) for instruction, target in TARGETS.items()}
PRODUCTS = {(x, name): made for x, (muls, _) in SPECS.items() for name, made in muls.items()}
OUTERS = {(x, name): made for x, (_, outers) in SPECS.items() for name, made in outers.items()}


# Of what this machine lacks, these run emulated: what is packed, read and written is the same.
EMULATED = (
    *("product_33_5", "adding_33_5_parallel", "product_33_170_parallel", "adding_33_170"),
    *("covering", "outer_33_170", "outer_33_5_parallel", "outer_sums", "outer_split_rows", *PACKS),
    *("product_blocks", "outer_blocks", "pack_odd_3", "pack_turned_3"),
)


def skipped(instruction: str, name: str):
    absent = not runs(instruction) and name not in EMULATED
    return pytest.mark.skipif(absent, reason=f"no {instruction}")


def each(*given):
    """For every instruction and each of these, skipped where this machine lacks the first and it is
    none that runs emulated.
    """
    found = given or ["product_33_170"]
    pairs = [(x, name) for x in TARGETS for name in found]
    if not isinstance(found[0], str):
        pairs = [*found]
    return pytest.mark.parametrize(
        ("instruction", "name"),
        [pytest.param(*pair, marks=skipped(*pair)) for pair in pairs],
    )


def cut(spec: specs.Pack, instruction: str) -> layout.Tile:
    target = TARGETS[instruction]
    return layout.product_variants(target, spec.k, spec.n_columns, "bf16")[0].tile


def compiled(functions: dict[str, tvm.tirx.PrimFunc], target: tvm.target.Target):
    mod, unclaimed = schedules.schedule(tvm.IRModule(functions), target)
    assert unclaimed == ()
    return tvm.compile(mod, target=target, tir_pipeline=schedules.pipeline())


def functions_of(instruction, names=None):
    """All kernels for an instruction, or those of these names."""
    muls, outers = SPECS[instruction]
    made = {name: partial(product.product, s, v.tile) for name, (s, v) in muls.items()}
    made |= {name: partial(outer.outer, s, v.tile) for name, (s, v) in outers.items()}
    for name, spec in PACKS.items():
        tile = cut(spec, instruction)
        packing = partial(pack.pack, replace(spec, precision="bf16"), tile)
        made |= {symbol: partial(packing, tasks=n) for symbol, n in packings(name).items()}
    return {name: made[name](name) for name in (names or made) if name in made}


def packings(name: str) -> dict[str, int]:
    """Kernels of one packing and the threads of each: three, too, where rectangles share words."""
    return {name: 1} | ({f"{name}_3": 3} if name in ("pack_odd", "pack_turned") else {})


@pytest.fixture(scope="module")
def kernels():
    """Every kernel of this file, compiled together once; by instruction."""
    made = {}
    for x in TARGETS:
        if runs(x):
            made[x] = compiled(functions_of(x), TARGETS[x])
            continue
        with emulating():
            made[x] = compiled(functions_of(x, EMULATED), HOST)
    return made


def near(got: np.ndarray, want: np.ndarray, what: str) -> None:
    np.testing.assert_allclose(got, want, KERNEL_TOLERANCE, KERNEL_TOLERANCE, err_msg=what)


@each(*PRODUCTS)
def test_product(kernels, instruction, name):
    spec, variant = PRODUCTS[instruction, name]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    for n in COUNTS:
        offsets, arrays, left = inputs(rng, spec.pieces, n)
        out, place = result(rng, spec, n)
        want = out.copy()
        added = out[place] if spec.accumulate else 0
        want[place] = rounded(left) @ rounded(weights) + added
        words = packed(weights, variant.tile)
        *_, got = call(kernels[instruction][name], n, n, GUARD, *offsets, *arrays, words, out)
        if spec.cover:
            after = place[0], slice(spec.n_columns, None)
            got[after] = want[after]
        near(got, want, f"{n} rows")


@each(*OUTERS)
def test_outer(kernels, instruction, name):
    spec, variant = OUTERS[instruction, name]
    rng = np.random.default_rng(1)
    for n in sum_counts(variant.tile, COUNTS):
        offsets, arrays, operand = inputs(rng, spec.left + spec.right, n)
        out = rng.standard_normal((spec.k, spec.ldc), dtype="float32")
        want = out.copy()
        left, right = operand[:, : spec.k], operand[:, spec.k :]
        columns = slice(spec.column, spec.column + spec.n_columns)
        adds = n % 2 or not n  # an even number of rows replaces what is there, and reads none of it
        want[:, columns] = rounded(left).T @ rounded(right) + (out[:, columns] if adds else 0)
        if not adds:
            out[:, columns] = np.nan
        sums = (
            [rng.standard_normal(spec.n_columns, dtype="float32")] if spec.sums is not None else []
        )
        results = call(kernels[instruction][name], n, int(adds), *offsets, *arrays, out, *sums)
        near(results[len(arrays)], want, f"{n} rows")
        if sums:  # of what was not rounded
            near(results[-1], sums[0] + right.sum(0), f"sums of {n} rows")


def test_float32_would_not_pass():
    """The tester tells rounded operands from others: float32, and bfloat16 cut off."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal(s, dtype="float32") for s in ((20, 33), (33, 170)))
    want = rounded(left) @ rounded(right)
    short = [(a.view("uint32") & 0xFFFF0000).view("float32") for a in (left, right)]
    for other in (left @ right, short[0] @ short[1]):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            near(other, want, "float32")


@each(*PACKS)
def test_pack_is_exact(kernels, instruction, name):
    spec = PACKS[name]
    rng = np.random.default_rng(2)
    parameters = [rng.standard_normal(shape, dtype="float32") for shape in spec.shapes]
    for p in parameters:  # ties, both ways; the largest numbers; what has no rounded value
        ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x7F7FFFFF, 0x7F7F0000], "uint32")
        p.flat[: len(ties)] = ties.view("float32")
        p.flat[len(ties) : len(ties) + 3] = np.inf, -np.inf, -0.0
    want = packed(assembled(spec, parameters), cut(spec, instruction))
    for symbol in packings(name):
        *_, got = call(kernels[instruction][symbol], *parameters, np.full_like(want, 0x12345678))
        np.testing.assert_array_equal(got, want, err_msg=symbol)


@each()
def test_a_nan_stays_in_its_row(kernels, instruction, name):
    spec, variant = PRODUCTS[instruction, name]
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((33, 170), dtype="float32")
    source, gathered = rng.random((9, 19), "float32"), rng.random((9, 34), "float32")
    source[4, 2] = np.uint32(0x7FFFFFFF).view("float32")  # rounding up would make it -0
    gathered[6, 17] = np.inf  # paired with the zero of an odd K
    index = np.arange(9, dtype="int32")
    out = np.zeros((9, spec.ldc), "float32")
    words = packed(weights, variant.tile)
    *_, got = call(kernels[instruction][name], 9, 0, 0, 0, 0, source, gathered, index, words, out)
    got = got[:, 1:171]
    assert np.isnan(got[4]).all() and np.isinf(got[6]).all()
    assert np.isfinite(np.delete(got, [4, 6], 0)).all()


@each("product_33_170", "adding_33_170")
def test_same_rows_same_bits_whatever_shares_the_call(kernels, instruction, name):
    spec, variant = PRODUCTS[instruction, name]
    rng = np.random.default_rng(6)
    weights = packed(rng.standard_normal((33, 170), dtype="float32"), variant.tile)
    offsets, arrays, _ = inputs(rng, spec.pieces, 70)
    before = rng.standard_normal((70, spec.ldc), dtype="float32")
    results = []
    for n in (70, 33, 32, 29, 17, 16, 13, 5, 1):
        args = (n, n, 0, *offsets, *arrays, weights, before.copy())
        results.append(call(kernels[instruction][name], *args)[-1][:1])
    assert all(np.array_equal(results[0], r) for r in results)


@pytest.mark.parametrize("model", MODELS)
def test_the_instructions_are_used(model):
    """Products and gradients become one instruction a vector; nothing is called in their loops."""
    target = schedules.make_target({"kind": "llvm", "mcpu": model}, 2)
    (variant, *_) = layout.product_variants(target, 37, 70, "bf16")
    spec = specs.Product(two_pieces(37), 70, 70, precision="bf16")
    mul = product.product(spec, variant.tile, "mul")
    (variant, *_) = layout.outer_variants(target, 37, 70, "bf16")
    both = specs.Outer(two_pieces(37), (Piece(70, 2, 70),), 70, precision="bf16")
    grad = outer.outer(both, variant.tile, "grad")
    packed = pack.pack(replace(ODD, precision="bf16"), variant.tile, "pack")
    for func in (mul, grad, packed):
        library = compiled({str(func.attrs["global_symbol"]): func}, target)
        assembly = library.mod.inspect_source("asm")
        assert "vcvtneps2bf16" in assembly
        used = "tdpbf16ps" if simd(target).amx else "vdpbf16ps"
        assert (f"\t{used}\t" in assembly) == (func is not packed)
        assert not re.search(r"\b(call|jmp)q?\s+tvm_cavs_bf16", assembly)  # all are inlined


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("skylake-avx512", "bf16", r"AVX512_BF16.*skylake-avx512 \(AVX-512\).*precision=float32"),
        ("haswell", "bf16", r"AVX512_BF16.*haswell \(AVX2\).*precision=float32"),
        ("znver4", "fp8", "precision is 'fp8'; expected one of float32, bf16"),
    ],
)
def test_who_may_not(target, precision, message):
    net = cavs.Network(cavs.nn.TreeLSTM(7, 40, 36, 3))
    net.initialize(seed=0)
    net.hybridize("tvm", target={"kind": "llvm", "mcpu": target}, precision=precision)
    with pytest.raises(TargetError, match=message):
        net.executor(None)


def test_short_products_stay_float32():
    assert [layout.operand_precision(k, "bf16") for k in (31, 32)] == ["float32", "bf16"]
    compiler = Compiler(TARGET, 2, cache=False, precision="bf16")
    assert compiler.packed(5, 300) == Compiler(TARGET, 2, cache=False).packed(5, 300)
    (n_panels, depth, columns), dtype = compiler.packed(301, 300)
    words = 160 if simd(TARGET).amx else 151  # whole registers
    assert (depth, dtype) == (words, "uint32") and n_panels * columns >= 300


def test_the_config_has_the_key(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("executor: {precision: bf16}\n")
    assert load_config(path).executor.precision == "bf16"
    path.write_text("executor: {precision: half}\n")
    with pytest.raises(cavs.errors.ConfigError, match="executor.precision.*float32.*bf16"):
        load_config(path)


def step(precision: str, threads: int, cache: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses and gradients of random trees under a cell of odd widths."""
    net = cavs.Network(cavs.nn.TreeRNN(7, 41, 35, 3))
    net.initialize(seed=3)
    net.hybridize("tvm", threads=threads, cache=cache, precision=precision)
    rng = np.random.default_rng(11)
    batch = cavs.batch([random_graph(rng, 2, 9) for _ in range(30)])
    loss = cavs.loss.SoftmaxCrossEntropy()
    with cavs.record():
        result = loss(net(batch))
    result.backward()
    gradients = {name: dense(p) for name, p in net.parameters().items()}
    return result.outputs["loss"].copy(), gradients


@needs_bf16
@pytest.mark.compiles
def test_a_step_is_near_float32(cache: Path):
    losses, gradients = step("float32", 1, cache)
    half_losses, half = step("bf16", 1, cache)
    np.testing.assert_allclose(half_losses, losses, atol=GRADIENT_TOLERANCE)
    for name, want in gradients.items():
        error = np.abs(half[name] - want).max() / np.abs(want).max()
        assert error < GRADIENT_TOLERANCE, (name, error)
        assert error > 1e-5, f"{name}: nothing was rounded"


@needs_bf16
@pytest.mark.compiles
def test_threads_change_no_bit(cache: Path):
    one, gradients = step("bf16", 1, cache)  # of the cache, if the test above has run
    two, others = step("bf16", 2, cache)
    np.testing.assert_array_equal(one, two)
    for name, want in gradients.items():
        np.testing.assert_array_equal(others[name], want)
