"""The worker: right candidates have a time, wrong ones none; hangs and crashes cost little."""

import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

from autotune.measure import LocalBench, RpcBench, local, over_rpc, process
from autotune.measure.process import END_SECONDS, START_SECONDS, Ended
from autotune.worker import LOADED, Failed, Lost, Settings, Timing, Unusable
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
from tvm_cavs.compiler import Compiler, Recorded, Tracker, Trial, Workload
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


def test_defaults_that_do_not_run_are_an_error(compiler, monkeypatch):
    monkeypatch.setattr(process, "END_SECONDS", 60.0)  # however busy the machine is
    bench = LocalBench(settings(compiler, Refuses))
    words = r"does not run the kernel's defaults: its process ended with exit code 1\. Run"
    with pytest.raises(TuningError, match=words):
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


# ---- benches, of workers that are made up ----


class Made:
    """A worker; `answers`: by candidate, one after the other; `deaf`: takes no more requests."""

    def __init__(self, answers, deaf=False, loads=True):
        self.answers, self.deaf, self.loads = answers, deaf, loads
        self.log, self.connection = [], self

    def send(self, request):
        self.log.append(request)
        return Ended("it is gone") if self.deaf else None

    def ask(self, request, seconds):
        self.log.append((request, seconds))
        if isinstance(request, tuple):
            return self.answers[request[0]].pop(0)
        return LOADED if self.loads else Ended("it is gone")

    def answer(self):
        return self.answers[self.log[-1][0]].pop(0)

    def close(self):
        self.log.append("closed")

    def kill(self):
        self.log.append("killed")


KERNEL, OTHER_KERNEL = (Recorded(name, (), ()) for name in ("one", "other"))
TRACKED = Settings({}, 1, "float32", 2.5, tracker=Tracker("127.0.0.1", 9190, "x"))


@pytest.fixture
def rpc(monkeypatch):
    """A bench of so many servers whose workers are those given, and what was started for it."""

    def make(width, *workers):
        waiting, log = list(workers), []

        def started(settings, recorded, n):
            log.append((settings, recorded, n))
            found = waiting[:n]
            del waiting[:n]
            return found

        monkeypatch.setattr(over_rpc, "started", started)
        monkeypatch.setattr(over_rpc, "servers", lambda settings: width)
        monkeypatch.setattr(over_rpc, "wait", lambda connections: connections[-1:])
        bench = RpcBench(TRACKED)
        bench.load(KERNEL)
        return bench, log

    return make


def times(*names):
    return {name: [Timing(1.0, 1.0, 1.0, 0.0, len(name))] for name in names}


def test_workers_are_as_many_as_are_needed_and_servers_allow(rpc):
    """One that is done has the next candidate, and the kernel that is loaded."""
    answers = times(*"abcdefg")
    workers = [Made(answers), Made(answers)]
    bench, log = rpc(2, *workers)
    assert bench.width == 2
    assert [knobs for knobs, _ in bench.measure(["a"], "best")] == ["a"]
    assert log == [(TRACKED, KERNEL, 1)]
    found = [knobs for knobs, _ in bench.measure(["b", "c", "d", "e"], "best")]
    assert found == ["c", "d", "e", "b"] and log[1:] == [(TRACKED, KERNEL, 1)]
    assert [w.log for w in workers] == [
        [("a", "best"), ("b", "best")],
        [("c", "best"), ("d", "best"), ("e", "best")],
    ]
    workers[0].loads = False
    bench.load(OTHER_KERNEL)
    assert [w.log[-1] for w in workers] == [(OTHER_KERNEL, START_SECONDS)] * 2
    list(bench.measure(["f"]))
    assert workers[1].log[-1] == ("f", None) and len(log) == 2
    bench.close()
    assert workers[1].log[-1] == "killed" != workers[0].log[-1]


GONE = Lost("the server is gone")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Ended("a signal")], Failed("a signal")),
        ([Failed("wrong")], Failed("wrong")),
        ([GONE, Failed("wrong")], Failed("wrong")),
        ([GONE, GONE], Failed("two servers were gone while it ran: the server is gone")),
        ([GONE, Lost("none", for_good=True)], "^none. The same command then goes on"),
        ([Lost("none", for_good=True)], "^none. The same command then goes on"),
        ([Unusable("no AVX")], "defaults of a kernel do not run .* 127.0.0.1:9190/x: no AVX\\. Is"),
    ],
)
def test_a_candidate_is_given_up_when_it_is_its_own_fault(answers, expected, rpc):
    """Or when a second server is gone; what no server is left for has no answer."""
    said = {**times("b", "c"), "a": list(answers)}
    bench, log = rpc(1, Made(said), Made(said))
    measured = bench.measure(["a", "b", "c"])
    if isinstance(expected, str):
        with pytest.raises(TuningError, match=expected):
            list(measured)
        return
    found = list(measured)
    assert [answer for knobs, answer in found if knobs == "a"] == [expected]
    assert sorted(knobs for knobs, _ in found) == ["a", "b", "c"] and not said["a"]
    assert len(log) == 1 + isinstance(answers[0], Ended)
    assert (found[0][0] == "a") == (answers[0] is not GONE)


