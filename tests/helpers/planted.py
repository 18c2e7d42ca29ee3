"""A recorded product, and trials whose candidates misbehave: they are planted in a worker."""

import os
import signal
from dataclasses import replace

import numpy as np

from schedules.knobs import ProductKnobs
from tvm_cavs.compiler import Recorded, Trial, Workload
from tvm_cavs.compiler.lowering.specs import Piece, Product
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.compiler.trial import Slot

K, N, ROWS = 33, 75, 40
GOOD = ProductKnobs(1, 4, 8)
OTHER_PANELS = ProductKnobs(2, 2, 4, even=True, next_panel=True)
WRONG, HANGS, CRASHES = (ProductKnobs(1, 4, block) for block in (12, 16, 20))


def recorded(compiler) -> Recorded:
    """A product of 40 rows in two calls, with weights as the compiler's defaults pack them."""
    rng = np.random.default_rng(0)
    workload = Workload(Kernel("product", Product((Piece(K, 0, K),), N, N)))
    shape, dtype = compiler.packed(K, N)
    flat = rng.standard_normal((K, shape[0] * shape[2]), dtype=dtype)
    flat[:, N:] = 0.0
    weights = flat.reshape(K, shape[0], shape[2]).transpose(1, 0, 2)
    left = rng.standard_normal((ROWS, K), dtype="float32")
    out = np.full((ROWS, N), np.nan, "float32")
    calls = [(n, n, start, start, Slot(0), Slot(1), Slot(2)) for n, start in ((24, 0), (16, 24))]
    return Recorded(workload, tuple(calls), (left, np.ascontiguousarray(weights), out))


class Planted(Trial):
    """A trial in which some knobs make fast and wrong calls, no end, or the end of the process."""

    def ready(self, knobs):
        made = super().ready(knobs)
        if knobs == WRONG:
            return replace(made, calls=made.calls[:1])
        if knobs == HANGS:
            signal.pause()
        if knobs == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        return made
