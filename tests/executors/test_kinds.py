"""Programs of kinds and stages, run vertex by vertex, mean what the whole function means."""

from typing import Any

import numpy as np
import pytest

from helpers.functions import FUNCTIONS
from helpers.gradient_check import SEEDS, dense, initialized
from helpers.per_vertex import PerVertex
from helpers.random_graphs import random_chain, random_dag, random_tree
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.kind import Kind
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network

LOSS = SoftmaxCrossEntropy()


def graphs_for(network: Network, seed: int) -> Graph:
    rng, arity = np.random.default_rng(seed), network.function.arity
    return batch([random_tree(rng, arity, 5), random_dag(rng, arity, 5), random_chain(rng, 2)])


def assert_close(a: Any, b: Any, what: str) -> None:
    scale = max(1.0, float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
    assert np.abs(np.asarray(a) - b).max(initial=0) <= 1e-12 * scale, what


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kinds_and_stages_keep_outputs_and_gradients(name: str) -> None:
    """Few kinds for each function, as every one is rewritten anew, but not the same for all."""
    make, loss = FUNCTIONS[name]
    network = initialized(Network(make()), 0, 0.7)
    programs, graph = network.programs(loss), graphs_for(network, list(FUNCTIONS).index(name))
    plain = ReferenceExecutor(programs, network.parameters(), "float64")
    expected, exact = plain.forward(graph, SEEDS).outputs, plain.backward()
    kinds: dict[Kind, Any] = {}
    for staged in (False, True):
        runner = PerVertex(programs, network.parameters(), staged, kinds)
        outputs = runner.forward(graph, SEEDS)
        assert set(outputs) == set(expected)
        for output, want in expected.items():
            assert_close(outputs[output], want, f"{output}, staged: {staged}")
        gradients = runner.backward()
        for w, p in network.parameters().items():
            given, want = dense(gradients[w], p.shape), dense(exact[w], p.shape)
            assert_close(given, want, f"{w}, staged: {staged}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wide_kinds_keep_outputs_and_gradients(name: str) -> None:
    """Whatever kinds do not tell apart: any set of slots and inputs."""
    make, loss = FUNCTIONS[name]
    network = initialized(Network(make()), 0, 0.7)
    programs, graph = network.programs(loss), graphs_for(network, 1)
    plain = ReferenceExecutor(programs, network.parameters(), "float64")
    expected, exact = plain.forward(graph, SEEDS).outputs, plain.backward()
    needs = [*range(programs.arity), *(r.name for r in programs.reads)]
    rng = np.random.default_rng(len(name))
    for chance in (0.5, 1.0):
        maybe = [need for need in needs if rng.random() < chance]
        runner = PerVertex(programs, network.parameters(), True, {}, maybe)
        outputs, gradients = runner.forward(graph, SEEDS), runner.backward()
        for output, want in expected.items():
            assert_close(outputs[output], want, f"{output}, maybe {maybe}")
        for w, p in network.parameters().items():
            given, want = dense(gradients[w], p.shape), dense(exact[w], p.shape)
            assert_close(given, want, f"{w}, maybe {maybe}")


@pytest.mark.parametrize("name", ["tree_lstm", "attention", "random_3"])
def test_inference_too(name: str) -> None:
    network = initialized(Network(FUNCTIONS[name][0]()), 0)
    programs, graph = network.programs(), graphs_for(network, 2)
    expected = ReferenceExecutor(programs, network.parameters(), "float64").forward(graph, SEEDS)
    outputs = PerVertex(programs, network.parameters(), True, {}).forward(graph, SEEDS)
    for output, want in expected.outputs.items():
        assert_close(outputs[output], want, output)


def test_a_kind_in_words() -> None:
    """What may be absent has a question mark, whichever of its slots and inputs it is."""
    assert str(Kind((), ())) == "no child; no input"
    assert str(Kind((0, 2), ("x", "word"))) == "children 0,2; x, word"
    wide = Kind((0, 2), ("x", "word"), maybe=(2, "x"))
    assert str(wide) == "children 0,2?; x?, word"
