"""Time products against torch's and NumPy's:  python scripts/products.py 512x1280

For each K x N and number of rows m, GFLOP/s of one core: [m, K] x [K, N] in float32 and, where the
CPU can, with operands that are rounded to bfloat16 as they are packed; torch's product of operands
that are bfloat16 already, if it is installed; NumPy's product in float32. All in turn, medians.
With --gradients the weight gradient [m, K]^T x [m, N] instead, ours and NumPy's; with --group P,
too, ours alone: all panels for each block of rows, and P of them for all rows. With --rows-copied
ours alone, float32: its rows copied first and read where they lie. Both of these end with a ratio,
the median of their times in pairs. With --cpu ours alone as for a CPU of that name.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from schedules.choice import only
from schedules.knobs import outer_knobs, product_knobs
from tvm_cavs.arrays import aligned
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.forms import forms
from tvm_cavs.compiler.lowering.specs import Outer, Pack, Piece, Placement, Product
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.errors import TargetError
from tvm_cavs.runtime import tensor_of

ROWS = (1, 4, 16, 32, 64, 256, 1024)
Run = Callable[[int], object]  # of so many rows


def ours(x: np.ndarray, w: np.ndarray, precision: str, target: Any = "host", **changes: Any) -> Run:
    """Our product of the first rows of x with w, packed once; some of its knobs changed.

    Raises:
        TargetError: this CPU has no such precision.
    """
    (k, n_columns), compiler = w.shape, Compiler(target, 1, precision=precision)
    compiler.require_host()
    spec, machine = Product((Piece(k, 0, k),), n_columns, n_columns), compiler.machine
    if changes:
        knobs = replace(product_knobs(compiler.target, k, n_columns, precision), **changes)
        machine = replace(machine, choose=lambda *_: only(knobs))
    (form, *_) = forms(machine, Kernel("product", spec))
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


def our_gradient(
    x: np.ndarray, y: np.ndarray, precision: str, target: Any = "host", **changes: Any
) -> Run:
    """The product of the first rows of x, transposed, with those of y; some of its knobs changed.

    Raises:
        TargetError: this CPU has no such precision.
    """
    (_, k), (_, n_columns) = x.shape, y.shape
    compiler = Compiler(target, 1, precision=precision)
    compiler.require_host()
    spec = Outer((Piece(k, 0, k),), (Piece(n_columns, 1, n_columns),), n_columns)
    machine = compiler.machine
    if changes:
        knobs = replace(outer_knobs(compiler.target, k, n_columns, precision), **changes)
        machine = replace(machine, choose=lambda *_: only(knobs))
    (form, *_) = forms(machine, Kernel("outer", spec))
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


def beside_others(x: np.ndarray, w: np.ndarray, gradients: bool) -> dict[str, Run]:
    """Ours in both precisions, where the CPU can, and those of others."""
    make = our_gradient if gradients else ours
    runs = {"float32": make(x, w, "float32")}
    try:
        runs["bf16"] = make(x, w, "bf16")
    except TargetError as error:
        print(error)
    return runs | ({"numpy": partial(transposed_product, x, w)} if gradients else theirs(x, w))


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


def runs_of(given: argparse.Namespace, x: np.ndarray, w: np.ndarray) -> dict[str, Run]:
    """What is timed, by name: variants of ours, ours as for another CPU, or ours and others'."""
    target = {"kind": "llvm", "mcpu": given.cpu, "num-cores": 1} if given.cpu else "host"
    make = partial(our_gradient if given.gradients else ours, x, w, "float32", target)
    if given.rows_copied:
        return {"copied": make(packs=True), "lying": make(packs=False)}
    if given.group:
        return {"all": make(group=0), "grouped": make(group=given.group)}
    return {"float32": make()} if given.cpu else beside_others(x, w, given.gradients)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sizes", nargs="+", metavar="KxN", help="of the weights, such as 512x1280")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gradients", action="store_true", help="of weights, not products")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="M")
    parser.add_argument("--rows-copied", action="store_true", help="copied and where they lie")
    parser.add_argument("--group", type=int, metavar="P", help="panels, of gradients")
    parser.add_argument("--cpu", metavar="NAME", help="as LLVM names it, such as haswell")
    given = parser.parse_args()
    if given.group and not given.gradients:
        parser.error("--group is about --gradients")
    if given.rows_copied and given.gradients:
        parser.error("--rows-copied is about products, not --gradients")
    rng = np.random.default_rng(0)
    for size in given.sizes:
        k, n_columns = map(int, size.split("x"))
        n_rows = max(given.rows) if given.gradients else k
        x, w = aligned((max(given.rows), k)), aligned((n_rows, n_columns))
        for a in (x, w):
            a[...] = rng.standard_normal(a.shape, dtype="float32")
        runs = runs_of(given, x, w)
        what = f"[m, {k}]^T x [m" if given.gradients else f"[m, {k}] x [{k}"
        print(f"{what}, {n_columns}], GFLOP/s of one core")
        pair = given.rows_copied or bool(given.group)
        ratio = "  " + " / ".join(reversed(runs))
        print("     m" + "".join(f"{name:>12}" for name in runs) + ratio * pair)
        for m in given.rows:
            taken: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(given.rounds):
                for name, run in runs.items():
                    taken[name].append(seconds(run, m))
            rates = (2e-9 * m * k * n_columns / statistics.median(t) for t in taken.values())
            line = f"{m:6}" + "".join(f"{rate:12.0f}" for rate in rates)
            if pair:
                both = zip(*taken.values(), strict=True)
                line += f"{statistics.median(b / a for a, b in both):{len(ratio)}.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
