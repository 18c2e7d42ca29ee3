"""Tasks: a network and batches of real data -> the kernels worth tuning, heaviest first.

Steps are run as in training, every kernel call timed. Calls of one kernel in one bucket of row
counts are a task; its weight is their part of all kernels' time. When its turn comes, the step
where it took longest is run again, and its calls are recorded with all that they read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tvm_cavs.compiler import (
    Bucket,
    Recorded,
    Workload,
    bucket_of,
    defaults,
    domains,
    recorded_of,
)
from tvm_cavs.executors import Made
from tvm_cavs.graph import Graph
from tvm_cavs.language import RowSparse
from tvm_cavs.nn import LossFunction, Network, record

FORWARD, BACKWARD = "forward", "backward"
LOOKS = 3  # at every step: another process may take the core in one of them


@dataclass(frozen=True)
class Task:
    """What is tuned at a time: something that has knobs, in one bucket of row counts.

    SORT: what tasks of this class are about, for people. key: as in records. default: its default
    knobs, given shared ones. seconds: in all steps that were looked at. share: that by the time of
    all of its sort. calls: in one step.
    """

    SORT: ClassVar[str]

    key: str
    bucket: Bucket
    default: Callable[..., Any] = field(compare=False)
    seconds: float
    share: float
    calls: int

    def __str__(self) -> str:
        return f"{self.key}, {self.bucket} rows"

    def domains(self, machine: Any) -> Mapping[str, tuple[Any, ...]]:
        """The values that each knob may have, the default first."""
        return domains(self.default(), machine.target)

    def recorded(self, steps: Steps) -> Any:
        """What a `Bench` loads to measure it."""
        raise NotImplementedError


@dataclass(frozen=True)
class KernelTask(Task):
    """Calls of one kernel.

    workload: what is called, the heaviest where several kernels have one key. step: number of the
    step in which it took longest.
    """

    SORT: ClassVar[str] = "kernels"

    workload: Workload
    step: int

    def recorded(self, steps: Steps) -> Recorded:
        """The calls, in order, and copies of the arrays that they read and write."""
        called = [
            each
            for each in steps.watched(self.step)
            if each.workload == self.workload and each.rows in self.bucket
        ]
        calls = [each.arguments for each in called]
        return recorded_of(self.workload, calls, steps.executor.compiler.machine)


@dataclass(frozen=True)
class Called:
    """One kernel call of a step."""

    workload: Workload
    rows: int
    seconds: float
    arguments: tuple[Any, ...]


class Watcher:
    """An observer that times every kernel call of a step."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.called: list[Called] = []
        self._direction = FORWARD

    def part(self, name: str, function: Callable[..., Made], *given: Any) -> Made:
        """Parts of a step count as they are."""
        return function(*given)

    def kernels(self, batch: Any, calls: Callable[[], Sequence[Any]]) -> None:
        """The calls of one direction, one by one; forward comes first."""
        known = self._executor.workloads(batch)
        steps = [
            (workload, part.n_rows)
            for part in batch.parts(self._direction)
            for workload in known[part.number]
        ]
        for (workload, rows), (function, arguments) in zip(steps, calls(), strict=True):
            start = time.perf_counter()
            function(*arguments)
            passed = time.perf_counter() - start
            self.called.append(Called(workload, rows, passed, arguments))
        self._direction = BACKWARD


class Steps:
    """Steps of a network on batches, forward and with `loss` backward; no parameter changes."""

    def __init__(self, net: Network, batches: Sequence[Graph], loss: LossFunction | None) -> None:
        self.net, self.batches, self.loss = net, batches, loss
        net.prepare(batches, loss)
        self.executor: Any = net.executor(loss)

    def run(self, number: int) -> Mapping[str, np.ndarray]:
        """One step, as a user would write it: its outputs."""
        graph, step = self.batches[number], self.net.step
        if self.loss is None:
            outputs: Mapping[str, np.ndarray] = self.net(graph)
            return outputs
        with record():
            value = self.loss(self.net(graph))
        value.backward()
        self.net.step = step
        return value.outputs

    def results(self, number: int) -> dict[str, np.ndarray]:
        """All that a step computes: its outputs, and in training the gradients."""
        found = dict(self.run(number))
        if self.loss is not None:
            for name, p in self.net.parameters().items():
                found |= _arrays(f"gradient of {name}", p.grad)
        return found

    def n_rows(self, number: int) -> int:
        """The vertices that a step of this batch computes, when it has just run."""
        shared = self.net.last_sharing
        return self.batches[number].n_vertices if shared is None else shared.shared

    def watched(self, number: int) -> list[Called]:
        """The kernel calls of a step; when this returns, memory is as they left it."""
        watcher = Watcher(self.executor)
        with _observed(self.executor, watcher):
            self.run(number)
        return watcher.called


def _arrays(name: str, gradient: np.ndarray | RowSparse | None) -> dict[str, np.ndarray]:
    """Copies of what a gradient holds, the rows of a table in their order."""
    if not isinstance(gradient, RowSparse):
        return {} if gradient is None else {name: gradient.copy()}
    order = gradient.rows.argsort()
    rows, values = gradient.rows.take(order), gradient.values.take(order, axis=0)
    return {f"rows of the {name}": rows, name: values}


@contextmanager
def _observed(executor: Any, watcher: Watcher) -> Iterator[None]:
    executor.observer = watcher
    try:
        yield
    finally:
        executor.observer = None


def tasks_of(steps: Steps, machine: Any = None) -> list[KernelTask]:
    """What may be tuned in these steps, heaviest first.

    Args:
        machine: for which it is tuned; None for what the steps run on, which decides what is heavy.
    """
    machine = steps.executor.compiler.machine if machine is None else machine
    for number in range(len(steps.batches)):
        steps.run(number)  # compiles, makes buffers grow
    runs = [_quickest(steps, number) for number in range(len(steps.batches))]
    found: dict[tuple[str, Bucket], list[tuple[int, Called]]] = {}
    usual: dict[str, Callable[..., Any]] = {}
    for number, called in enumerate(runs):
        for each in called:
            known = defaults(machine, each.workload)
            if known is not None:
                key, usual[key] = known
                found.setdefault((key, bucket_of(each.rows)), []).append((number, each))
    total = sum(each.seconds for called in runs for each in called)
    tasks = [_task(key, b, usual[key], calls, total) for (key, b), calls in found.items()]
    return sorted(tasks, key=lambda task: -task.seconds)


def _quickest(steps: Steps, number: int) -> list[Called]:
    """The kernel calls of a step, each with the shortest of the times it took in a few."""
    several = [steps.watched(number) for _ in range(LOOKS)]
    return [min(same, key=lambda each: each.seconds) for same in zip(*several, strict=True)]


def _task(
    key: str,
    bucket: Bucket,
    default: Callable[..., Any],
    calls: Sequence[tuple[int, Called]],
    total: float,
) -> KernelTask:
    seconds: dict[tuple[Workload, int], float] = {}
    for number, each in calls:
        at = each.workload, number
        seconds[at] = seconds.get(at, 0.0) + each.seconds
    workload, step = max(seconds, key=lambda at: seconds[at])
    n_calls = sum(1 for number, each in calls if (each.workload, number) == (workload, step))
    whole = sum(each.seconds for _, each in calls)
    return KernelTask(key, bucket, default, whole, whole / total, n_calls, workload, step)
