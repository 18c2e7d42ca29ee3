"""What tuning has come to: a line for every task, and whole steps before and after, in pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tvm_cavs.compiler import Record, choose

from .store import Store
from .tasks import Steps, Task

WARM_UP = 2
LEAST_ROUNDS, MOST_ROUNDS = 7, 41
STEP_SECONDS = 20.0  # for the comparison of whole steps, about


@dataclass(frozen=True)
class Line:
    """A task before and after, in microseconds. knobs: None where the default stays."""

    task: Task
    before: float
    after: float
    knobs: Any


def line(task: Task, store: Store) -> Line | None:
    """What the records say of a task; None if nothing of it has been measured."""
    about = [r for r in store.about(task.key) if not r.failed]
    here = [r for r in about if r.bucket == task.bucket]
    if not here:
        return None
    knobs = dict(choose(task.default, about).by_rows).get(task.bucket)
    before = 1e6 * median(record.default_seconds for record in here)
    return Line(task, before, before * _ratio(here, knobs), knobs)


def _ratio(records: Sequence[Record], knobs: Any) -> float:
    return next((r.ratio for r in records if r.knobs == knobs), 1.0)


@dataclass(frozen=True)
class Pair:
    """A whole step in two ways: seconds, their ratio, its quartiles."""

    before: float
    after: float
    ratio: float
    low: float
    high: float


def pair(
    before: Steps,
    after: Steps,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = STEP_SECONDS,
) -> Pair:
    """Both in turn over the same batches: medians over rounds, of which there are at least a few.

    Args:
        stop: whether to be content with the rounds so far, once there is one.
        seconds: after which there is no other round, once there are a few.
    """
    for steps in (before, after):
        for _ in range(WARM_UP):
            _round(steps)
    rounds: list[tuple[float, float]] = []
    begin = time.monotonic()
    while len(rounds) < MOST_ROUNDS and not (stop() and rounds):
        if len(rounds) >= LEAST_ROUNDS and time.monotonic() - begin > seconds:
            break
        one, other = (before, after) if len(rounds) % 2 else (after, before)
        found = {id(steps): _round(steps) for steps in (one, other)}
        rounds.append((found[id(before)], found[id(after)]))
    ratios = sorted(after / before for before, after in rounds)
    n_steps = len(before.batches)
    return Pair(
        median(b for b, _ in rounds) / n_steps,
        median(a for _, a in rounds) / n_steps,
        median(ratios),
        ratios[len(ratios) // 4],
        ratios[-1 - len(ratios) // 4],
    )


def _round(steps: Steps) -> float:
    start = time.perf_counter()
    for number in range(len(steps.batches)):
        steps.run(number)
    return time.perf_counter() - start
