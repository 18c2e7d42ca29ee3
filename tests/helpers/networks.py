"""A small network on the reference executor, batches for it, and its gradients."""

import numpy as np

from helpers.gradient_check import dense, initialized
from helpers.random_graphs import N_CLASSES, N_WORDS, random_dag, random_tree
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network

LOSS = SoftmaxCrossEntropy()


def network(name: str = "tree_lstm", dropout: float = 0.0, dtype: str = "float64") -> Network:
    net = initialized(Network(CELLS[name](N_WORDS, 3, 4, N_CLASSES, dropout=dropout)), 0)
    net.hybridize("reference", dtype=dtype)
    return net


def some_graphs(n: int, seed: int = 0, arity: int = 2) -> list[Graph]:
    """Trees and DAGs whose vertices have identities of their own."""
    rng, first, out = np.random.default_rng(seed), 0, []
    for i in range(n):
        g = (random_tree, random_dag)[i % 2](rng, arity)
        ids = np.arange(first, first + g.n_vertices)
        out.append(Graph(g.child_ptr, g.child, g.level, ids, g.graph_ptr, g.inputs))
        first += g.n_vertices
    return out


def gradients(net: Network) -> dict[str, np.ndarray]:
    found = {}
    for name, p in net.parameters().items():
        assert p.grad is not None
        found[name] = dense(p.grad, p.shape)
    return found
