"""batching.py: a batch gathered from one forest is the batch that concatenation makes."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.random_graphs import random_dag, random_graph
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.errors import GraphError
from tvm_cavs.graph.batching import batch, common_forest, unbatch
from tvm_cavs.graph.field import make_field
from tvm_cavs.graph.graph import Graph, check


def assert_same(a: Graph, b: Graph) -> None:
    for name in ("child_ptr", "child", "level", "vertex_id", "graph_ptr"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert list(a.inputs) == list(b.inputs)
    for name, field in a.inputs.items():
        np.testing.assert_array_equal(field.present, b.inputs[name].present)
        np.testing.assert_array_equal(field.values, b.inputs[name].values)
        assert field.values.dtype == b.inputs[name].values.dtype


def strangers(graphs: list[Graph]) -> list[Graph]:
    """The same graphs without a forest in common."""
    return [replace(g) for g in graphs]


def examples(seed: int) -> tuple[np.random.Generator, list[Graph]]:
    """Graphs of one forest: trees without empty slots only, or any; all of their vertices have an
    identity of their own, those of every other graph, or none.
    """
    rng = np.random.default_rng(seed)
    make = random_graph if seed % 2 else lambda rng, arity, n: Graph.from_sequence(n, {})
    made = [make(rng, 2, int(rng.integers(1, 9))) for _ in range(12)]
    named = list(Dataset.from_graphs(made))
    given = [named, [(named, made)[i % 2][i] for i in range(12)], made][seed % 3]
    return rng, unbatch(batch(given))


@pytest.mark.parametrize("seed", range(20))
def test_gathered_equals_concatenated(seed: int) -> None:
    rng, graphs = examples(seed)
    chosen = [graphs[i] for i in rng.integers(0, len(graphs), int(rng.integers(2, 20)))]
    assert common_forest(chosen) is not None and common_forest(strangers(chosen)) is None
    got = batch(chosen)
    check(got)
    assert_same(got, batch(strangers(chosen)))
    for one, again in zip(chosen, unbatch(got), strict=True):
        assert_same(one, again)
    assert_same(batch(unbatch(got)), got)


def test_graphs_with_inputs_of_their_own_are_concatenated() -> None:
    graphs = examples(1)[1]
    label = make_field("label", [7] * graphs[3].n_vertices)
    graphs[3] = replace(graphs[3], inputs={**graphs[3].inputs, "label": label})
    graphs[4] = graphs[4].with_inputs({**graphs[4].inputs, "label": [8] * graphs[4].n_vertices})
    for number, want in ((3, 7), (4, 8)):
        joined = batch([graphs[0], graphs[number]])
        assert joined.inputs["label"].values[graphs[0].n_vertices :].tolist() == [want] * (
            graphs[number].n_vertices
        )


@pytest.mark.parametrize("held", [False, True])
def test_an_input_that_some_graphs_lack_is_absent_there(held: bool) -> None:
    """And everywhere, where those that have its name hold no value of it."""
    given = [2.5, None] if held else [None, None]
    graphs = [Graph.from_sequence(n) for n in (1, 3)]
    joined = batch([graphs[0], Graph.from_sequence(2, {"x": given}), graphs[1]])
    field = joined.inputs["x"]
    assert field.present.tolist() == [False, held, False, False, False, False]
    assert field.values.tolist() == ([0, 2.5, 0, 0, 0, 0] if held else [-1] * 6)


def test_batches_and_graphs_of_two_forests_are_concatenated() -> None:
    first, second = examples(1)[1], examples(3)[1]
    made = batch([batch(first[:3]), batch(second[:2]), first[5]])
    assert made.n_graphs == 6
    assert_same(made, batch(strangers([*first[:3], *second[:2], first[5]])))
    no_inputs = examples(2)[1]
    pair = batch(no_inputs[:2])
    assert_same(batch([pair, pair]), batch(strangers([*no_inputs[:2], *no_inputs[:2]])))


def test_a_stored_graph_forgets_its_forest() -> None:
    graphs = unbatch(batch([random_dag(np.random.default_rng(s), 2) for s in range(50)]))
    text = pickle.dumps(graphs[0])
    assert len(text) < 4000
    for again in (pickle.loads(text), copy.deepcopy(graphs[0])):
        assert again.memo.forest is None
        assert_same(again, graphs[0])


def test_what_is_no_graph_is_named_by_its_place() -> None:
    graph: Any = Graph.from_sequence(2)
    for given, at in (([graph, 3], 1), ([3], 0), ([graph, graph, 3], 2), ((3, graph), 0)):
        with pytest.raises(GraphError, match=f"batch: item {at} is no Graph but int 3. Make one"):
            batch(given)
    with pytest.raises(GraphError, match=r"^batch: item 1 is no Graph but list \[4, 5\]\. Make"):
        batch([graph, [4, 5], "x"])
    with pytest.raises(GraphError, match=r"a list of Graphs, given a Graph\. Give \[graph\]"):
        batch(graph)
    for several in ((graph, graph), iter([graph, graph]), [graph, graph]):
        assert batch(several).graph_ptr.tolist() == [0, 2, 4]
    for one in ((graph,), iter([graph]), [graph]):
        assert batch(one) is graph
