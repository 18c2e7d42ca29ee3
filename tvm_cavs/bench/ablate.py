"""Ablation: how much longer a step takes without one optimisation than with all of them.

Networks that differ in one switch take turns within every round over the same batches, and each is
compared to the full one of its round, so that what else the machine does falls out of the ratio.
In wall time all of them plan a batch while the one before it runs, but for the one without overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from ..errors import BenchError
from ..graph import Graph
from .measure import Case, Round, parts_of, round_of
from .names import FULL, OVERLAP, SETTINGS, measurable
from .workloads import Workload


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


def ablate(
    workload: Workload, case: Case, rounds: int, switches: Sequence[str] | None = None
) -> Ablation:
    """Time a case with all optimisations and without each of `switches`.

    Args:
        switches: of OFF; None for all that are `measurable` by the case's clock, which also says
            whether the case is run with overlap.

    Raises:
        BenchError: a switch that the clock cannot tell.
        CavsError: as `measure`.
    """
    known = measurable(case.clock)
    chosen = known if switches is None else tuple(switches)
    if OVERLAP in set(chosen) - set(known):
        raise BenchError(
            f"without {OVERLAP}, {case.clock} time: planning ahead saves waiting and no work, "
            "which CPU time does not tell; measure it with --clock wall"
        )
    case, parts = replace(case, overlap=OVERLAP in known), parts_of(workload, case.batch)
    runs = {name: _round(workload, case, name, parts) for name in (FULL, *chosen)}
    for run in runs.values():
        run()  # compiles, and buffers grow
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in _in_turn(list(runs), number):
            seconds[name].append(sum(times.total for times in runs[name]()))
    return summarise(workload.name, case, seconds, len(parts))


def _in_turn(names: list[str], number: int) -> list[str]:
    """Each round begins with another one: none is always right after the same other."""
    first = number % len(names)
    return names[first:] + names[:first]


def _round(workload: Workload, case: Case, name: str, parts: Sequence[Sequence[Graph]]) -> Round:
    """All batches, on a network of its own."""
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", threads=case.threads, precision=case.precision, **SETTINGS[name])
    overlap = case.overlap and name != OVERLAP
    return round_of(net, workload, replace(case, overlap=overlap), parts)


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
    threads = f"{first.case.threads} thread(s)" + " + 1 planning ahead" * first.case.overlap
    widths = {name: max(6, len(name)) for name in first.ratios}
    lines = [
        f"{first.workload}, {threads}, {first.case.clock} time: time without / with each",
        f"{'mode':>5} {'hidden':>6} {'batch':>5} {'ms':>9}"
        + "".join(f" {name:>{width}}" for name, width in widths.items()),
    ]
    for r in results:
        head = f"{r.case.mode:>5} {r.case.hidden:>6} {r.case.batch:>5} {r.ms:9.3f}"
        lines.append(head + "".join(f" {r.ratios[n]:{width}.2f}" for n, width in widths.items()))
    return "\n".join(lines)
