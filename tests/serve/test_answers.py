"""Answers have the bits of the model's, whatever is asked at the same time and in whatever form."""

import asyncio
import json

import numpy as np
import pytest

from helpers.asking import lines, message, outputs, with_server
from helpers.exported import TREE, WORDS, line, same
from helpers.random_graphs import random_chain, random_dag, random_tree
from tvm_cavs.deploy import load
from tvm_cavs.graph import Graph
from tvm_cavs.serve.reading import Reader

pytestmark = pytest.mark.compiles
PREDICT = "/v1/predict"


def graphs(n, seed=0):
    rng = np.random.default_rng(seed)
    makers = (random_tree, random_dag, lambda rng, _, n: random_chain(rng, n))
    return [makers[i % 3](rng, 2, int(rng.integers(1, 30))) for i in range(n)]


@pytest.mark.parametrize("batching", ["levels", "whole", "one"])
def test_answers_have_the_bits_of_the_model(folder, batching):
    given = graphs(60)
    rng = np.random.default_rng(1)

    async def ask(client, service):
        async def one(graph):
            await asyncio.sleep(float(rng.exponential(0.01)))
            return await client.post(PREDICT, content=line(graph))

        return await asyncio.gather(*map(one, given))

    model = load(folder)
    for graph, response in zip(given, with_server(folder, ask, batching), strict=True):
        assert response.status_code == 200
        assert same(outputs(response.json()), model(graph))


@pytest.mark.parametrize(("batching", "most"), [("levels", 32), ("whole", 32), ("one", 1)])
def test_no_more_requests_are_read_together_than_soon_run(folder, batching, most, monkeypatch):
    read, counts = Reader.read, []

    def counted(self, jobs, *args):
        counts.append(len(jobs))
        return read(self, jobs, *args)

    monkeypatch.setattr(Reader, "read", counted)

    async def ask(client, service):
        return await asyncio.gather(
            *(client.post(PREDICT, content=line(graph)) for graph in graphs(100))
        )

    assert {each.status_code for each in with_server(folder, ask, batching)} == {200}
    assert sum(counts) == 100 and max(counts) <= most


def test_requests_run_together_and_join_between_levels(folder):
    long, short = random_chain(np.random.default_rng(0), 3000), graphs(1)[0]

    async def ask(client, service):
        first = asyncio.create_task(client.post(PREDICT, content=line(long)))
        while not service.metrics.count("steps_total"):
            await asyncio.sleep(0.001)
        second = await client.post(PREDICT, content=line(short))
        assert not first.done(), "the short one did not wait for the long one"
        return await first, second, service.metrics.count("steps_total")

    first, second, steps = with_server(folder, ask)
    model = load(folder)
    assert same(outputs(first.json()), model(long)) and same(outputs(second.json()), model(short))
    assert 1 < steps <= 3000


def test_an_arena_much_smaller_than_what_is_asked_is_enough(folder):
    given = graphs(80, 2)

    async def ask(client, service):
        return await asyncio.gather(*(client.post(PREDICT, content=line(g)) for g in given))

    model = load(folder)
    for graph, response in zip(given, with_server(folder, ask, vertices=40, batch=40), strict=True):
        assert same(outputs(response.json()), model(graph))


def test_what_is_answered_has_the_form_of_what_is_asked(folder):
    given = graphs(5)
    texts = [line(g) for g in given]

    async def ask(client, service):
        one = await client.post(PREDICT, content=texts[0])
        several = await client.post(PREDICT, content=f"[{','.join(texts)}]")
        by_line = await client.post(PREDICT, **lines(["", *texts, " "]))
        roots = await client.post(f"{PREDICT}?vertices=roots", content=f"[{','.join(texts)}]")
        return one, several, by_line, roots, await client.post(PREDICT, content=f"[{texts[0]}]")

    one, several, by_line, roots, list_of_one = with_server(folder, ask)
    wanted = [load(folder)(g) for g in given]
    assert same(outputs(one.json()), wanted[0]) and list_of_one.json() == [one.json()]
    for found in (several.json(), [json.loads(each) for each in by_line.text.splitlines()]):
        assert all(same(outputs(f), w) for f, w in zip(found, wanted, strict=True))
    assert by_line.headers["content-type"].startswith("application/x-ndjson")
    for graph, found, want in zip(given, roots.json(), wanted, strict=True):
        assert found["vertices"] == np.flatnonzero(graph.roots).tolist()
        assert same(outputs(found), {name: rows[graph.roots] for name, rows in want.items()})


def test_one_at_a_time_is_one_graph_of_a_request_too(folder):
    async def ask(client, service):
        await client.post(PREDICT, content=f"[{','.join(map(line, graphs(4)))}]")
        return service.metrics.count("steps_total"), service.metrics.mean("batch_graphs")

    assert with_server(folder, ask, "one") == (4, 1)


@pytest.mark.parametrize("batching", ["levels", "whole"])
def test_a_bad_graph_hurts_no_other_request(folder, batching):
    good = graphs(20, 3)
    bad = [
        '{"children": [[1], [0]]}',
        '{"children": [[], [0, 0, 0]]}',
        '{"children": [[]], "inputs": {"word": [7]}}',
        f"[{line(TREE)}, 3]",
        "[" * 100_000,
    ]

    async def ask(client, service):
        texts = [line(g) for g in good]
        every = [each for i, text in enumerate(texts) for each in (text, bad[i % len(bad)])]
        return await asyncio.gather(*(client.post(PREDICT, content=each) for each in every))

    found, model = with_server(folder, ask, batching), load(folder)
    assert [r.status_code for r in found] == [200, 422] * len(good)
    for graph, response in zip(good, found[::2], strict=True):
        assert same(outputs(response.json()), model(graph))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"children": [[1], [0]]}', "graph 0: the graph has a cycle: 0 -> 1 -> 0"),
        ('[{"children": [[]]}, {"children": [[], [7]]}]', "graph 1: vertex 1: child 7 in slot 0"),
        ('[{"children": [[]]}, {"children": [[], [0, 0, 0]]}]', "graph 1, vertex 1 has 3 children"),
        ('{"children": [[]], "inputs": {"word": [7]}}', "vertex 0: input 'word': 7 stands where"),
        ('{"children": [[]], "inputs": {"word": [NaN]}}', "NaN is not a finite number"),
        ('{"children": [[]], "inputs": {"word": 3}}', "input 'word' has 3; expected a list of 1"),
        ('{"children": "ab"}', "'children' must be a list of lists"),
        ('{"kids": []}', "unknown key 'kids'"),
        ('{"children": [], "children": []}', "stands twice"),
        ('{"children": []}', "the graph is empty"),
        ("[]", "no graph was sent"),
        ("", "bad JSON"),
        ("3", "expected an object"),
        (b"\xff", "not UTF-8 text (invalid start byte)"),
        ("[" * 100_000, "bad JSON"),
        ('{"children": [[' + "9" * 5000 + "]]}", "bad JSON"),
        ('{"children": [[' + "9" * 30 + "]]}", "beyond 64 bits"),
    ],
)
def test_what_is_no_graph_is_refused_by_name(folder, body, said):
    response = with_server(folder, lambda client, _: client.post(PREDICT, content=body))
    assert response.status_code == 422 and said in message(response)


def test_a_word_that_was_never_seen_is_unknown(folder):
    async def ask(client, service):
        return await client.post(PREDICT, content='{"children": [[]], "inputs": {"word": ["new"]}}')

    unknown = Graph.from_children([[]], {"word": [0]})
    assert WORDS.tokens[0] == "<unk>"
    assert same(outputs(with_server(folder, ask).json()), load(folder)(unknown))
