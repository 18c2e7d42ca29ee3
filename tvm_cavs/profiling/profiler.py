"""Profile: where the time of a step goes, and what was batched.

Whole steps are run as a user runs them, in turn plain and recorded. While one is recorded, every
kernel call and every part around them writes down when it ran; that costs about half a microsecond
a call, of which a tenth counts as the kernel's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..executors import Made, Observer
from ..graph import Graph, batch
from ..nn import LossFunction, Network, record
from ..training import Trainer
from . import occupancy
from .occupancy import Level
from .report import KernelSpan, Line, Profile
from .tape import Tape

if TYPE_CHECKING:
    from ..executors.tvm import TvmExecutor
    from ..runtime import Batch, Call, CompiledStep

WARM_UP = 3  # steps that are not timed: after a recorded one it takes so many to have caches back
STEP, COLLATE, UPDATE = "step", "putting the batch together", "update"
SHARE = "finding equal vertices"
PLAN, LIST, PACK = "planning", "listing kernel calls", "packing weights"
FORWARD, OUTPUTS = "forward pass", "outputs"
BACKWARD, ASSEMBLY = "backward pass", "gradient assembly, sums of word rows"
PARTS = {"share": SHARE, "plan": PLAN, "run": FORWARD, "pack": PACK, "backward": BACKWARD}


def profile(
    net: Network,
    graphs: Sequence[Graph],
    loss: LossFunction | None = None,
    trainer: Trainer | None = None,
    repeats: int = 5,
    gflop_per_s: float | None = None,
    now: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Run a batch of these graphs on the executor "tvm" and time it.

    With `loss` that is forward and backward, with `trainer` the update as well. Parameters, the
    optimizer's state and the step of dropout are left as they were.

    Args:
        gflop_per_s: speed of a large product on this machine, to compare with.
        now: clock of the whole step; on a busy machine and for one thread `time.process_time`.
    """
    executor: Any = net.executor(loss)
    run = _whole_step(net, graphs, loss, trainer)
    with _untouched(net, trainer):
        run()
        plain, recordings = [], []
        for _ in range(repeats):
            for _ in range(WARM_UP):
                run()
            plain.append(_seconds(run, now))
            recordings.append(_record(net, executor, trainer, run))
        calls = recordings[-1].calls
        levels = _levels(executor, recordings[-1], batch(graphs))
    lines, line_of = _lines(calls, recordings)
    sizes = executor.workspace.memory.sizes() | recordings[-1].planned.memory.sizes()
    shown = sorted(recordings, key=lambda r: r.total)[len(recordings) // 2]
    return Profile(
        title=f"{'inference' if loss is None else 'a training step'}: {_size(graphs, levels)}",
        lines=lines,
        phases=_phases(recordings),
        step_seconds=median(plain),
        levels=levels,
        memory={str(buffer): n_bytes for buffer, n_bytes in sizes.items()},
        spans=tuple(shown.around.spans),
        kernels=tuple(
            KernelSpan(span, line, None if c.stage != "recurrent" else c.level, c.rows)
            for span, line, c in zip(shown.kernels.spans, line_of, calls, strict=True)
        ),
        gflop_per_s=gflop_per_s,
    )


def _whole_step(
    net: Network, graphs: Sequence[Graph], loss: LossFunction | None, trainer: Trainer | None
) -> Callable[..., None]:
    """What is timed, as a user would write it; a recording gives its own collate and update."""

    def run(
        collate: Callable[[Sequence[Graph]], Graph] = batch,
        update: Callable[[int], object] | None = None if trainer is None else trainer.step,
    ) -> None:
        together = collate(graphs)
        if loss is None:
            net(together)
            return
        with record():
            result = loss(net(together))
        result.backward()
        if update is not None:
            update(together.n_graphs)

    return run


@contextmanager
def _untouched(net: Network, trainer: Trainer | None) -> Iterator[None]:
    """Afterwards parameters, the optimizer's state and dropout's step are as they were before."""
    parameters, step = net.parameters(), net.step
    data = {name: p.data.copy() for name, p in parameters.items()}
    state = {} if trainer is None else {k: v.copy() for k, v in trainer.state().items()}
    try:
        yield
    finally:
        for name, p in parameters.items():
            p.set_data(data[name])
        if trainer is not None:
            trainer.load_state(state)
        net.step = step


@dataclass(frozen=True)
class KernelCall:
    """One kernel call of a planned batch: a step of a compiled stage on `rows` rows of a level."""

    direction: str
    stage: str
    step: CompiledStep
    level: int
    rows: int


def kernel_calls(planned: Batch) -> list[KernelCall]:
    """The kernel calls of a batch in the order in which they are executed, forward first."""
    return [
        KernelCall(direction, part.group.stage, step, part.level, part.n_rows)
        for direction in ("forward", "backward")
        for part in planned.parts(direction)
        for step in part.group.steps
    ]


@dataclass(frozen=True)
class Recording:
    """One step: what ran around the kernels, the kernels in order, and what was planned."""

    around: Tape
    kernels: Tape
    planned: Batch
    calls: list[KernelCall]

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.around.seconds(STEP)


def _levels(executor: TvmExecutor, last: Recording, graph: Graph) -> tuple[Level, ...]:
    """The batch's levels, with the slices of each."""
    recurrent = [s for s in last.planned.slices("forward") if s.group.stage == "recurrent"]
    slices = Counter(s.level for s in recurrent)
    return occupancy.levels(graph, last.planned.plan, executor.kinds.kinds, slices)


def _size(graphs: Sequence[Graph], levels: Sequence[Level]) -> str:
    """How much there is to do, in words."""
    given, run = sum(g.n_vertices for g in graphs), sum(n.vertices for n in levels)
    equal = f"{given}, {run} of which differ" if run < given else str(run)
    return f"{len(graphs)} graphs, {len(levels)} levels, vertices: {equal}"


class Recorder:
    """An observer that writes down when every part and every kernel call of a step ran."""

    def __init__(self) -> None:
        self.around, self.each_kernel = Tape(), Tape()
        self.planned: Batch | None = None

    def part(self, name: str, function: Callable[..., Made], *given: Any) -> Made:
        timed: Callable[..., Made] = self.around.timed(PARTS[name], function)
        return timed(*given)

    def kernels(self, batch: Batch, calls: Callable[[], Sequence[Call]]) -> None:
        """The calls one by one, on a tape of their own."""
        self.planned = batch
        for function, given in self.around.timed(LIST, calls)():
            self.each_kernel.timed("kernel", function)(*given)

    def recording(self) -> Recording:
        """What has been written down of one step."""
        assert self.planned is not None, "no kernel was called"
        return Recording(self.around, self.each_kernel, self.planned, kernel_calls(self.planned))


@contextmanager
def _observed(net: Network, executor: TvmExecutor, observer: Observer) -> Iterator[None]:
    """Inside, the observer sees what the network and its executor do."""
    net.observer = executor.observer = observer
    try:
        yield
    finally:
        net.observer = executor.observer = None


def _record(
    net: Network, executor: TvmExecutor, trainer: Trainer | None, run: Callable[..., None]
) -> Recording:
    """Run one step in which everything writes down when it ran."""
    recorder = Recorder()
    timed = recorder.around.timed
    update = None if trainer is None else timed(UPDATE, trainer.step)
    with _observed(net, executor, recorder):
        timed(STEP, run)(timed(COLLATE, batch), update)
    return recorder.recording()


def _phases(recordings: Sequence[Recording]) -> dict[str, float]:
    """Median seconds of every part of a step that is no kernel."""
    found: dict[str, list[float]] = {}
    for r in recordings:
        for name in (COLLATE, SHARE, PLAN, PACK, UPDATE):
            found.setdefault(name, []).append(r.around.seconds(name))
        listed = r.around.named(LIST)
        for side, (whole, after) in enumerate(((FORWARD, OUTPUTS), (BACKWARD, ASSEMBLY))):
            for span in r.around.named(whole):
                inside = [k for k in r.kernels.spans if span.start <= k.start <= span.end]
                before = listed[1].start - span.start if side else 0.0
                found.setdefault(after, []).append(before + span.end - inside[-1].end)
    return {name: median(values) for name, values in found.items() if any(values)}


def _lines(
    calls: Sequence[KernelCall], recordings: Sequence[Recording]
) -> tuple[tuple[Line, ...], list[int]]:
    """One line for each step of a stage, and the number of the line of every call."""
    number: dict[tuple[str, int], int] = {}
    line_of = [number.setdefault((c.direction, id(c.step)), len(number)) for c in calls]
    seconds = [[s.seconds for s in r.kernels.spans] for r in recordings]
    spent = [np.bincount(line_of, weights=s, minlength=len(number)) for s in seconds]
    lines = []
    for k, typical in enumerate(np.median(spent, axis=0).tolist()):
        mine = [c for c, line in zip(calls, line_of, strict=True) if line == k]
        first, rows = mine[0], sum(c.rows for c in mine)
        work = first.step.flop_per_row * rows
        where = first.direction, first.stage, first.step.kind, first.step.note
        lines.append(Line(*where, len(mine), rows, typical, work))
    return tuple(lines), line_of


def _seconds(run: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    run()
    return now() - start
