"""The worker: right candidates have a time, wrong ones none; hangs and crashes cost little."""

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm")

from autotune.measure import LocalBench
from autotune.worker import Failed, Settings, Timing
from helpers.planted import (
    CRASHES,
    GOOD,
    HANGS,
    IDLE,
    OTHER_PANELS,
    ROWS,
    SHORT,
    WRONG,
    K,
    N,
    Planted,
    recorded,
)
from schedules.knobs import product_knobs
from schedules.target import host_target, simd
from tvm_cavs.compiler import Compiler, Recorded, Trial, Workload
from tvm_cavs.compiler.lowering.specs import Piece, Product
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.compiler.trial import Slot
from tvm_cavs.errors import TuningError

pytestmark = pytest.mark.compiles
TIMEOUT = 20.0  # of a candidate, on a busy machine


class Refuses(Planted):
    """Even its defaults do not run."""

    def __init__(self, *given):
        raise OSError("out of order")


@pytest.fixture(scope="module")
def compiler():
    return Compiler("host", 1, cache=False, records=False)


def one(bench, knobs, best=None):
    """The answer for one candidate."""
    ((measured, answer),) = bench.measure([knobs], best)
    assert measured == knobs
    return answer


def settings(compiler, trial=Planted, timeout=TIMEOUT):
    target = dict(compiler.target.export())
    return Settings(target, compiler.n_threads, "float32", timeout, trial)


def test_candidates_of_every_sort(compiler):
    """One bench: after a hang and a crash it goes on, and a wrong result is no time."""
    bench = LocalBench(settings(compiler))
    try:
        bench.load(recorded(compiler))
        for knobs, best in ((GOOD, None), (OTHER_PANELS, GOOD)):
            found = one(bench, knobs, best)
            assert isinstance(found, Timing), found
            assert found.seconds > 0 and found.ratio > 0 and found.to_best > 0 and found.peak > 0
        for knobs, n_differ in ((WRONG, 16 * N), (SHORT, 2 * N), (IDLE, ROWS * N)):
            found = one(bench, knobs)
            assert isinstance(found, Failed), (knobs, found)
            assert f"wrong: {n_differ} of {ROWS * N} results differ" in found.reason
        found = one(bench, CRASHES)
        assert isinstance(found, Failed) and "exit code -11" in found.reason
        assert isinstance(one(bench, GOOD), Timing)  # a new worker, with the same kernel
        bench._settings = settings(compiler, timeout=1.0)
        begin = time.monotonic()
        found = one(bench, HANGS)
        assert found == Failed("no answer within 1 s")
        assert time.monotonic() - begin < TIMEOUT
        assert bench._worker is None
    finally:
        bench.close()


def test_defaults_that_do_not_run_are_an_error(compiler):
    bench = LocalBench(settings(compiler, Refuses))
    with pytest.raises(TuningError, match="does not run the kernel's defaults"):
        bench.load(recorded(compiler))
    bench.close()


@pytest.mark.skipif(not simd(host_target(1)).amx, reason="no AMX here")
def test_a_worker_may_use_amx():
    """Linux gives AMX to a process that asks for it, and to its children; a worker is none."""
    compiler = Compiler("host", 1, cache=False, records=False, precision="bf16")
    _, dtype = compiler.packed(K, N)
    plain = np.zeros((-(-K // 2), N), dtype)
    arrays = np.ones((ROWS, K), "float32"), plain, np.ones((ROWS, N), "float32")
    workload = Workload(Kernel("product", Product((Piece(K, 0, K),), N, N)))
    call = (ROWS, 0, 0, 0, Slot(0), Slot(1), Slot(2))
    bench = LocalBench(replace(settings(compiler, Trial), precision="bf16"))
    try:
        bench.load(Recorded(workload, (call,), arrays))
        assert isinstance(one(bench, product_knobs(compiler.target, K, N, "bf16")), Timing)
    finally:
        bench.close()
