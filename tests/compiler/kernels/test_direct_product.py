"""Products with weights read row-major, against NumPy: both orientations, awkward sizes, NaNs."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import schedules
from helpers.products import GUARD, call, inputs, one_source, result, two_pieces
from schedules import layout
from tvm_cavs.compiler.kernels.cpu.direct_product import direct_product
from tvm_cavs.compiler.lowering.specs import DirectWeights, Product
from tvm_cavs.errors import ShapeError

COUNTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 29)
TARGET = schedules.host_target(2)
SIZES = ((1, 1), (5, 7), (16, 150), (75, 300))  # K, N


@dataclass(frozen=True)
class Case:
    """A kernel to compile."""

    spec: Product
    weights: DirectWeights
    variant: layout.Variant


def rectangle(k: int, n_columns: int, transposed: bool, row: int, column: int) -> DirectWeights:
    """Weights inside of a wider parameter."""
    return DirectWeights((k if transposed else n_columns) + column + 2, row, column, transposed)


CASES = {}
for k, n_columns in SIZES:
    for transposed in (False, True):
        for variant in layout.direct_variants(TARGET, k, n_columns, transposed):
            tag = f"{'transposed' if transposed else 'plain'}_{k}_{n_columns}{variant.suffix}"
            CASES[tag] = Case(
                Product(two_pieces(k), n_columns, n_columns + 2, 1),
                rectangle(k, n_columns, transposed, 2, 3),
                variant,
            )
            if k == 75:
                CASES[f"adding_{tag}"] = Case(
                    Product(one_source(k), n_columns, n_columns, accumulate=True),
                    rectangle(k, n_columns, transposed, 0, 0),
                    variant,
                )
(BLOCKS,) = layout.direct_variants(schedules.host_target(1), 2100, 9, True)
CASES["transposed_blocks"] = Case(  # more rows than are packed at once
    Product(one_source(2100), 9, 9), DirectWeights(2100, transposed=True), BLOCKS
)
for transposed in (False, True):  # tiles of which some rows are nobody's, on any CPU
    (usual, *_) = layout.direct_variants(TARGET, 16, 9, transposed)
    CASES[f"tall_{transposed}"] = Case(
        Product(two_pieces(16), 9, 11, 1),
        rectangle(16, 9, transposed, 2, 3),
        layout.Variant("", replace(usual.tile, heights=(7, 3, 1), block=14), 1),
    )


@pytest.fixture(scope="module")
def kernels():
    """Every kernel of this file, compiled together once."""
    functions = {
        name: direct_product(case.spec, case.weights, case.variant.tile, name)
        for name, case in CASES.items()
    }
    mod, unclaimed = schedules.schedule(tvm.IRModule(functions), TARGET)
    assert unclaimed == ()
    return tvm.compile(mod, target=TARGET, tir_pipeline=schedules.pipeline())


def placed(weights: np.ndarray, where: DirectWeights) -> np.ndarray:
    """The smallest parameter that has the weights there; NaN around them."""
    block = weights.T if where.transposed else weights
    parameter = np.full((where.row + block.shape[0], where.ld), np.nan, "float32")
    parameter[where.row :, where.column : where.column + block.shape[1]] = block
    return parameter


@pytest.mark.parametrize("name", CASES)
def test_direct_product(kernels, name):
    """Exactly n rows and n_columns columns are written, whatever is around the weights."""
    spec, where = CASES[name].spec, CASES[name].weights
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    for n in (*COUNTS, 70) if name == "transposed_blocks" else COUNTS:
        offsets, arrays, left = inputs(rng, spec.pieces, n)
        out, place = result(rng, spec, n)
        want = out.copy()
        want[place] = left @ weights + (out[place] if spec.accumulate else 0)
        *_, got = call(kernels[name], n, n, GUARD, *offsets, *arrays, placed(weights, where), out)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4, err_msg=f"{n} rows")


@pytest.mark.parametrize("name", ["plain_75_300", "transposed_75_300", "adding_plain_75_300"])
def test_same_rows_same_bits_whatever_shares_the_call(kernels, name):
    """Nor does a row's product depend on the number of threads."""
    spec, where = CASES[name].spec, CASES[name].weights
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    offsets, arrays, _ = inputs(rng, spec.pieces, 29)
    results = []
    for kernel in (kernels[name], kernels[f"{name}_parallel"]):
        for n in (29, 8, 6, 4, 3, 2, 1):
            out = np.zeros((29, spec.ldc), "float32")
            arguments = (*offsets, *arrays, placed(weights, where), out)
            results.append(call(kernel, n, n, 0, *arguments)[-1][:1])
    assert all(np.array_equal(results[0], r) for r in results)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (DirectWeights(8, 0, 1), "columns 1:9, do not lie in a parameter of 8 columns"),
        (DirectWeights(3, transposed=True), "columns 0:4, do not lie in a parameter of 3 columns"),
        (DirectWeights(9, -1), "from row -1 on, columns 0:8, .* of 9 columns"),
        (DirectWeights(9, 0, -1), "from row 0 on, columns -1:7, do not lie"),
    ],
)
def test_weights_outside_of_their_parameter_are_refused(weights, message):
    (variant, *_) = layout.direct_variants(TARGET, 4, 8, weights.transposed)
    with pytest.raises(ShapeError, match=message):
        direct_product(Product(one_source(4), 8, 8), weights, variant.tile, "f")


@pytest.mark.parametrize(("column", "place"), [(1, "columns 1:9"), (-1, "columns -1:7")])
def test_results_that_do_not_fit_are_refused(column, place):
    (variant, *_) = layout.direct_variants(TARGET, 4, 8, False)
    with pytest.raises(ShapeError, match=f"{place} do not lie in a result of 8 columns"):
        direct_product(Product(one_source(4), 8, 8, column), DirectWeights(8), variant.tile, "f")


def test_rounded_operands_are_refused():
    (variant, *_) = layout.direct_variants(TARGET, 4, 8, False)
    spec = Product(one_source(4), 8, 8, precision="bf16")
    with pytest.raises(ShapeError, match="bf16 operands need packed weights"):
        direct_product(spec, DirectWeights(8), variant.tile, "f")
