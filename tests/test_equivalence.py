"""The law: batched execution equals the reference run one vertex at a time, outputs and gradients.

For every built-in cell and for vertex functions made to be awkward, on random trees and DAGs with
several parents, in batches of 1 to 64 graphs put together in any order. Dropout is on.
"""

from pathlib import Path

import pytest

import tvm_cavs as cavs
from helpers import functions
from helpers.law import N_GRAPHS, assert_law, make_case
from helpers.random_graphs import N_CLASSES, N_WORDS, WIDTH

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("both_kinds_of_weights")]


@pytest.mark.parametrize("name", sorted(cavs.nn.CELLS))
def test_cells(name: str, cache: Path) -> None:
    """Every kind of vertex for the simplest cell and the chains, a few for the others."""
    cell = cavs.nn.CELLS[name](N_WORDS, 4, 5, N_CLASSES, dropout=0.3)
    n = N_GRAPHS if name in ("tree_rnn", "gru", "lstm") else 3
    assert_law(make_case(cell, cavs.loss.SoftmaxCrossEntropy(), cache, threads=1, n=n))


def test_three_children(cache: Path) -> None:
    cell = cavs.nn.TreeLSTM(N_WORDS, 4, 17, N_CLASSES, arity=3, dropout=0.2)
    assert_law(make_case(cell, cavs.loss.SoftmaxCrossEntropy(), cache, threads=2, n=2))


@pytest.mark.parametrize(
    "make",
    [
        functions.Attention,
        functions.OneSlot,
        functions.Beside,
        functions.Linear,
        functions.Passed,
        functions.Deep,
        functions.Doubled,
        functions.TwoLooks,
        functions.TwoOrOne,
        functions.EachStage,
    ],
)
def test_awkward_functions(make: type[cavs.VertexFunction], cache: Path) -> None:
    assert_law(make_case(make(), functions.Score(), cache, threads=1, n=7))


class HalvesOfABias(cavs.VertexFunction):
    """A bias of two products, each of which adds its half; so does its gradient."""

    arity = 2
    state = {"h": 4}

    def __init__(self) -> None:
        self.U, self.V = cavs.Parameter((4, 4)), cavs.Parameter((4, 4))
        self.X, self.b = cavs.Parameter((WIDTH, 4)), cavs.Parameter((8,))

    def forward(self, v: cavs.Vertex) -> None:
        left, right = v.gather(0).h, v.gather(1).h
        one = cavs.tanh(left @ self.U + self.b[:4])
        other = cavs.sigmoid(right @ self.V + self.b[4:])
        h = cavs.tanh(one + other + v.pull("x", (WIDTH,)) @ self.X)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


def test_halves_of_a_bias(cache: Path) -> None:
    assert_law(make_case(HalvesOfABias(), functions.Score(), cache, threads=1, n=5))


class Sliced(cavs.VertexFunction):
    """A product that is an output, as are parts of it, of which one is a state too."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.E, self.b = cavs.Parameter((N_WORDS, 3)), cavs.Parameter((3,))
        self.W, self.U = cavs.Parameter((3, 8)), cavs.Parameter((3, 8))

    def forward(self, v: cavs.Vertex) -> None:
        x = cavs.embedding(v.pull("word"), self.E) + v.gather(0).h + v.gather(1).h + self.b
        y, z = x @ self.W, cavs.tanh(x) @ self.U
        v.scatter(h=y[1:4])
        for name, value in {"whole": y, "part": y[4:8], "z": z[:5], "rest": z[5:]}.items():
            v.push(name, value)
        v.push("score", cavs.reduce_sum(y) + cavs.reduce_sum(z))


def test_a_product_and_its_parts_are_outputs(cache: Path) -> None:
    assert_law(make_case(Sliced(), functions.Score(), cache, threads=1, n=6))
