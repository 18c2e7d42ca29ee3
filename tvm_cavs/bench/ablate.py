"""Ablation: how much longer a step takes without one optimisation than with all of them.

Networks that differ in one switch take turns within every round over the same batches, and each is
compared to the full one of its round, so that what else the machine does falls out of the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..loss import SoftmaxCrossEntropy
from ..options import SWITCHES
from .measure import Case, Step, infer_step, parts_of, train_step
from .sgemm import CLOCKS
from .workloads import Workload

FULL = "full"
SETTINGS: dict[str, dict[str, Any]] = {
    FULL: {},
    **{name: {"without": (name,)} for name in SWITCHES},
    "sharing": {"sharing": False},
}
"""What a network is hybridized with to leave an optimisation out."""
OFF = tuple(name for name in SETTINGS if name != FULL)


@dataclass(frozen=True)
class Ablation:
    """A case: milliseconds a batch with everything, and the ratio of times without each switch."""

    workload: str
    case: Case
    ms: float
    ratios: Mapping[str, float]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object for each switch; `ms_without` is the ratio's."""
        for name, ratio in self.ratios.items():
            yield {
                "workload": self.workload,
                **asdict(self.case),
                "without": name,
                "ms_full": float(f"{self.ms:.5g}"),
                "ms_without": float(f"{self.ms * ratio:.5g}"),
                "ratio": float(f"{ratio:.4g}"),
            }


def ablate(workload: Workload, case: Case, rounds: int, switches: Sequence[str] = OFF) -> Ablation:
    """Time a case with all optimisations and without each of `switches`.

    Raises:
        CavsError: as `measure`.
    """
    parts = parts_of(workload, case.batch)
    steps = {name: _step(workload, case, SETTINGS[name]) for name in (FULL, *switches)}
    for step in steps.values():
        for graphs in parts:
            step(graphs)  # compiles, and buffers grow
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in _in_turn(list(steps), number):
            steps[name](parts[0])  # brings the caches back
            seconds[name].append(sum(steps[name](graphs).total for graphs in parts))
    return summarise(workload.name, case, seconds, len(parts))


def _in_turn(names: list[str], number: int) -> list[str]:
    """Each round begins with another one: none is always right after the same other."""
    first = number % len(names)
    return names[first:] + names[:first]


def _step(workload: Workload, case: Case, settings: Mapping[str, Any]) -> Step:
    """A step on a network of its own."""
    net, now = workload.network(case.hidden, case.embedding), CLOCKS[case.clock]
    net.hybridize("tvm", threads=case.threads, precision=case.precision, **settings)
    if case.mode == "infer":
        return infer_step(net, now, [])
    return train_step(net, SoftmaxCrossEntropy(), workload.trainer(net), now, [])


def summarise(
    name: str, case: Case, seconds: Mapping[str, Sequence[float]], n_batches: int
) -> Ablation:
    """Medians over the rounds: of the full time, and of every ratio within a round."""
    full = seconds[FULL]
    ratios = {
        switch: median(t / f for t, f in zip(times, full, strict=True))
        for switch, times in seconds.items()
        if switch != FULL
    }
    return Ablation(name, case, 1e3 * median(full) / n_batches, ratios)


def ablation_table(results: Sequence[Ablation]) -> str:
    """One line a case, of at most 80 columns, under what all cases share."""
    first = results[0]
    threads, clock = first.case.threads, first.case.clock
    lines = [
        f"{first.workload}, {threads} thread(s), {clock} time: time without / time with each",
        f"{'mode':>5} {'hidden':>6} {'batch':>5} {'ms':>9}"
        + "".join(f" {name:>7}" for name in first.ratios),
    ]
    for r in results:
        head = f"{r.case.mode:>5} {r.case.hidden:>6} {r.case.batch:>5} {r.ms:9.3f}"
        lines.append(head + "".join(f" {ratio:7.2f}" for ratio in r.ratios.values()))
    return "\n".join(lines)
