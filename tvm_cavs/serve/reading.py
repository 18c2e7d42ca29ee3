"""Bodies -> cohorts: graphs of one or several requests, read together as that costs less.

The one idea: what is wrong with one request must not touch another. So if reading them together
fails, each half is read on its own, down to the one that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import parse_json
from ..deploy import Model
from ..errors import CavsError, GraphError, OutOfMemoryError
from ..graph import Graph, batch
from ..runtime import Arena, Part
from .jobs import Item, Job, Refused
from .limits import Limits

UNREADABLE, TOO_LARGE, BUSY = 422, 413, 503
NO_GRAPHS = 'no graph was sent; send {"children": [...], "inputs": {...}}, or a list of such'


@dataclass(eq=False)
class Cohort:
    """Graphs that run together.

    part, rows: as `Model.part` has them, where there is an arena.
    """

    items: list[Item]
    graphs: list[Graph]
    part: Part | None = None
    rows: list[np.ndarray] = field(default_factory=list)

    @property
    def n_vertices(self) -> int:
        return sum(graph.n_vertices for graph in self.graphs)


def parse(job: Job, limits: Limits) -> None:
    """Fill in the job's objects, one a graph; their sizes are within the limits.

    Raises:
        Refused: it is no JSON, or has too many graphs or vertices.
    """
    try:
        job.objects = _objects(job)
    except UnicodeDecodeError as error:
        raise Refused(UNREADABLE, f"the request is not UTF-8 text ({error.reason})") from None
    except CavsError as error:
        raise Refused(UNREADABLE, str(error)) from None
    finally:
        job.body = b""
    if not job.objects:
        raise Refused(UNREADABLE, NO_GRAPHS)
    if len(job.objects) > limits.graphs:
        raise Refused(
            TOO_LARGE,
            f"the request has {len(job.objects)} graphs; expected at most {limits.graphs}. Send "
            "several requests.",
        )
    for number, given in enumerate(job.objects):
        n = n_vertices(given)
        if n > limits.vertices:
            raise Refused(
                TOO_LARGE,
                f"request, graph {number} has {n} vertices; expected at most {limits.vertices}, "
                "which is what this server takes.",
            )
    job.n_left = len(job.objects)
    job.answers = [None] * job.n_left


def _objects(job: Job) -> list[Any]:
    text = job.body.decode("utf-8-sig")
    if job.lines:
        lines = enumerate(text.split("\n"), 1)
        return [parse_json(f"request, line {n}", line) for n, line in lines if line.strip()]
    given = parse_json("request", text)
    job.single = not isinstance(given, list)
    return [given] if job.single else given


def n_vertices(given: Any) -> int:
    """How many vertices an object has that is meant to be a graph."""
    if not isinstance(given, dict):
        return 0
    sizes = [len(v) for k in ("children", "parents") if isinstance(v := given.get(k), list)]
    return max(sizes, default=0)


class Reader:
    """Makes cohorts of jobs that have been parsed.

    Args:
        arena: where they will run; None if that is no arena's matter.
    """

    def __init__(self, model: Model, arena: Arena | None) -> None:
        self._model, self._arena = model, arena

    def read(self, jobs: list[Job], most: int) -> Iterator[Cohort]:
        """Cohorts of at most so many vertices; jobs that are no graphs of the model are refused."""
        given = [(job, n, each) for job in jobs for n, each in enumerate(job.objects)]
        for piece in _pieces(given, most):
            yield from self._read(piece)
        for job in jobs:
            job.objects = []

    def _read(self, given: list[tuple[Job, int, Any]]) -> Iterator[Cohort]:
        given = [each for each in given if each[0].error is None]
        try:
            if given:
                yield self._cohort(given)
        except CavsError as error:
            if len(given) == 1:
                given[0][0].refuse(_refusal(given[0][1], error))
                return
            half = len(given) // 2
            yield from self._read(given[:half])
            yield from self._read(given[half:])

    def _cohort(self, given: list[tuple[Job, int, Any]]) -> Cohort:
        graphs = self._model.reader.objects([(n, each) for _, n, each in given], "request")
        items = [
            Item(job, n, np.flatnonzero(graph.roots) if job.roots else None)
            for (job, n, _), graph in zip(given, graphs, strict=True)
        ]
        if self._arena is None:
            self._model.check(batch(graphs))
            return Cohort(items, graphs)
        together = batch(graphs)
        part, rows = self._model.part(together, self._arena)
        ends = together.graph_ptr.tolist()
        own = [rows[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
        wanted = [
            r if item.wanted is None else r[item.wanted] for r, item in zip(own, items, strict=True)
        ]
        return Cohort(items, graphs, part, wanted)


def _refusal(number: int, error: CavsError) -> Refused:
    """What a request is told of its graph, which was read on its own."""
    if isinstance(error, OutOfMemoryError):
        return Refused(BUSY, str(error))
    text = str(error)
    if isinstance(error, GraphError):  # it calls the only graph that it saw graph 0
        where = f"request, graph {number}"
        own = text.removeprefix("graph 0, ")
        text = f"{where}: {text}" if own == text else f"{where}, {own}"
    return Refused(UNREADABLE, text)


def _pieces(given: list[tuple[Job, int, Any]], most: int) -> Iterator[list[tuple[Job, int, Any]]]:
    """The same in lists of at most so many vertices, or of one graph."""
    piece: list[tuple[Job, int, Any]] = []
    n = 0
    for each in given:
        size = n_vertices(each[2])
        if piece and n + size > most:
            yield piece
            piece, n = [], 0
        piece.append(each)
        n += size
    if piece:
        yield piece
