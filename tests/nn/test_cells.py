"""Cells against the equations of their papers, in NumPy."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.gradient_check import initialized
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.network import Network

States = Sequence[tuple[np.ndarray, np.ndarray]]  # h and c of every child


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def state(
    name: str, p: Mapping[str, np.ndarray], x: np.ndarray, below: States
) -> tuple[np.ndarray, np.ndarray]:
    """h and c of a vertex with the word vector x; c is h where a cell has none."""
    hs = [h for h, _ in below]
    h = np.concatenate(hs)
    gates = x @ p["W"] + h @ p["U"] + p["b"]
    if name in ("tree_rnn", "tree_fc"):
        out = np.tanh(gates) if name == "tree_rnn" else np.maximum(gates, 0)
        return out, out
    if name in ("tree_gru", "gru"):
        z, *resets = np.split(sigmoid(gates), 1 + len(below))
        new = np.tanh(x @ p["Wn"] + (np.concatenate(resets) * h) @ p["Un"] + p["bn"])
        out = z * np.sum(hs, axis=0) + (1 - z) * new
        return out, out
    i, o, u, *forget = np.split(gates, 3 + len(below))
    cs = [c for _, c in below]
    kept = np.sum([sigmoid(f) * c for f, c in zip(forget, cs, strict=True)], axis=0)
    c = sigmoid(i) * np.tanh(u) + kept
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("arity", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CELLS)
def test_a_vertex_does_what_the_equations_say(name: str, arity: int) -> None:
    """Leaves with different words below one vertex that has all of them."""
    net = initialized(Network(CELLS[name](N_WORDS, 3, 4, N_CLASSES, arity=arity)), 2)
    net.hybridize("reference", dtype="float64")
    n = net.function.arity
    leaves: list[list[int]] = [[] for _ in range(n)]
    graph = Graph.from_children([*leaves, list(range(n))], {"word": list(range(n + 1))})
    found = net(graph)["logits"]
    p = {key: parameter.data.astype("float64") for key, parameter in net.parameters().items()}
    nothing = [(np.zeros(4), np.zeros(4))] * n
    states = [state(name, p, p["E"][k], nothing) for k in range(n)]
    states.append(state(name, p, p["E"][n], states))
    want = np.array([h for h, _ in states]) @ p["V"] + p["d"]
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_the_table_has_every_cell() -> None:
    made = {c for c in vars(cavs.nn).values() if isinstance(c, type) and c.__name__ != "Cell"}
    assert {c for c in made if issubclass(c, cavs.nn.Cell)} == set(CELLS.values())
