"""Gradients against central differences in float64, by one inner product for each parameter.

The direction has entries -1, 0, 1 and the parameters and the step are multiples of 2^-14, so that
float32 parameters hold every point exactly; four points make the error of the difference of fourth
order.
"""

from typing import Any

import numpy as np

from tvm_cavs.execution import Seeds
from tvm_cavs.graph import Graph
from tvm_cavs.network import Network, check_fit
from tvm_cavs.reference import ReferenceExecutor
from tvm_cavs.vertex import Parameter, RowSparse

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


def check_gradients(network: Network, loss: Any, graph: Graph, seed: int = 0) -> None:
    """Every parameter's gradient of the summed loss agrees with central differences.

    Raises:
        AssertionError: one does not.
    """
    programs = network.programs(loss)
    check_fit(graph, programs)
    executor = ReferenceExecutor(programs, network.parameters(), "float64")
    value = float(executor.forward(graph, SEEDS).outputs["loss"].sum())
    gradients = executor.backward()
    assert set(gradients) == set(network.parameters())
    rng = np.random.default_rng(seed)
    for name, p in network.parameters().items():
        direction = rng.integers(-1, 2, p.shape)
        direction.flat[0] = 1

        def at(step: int, p: Parameter = p, direction: np.ndarray = direction) -> float:
            start = p.data.copy()
            p.set_data(start.astype("float64") + step * GRID * direction)
            total = float(executor.forward(graph, SEEDS).outputs["loss"].sum())
            p.set_data(start)
            return total

        numeric = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * GRID)
        exact = float((dense(gradients[name], p.shape) * direction).sum())
        scale = max(abs(numeric), abs(exact), 1e-3 * abs(value), 1e-3)
        assert abs(numeric - exact) <= TOLERANCE * scale, f"{name}: {exact}, numeric {numeric}"


def dense(gradient: np.ndarray | RowSparse, shape: tuple[int, ...]) -> np.ndarray:
    """A row-sparse gradient written out."""
    if not isinstance(gradient, RowSparse):
        return gradient
    out = np.zeros(shape, gradient.values.dtype)
    out[gradient.rows] = gradient.values
    return out
