"""Cohorts -> answers, in one of three ways; each is stepped by one thread.

Levels: cohorts join an arena whenever there is room, and every step runs what is ready of all of
them. Whole: those that wait run as one batch to the end. One: each graph on its own, to compare.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from ..deploy import Model
from ..runtime import Joined
from .jobs import Item
from .limits import Limits
from .metrics import Metrics
from .reading import Cohort

ENOUGH = 0.0005  # seconds of a step, if need be of several levels: one costs something by itself
LEAST = 32  # vertices of a step at least
NEW = 0.25  # what the last step counts for in the pace, of all that were before


class Runner(Protocol):
    """What runs cohorts."""

    def take(self, waiting: deque[Cohort]) -> list[Cohort]:
        """Remove from those that wait, first come first served, what can begin now."""

    def begin(self, taken: list[Cohort]) -> None:
        """Let them run from the next step on."""

    def step(self) -> None:
        """Run some of what was begun, and answer what is finished."""

    def give_up(self) -> list[Item]:
        """Forget all that was begun; what was not answered."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing has begun that is not finished."""


class Levels:
    """Runs the next level of all that has begun, so that others can join after it."""

    def __init__(self, model: Model, limits: Limits, metrics: Metrics) -> None:
        self._model, self._metrics = model, metrics
        self.arena = model.arena(limits.batch)
        self._running: dict[Joined, _Rest] = {}
        self._pace = ENOUGH / LEAST  # seconds of a vertex

    @property
    def is_idle(self) -> bool:
        return not self._running

    def take(self, waiting: deque[Cohort]) -> list[Cohort]:
        taken = []
        n = self.arena.n_running
        while waiting and n + _rows(waiting[0]) <= self.arena.n_vertices:
            n += _rows(waiting[0])
            taken.append(waiting.popleft())
        return taken

    def begin(self, taken: list[Cohort]) -> None:
        for cohort in taken:
            assert cohort.part is not None
            self._running[self.arena.join(cohort.part)] = _Rest(cohort)

    def step(self) -> None:
        n_graphs = sum(rest.n_left for rest in self._running.values())
        begin = time.monotonic()
        went, n_vertices = self.arena.step(max(LEAST, int(ENOUGH / self._pace)))
        self._pace += NEW * ((time.monotonic() - begin) / n_vertices - self._pace)
        self._metrics.observe("batch_vertices", n_vertices)
        self._metrics.observe("batch_graphs", n_graphs)
        self._metrics.add("vertices_total", n_vertices)
        for joined in went:
            rest = self._running[joined]
            for i in rest.finished(joined.done):
                rows = rest.cohort.rows[i]
                outputs = self._model.outputs_of(self.arena, joined, rows)
                rest.cohort.items[i].answer(outputs)
            if joined.is_done:
                del self._running[joined]

    def give_up(self) -> list[Item]:
        lost = [item for rest in self._running.values() for item in rest.cohort.items]
        self._running.clear()
        self.arena.clear()
        return lost


class _Rest:
    """What of a cohort is not finished: its graphs by their levels, the lowest last."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        levels = [graph.n_levels for graph in cohort.graphs]
        self._left = sorted(((n, i) for i, n in enumerate(levels)), reverse=True)

    @property
    def n_left(self) -> int:
        return len(self._left)

    def finished(self, done: int) -> list[int]:
        """The graphs that have no more levels than have been done."""
        found = []
        while self._left and self._left[-1][0] <= done:
            found.append(self._left.pop()[1])
        return found


class Whole:
    """Runs what waits as one batch, up to so many vertices, or a cohort that has more."""

    def __init__(self, model: Model, most: int, metrics: Metrics) -> None:
        self._model, self._most, self._metrics = model, most, metrics
        self._begun: list[Cohort] = []

    @property
    def is_idle(self) -> bool:
        return not self._begun

    def take(self, waiting: deque[Cohort]) -> list[Cohort]:
        taken: list[Cohort] = []
        n = 0
        while waiting and self.is_idle and (not n or n + waiting[0].n_vertices <= self._most):
            n += waiting[0].n_vertices
            taken.append(waiting.popleft())
        return taken

    def begin(self, taken: list[Cohort]) -> None:
        self._begun += taken

    def step(self) -> None:
        items = [item for cohort in self._begun for item in cohort.items]
        graphs = [graph for cohort in self._begun for graph in cohort.graphs]
        n_vertices = sum(graph.n_vertices for graph in graphs)
        self._metrics.observe("batch_vertices", n_vertices)
        self._metrics.observe("batch_graphs", len(graphs))
        self._metrics.add("vertices_total", n_vertices)
        for item, outputs in zip(items, self._model.answers(graphs), strict=True):
            wanted = item.wanted
            item.answer(
                outputs if wanted is None else {n: rows[wanted] for n, rows in outputs.items()}
            )
        self._begun = []

    def give_up(self) -> list[Item]:
        lost = [item for cohort in self._begun for item in cohort.items]
        self._begun = []
        return lost


def _rows(cohort: Cohort) -> int:
    assert cohort.part is not None
    return cohort.part.n_rows
