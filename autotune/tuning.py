"""Tuning: the tasks of a network, one after the other, until they are done or time is up.

Every measurement is kept as a record at once, failed ones too. So an interrupted tuning goes on
where it was: what has a record is not measured again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import inf
from typing import Any

from tvm_cavs.compiler import (
    Record,
    adjusted,
    misfit,
    precision_of,
    target_key,
)

from .measure import Bench
from .search import Search, method
from .space import Knobs, Space
from .store import Store
from .tasks import Steps, Task
from .worker import Failed, Timing

LEAST_SHARE = 0.005  # of all kernels' time, that a task must have
LEAST_SECONDS = 5.0  # that a task is given, if there is time at all


@dataclass(frozen=True)
class Progress:
    """Where a tuning is. left: seconds of the budget. best: ratio to the default's time."""

    task: Task
    number: int
    n_tasks: int
    measured: int
    best: float
    left: float
    record: Record | None = None


@dataclass
class Clock:
    """The budget: seconds from now on, by a clock that tests replace."""

    budget: float
    now: Callable[[], float] = time.monotonic
    begin: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin = self.now()

    @property
    def left(self) -> float:
        """Seconds until time is up."""
        return self.budget - (self.now() - self.begin)


class Tuner:
    """Measures candidates for the tasks of a network.

    Args:
        steps: of a network without records. store: keeps what is measured. bench: measures.
        origin: how the records come about, in words. machine: what the bench measures on; None for
            what the steps run on.
    """

    def __init__(
        self,
        steps: Steps,
        store: Store,
        bench: Bench,
        clock: Clock,
        origin: str,
        seed: int = 0,
        machine: Any = None,
    ) -> None:
        self._steps, self._store, self._bench, self._clock = steps, store, bench, clock
        self._machine = steps.executor.compiler.machine if machine is None else machine
        self._origin, self._seed = origin, seed

    def run(self, tasks: Sequence[Task], reserve: float = 0.0) -> Iterator[Progress]:
        """Tune in order; a task may take its share of the time that is left. Stops between two
        candidates when time is up, or when the caller takes no more.

        Args:
            reserve: seconds of the budget that are for something else.
        """
        worth = [task for task in tasks if task.share >= LEAST_SHARE]
        for number, task in enumerate(worth):
            rest = sum(each.share for each in worth[number:])
            share = (self._clock.left - reserve) * task.share / rest
            until = max(reserve, self._clock.left - max(share, LEAST_SECONDS))
            yield from self._tune(task, number, len(worth), until)
            if self._clock.left <= reserve:
                return

    def _tune(self, task: Task, number: int, n_tasks: int, until: float) -> Iterator[Progress]:
        space = self.space(task)
        _, search = method(space)
        generator = random.Random(f"{self._seed} {task}")
        measured, loaded = self.measured(task), False

        def now(record: Record | None = None) -> Progress:
            best = min(measured.values(), default=1.0)
            found = len(measured) - 1
            return Progress(task, number, n_tasks, found, best, self._clock.left, record)

        yield now()
        while self._clock.left > until:
            some = self.next(search, space, measured, generator)
            if not some:
                return
            if not loaded:
                self._bench.load(task.recorded(self._steps))
                loaded = True
            best = min(measured, key=lambda k: measured[k])
            known = measured[best]
            beside = None if best == space.default else best
            for knobs, answer in self._bench.measure(some, beside):
                record = self.record(task, knobs, answer, known)
                self._store.add(record)
                measured[knobs] = inf if record.failed else record.ratio
                yield now(record)

    def next(
        self, search: Search, space: Space, measured: dict[Knobs, float], generator: random.Random
    ) -> list[Knobs]:
        """As many candidates as are measured at a time; of one that is not measured yet nothing
        good is expected.
        """
        expected, some = dict(measured), list[Knobs]()
        while len(some) < self._bench.width:
            knobs = search(space, expected, generator)
            if knobs is None:
                break
            some.append(knobs)
            expected[knobs] = inf
        return some

    def space(self, task: Task) -> Space:
        """The candidates of a task."""
        target, precision = self._machine.target, precision_of(task.key)

        def usable(knobs: Knobs) -> Knobs | None:
            made = adjusted(knobs)
            return made if misfit(made, target, precision) is None else None

        return Space(task.default(), task.domains(self._machine), usable)

    def measured(self, task: Task) -> dict[Knobs, float]:
        """Ratios of what has a record already, and of the default, in the order of measuring."""
        ratios = {task.default(): 1.0}
        for record in self._store.about(task.key):
            if record.bucket == task.bucket:
                ratios[record.knobs] = inf if record.failed else record.ratio
        return ratios

    def record(self, task: Task, knobs: Knobs, answer: Timing | Failed, best: float) -> Record:
        """The record of one candidate, measured now.

        Its ratio is the worse of two: straight to the default, and by way of the best so far, whose
        ratio is `best`.
        """
        given: dict[str, Any] = {
            "kernel": task.key,
            "target": target_key(self._machine.target),
            "bucket": task.bucket,
            "knobs": knobs,
            "calls": task.calls,
            "origin": self._origin,
            "date": datetime.now(timezone.utc).isoformat(),
        }
        if isinstance(answer, Failed):
            return Record(seconds=None, failed=answer.reason, **given)
        return Record(
            seconds=answer.seconds,
            ratio=_ratio(answer, best),
            spread=answer.spread,
            peak=answer.peak,
            **given,
        )


def _ratio(timing: Timing, best: float) -> float:
    return max(timing.ratio, timing.to_best * best) if timing.to_best >= 1 else timing.ratio
