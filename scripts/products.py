"""Time products against torch's and NumPy's:  python scripts/products.py 512x1280

For each K x N and number of rows m, GFLOP/s of one core: [m, K] x [K, N] in float32 and, where the
CPU can, with operands that are rounded to bfloat16 as they are packed; torch's product of operands
that are bfloat16 already, if it is installed; NumPy's product in float32. All in turn, medians.
With --gradients the weight gradient [m, K]^T x [m, N] instead, ours and NumPy's. With --rows-copied
ours alone, its rows read where they lie and copied first, and the ratio of their times in pairs.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from tvm_cavs.arrays import aligned
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.lowering.specs import Outer, Pack, Piece, Placement, Product
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.errors import TargetError
from tvm_cavs.runtime import tensor_of

ROWS = (1, 4, 16, 32, 64, 256, 1024)
Run = Callable[[int], object]  # of so many rows


def ours(x: np.ndarray, w: np.ndarray, precision: str) -> Run:
    """Our product of the first rows of x with w, packed once.

    Raises:
        TargetError: this CPU has no such precision.
    """
    (k, n_columns), compiler = w.shape, Compiler("host", 1, precision=precision)
    compiler.require_host()
    spec = Product((Piece(k, 0, k),), n_columns, n_columns)
    (form, *_) = compiler.forms(Kernel("product", spec))
    place = Placement(0, 0, 0, (0, k), (0, n_columns))
    packing = compiler.pack_form(Pack((w.shape,), (place,), k, n_columns))
    compiler.compile([form, packing])
    packed, out = (
        tensor_of(aligned(*compiler.packed(k, n_columns))),
        tensor_of(aligned((len(x), n_columns))),
    )
    compiler.function(packing.symbol)(tensor_of(w), packed)
    multiply, source = compiler.function(form.symbol), tensor_of(x)
    return lambda m: multiply(m, 0, 0, 0, source, packed, out)


def our_gradient(x: np.ndarray, y: np.ndarray, precision: str) -> Run:
    """The product of the first rows of x, transposed, with those of y.

    Raises:
        TargetError: this CPU has no such precision.
    """
    (_, k), (_, n_columns) = x.shape, y.shape
    compiler = Compiler("host", 1, precision=precision)
    compiler.require_host()
    spec = Outer((Piece(k, 0, k),), (Piece(n_columns, 1, n_columns),), n_columns)
    (form, *_) = compiler.forms(Kernel("outer", spec))
    compiler.compile([form])
    multiply, out = compiler.function(form.symbol), tensor_of(aligned((k, n_columns)))
    left, right = tensor_of(x), tensor_of(y)
    return lambda m: multiply(m, 0, 0, 0, left, right, out)


def theirs(x: np.ndarray, w: np.ndarray) -> dict[str, Run]:
    """NumPy's, and torch's if it is there."""
    found: dict[str, Run] = {"numpy": lambda m: np.dot(x[:m], w)}
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    a, b = torch.from_numpy(x).bfloat16(), torch.from_numpy(w).bfloat16()
    return found | {"torch bf16": lambda m: torch.mm(a[:m], b)}


def transposed_product(x: np.ndarray, y: np.ndarray, m: int) -> np.ndarray:
    return np.dot(x[:m].T, y[:m])


def seconds(run: Run, m: int, least: float = 0.01) -> float:
    """Of one call, the mean over so many that they take a hundredth of a second."""
    run(m)
    start = time.perf_counter()
    run(m)
    n = max(1, int(least / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(n):
        run(m)
    return (time.perf_counter() - start) / n


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sizes", nargs="+", metavar="KxN", help="of the weights, such as 512x1280")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gradients", action="store_true", help="of weights, not products")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for size in given.sizes:
        k, n_columns = map(int, size.split("x"))
        n_rows = max(ROWS) if given.gradients else k
        x, w = aligned((max(ROWS), k)), aligned((n_rows, n_columns))
        for a in (x, w):
            a[...] = rng.standard_normal(a.shape, dtype="float32")
        make = our_gradient if given.gradients else ours
        runs: dict[str, Run] = {"float32": make(x, w, "float32")}
        try:
            runs["bf16"] = make(x, w, "bf16")
        except TargetError as error:
            print(error)
        if given.gradients:
            runs["numpy"] = partial(transposed_product, x, w)
        else:
            runs |= theirs(x, w)
        what = f"[m, {k}]^T x [m" if given.gradients else f"[m, {k}] x [{k}"
        print(f"{what}, {n_columns}], GFLOP/s of one core")
        print("     m" + "".join(f"{name:>12}" for name in runs))
        for m in ROWS:
            taken: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(given.rounds):
                for name, run in runs.items():
                    taken[name].append(seconds(run, m))
            rates = (2e-9 * m * k * n_columns / statistics.median(t) for t in taken.values())
            print(f"{m:6}" + "".join(f"{rate:12.0f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
