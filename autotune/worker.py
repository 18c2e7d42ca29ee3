"""The worker: a process of its own that compiles and times candidates, and may die of one.

It answers one request after the other over a pipe. A request that takes too long ends the process
by an alarm of the system's, even where a kernel never comes back and the parent is gone.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from tvm_cavs.compiler import (
    Compiler,
    Libraries,
    NoServerError,
    Recorded,
    Remote,
    Runnable,
    Tracker,
    Trial,
    Wrong,
    peak,
    session,
)
from tvm_cavs.runtime import use_threads

ROUNDS = 9
GLANCE = 3  # rounds after which what is far behind is given up
FAR_BEHIND = 1.2
LEAST_SECONDS = 2e-3  # of one timing
GRACE = 5  # seconds that the parent, or a server, has to end something before the process ends
LOOK_SECONDS = 0.5  # after a session has ended, until a server that was killed is gone too
LOADED = "loaded"  # the answer to a kernel


@dataclass(frozen=True)
class Settings:
    """What a worker compiles for, and where candidates run: here, or on servers of a `tracker`.

    `trial` makes what is measured; tests plant others.
    """

    target: dict[str, Any]
    threads: int
    precision: str
    timeout: float
    trial: Callable[..., Any] = Trial
    tracker: Tracker | None = None


@dataclass(frozen=True)
class Timing:
    """A candidate's time. seconds: of all calls. ratio: to the default's; to_best: to the best's.

    Medians over rounds in which all ran in turn. spread: half the distance of the quartiles of
    `ratio`. peak: GFLOP/s of the probe in the same rounds.
    """

    seconds: float
    ratio: float
    to_best: float
    spread: float
    peak: float


@dataclass(frozen=True)
class Failed:
    """Why a candidate has no time."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """A candidate was not measured, as its server is gone. `for_good`: there is no other."""

    reason: str
    for_good: bool = False


@dataclass(frozen=True)
class Unusable:
    """Why nothing of a kernel can be measured: its defaults do not run."""

    reason: str


Answer = Timing | Failed | Lost | Unusable


def serve(connection: Connection, settings: Settings) -> None:
    """Answer requests until the other end is closed: a Recorded kernel, or (knobs, best knobs)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    trials: Any = OnHost(settings) if settings.tracker is None else OnDevices(settings)
    connection.send(LOADED)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        signal.alarm(math.ceil(settings.timeout) + GRACE)
        if isinstance(request, Recorded):
            trials.load(request)
            answer: Any = LOADED
        else:
            answer = trials.measure(*request)
        signal.alarm(0)
        try:
            connection.send(answer)
        except OSError:  # the parent has gone meanwhile
            return


def compiler_of(settings: Settings) -> Compiler:
    """The compiler of a worker: it keeps nothing on disk, and knows no records."""
    return Compiler(settings.target, settings.threads, False, settings.precision, records=False)


class OnHost:
    """Candidates run in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._compiler = settings, compiler_of(settings)
        # which asks for what the system gives to a process that asks
        self._compiler.require_host()
        use_threads(self._compiler.n_threads)
        self._probe, self._trial = peak(self._compiler), None

    def load(self, recorded: Recorded) -> None:
        """Candidates are of this kernel from now on."""
        self._trial = self._settings.trial(recorded, self._compiler)

    def measure(self, knobs: Any, best: Any) -> Answer:
        """A candidate's time."""
        return measure(self._trial, knobs, best, self._probe)


