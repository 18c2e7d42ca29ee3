"""Time the steps of a workload: rounds over the same batches, medians over rounds, then means.

Everything a step does is counted: putting the batch together, planning, forward, loss, backward,
update. With `overlap` a thread does the first two for the next batch meanwhile, and what counts is
the wait for it. The clock is the wall's, or the process's CPU time: on a busy machine the fair one
for one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from ..errors import BenchError, DataError
from ..graph import Graph, batch
from ..nn import Network, SoftmaxCrossEntropy, record
from ..profiling import Profile, profile
from ..training import Trainer
from .arithmetic import product_flop, rows_of_kinds
from .sgemm import CLOCKS, Sgemm
from .workloads import Workload

MODES = ("train", "infer")
GRAPHS = 256  # how many a measurement goes through
WARM_SECONDS = 0.05  # before every round
BATCHES = 64  # and at most so many batches of them


@dataclass(frozen=True)
class Case:
    """One row of a table. `overlap`: a batch is planned while the one before it runs."""

    hidden: int
    embedding: int
    batch: int
    mode: str
    threads: int
    clock: str = "wall"
    precision: str = "float32"
    overlap: bool = False


@dataclass(frozen=True)
class Result:
    """A measured case, times of one batch.

    `share_of_floor`: the time its products would take at `sgemm_gflop_per_s`, by `ms_per_batch`.
    `share_in_pairs`: the same of every round, at the speed measured right before it; the median.
    Where the clock moves within a run, that is the fairer one.
    With `overlap`, `batch_ms` is the wait for a batch that is planned, and `plan_ms` None: not a
    part of the time.
    """

    workload: str
    hidden: int
    embedding: int
    batch: int
    mode: str
    threads: int
    clock: str
    precision: str
    overlap: bool
    ms_per_batch: float
    samples_per_s: float
    batch_ms: float
    plan_ms: float | None
    forward_ms: float
    backward_ms: float
    update_ms: float
    product_gflop: float
    sgemm_gflop_per_s: float
    share_of_floor: float
    share_in_pairs: float

    def row(self) -> dict[str, Any]:
        """The fields by name, numbers rounded to what they are worth."""
        return {
            k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in asdict(self).items()
        }


@dataclass
class Times:
    """Seconds of the parts of one step."""

    batch: float = 0.0  # until there is one
    plan: float = 0.0
    forward: float = 0.0  # without planning
    backward: float = 0.0
    update: float = 0.0

    @property
    def total(self) -> float:
        return self.batch + self.plan + self.forward + self.backward + self.update


Now = Callable[[], float]
Step = Callable[[Graph], Times]
Round = Callable[[], list[Times]]


@contextmanager
def timed_plans(executor: Any, now: Now, seconds: list[float]) -> Iterator[None]:
    """Inside, every plan that the executor makes adds its time to `seconds`."""
    plan = executor.plan

    def timed(*given: Any) -> Any:
        start = now()
        made = plan(*given)
        seconds.append(now() - start)
        return made

    executor.plan = timed
    try:
        yield
    finally:
        del executor.plan


def train_step(
    net: Network, loss_fn: SoftmaxCrossEntropy, trainer: Trainer, now: Now, plans: list[float]
) -> Step:
    """One step of training on a batch, timed; `plans` gets the seconds of its planning."""

    def step(made: Graph) -> Times:
        plans.clear()
        times = [now()]
        with record():
            loss = loss_fn(net(made))
        times.append(now())
        loss.backward()
        times.append(now())
        trainer.step(made.n_graphs)
        times.append(now())
        forward, backward, update = np.diff(times).tolist()
        return Times(0.0, sum(plans), forward - sum(plans), backward, update)

    return step


def infer_step(net: Network, now: Now, plans: list[float]) -> Step:
    """One forward pass to the logits of every vertex, timed; `plans` as above."""

    def step(made: Graph) -> Times:
        plans.clear()
        start = now()
        net(made)
        forward = now() - start
        return Times(0.0, sum(plans), forward - sum(plans))

    return step


def round_of(
    net: Network, workload: Workload, case: Case, parts: Sequence[Sequence[Graph]]
) -> Round:
    """A function that runs every batch once, timed, after `warm_up`.

    A batch's time goes from the end of the one before it to its own. With overlap one more is
    planned at the end and not run, so that each of them runs beside the planning of another.

    Raises:
        BenchError: overlap in CPU time.
    """
    if case.overlap and case.clock == "cpu":
        raise BenchError(
            f"{case}: overlap hides planning behind a batch, but CPU time adds up what all threads "
            'do; give clock="wall"'
        )
    now, loss_fn, plans = CLOCKS[case.clock], loss_of(case), list[float]()
    executor = net.executor(loss_fn)
    if loss_fn is None:
        step = infer_step(net, now, plans)
    else:
        step = train_step(net, loss_fn, workload.trainer(net), now, plans)
    order = [parts[0], *parts, parts[0]]

    def run() -> list[Times]:
        warm_up(lambda part: step(batch(part)), parts)
        batches: Iterator[Graph] = map(batch, order)
        timed: AbstractContextManager[None] = nullcontext()
        if case.overlap:
            batches = net.ahead(batches, loss_fn)
        else:
            timed = timed_plans(executor, now, plans)
        found = []
        with timed:
            end = now()
            for made in islice(batches, len(order) - 1):
                waited = now() - end
                found.append(step(made))
                found[-1].batch = waited
                end = now()
        return found[1:]

    return run


def warm_up(step: Callable[[Sequence[Graph]], object], parts: Sequence[Sequence[Graph]]) -> None:
    """Run batches for WARM_SECONDS: what ran in between has taken the caches, and the clock sleeps.

    For every system alike. The first steps after a pause take up to a half longer than the others.
    """
    end = time.perf_counter() + WARM_SECONDS
    for part in cycle(parts):
        step(part)
        if time.perf_counter() >= end:
            return


def loss_of(case: Case) -> SoftmaxCrossEntropy | None:
    """What a step of the case ends in."""
    return SoftmaxCrossEntropy() if case.mode == "train" else None


def parts_of(workload: Workload, size: int) -> list[list[Graph]]:
    """The graphs of every batch that is measured.

    Raises:
        DataError: fewer graphs than one batch takes.
    """
    graphs = workload.data.graphs
    if len(graphs) < size:
        raise DataError(f"a batch of {size} graphs: workload {workload.name} has {len(graphs)}")
    n = min(len(graphs), max(size, min(GRAPHS, BATCHES * size)))
    return [list(graphs[i : i + size]) for i in range(0, n - size + 1, size)]


def flop_of(net: Network, case: Case, parts: Sequence[Sequence[Graph]]) -> float:
    """The products of a step, the mean over its batches."""
    executor: Any = net.executor(loss_of(case))
    kinds = executor.kinds
    forward = [product_flop(kinds.forward, rows_of_kinds(kinds, batch(part))) for part in parts]
    return float(np.mean(forward)) * (3 if case.mode == "train" else 1)


def measure(workload: Workload, case: Case, rounds: int, sgemm: Sgemm) -> Result:
    """Run a case `rounds` times over its batches, after one round that compiles and fills buffers.

    Raises:
        CavsError: a workload without a graph for a whole batch, or what training raises.
    """
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", sharing=False, threads=case.threads, precision=case.precision)
    parts = parts_of(workload, case.batch)
    run = round_of(net, workload, case, parts)
    run()
    clocks, speeds = [], []
    for _ in range(rounds):
        speeds.append(sgemm.measure())
        clocks.append(run())
    by_batch = list(zip(*clocks, strict=True))
    flop = flop_of(net, case, parts)
    return summarise(workload.name, case, by_batch, flop, sgemm.best, speeds)


def profile_case(workload: Workload, case: Case, gflop_per_s: float) -> Profile:
    """Where the time of the case's first batch goes, kernel by kernel.

    Args:
        gflop_per_s: of a large product on this machine, to compare with.

    Raises:
        CavsError: as `measure`.
    """
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", sharing=False, threads=case.threads, precision=case.precision)
    graphs, now = parts_of(workload, case.batch)[0], CLOCKS[case.clock]
    if case.mode == "infer":
        return profile(net, graphs, gflop_per_s=gflop_per_s, now=now)
    loss_fn, trainer = SoftmaxCrossEntropy(), workload.trainer(net)
    return profile(net, graphs, loss_fn, trainer, gflop_per_s=gflop_per_s, now=now)


def summarise(
    name: str,
    case: Case,
    clocks: Sequence[Sequence[Times]],
    flop: float,
    gflop_per_s: float,
    speeds: Sequence[float],
) -> Result:
    """Medians over the rounds of each batch, then the mean over batches.

    Args:
        clocks: for every batch, for every round. flop: mean arithmetic of a batch. gflop_per_s: of
            a large product at best. speeds: its speed right before every round.
    """

    def typical(part: str) -> float:
        return float(np.mean([np.median([getattr(c, part) for c in found]) for found in clocks]))

    seconds = typical("total")
    of_round = np.mean([[times.total for times in found] for found in clocks], axis=0)
    in_pairs = flop / 1e9 / np.array(speeds) / of_round
    return Result(
        name,
        **asdict(case),
        ms_per_batch=1e3 * seconds,
        samples_per_s=case.batch / seconds,
        batch_ms=1e3 * typical("batch"),
        plan_ms=None if case.overlap else 1e3 * typical("plan"),
        forward_ms=1e3 * typical("forward"),
        backward_ms=1e3 * typical("backward"),
        update_ms=1e3 * typical("update"),
        product_gflop=flop / 1e9,
        sgemm_gflop_per_s=gflop_per_s,
        share_of_floor=flop / 1e9 / gflop_per_s / seconds,
        share_in_pairs=float(np.median(in_pairs)),
    )
