"""Bodies of requests and their graphs: what is read of them, and what is refused."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.errors import DataError, GraphError, OutOfMemoryError
from tvm_cavs.graph import Graph
from tvm_cavs.serve import app, bodies
from tvm_cavs.serve.jobs import Job, Refused
from tvm_cavs.serve.limits import Limits
from tvm_cavs.serve.reading import Cohort, Reader, parse

NEVER = float("inf")


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("key", ["children", "parents"])
def test_as_much_is_read_as_the_limits_say(key: str, lines: bool) -> None:
    """And no more: both numbers are said. The first letter may be a mark of UTF-8."""
    for n_graphs, n in itertools.product((1, 3, 4), (1, 4, 5)):
        graphs = [json.dumps({key: [None] * n})] * n_graphs
        text = "\n".join(graphs) if lines else f"[{','.join(graphs)}]"
        job = Job(text.encode("utf-8-sig"), lines, False, NEVER)
        many = f"has {n_graphs} graphs; expected at most 3"
        large = f"graph 0 has {n} vertices; expected at most 4,"
        if n_graphs > 3 or n > 4:
            with pytest.raises(Refused, match=many if n_graphs > 3 else large):
                parse(job, Limits(graphs=3, vertices=4))
            continue
        parse(job, Limits(graphs=3, vertices=4))
        assert len(job.objects) == len(job.answers) == job.n_left == n_graphs
        assert not job.single and not job.body


def test_one_graph_is_answered_as_one_and_a_bad_line_is_named() -> None:
    job = Job(b'{"children": [[]]}', False, False, NEVER)
    parse(job, Limits())
    assert job.single and job.n_left == 1
    with pytest.raises(Refused, match="request, line 4, column 1: bad JSON"):
        parse(Job(b'\n{"children": [[]]}\n \nno', True, False, NEVER), Limits())


class Chains:
    """A model whose graphs are chains, which are told by an error that they raise, or none."""

    def __init__(self) -> None:
        self.reader = self

    def objects(self, given: list[tuple[int, Any]], source: str) -> list[Graph]:
        for _, each in given:
            if each["error"] is not None:
                raise each["error"]
        return [Graph.from_sequence(len(each["parents"])) for _, each in given]

    def check(self, graph: Graph) -> None: ...


@pytest.mark.parametrize("seed", range(20))
def test_what_is_wrong_with_a_request_touches_no_other(seed: int) -> None:
    """Graphs of all others come once and in order, as many together as may be; those of one that
    has been refused come no more. Every third time nothing is wrong.
    """
    rng, most, model = np.random.default_rng(seed), 12, Chains()
    errors = {422: GraphError("graph 0, vertex 0 is bad"), 503: OutOfMemoryError("no room")}
    jobs, wanted = [Job(b"", False, False, NEVER) for _ in range(6)], []
    for job in jobs:
        for _ in range(int(rng.integers(1, 5))):
            error = errors.get(int(rng.choice([422, 503] + [0] * 10))) if seed % 3 else None
            job.objects.append({"parents": [None] * int(rng.integers(1, 9)), "error": error})
        job.n_left = len(job.objects)
        found = [each["error"] for each in job.objects if each["error"] is not None]
        wanted.append(found)
    sizes = {(id(j), n): len(o["parents"]) for j in jobs for n, o in enumerate(j.objects)}
    given: Any = model
    came: list[Cohort] = []
    for each in Reader(given, None).read(jobs, most):
        assert all(item.job.error is None for item in each.items)
        assert each.n_vertices <= most or len(each.items) == 1
        came.append(each)
    for job, found in zip(jobs, wanted, strict=True):
        status = None if job.error is None else job.error.status
        assert (status in [k for k, e in errors.items() if e in found]) == bool(found)
        assert job.objects == []
    order = [(id(item.job), item.number) for each in came for item in each.items]
    good = {id(job) for job, found in zip(jobs, wanted, strict=True) if not found}
    assert [key for key in order if key[0] in good] == [key for key in sizes if key[0] in good]
    if len(good) == len(jobs):
        for one, other in itertools.pairwise(came):
            assert one.n_vertices + other.graphs[0].n_vertices > most


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (GraphError("graph 0, vertex 2 is bad"), 422, "request, graph 1, vertex 2 is bad"),
        (GraphError("it has a cycle"), 422, "request, graph 1: it has a cycle"),
        (DataError("request, graph 1: no key"), 422, "request, graph 1: no key"),
        (OutOfMemoryError("no room"), 503, "no room"),
    ],
)
def test_a_refusal_names_the_graph_once(error: Exception, status: int, said: str) -> None:
    job, model = Job(b"", False, False, NEVER), Chains()
    job.objects = [{"parents": [None], "error": each} for each in (None, error)]
    job.n_left = 2
    given: Any = model
    assert [len(each.items) for each in Reader(given, None).read([job], 9)] == [1]
    assert job.error is not None and (job.error.status, job.error.message) == (status, said)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        *((k, True) for k in ("x-ndjson", "jsonl", "json-lines")),
        *((k, False) for k in ("json", "x-www-form-urlencoded")),
    ],
)
def test_a_body_is_of_the_type_that_is_said(kind: str, lines: bool) -> None:
    """In letters of any size, with parameters; what is not said is JSON."""
    name = f"application/{kind}"
    for spelled in (name, name.upper(), f" {name} ; charset=utf-8"):
        for coding in ({}, {"content-encoding": "Identity"}):
            assert bodies.is_lines({"content-type": spelled, **coding}) == lines
    assert not bodies.is_lines({}) and not bodies.is_lines({"content-type": "text/json"})


async def parts(n: int) -> AsyncIterator[bytes]:
    for _ in range(n):
        yield b"x"


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("n", [0, 9, 10, 11])
def test_a_body_may_be_as_large_as_the_limit(n: int, said: bool) -> None:
    headers = {"content-length": str(n)} if said else {}
    if n <= 10:
        assert asyncio.run(bodies.read_body(parts(n), headers, Limits(body=10))) == b"x" * n
        return
    words = f"the request has {11 if said else 'more than 10'} bytes; expected at most 10. Send"
    with pytest.raises(Refused, match=words) as refused:
        asyncio.run(bodies.read_body(parts(n), headers, Limits(body=10)))
    assert refused.value.status == 413


@pytest.mark.parametrize("said", ["", " 5", "-1", "1.5", "0x5", "five", "\u00b2"])
def test_a_length_that_is_no_number_is_refused(said: str) -> None:
    """Though Python may call it a digit."""
    with pytest.raises(Refused) as refused:
        asyncio.run(bodies.read_body(parts(2), {"content-length": said}, Limits()))
    assert refused.value.status == 400
    assert refused.value.message == f"Content-Length is {said!r}; expected a number of bytes"


@pytest.mark.parametrize("n", [1, app.LONGEST - 1, app.LONGEST, app.LONGEST + 1, 9 * app.LONGEST])
def test_a_message_that_is_too_long_is_cut(n: int) -> None:
    text = "x" * n
    found = json.loads(bytes(app._error(422, text).body))["error"]
    assert found == (text if n <= app.LONGEST else text[: app.LONGEST] + "...")
