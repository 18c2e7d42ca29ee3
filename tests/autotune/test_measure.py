"""The worker: right candidates have a time, wrong ones none; hangs and crashes cost little."""

import time

import pytest

pytest.importorskip("tvm")

from autotune.measure import Bench
from autotune.worker import Failed, Settings, Timing
from helpers.planted import CRASHES, GOOD, HANGS, OTHER_PANELS, WRONG, Planted, recorded
from tvm_cavs.compiler import Compiler
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


def settings(compiler, trial=Planted, timeout=TIMEOUT):
    target = dict(compiler.target.export())
    return Settings(target, compiler.n_threads, "float32", timeout, trial)


def test_candidates_of_every_sort(compiler):
    """One bench: after a hang and a crash it goes on, and a wrong result is no time."""
    bench = Bench(settings(compiler))
    try:
        bench.load(recorded(compiler))
        for knobs, best in ((GOOD, None), (OTHER_PANELS, GOOD)):
            found = bench.measure(knobs, best)
            assert isinstance(found, Timing), found
            assert found.seconds > 0 and found.ratio > 0 and found.to_best > 0 and found.peak > 0
        found = bench.measure(WRONG)
        assert isinstance(found, Failed) and "wrong: 1200 of 3000 results differ" in found.reason
        found = bench.measure(CRASHES)
        assert isinstance(found, Failed) and "exit code -11" in found.reason
        assert isinstance(bench.measure(GOOD), Timing)  # a new worker, with the same kernel
        bench._settings = settings(compiler, timeout=1.0)
        begin = time.monotonic()
        found = bench.measure(HANGS)
        assert found == Failed("no answer within 1 s")
        assert time.monotonic() - begin < TIMEOUT
        assert bench._process is None
    finally:
        bench.close()


def test_defaults_that_do_not_run_are_an_error(compiler):
    bench = Bench(settings(compiler, Refuses))
    with pytest.raises(TuningError, match="does not run the kernel's defaults"):
        bench.load(recorded(compiler))
    bench.close()
