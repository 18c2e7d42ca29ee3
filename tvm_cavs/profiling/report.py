"""Profile: what the steps of one batch were found to cost, as data and as a text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import occupancy
from .occupancy import WIDTH, Level
from .tape import Span

PRODUCTS = {
    "product": "products, which gather their rows",
    "region": "elementwise",
    "outer": "weight gradients",
    "column_sum": "sums over vertices",
}
REST = "rest: Python between the above"


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

    @property
    def name(self) -> str:
        return f"{self.direction} {self.stage} {self.kernel} {self.note}".rstrip()


@dataclass(frozen=True)
class KernelSpan:
    """One kernel call of the recorded step; `level` is None where it runs over all at once."""

    span: Span
    line: int
    level: int | None
    rows: int


@dataclass(frozen=True)
class Profile:
    """Times of one batch, medians over repetitions.

    step_seconds: of the whole step, not recorded while it ran. phases: seconds of its parts that
    are not kernels. spans, kernels: one step as it was recorded. memory: bytes of every buffer.
    gflop_per_s: of a large product on this machine, where it is known.
    """

    title: str
    lines: tuple[Line, ...]
    phases: Mapping[str, float]
    step_seconds: float
    levels: tuple[Level, ...]
    memory: Mapping[str, int]
    spans: tuple[Span, ...]
    kernels: tuple[KernelSpan, ...]
    gflop_per_s: float | None = None

    @property
    def seconds(self) -> float:
        """What the parts add up to."""
        return sum(self.phases.values()) + sum(line.seconds for line in self.lines)

    @property
    def gflop(self) -> float:
        """Arithmetic of the products and weight gradients, in 10^9."""
        return sum(line.flop for line in self.lines) / 1e9

    def summary(self) -> str:
        """Where the time of the whole step goes: a table of at most 80 columns."""
        rows = [self.title, f"{'ms':>9} {'share':>6} {'calls':>6} {'GFLOP/s':>8}  part of the step"]
        parts = [(seconds, 0, 0, name) for name, seconds in self.phases.items()]
        for kernel, name in PRODUCTS.items():
            mine = [line for line in self.lines if line.kernel == kernel]
            if mine:
                flop, calls = sum(x.flop for x in mine), sum(x.calls for x in mine)
                parts.append((sum(x.seconds for x in mine), calls, flop, name))
        for seconds, calls, flop, name in sorted(parts, reverse=True):
            rows.append(f"{self._row(seconds, calls, flop)}  {name}"[:WIDTH])
        rows.append(f"{self._row(self.step_seconds - self.seconds)}  {REST}")
        rows.append(f"{self._row(self.step_seconds)}  the step, timed as a whole")
        if self.gflop_per_s:
            share = self.gflop / self.gflop_per_s / self.step_seconds
            rows.append(
                f"{share:16.1%} of the floor: {self.gflop:.4g} GFLOP of products at "
                f"{self.gflop_per_s:.0f} GFLOP/s"
            )
        return "\n".join(rows)

    def _row(self, seconds: float, calls: int = 0, flop: int = 0) -> str:
        rate = f"{flop / seconds / 1e9:8.1f}" if flop else " " * 8
        share = seconds / self.step_seconds
        return f"{seconds * 1e3:9.3f} {share:6.1%} {calls or '':>6} {rate}"

    def __str__(self) -> str:
        """The summary, every kernel, the levels and the largest buffers."""
        rows = [
            self.summary(),
            "",
            f"{'ms':>9} {'share':>6} {'calls':>6} {'GFLOP/s':>8}   rows  kernel",
        ]
        for x in sorted(self.lines, key=lambda line: -line.seconds):
            rows.append(f"{self._row(x.seconds, x.calls, x.flop)} {x.rows:6d}  {x.name}"[:WIDTH])
        rows += ["", *occupancy.table(self.levels), ""]
        rows.append(f"buffers: {sum(self.memory.values()) / 1e6:.1f} MB; the largest:")
        largest = sorted(self.memory.items(), key=lambda item: -item[1])[:5]
        rows += [f"{size / 1e6:9.1f} MB  {name}"[:WIDTH] for name, size in largest]
        return "\n".join(rows)
