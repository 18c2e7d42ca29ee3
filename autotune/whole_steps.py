"""Whole steps as tasks: by how many threads a batch is run, and whether its weights are packed.

That is measured in this process, on the network itself: what threads cost and gain shows only when
all kernels of a step follow each other. A bucket is of rows that batches run; equal vertices that
are computed once count once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tvm_cavs.compiler import Bucket, Runnable, Wrong, bucket_of, peak

from .tasks import LOOKS, Steps, Task
from .worker import Failed, Timing, measure

TOLERANCE = 1e-4  # of results whose sums may have another order, by the largest value


@dataclass(frozen=True)
class StepTask(Task):
    """Steps of batches of one size. numbers: of those batches. trains: they go back, too."""

    SORT: ClassVar[str] = "steps"

    numbers: tuple[int, ...]
    trains: bool

    def domains(self, machine: Any) -> Mapping[str, tuple[Any, ...]]:
        """See `Task`; weights are read where they lie in training alone."""
        found = dict(super().domains(machine))
        if not self.trains:
            found["direct"] = found["direct"][:1]
        return found

    def recorded(self, _steps: Steps) -> StepTask:
        """What a `StepBench` loads."""
        return self


def step_tasks_of(steps: Steps) -> list[StepTask]:
    """The sizes of these batches, heaviest first."""
    seconds: dict[Bucket, float] = {}
    numbers: dict[Bucket, list[int]] = {}
    for number in range(len(steps.batches)):
        steps.run(number)
        bucket = bucket_of(steps.n_rows(number))
        took = min(_seconds(steps, number) for _ in range(LOOKS))
        seconds[bucket] = seconds.get(bucket, 0.0) + took
        numbers.setdefault(bucket, []).append(number)
    total, stepping = sum(seconds.values()), steps.executor.stepping
    tasks = [
        StepTask(
            key=stepping.key,
            bucket=bucket,
            default=lambda: stepping.default,
            seconds=took,
            share=took / total,
            calls=1,
            numbers=tuple(numbers[bucket]),
            trains=steps.loss is not None,
        )
        for bucket, took in seconds.items()
    ]
    return sorted(tasks, key=lambda task: -task.seconds)


def _seconds(steps: Steps, number: int) -> float:
    start = time.perf_counter()
    steps.run(number)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Batches:
    """Steps that are ready to run, as a `Runnable` is: `numbers` of their batches."""

    steps: Steps
    numbers: tuple[int, ...]

    def run(self) -> None:
        """A step of each batch."""
        for number in self.numbers:
            self.steps.run(number)

    def seconds(self, repeats: int) -> float:
        """Of one step, the mean of `repeats` runs."""
        start = time.perf_counter()
        for _ in range(repeats):
            self.run()
        return (time.perf_counter() - start) / repeats / len(self.numbers)


class StepTrial:
    """A network's steps with any knobs, as `Trial`.

    Args:
        make: steps of a network of its own, each time.
    """

    def __init__(self, task: StepTask, make: Callable[[], Steps]) -> None:
        self._task, self._make = task, make
        self._made: dict[Any, Steps] = {}
        self.default = self.ready(task.default())
        self._expected = self._results(task.default())

    def ready(self, knobs: Any) -> Batches:
        """The steps with these knobs."""
        return Batches(self._steps(knobs), self._task.numbers)

    def keep(self, *knobs: Any) -> None:
        """Forget the networks of other knobs, but the default's."""
        kept = {self._task.default(), *knobs}
        self._made = {each: steps for each, steps in self._made.items() if each in kept}

    def check(self, knobs: Any) -> None:
        """The results with these knobs are the default's, up to rounding.

        Raises:
            Wrong: they are not.
        """
        for name, got in self._results(knobs).items():
            want = self._expected[name]
            largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
            if not np.allclose(got, want, rtol=0.0, atol=TOLERANCE * largest, equal_nan=True):
                raise Wrong(f"{name} is not what it is with {self._task.default()}")

    def _steps(self, knobs: Any) -> Steps:
        if knobs not in self._made:
            self._made[knobs] = self._make()
            self._made[knobs].executor.stepping.fixed = knobs
        return self._made[knobs]

    def _results(self, knobs: Any) -> dict[str, np.ndarray]:
        steps = self._steps(knobs)
        return {
            f"{name} of batch {number}": values
            for number in self._task.numbers
            for name, values in steps.results(number).items()
        }


class StepBench:
    """A Bench of whole steps, in this process.

    Args:
        make: steps of a network of its own, each time.
    """

    width = 1

    def __init__(self, make: Callable[[], Steps], compiler: Any) -> None:
        self._make, self._compiler = make, compiler
        self._probe: tuple[Runnable, float] | None = None
        self._trial: StepTrial | None = None

    def load(self, recorded: StepTask) -> None:
        """See `Bench.load`."""
        self._trial = StepTrial(recorded, self._make)

    def measure(
        self, candidates: Sequence[Any], best: Any = None
    ) -> Iterator[tuple[Any, Timing | Failed]]:
        """See `Bench.measure`."""
        assert self._trial is not None
        self._probe = self._probe or peak(self._compiler)
        for knobs in candidates:
            self._trial.keep(knobs, best)
            yield knobs, measure(self._trial, knobs, best, self._probe)

    def close(self) -> None:
        """See `Bench.close`."""
        self._trial = None
