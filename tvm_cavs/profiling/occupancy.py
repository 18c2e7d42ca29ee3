"""Occupancy: how many vertices each level of a batch ran together, and why not more.

A level is small where few graphs are tall enough to reach it or have few vertices there; it is cut
into several calls where vertices of different kinds need different kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph, Kind

if TYPE_CHECKING:  # it brings TVM's FFI along
    from ..runtime import Plan

WIDTH = 80


@dataclass(frozen=True)
class Level:
    """One level, leaves first.

    graphs: those that reach it. calls: slices of its recurrent stage, forward; 0 where nothing
    waits for a child, so that it runs with all levels at once. kinds: of its vertices.
    """

    number: int
    vertices: int
    graphs: int
    calls: int
    kinds: tuple[Kind, ...]

    @property
    def differ(self) -> str:
        """What the kinds of the level differ in, for people."""
        parts = []
        if len({k.slots for k in self.kinds}) > 1:
            parts.append("children")
        parts += sorted(set().union(*map(_pulls, self.kinds)) - _common(self.kinds))
        return ", ".join(parts)


def _pulls(kind: Kind) -> set[str]:
    return set(kind.pulls)


def _common(kinds: Sequence[Kind]) -> set[str]:
    return set.intersection(*map(_pulls, kinds))


def levels(
    graph: Graph, plan: Plan, kinds: Sequence[Kind], calls: Mapping[int, int]
) -> tuple[Level, ...]:
    """The levels of a batch.

    Args:
        graph: the batch as it was given; `plan` may run equal vertices once.
        calls: slices of the recurrent stage, forward, by level.
    """
    cells, tops = plan.cells, np.maximum.reduceat(graph.level, graph.graph_ptr[:-1])
    return tuple(
        Level(
            number,
            int(cells.size[at].sum()),
            int(np.count_nonzero(tops >= number)),
            calls.get(number, 0),
            tuple(kinds[k] for k in np.unique(cells.kind[at]).tolist()),
        )
        for number in range(plan.n_levels)
        for at in [cells.level == number]
    )


def table(found: Sequence[Level]) -> list[str]:
    """Lines of at most 80 columns; neighbouring levels that are alike share one."""
    heads = f"{'level':>9} {'vertices':>11} {'calls':>5} {'of graphs':>9} {'each':>5}"
    lines = [f"{heads}  why not more together"]
    for run in runs(found):
        numbers = _range([level.number for level in run], "-")
        vertices = _range([level.vertices for level in run], "..")
        graphs = _range([level.graphs for level in run], "..")
        each = sum(level.vertices for level in run) / sum(level.graphs for level in run)
        row = f"{numbers:>9} {vertices:>11} {run[0].calls or '-':>5} {graphs:>9} {each:5.3g}"
        lines.append(f"{row}  {_why(run, found[0].graphs)}"[:WIDTH])
    return lines


def runs(found: Sequence[Level]) -> list[list[Level]]:
    """Neighbours cut alike, of sizes within a factor of two, reached by all graphs or by fewer."""
    out: list[list[Level]] = []
    for level in found:
        if out and _alike(out[-1], level, found[0].graphs):
            out[-1].append(level)
        else:
            out.append([level])
    return out


def _alike(run: Sequence[Level], level: Level, n_graphs: int) -> bool:
    first = run[0]
    sizes = [n.vertices for n in (*run, level)]
    same = (first.calls, first.differ) == (level.calls, level.differ)
    both_all = (first.graphs == n_graphs) == (level.graphs == n_graphs)
    return same and both_all and max(sizes) <= 2 * min(sizes)


def _why(run: Sequence[Level], n_graphs: int) -> str:
    """What would have to change for more vertices to run in one call."""
    if not run[0].calls:
        return "no child to wait for: at once"
    reasons = []
    if run[0].calls > 1:
        reasons.append(f"{run[0].differ} differ")
    if run[-1].graphs < n_graphs:
        reasons.append("others are lower")
    return "; ".join(reasons) or "these graphs have no more"


def _range(values: Sequence[int], between: str) -> str:
    first, last = values[0], values[-1]
    return str(first) if first == last else f"{first}{between}{last}"
