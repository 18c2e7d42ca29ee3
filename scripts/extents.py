"""Time products whatever their extents:  python scripts/extents.py [--gradients]

One of the extents of [m, K] x [K, N] goes from 1 to 100,000, the other two stay as --others says;
float32, one core. Each line: GFLOP/s of ours; its share of the FMA peak, a loop of multiply-adds of
24 sums that is timed beside it; NumPy's time by ours; and GB/s of its operands and its result, each
read or written once: where an extent is small, memory sets the pace. Medians of --rounds. With
--gradients the weight gradient [m, K]^T x [m, N] instead.
"""

import argparse
import statistics
from functools import partial

import products  # first: it sets the threads of NumPy's products

import numpy as np  # isort: skip
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

import schedules
from schedules.target import simd
from tvm_cavs.arrays import aligned
from tvm_cavs.compiler.kernels.cpu.register_tile import accumulate
from tvm_cavs.compiler.kernels.loopnest import arrays, kernel, scalars, tile
from tvm_cavs.runtime import tensor_of

EXTENTS = (1, 2, 3, 5, 10, 17, 33, 100, 333, 1000, 3333, 10_000, 33_278, 100_000)
NAMES = ("m", "K", "N")
SUMS = (8, 3)  # rows and vectors of the tile of the loop of multiply-adds
TERMS = 64  # that it reads again and again: they stay in the nearest cache
TURNS = 1 << 16


def fma_loop(lanes: int) -> tirx.PrimFunc:
    """f(turns, x[TERMS, rows], y[TERMS, columns], sums): nothing but multiply-adds."""
    rows, columns = SUMS[0], SUMS[1] * lanes

    def emit() -> None:
        (turns,) = scalars(["turns"])
        x, y, out = arrays(
            [
                ("x", (TERMS, rows), "float32"),
                ("y", (TERMS, columns), "float32"),
                ("out", (rows, columns), "float32"),
            ]
        )
        acc = accumulate(
            rows, columns, lanes, turns, lambda k: lambda r, j: x[k % TERMS, r] * y[k % TERMS, j]
        )
        tile(rows, columns, lanes, lambda r, j: T.buffer_store(out, acc[r, j], [r, j]))

    return kernel("fma", "product", emit)


def peak() -> tuple[products.Run, float]:
    """The loop of multiply-adds, ready to run, and its GFLOP."""
    target = schedules.host_target(1)
    lanes = simd(target).lanes
    module, _ = schedules.schedule(tvm.IRModule({"fma": fma_loop(lanes)}), target)
    run = tvm.compile(module, target=target, tir_pipeline=schedules.pipeline())["fma"]
    shapes = (TERMS, SUMS[0]), (TERMS, SUMS[1] * lanes), (SUMS[0], SUMS[1] * lanes)
    given = [tensor_of(aligned(shape)) for shape in shapes]
    return lambda _: run(TURNS, *given), 2e-9 * TURNS * SUMS[0] * SUMS[1] * lanes


def line(
    sizes: dict[str, int], gradients: bool, rounds: int, probe: tuple[products.Run, float]
) -> str:
    """What one product reaches."""
    m, k, n = (sizes[name] for name in NAMES)
    rng = np.random.default_rng(0)
    x, y = aligned((m, k)), aligned((m if gradients else k, n))
    for a in (x, y):
        a[...] = rng.standard_normal(a.shape, dtype="float32")
    if gradients:
        mine = products.our_gradient(x, y, "float32")
        other = partial(products.transposed_product, x, y)
    else:
        mine, other = products.ours(x, y, "float32"), lambda rows: np.dot(x[:rows], y)
    taken: dict[str, list[float]] = {"mine": [], "other": [], "peak": []}
    for _ in range(rounds):
        taken["peak"].append(products.seconds(probe[0], m))
        taken["mine"].append(products.seconds(mine, m))
        taken["other"].append(products.seconds(other, m))
    took = {name: statistics.median(values) for name, values in taken.items()}
    rate, most = 2e-9 * m * k * n / took["mine"], probe[1] / took["peak"]
    moved = 4e-9 * (m * k + m * n + k * n) / took["mine"]
    return f"{rate:8.1f}{rate / most:8.2f}{took['other'] / took['mine']:9.2f}{moved:8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--others", type=int, nargs=3, default=(256, 512, 1280), metavar="EXTENT")
    parser.add_argument("--extents", type=int, nargs="+", default=EXTENTS, metavar="EXTENT")
    parser.add_argument("--gradients", action="store_true", help="of weights, not products")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    usual = dict(zip(NAMES, given.others, strict=True))
    probe = peak()
    print("     m      K      N GFLOP/s   share  NumPy x    GB/s")
    for name in NAMES:
        for extent in given.extents:
            sizes = {**usual, name: extent}
            head = "".join(f"{sizes[n]:7}" for n in NAMES)
            print(f"{head[1:]}{line(sizes, given.gradients, given.rounds, probe)}", flush=True)


if __name__ == "__main__":
    main()