def test_what_a_worker_does_not_take_another_one_has_first(rpc):
    said = times("a", "b")
    bench, log = rpc(1, Made(said, deaf=True), Made(said))
    assert [knobs for knobs, _ in bench.measure(["a", "b"])] == ["a", "b"] and len(log) == 2


def test_a_worker_here_has_the_kernel_until_it_ends(monkeypatch):
    """The next candidate has a new one, which has the same kernel."""
    said = {**times("b", "c"), "a": [Ended("a signal")]}
    workers, log = [Made(said), Made(said, loads=False), Made(said)], []

    def started(*given):
        log.append(given)
        return [workers[len(log) - 1]]

    monkeypatch.setattr(local, "started", started)
    bench = LocalBench(TRACKED)
    bench.load(KERNEL)
    assert list(bench.measure(["a", "b"], "best")) == [
        ("a", Failed("a signal")),
        ("b", times("b")["b"][0]),
    ]
    assert [w.log for w in workers[:2]] == [[((k, "best"), 2.5)] for k in "ab"]
    bench.load(OTHER_KERNEL)
    assert workers[1].log[-1] == (OTHER_KERNEL, START_SECONDS)
    list(bench.measure(["c"]))
    assert log == [(TRACKED, KERNEL)] * 2 + [(TRACKED, OTHER_KERNEL)]
    workers[2].loads = True
    bench.load(KERNEL)
    bench.close()
    bench.close()
    assert workers[2].log == [(("c", None), 2.5), (KERNEL, START_SECONDS), "closed"]


@pytest.mark.parametrize("recorded", [None, KERNEL])
def test_of_workers_that_start_together_all_do_or_none(recorded, monkeypatch):
    made = []

    class Starts(Made):
        def __init__(self, settings):
            super().__init__({}, loads=len(made) != bad)
            made.append(self)

        def ready(self):
            return LOADED if self.loads or recorded else Ended("it is gone")

    monkeypatch.setattr(process, "Worker", Starts)
    bad = 7
    assert process.started(TRACKED, recorded, 3) == made and len(made) == 3
    assert all(w.log == ([(recorded, START_SECONDS)] if recorded else []) for w in made)
    made, bad = [], 1
    with pytest.raises(TuningError, match="does not run the kernel's defaults: it is gone"):
        process.started(TRACKED, recorded, 3)
    assert [w.log[-1] for w in made] == ["killed"] * 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGALRM, "no answer within 2.5 s"),
        (-11, "its process ended with exit code -11"),
        (3, "its process ended with exit code 3"),
        (None, "its process has gone silent, and had not ended"),
    ],
)
def test_how_a_worker_has_ended_is_said(code, said):
    """By its exit code, which one that has not ended has none of, though it is killed then."""

    def lost(*_):
        raise EOFError

    worker = object.__new__(process.Worker)
    worker._timeout = 2.5
    worker.connection = SimpleNamespace(poll=lost, close=lambda: None)
    ended = SimpleNamespace(exitcode=code, join=lambda *_: None)
    ended.is_alive = lambda: ended.exitcode is None
    ended.kill = lambda: setattr(ended, "exitcode", -9)
    worker._process = ended
    assert worker.answer(1.0) == Ended(said)


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("end", ["kill", "close"])
def test_who_was_ended_is_buried(end, alive):
    """Else it stays in the system's table for as long as this process runs. What does not end by
    itself when it is closed is killed.
    """
    did = []
    worker = object.__new__(process.Worker)
    worker.connection = SimpleNamespace(close=lambda: did.append("close"))
    worker._process = SimpleNamespace(
        is_alive=lambda: alive,
        kill=lambda: did.append("kill"),
        join=lambda *seconds: did.append(("join", *seconds)),
    )
    getattr(worker, end)()
    waits = ["close", ("join", END_SECONDS)] if end == "close" else []
    assert did == [*waits, "close", *["kill"] * alive, ("join",)]
