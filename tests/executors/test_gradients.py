"""Gradients of every cell on random graphs agree with central differences, in float64."""

from typing import Any

import pytest

from helpers.functions import ODD, Attention, Random, Score
from helpers.gradient_check import HIDDEN, LOSS, cell, check_gradients, graphs_for, initialized
from helpers.random_graphs import N_CLASSES, N_WORDS
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
