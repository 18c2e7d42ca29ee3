"""The process of a run: what signals do to it, and since when it is there."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tvm_cavs.runs import process
from tvm_cavs.runs.process import Stop, process_age, stop_on_signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ended(BaseException):
    """What the handlers raise that were there before."""


@pytest.fixture
def before():
    """Handlers of somebody else."""

    def end(number, frame):
        raise Ended(number)

    kept = [signal.signal(number, end) for number in SIGNALS]
    yield end
    for number, handler in zip(SIGNALS, kept, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(before, first, second):
    with pytest.raises(Ended), stop_on_signal() as stop:
        assert not stop.requested() and stop.exit_code == 0
        signal.raise_signal(first)
        assert stop.requested() and stop.exit_code == 128 + first
        signal.raise_signal(second)
    assert [signal.getsignal(number) for number in SIGNALS] == [before, before]


def test_signals_are_as_they_were_after_all(before):
    with stop_on_signal():
        assert before not in [signal.getsignal(number) for number in SIGNALS]
    assert [signal.getsignal(number) for number in SIGNALS] == [before, before]


def test_another_thread_is_never_asked():
    """Python lets none but the main one listen to signals."""
    seen = []

    def run():
        with stop_on_signal() as stop:
            seen.append(stop)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [Stop()]


AGE = """
import runpy, sys, time
age = runpy.run_path(sys.argv[1])["process_age"]
print(time.clock_gettime(time.CLOCK_BOOTTIME) - age())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_a_process_is_as_old_as_it_is():
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    command = [sys.executable, "-S", "-c", AGE, process.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert begun - 1 <= float(done.stdout) <= ended


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="there is no /proc")
def test_a_process_may_have_any_name():
    """One that is cut in the middle of a letter, or looks like the end of it."""
    kept, ages = Path("/proc/self/comm").read_bytes(), [process_age()]
    try:
        for name in ("a) 1 2 3", "é" * 8, "(("):
            Path("/proc/self/comm").write_bytes(name.encode()[:15])
            ages.append(process_age())
    finally:
        Path("/proc/self/comm").write_bytes(kept.rstrip(b"\n"))
    assert sorted(ages) == ages and ages[-1] <= process_age()


def test_no_age_where_there_is_no_proc(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setitem(process_age.__globals__, "open", absent)
    assert process_age() is None
