"""Profile: where the time of a batch goes, kernel by kernel, and what was batched.

Every kernel call of a planned batch is timed by itself; a line adds up the calls of one step of one
stage. What the timing itself costs is about a tenth of a microsecond a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .assemble import CompiledGroup, CompiledStep
from .batching import Call, Table
from .execution import Seeds
from .executor import Batch, TvmExecutor
from .graph import Graph

STAGE_ORDER = {"eager": 0, "recurrent": 1, "lazy": 2}


@dataclass(frozen=True)
class Line:
    """One step of one stage: `calls` kernel calls on `rows` rows; `flop` of its products."""

    direction: str
    stage: str
    kernel: str
    note: str
    calls: int
    rows: int
    seconds: float
    flop: int


@dataclass(frozen=True)
class Profile:
    """Times of one batch, medians over repetitions, and its levels.

    levels: vertices of each level, leaves first. memory: bytes of every buffer.
    """

    lines: tuple[Line, ...]
    plan_seconds: float
    load_seconds: float  # packing the weights, once per step
    levels: tuple[int, ...]
    memory: dict[str, int]

    @property
    def seconds(self) -> float:
        """All of it: planning, packing, kernels."""
        return self.plan_seconds + self.load_seconds + sum(line.seconds for line in self.lines)

    def __str__(self) -> str:
        """A table of at most 80 columns, the slowest step first."""
        total = self.seconds
        rows = [f"{'ms':>9} {'share':>6} {'calls':>5} {'rows':>6} {'GFLOP/s':>8}  step"]
        for name, seconds in (("planning", self.plan_seconds), ("packing", self.load_seconds)):
            rows.append(f"{seconds * 1e3:9.3f} {seconds / total:6.1%} {'':21}  {name}")
        for a in sorted(self.lines, key=lambda line: -line.seconds):
            rate = f"{a.flop / a.seconds / 1e9:8.1f}" if a.flop else " " * 8
            step = f"{a.direction} {a.stage} {a.kernel} {a.note}"
            head = (
                f"{a.seconds * 1e3:9.3f} {a.seconds / total:6.1%} {a.calls:5d} {a.rows:6d} {rate}"
            )
            rows.append(f"{head}  {step}"[:80])
        rows.append(f"{total * 1e3:9.3f}  in all, for {sum(self.levels)} vertices")
        rows.append(_levels(self.levels))
        rows.append(f"buffers: {sum(self.memory.values()) / 1e6:.1f} MB; the largest:")
        largest = sorted(self.memory.items(), key=lambda item: -item[1])[:5]
        rows += [f"{size / 1e6:9.1f} MB  {name}" for name, size in largest]
        return "\n".join(rows)


def _levels(levels: tuple[int, ...]) -> str:
    """How many vertices each level batched: a level is as small as the tall graphs are few."""
    small = sum(n < 8 for n in levels)
    shown = " ".join(map(str, levels[:14])) + (" ..." if len(levels) > 14 else "")
    return f"levels: {len(levels)}, {small} of them with fewer than 8 vertices: {shown}"


def profile(executor: TvmExecutor, graph: Graph, seeds: Seeds, repeats: int = 5) -> Profile:
    """Run a batch `repeats` times after one to warm up, forward and (in training) backward.

    Parameters and their gradients are left as they are.
    """
    executor.run(executor.plan(graph), seeds)
    plans = [_seconds(lambda: executor.plan(graph)) for _ in range(repeats)]
    batch = executor.plan(graph)
    lines, jobs = _jobs(executor, batch)
    loads, kernels = [], []
    for _ in range(repeats + 1):
        loads.append(_seconds(executor.load_parameters))
        spent = np.zeros(len(lines))
        for line, (function, args) in jobs:
            start = time.perf_counter()
            function(*args)
            spent[line] += time.perf_counter() - start
        kernels.append(spent)
    times = np.median(kernels[1:], axis=0)
    levels = np.bincount(batch.plan.cells.level, weights=batch.plan.cells.count).astype(int)
    return Profile(
        tuple(
            _line(step, where, table, float(t))
            for (step, where, table), t in zip(lines, times, strict=True)
        ),
        float(np.median(plans)),
        float(np.median(loads[1:])),
        tuple(levels.tolist()),
        executor.memory.sizes(),
    )


Entry = tuple[CompiledStep, tuple[str, str], Table]


def _jobs(executor: TvmExecutor, batch: Batch) -> tuple[list[Entry], list[tuple[int, Call]]]:
    """The steps of all stages, and the kernel calls of a batch in order, each with its step."""
    entries: list[Entry] = []
    jobs: list[tuple[tuple[int, int, int], int, Call]] = []
    sides = (("forward", executor.compiled.forward), ("backward", executor.compiled.backward))
    for side, (direction, groups) in enumerate(sides):
        for group in groups:
            table = batch.tables[id(group)]
            first = len(entries)
            entries += [(s, (direction, group.stage), table) for s in group.steps]
            for level, calls in zip(
                table.level.tolist(), _calls(group, batch, executor), strict=True
            ):
                depth = (-level if side else level) if group.stage == "recurrent" else 0
                order = (side, STAGE_ORDER[group.stage], depth)
                jobs += [(order, first + k, call) for k, call in enumerate(calls)]
    jobs.sort(key=lambda job: job[0])
    return entries, [(line, call) for _, line, call in jobs]


def _calls(group: CompiledGroup, batch: Batch, executor: TvmExecutor) -> list[list[Call]]:
    assert executor.spaces is not None
    return executor.spaces.slice_calls(group, batch.tables[id(group)], batch.memory)


def _line(step: CompiledStep, where: tuple[str, str], table: Table, seconds: float) -> Line:
    n_rows = int(table.count.sum())
    calls = len(table.rows)
    flop = step.flop_per_row * n_rows
    return Line(*where, step.kind, step.note, calls, n_rows, seconds, flop)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