class OnDevices:
    """Candidates run in sessions with servers, one for each, so that others may use them too."""

    def __init__(self, settings: Settings) -> None:
        assert settings.tracker is not None
        self._settings, self._tracker = settings, settings.tracker
        self._compiler = compiler_of(settings)
        self._libraries = Libraries(self._compiler)
        self._recorded: Recorded | None = None
        self._start: Any = None
        self._parent = os.getppid()

    def _wanted(self) -> bool:
        return os.getppid() == self._parent

    def load(self, recorded: Recorded) -> None:
        """Candidates are of this kernel from now on."""
        self._recorded, self._start = recorded, None

    def measure(self, knobs: Any, best: Any) -> Answer:
        """A candidate's time on the next server that is free.

        The first one of a kernel takes a session more, for what holds for all.
        """
        assert self._recorded is not None
        try:  # before a server is taken for it
            for each in (None, knobs, best):
                self._libraries.prepare(self._recorded.workload, each)
        except Exception as error:  # whatever a compiler says of a candidate, it is none
            return Failed(in_words(error))
        if self._start is None:
            found = self._in_session(self._look)
            if isinstance(found, Failed):
                return Unusable(found.reason)
            if found is not None:
                return found
        answer: Answer = self._in_session(lambda place: self._measure(place, knobs, best))
        return answer

    def _look(self, place: Remote) -> Failed | None:
        try:
            self._start = self._trial(place).start
        except Exception as error:  # whatever a compiler or the device says
            return Failed(in_words(error))
        return None

    def _measure(self, place: Remote, knobs: Any, best: Any) -> Timing | Failed:
        return measure(self._trial(place), knobs, best, peak(self._compiler, place))

    def _trial(self, place: Remote) -> Any:
        return self._settings.trial(self._recorded, self._compiler, place, self._start)

    def _in_session(self, work: Callable[[Remote], Any]) -> Any:
        """What `work` answers, or Lost where the server has gone.

        When time is up this process ends, and a kernel that hangs with the session.
        """
        signal.alarm(0)  # a server may be long in coming
        seconds = math.ceil(self._settings.timeout)
        try:
            # The server's end of a session comes later than ours: what it then sends may stand in
            # the middle of another message.
            found = session(self._tracker, seconds + GRACE, self._wanted)
        except NoServerError as error:
            return Lost(str(error), for_good=True)
        signal.alarm(seconds)
        try:
            answer = work(Remote(found, self._libraries, self._compiler.n_threads))
        except Exception as error:  # the session has ended, or a device refuses
            answer = Failed(in_words(error))
        if not isinstance(answer, Failed) or found.alive():
            return answer
        time.sleep(LOOK_SECONDS)
        where = "{}:{}".format(*found.address)
        if found.reachable():
            return Failed(f"it ended its session with the server {where}: {answer.reason}")
        return Lost(f"the server {where} is gone: {answer.reason}")


def measure(trial: Any, knobs: Any, best: Any, probe: tuple[Runnable, float]) -> Timing | Failed:
    """Check a candidate's result, then time it."""
    try:
        trial.check(knobs)
        contenders = {"default": trial.default, "candidate": trial.ready(knobs)}
        if best is not None:
            contenders["best"] = trial.ready(best)
        return race(contenders, *probe)
    except Wrong as error:
        return Failed(f"wrong: {error}")
    except Exception as error:  # whatever a compiler says of a candidate, it is none
        return Failed(in_words(error))


def in_words(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1][:200]}"


def race(contenders: dict[str, Runnable], probe: Runnable, gflop: float) -> Timing:
    """All of them in turn, every other round the other way round."""
    repeats = max(1, math.ceil(LEAST_SECONDS / timed(contenders["default"], 1)))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = []
    for number in range(ROUNDS):
        peaks.append(gflop / timed(probe, 1))
        order = list(contenders)[:: -1 if number % 2 else 1]
        for name in order:
            found[name].append(timed(contenders[name], repeats))
        if number + 1 == GLANCE and ratio(found, "default") > FAR_BEHIND:
            break
    rounds = [c / d for c, d in zip(found["candidate"], found["default"], strict=True)]
    low, _, high = quantiles(rounds, n=4)
    return Timing(
        seconds=median(found["candidate"]),
        ratio=median(rounds),
        to_best=ratio(found, "best" if "best" in found else "default"),
        spread=(high - low) / 2,
        peak=median(peaks),
    )


def timed(runnable: Runnable, repeats: int) -> float:
    """Seconds of one run, after one that brings its memory near."""
    runnable.run()
    return runnable.seconds(repeats)


def ratio(found: dict[str, list[float]], other: str) -> float:
    """The candidate's time by another's, in the same rounds."""
    return median(c / d for c, d in zip(found["candidate"], found[other], strict=True))
