"""Gradients against central differences in float64, by one inner product for each parameter.

The direction has entries -1, 0, 1 and the parameters and the step are multiples of 2^-14, so that
float32 parameters hold every point exactly; four points make the error of the difference of fourth
order.
"""

from typing import Any

import numpy as np

from helpers.random_graphs import N_CLASSES, N_WORDS, random_chain, random_dag, random_tree
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.reads import check_inputs
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network
from tvm_cavs.row_sparse import RowSparse

GRID = 2.0**-14
TOLERANCE = 1e-6  # relative, float64
SEEDS = Seeds(seed=3, step=5)


def initialized(network: Network, seed: int, scale: float = 1.0) -> Network:
    """The network with all parameters drawn from the grid, biases too."""
    network.initialize(seed=seed)
    rng = np.random.default_rng(seed)
    for p in network.parameters().values():
        p.set_data(np.round(rng.uniform(-scale, scale, p.shape) / GRID) * GRID)
    return network


def check_gradients(
    network: Network, loss: Any, graph: Graph, seed: int = 0, jointly: bool = False
) -> None:
    """Every parameter's gradient of the summed loss agrees with central differences.

    jointly: all parameters in one direction, instead of one after the other.

    Raises:
        AssertionError: one does not.
    """
    programs, parameters = network.programs(loss), network.parameters()
    check_inputs(graph, programs.reads, programs.arity, programs.forward.name)
    executor = ReferenceExecutor(programs, parameters, "float64")
    value = float(executor.forward(graph, SEEDS).outputs["loss"].sum())
    gradients = executor.backward()
    assert set(gradients) == set(parameters)
    rng = np.random.default_rng(seed)
    start = {name: p.data.copy() for name, p in parameters.items()}
    directions = {name: rng.integers(-1, 2, p.shape) for name, p in parameters.items()}
    for direction in directions.values():
        direction.flat[0] = 1

    def at(step: int, names: list[str]) -> float:
        for name in names:
            parameters[name].set_data(start[name] + np.float32(step * GRID) * directions[name])
        total = float(executor.forward(graph, SEEDS).outputs["loss"].sum())
        for name in names:
            parameters[name].set_data(start[name])
        return total

    for names in [list(parameters)] if jointly else [[name] for name in parameters]:
        numeric = (8 * (at(1, names) - at(-1, names)) - (at(2, names) - at(-2, names))) / (
            12 * GRID
        )
        exact = sum(
            float((dense(gradients[n], start[n].shape) * directions[n]).sum()) for n in names
        )
        scale = max(abs(numeric), abs(exact), 1e-3 * abs(value), 1e-3)
        told = f"{', '.join(names)}: {exact}, numeric {numeric}"
        assert abs(numeric - exact) <= TOLERANCE * scale, told


def dense(gradient: np.ndarray | RowSparse, shape: tuple[int, ...]) -> np.ndarray:
    """A row-sparse gradient written out."""
    if not isinstance(gradient, RowSparse):
        return gradient
    out = np.zeros(shape, gradient.values.dtype)
    out[gradient.rows] = gradient.values
    return out


HIDDEN = 3
LOSS = SoftmaxCrossEntropy()


def cell(name: str, dropout: float = 0.3, seed: int = 0) -> Network:
    """A cell with biases and weights that leave no unit saturated."""
    function = CELLS[name](N_WORDS, 2, HIDDEN, N_CLASSES, dropout=dropout)
    return initialized(Network(function), seed, scale=0.7)


def graphs_for(network: Network, seed: int) -> Graph:
    """A tree and a DAG (and a chain where a vertex has one child), together."""
    rng, arity = np.random.default_rng(seed), network.function.arity
    graphs = [random_tree(rng, arity), random_dag(rng, arity)]
    if arity == 1:
        graphs.append(random_chain(rng))
    return batch(graphs)
