"""Gradients of every cell on random graphs agree with central differences; wrong ones do not."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.functions import ODD, Attention, Random, Score
from helpers.gradient_check import (
    HIDDEN,
    LOSS,
    cell,
    check_gradients,
    graphs_for,
    initialized,
)
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.executors.reference import Gradients
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.ops import OPS
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import LogisticLoss, LossFunction, SquaredError
from tvm_cavs.nn.network import Network


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_every_cell(name: str, seed: int) -> None:
    network = cell(name, seed=seed)
    check_gradients(network, LOSS, graphs_for(network, seed), seed)


@pytest.mark.parametrize("name", ["tree_lstm", "tree_gru"])
def test_three_children(name: str) -> None:
    function = CELLS[name](N_WORDS, 2, HIDDEN, N_CLASSES, arity=3, dropout=0.2)
    network = initialized(Network(function), 1, scale=0.7)
    check_gradients(network, LOSS, graphs_for(network, 5))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss", [SquaredError(), LogisticLoss()], ids=lambda x: type(x).__name__)
def test_a_function_of_many_ops(loss: LossFunction, seed: int) -> None:
    network = initialized(Network(Attention()), seed)
    check_gradients(network, loss, graphs_for(network, seed), seed)


@pytest.mark.parametrize("function", ODD.values(), ids=ODD)
def test_odd_functions(function: Any) -> None:
    for seed in range(2):
        network = initialized(Network(function()), seed)
        check_gradients(network, Score(), graphs_for(network, seed), seed)


@pytest.mark.parametrize("seed", range(12))
def test_random_functions(seed: int) -> None:
    network = initialized(Network(Random(seed)), seed)
    check_gradients(network, Score(), graphs_for(network, seed), seed, jointly=True)


WRONG = {
    "mul": lambda g, y, a, at: (g * a[1] * 1.001, g * a[0]),
    "sigmoid": lambda g, y, a, at: (g * y * (1.001 - y),),
    "tanh": lambda g, y, a, at: (g * (1.0 - y * y) * 1.001,),
    "log_softmax": lambda g, y, a, at: (
        g * 1.001 - cavs.exp(y) * cavs.reduce_sum(g, keepdims=True),
    ),
}


@pytest.mark.parametrize("op", WRONG)
def test_the_check_rejects_a_derivative_that_is_a_thousandth_wrong(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = cell("tree_lstm", dropout=0.0)
    graph = graphs_for(network, 0)
    check_gradients(network, LOSS, graph)
    monkeypatch.setitem(OPS, op, replace(OPS[op], derivative=WRONG[op]))
    wrong = cell("tree_lstm", dropout=0.0)
    with pytest.raises(AssertionError, match="numeric"):
        check_gradients(wrong, LOSS, graph)


def test_the_check_rejects_parents_that_are_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = cell("tree_rnn")
    shared = Graph.from_children([[1, 2], [3, 3], [3, None], []], labelled(4))
    check_gradients(network, LOSS, shared)
    from tvm_cavs.executors import reference

    original = reference.parents_of
    monkeypatch.setattr(reference, "parents_of", lambda g, n: [p[:1] for p in original(g, n)])
    with pytest.raises(AssertionError, match="numeric"):
        check_gradients(network, LOSS, shared)


def labelled(n: int) -> dict[str, Sequence[Any]]:
    return {"word": [i % N_WORDS for i in range(n)], "label": [i % N_CLASSES for i in range(n)]}


def test_rows_of_a_reference_gradient_are_sorted_sums() -> None:
    """Of a table; rows that nobody reads are not there, and an absent word adds to none."""
    programs: Any = SimpleNamespace(row_sparse={"E"})
    parameters: Any = {name: SimpleNamespace(shape=(99, 2)) for name in "EW"}
    found = Gradients(programs, parameters, "float32")
    for row in (64, 8, 1, 64, -1):
        found.add("E", (row, np.array([row, 1.0])))
    found.add("W", np.ones((99, 2)))
    table, dense = (found.result()[name] for name in "EW")
    assert isinstance(table, cavs.RowSparse) and table.rows.tolist() == [1, 8, 64]
    assert table.values.tolist() == [[1, 1], [8, 1], [128, 2]]
    np.testing.assert_array_equal(dense, np.ones((99, 2)))
