"""A recorded product, and trials whose candidates misbehave: they are planted in a worker."""

import os
import signal
from dataclasses import replace
from zlib import crc32

import numpy as np

from schedules.knobs import ProductKnobs
from tvm_cavs.compiler import Recorded, Trial, Workload
from tvm_cavs.compiler.lowering.specs import Piece, Product
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.compiler.trial import Slot

K, N, ROWS = 33, 75, 40
GOOD = ProductKnobs(1, 4, 8)
OTHER_PANELS = ProductKnobs(2, 2, 4, even=True, next_panel=True)
WRONG, SHORT, IDLE = (ProductKnobs(1, 4, block) for block in (12, 24, 28))  # leave something out
HANGS, CRASHES = (ProductKnobs(1, 4, block) for block in (16, 20))


def recorded(compiler) -> Recorded:
    """A product of 40 rows in two calls, which have been made: their results are there."""
    rng = np.random.default_rng(0)
    workload = Workload(Kernel("product", Product((Piece(K, 0, K),), N, N)))
    left = rng.standard_normal((ROWS, K), dtype="float32")
    weights = rng.standard_normal((K, N), dtype="float32")
    out = np.zeros((ROWS, N), "float32")
    calls = tuple((n, n, at, at, Slot(0), Slot(1), Slot(2)) for n, at in ((24, 0), (16, 24)))
    made = Trial(Recorded(workload, calls, (left, weights, out)), compiler).default
    made.run()
    return Recorded(workload, calls, (left, weights, made.arrays[2].copy()))


def last_row_less(calls):
    """Every call with a row less than it should have."""
    return tuple((function, (n_rows - 1, *more)) for function, (n_rows, *more) in calls)


LEAVE_OUT = (lambda calls: (), lambda calls: calls[:-1], last_row_less)  # calls -> fewer


def forgetful(leave_out):
    """A trial whose candidates leave something out, and are fast."""

    class Forgetful(Trial):
        def ready(self, knobs, arrays=None):
            made = super().ready(knobs, arrays)
            return made if knobs is None else replace(made, calls=leave_out(made.calls))

    return Forgetful


class LastRowLess(forgetful(last_row_less)):
    """A class that a worker can import."""


class Planted(Trial):
    """A trial in which some knobs make fast and wrong calls, no end, or the end of the process."""

    def ready(self, knobs, arrays=None):
        made = super().ready(knobs, arrays)
        if knobs == WRONG:
            return replace(made, calls=made.calls[:1])
        if knobs == SHORT:
            return replace(made, calls=last_row_less(made.calls))
        if knobs == IDLE:
            return replace(made, calls=())
        if knobs == HANGS:
            signal.pause()
        if knobs == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        return made


class Perilous(Trial):
    """A trial of any kernel: a third of its candidates hang, a third end the process."""

    def ready(self, knobs, arrays=None):
        fate = fate_of(knobs)
        if fate == "hangs":
            signal.pause()
        if fate == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().ready(knobs, arrays)


def fate_of(knobs) -> str:
    """What becomes of a candidate in a Perilous trial; the default runs."""
    fates = ("runs", "hangs", "crashes")
    return "runs" if knobs is None else fates[crc32(repr(knobs).encode()) % len(fates)]


class OnDevice(Trial):
    """The same on a device, where a session may end."""

    def ready(self, knobs, arrays=None):
        made = super().ready(knobs, arrays)
        if knobs == WRONG:
            return replace(made, calls=made.calls[:1])
        if knobs == HANGS:
            made.seconds((1 << 31) - 1)  # an hour on the device
        if knobs == CRASHES:
            function, (n_rows, *more) = made.calls[0]
            return replace(made, calls=((function, (n_rows << 30, *more)),))
        return made
