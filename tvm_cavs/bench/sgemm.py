"""The machine's limit as NumPy reaches it: a large float32 product, timed in its own process.

OpenBLAS reads its environment when it is loaded, so threads can only be chosen for a new process.
It waits between measurements: they are taken in turn with what they are compared to.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType

SIZE = 1024
SECONDS = 0.15  # of one measurement
PAUSE = 0.25  # after it: a BLAS's threads go on spinning for a while, and would take a core from us
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
FIXED_CPU = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS")


def environment(n_threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with the number of threads, and nothing that ties NumPy to another CPU's kernels."""
    found = {k: v for k, v in base.items() if k not in FIXED_CPU}
    return {**found, **dict.fromkeys(THREAD_VARIABLES, str(n_threads))}


class Sgemm:
    """Speed of NumPy's product; `best` is the highest of all measurements, in GFLOP/s."""

    def __init__(self, n_threads: int, clock: str = "wall") -> None:
        self.best = 0.0
        self._process = subprocess.Popen(
            [sys.executable, __file__, clock],
            env=environment(n_threads, os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self) -> float:
        """One measurement, in GFLOP/s."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        speed = float(self._process.stdout.readline())
        self.best = max(self.best, speed)
        time.sleep(PAUSE)
        return speed

    def __enter__(self) -> Sgemm:
        self.measure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


def fastest_product(product: Callable[[], object], now: Callable[[], float]) -> float:
    """The best speed of a product of SIZE x SIZE matrices, tried for SECONDS, in GFLOP/s."""
    fastest, end = float("inf"), now() + SECONDS
    while now() < end:
        start = now()
        product()
        fastest = min(fastest, now() - start)
    return 2 * SIZE**3 / fastest / 1e9


def serve(now: Callable[[], float]) -> None:
    """For every line read, time products and print the best speed."""
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE), dtype="float32") for _ in range(2))
    out = np.empty_like(a)
    for _ in sys.stdin:
        print(fastest_product(lambda: np.matmul(a, b, out=out), now), flush=True)


if __name__ == "__main__":
    serve(CLOCKS[sys.argv[1]])
