"""The worker: a process of its own that compiles and times candidates, and may die of one.

It answers one request after the other over a pipe. A request that takes too long ends the process
by an alarm of the system's, even where a kernel never comes back and the parent is gone.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from tvm_cavs.compiler import Compiler, Recorded, Runnable, Trial, Wrong, peak
from tvm_cavs.runtime import use_threads

ROUNDS = 9
GLANCE = 3  # rounds after which what is far behind is given up
FAR_BEHIND = 1.2
LEAST_SECONDS = 2e-3  # of one timing
GRACE = 5  # seconds that the parent has to end the process before it ends itself
LOADED = "loaded"  # the answer to a kernel


@dataclass(frozen=True)
class Settings:
    """What a worker compiles for. `trial` makes what is measured; tests plant others."""

    target: dict[str, Any]
    threads: int
    precision: str
    timeout: float
    trial: Callable[[Recorded, Compiler], Any] = Trial


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


def serve(connection: Connection, settings: Settings) -> None:
    """Answer requests until the other end is closed: a Recorded kernel, or (knobs, best knobs)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    compiler = Compiler(settings.target, settings.threads, False, settings.precision, records=False)
    compiler.require_host()  # which asks for what the system gives to a process that asks
    use_threads(compiler.n_threads)
    probe, trial = peak(compiler), None
    connection.send(LOADED)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        signal.alarm(math.ceil(settings.timeout) + GRACE)
        if isinstance(request, Recorded):
            trial = settings.trial(request, compiler)
            answer: Any = LOADED
        else:
            knobs, best = request
            answer = measure(trial, knobs, best, probe)
        signal.alarm(0)
        connection.send(answer)


def measure(trial: Any, knobs: Any, best: Any, probe: tuple[Runnable, float]) -> Timing | Failed:
    """Check a candidate's result, then time it."""
    try:
        trial.check(knobs)
        contenders = {"default": trial.default, "candidate": trial.ready(knobs)}
        if best is not None:
            contenders["best"] = trial.ready(best)
    except Wrong as error:
        return Failed(f"wrong: {error}")
    except Exception as error:  # whatever a compiler says of a candidate, it is none
        return Failed(f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}")
    return race(contenders, *probe)


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
