"""Time the steps of a workload: rounds over the same batches, medians over rounds, then means.

Everything a step does is counted: putting the batch together, planning, forward, loss, backward,
update. The clock is the wall's, or the process's CPU time: on a busy machine the fair one for one
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..graph import Graph, batch
from ..loss import SoftmaxCrossEntropy
from ..network import Network, record
from ..profiling import profile
from ..timings import Profile
from ..trainer import Trainer
from .arithmetic import product_flop, rows_of_kinds
from .sgemm import CLOCKS, Sgemm
from .workloads import Workload

MODES = ("train", "infer")
GRAPHS = 256  # how many a measurement goes through
BATCHES = 64  # and at most so many batches of them


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    hidden: int
    embedding: int
    batch: int
    mode: str
    threads: int
    clock: str = "wall"
    precision: str = "float32"


@dataclass(frozen=True)
class Result:
    """A measured case, times of one batch.

    `share_of_floor`: the time its products would take at `sgemm_gflop_per_s`, by `ms_per_batch`.
    """

    workload: str
    hidden: int
    embedding: int
    batch: int
    mode: str
    threads: int
    clock: str
    precision: str
    ms_per_batch: float
    samples_per_s: float
    batch_ms: float
    plan_ms: float
    forward_ms: float
    backward_ms: float
    update_ms: float
    product_gflop: float
    sgemm_gflop_per_s: float
    share_of_floor: float

    def row(self) -> dict[str, Any]:
        """The fields by name, numbers rounded to what they are worth."""
        return {
            k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in asdict(self).items()
        }


@dataclass
class Times:
    """Seconds of the parts of one step."""

    batch: float = 0.0
    plan: float = 0.0
    forward: float = 0.0  # without planning
    backward: float = 0.0
    update: float = 0.0

    @property
    def total(self) -> float:
        return self.batch + self.plan + self.forward + self.backward + self.update


Now = Callable[[], float]
Step = Callable[[Sequence[Graph]], Times]


@contextmanager
def timed_plans(executor: Any, now: Now) -> Iterator[list[float]]:
    """Inside, every plan that the executor makes adds its seconds to the list that is given."""
    plan, seconds = executor.plan, []

    def timed(*given: Any) -> Any:
        start = now()
        made = plan(*given)
        seconds.append(now() - start)
        return made

    executor.plan = timed
    try:
        yield seconds
    finally:
        del executor.plan


def train_step(
    net: Network, loss_fn: SoftmaxCrossEntropy, trainer: Trainer, now: Now, plans: list[float]
) -> Step:
    """One step of training, timed."""

    def step(graphs: Sequence[Graph]) -> Times:
        plans.clear()
        times = [now()]
        made = batch(graphs)
        times.append(now())
        with record():
            loss = loss_fn(net(made))
        times.append(now())
        loss.backward()
        times.append(now())
        trainer.step(made.n_graphs)
        times.append(now())
        together, forward, backward, update = np.diff(times).tolist()
        return Times(together, sum(plans), forward - sum(plans), backward, update)

    return step


def infer_step(net: Network, now: Now, plans: list[float]) -> Step:
    """One forward pass to the logits of every vertex, timed."""

    def step(graphs: Sequence[Graph]) -> Times:
        plans.clear()
        times = [now()]
        made = batch(graphs)
        times.append(now())
        net(made)
        times.append(now())
        together, forward = np.diff(times).tolist()
        return Times(together, sum(plans), forward - sum(plans))

    return step


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


def measure(workload: Workload, case: Case, rounds: int, sgemm: Sgemm) -> Result:
    """Run a case `rounds` times over its batches, after one round that compiles and fills buffers.

    Raises:
        CavsError: a workload without a graph for a whole batch, or what training raises.
    """
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", sharing=False, threads=case.threads, precision=case.precision)
    loss_fn = SoftmaxCrossEntropy() if case.mode == "train" else None
    executor: Any = net.executor(loss_fn)
    now = CLOCKS[case.clock]
    parts = parts_of(workload, case.batch)
    with timed_plans(executor, now) as plans:
        if loss_fn is not None:
            trainer = workload.trainer(net)
            step = train_step(net, loss_fn, trainer, now, plans)
        else:
            step = infer_step(net, now, plans)
        clocks = [[step(graphs)] for graphs in parts]
        for _ in range(rounds):
            sgemm.measure()
            step(parts[0])  # brings the caches back
            for graphs, found in zip(parts, clocks, strict=True):
                found.append(step(graphs))
    kinds = executor.kinds
    forward = [product_flop(kinds.forward, rows_of_kinds(kinds, batch(part))) for part in parts]
    flop = float(np.mean(forward)) * (3 if case.mode == "train" else 1)
    return summarise(workload.name, case, [found[1:] for found in clocks], flop, sgemm.best)


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
    name: str, case: Case, clocks: Sequence[Sequence[Times]], flop: float, gflop_per_s: float
) -> Result:
    """Medians over the rounds of each batch, then the mean over batches.

    Args:
        clocks: for every batch, for every round. flop: mean arithmetic of a batch.
    """

    def typical(part: str) -> float:
        return float(np.mean([np.median([getattr(c, part) for c in found]) for found in clocks]))

    seconds = typical("total")
    return Result(
        name,
        **asdict(case),
        ms_per_batch=1e3 * seconds,
        samples_per_s=case.batch / seconds,
        batch_ms=1e3 * typical("batch"),
        plan_ms=1e3 * typical("plan"),
        forward_ms=1e3 * typical("forward"),
        backward_ms=1e3 * typical("backward"),
        update_ms=1e3 * typical("update"),
        product_gflop=flop / 1e9,
        sgemm_gflop_per_s=gflop_per_s,
        share_of_floor=flop / 1e9 / gflop_per_s / seconds,
    )
