"""What an op may be given at its borders, in both executors: matrices of the net, computed indices,
inputs that nobody in a batch has.
"""

from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.gradient_check import dense
from tvm_cavs.errors import GraphError, ShapeError, TraceError
from tvm_cavs.language.value import Value
from tvm_cavs.language.vertex import Vertex, VertexFunction, trace


class Matrices(VertexFunction):
    """Parameters of ranks 1 to 3 used element by element; integers in vectors choose."""

    arity = 0

    def __init__(self) -> None:
        self.state = {"h": 4}
        self.M, self.T = cavs.Parameter((3, 4)), cavs.Parameter((2, 3, 4))
        self.flat, self.one = cavs.Parameter((12,)), cavs.Parameter((1,))

    def forward(self, v: Vertex) -> None:
        x, three = v.pull("x", (4,)), v.pull("three", (3,), "int32")
        h = cavs.reduce_sum(cavs.reshape(self.M * x, (12,)), keepdims=True) * x * self.one  # type: ignore[operator]
        cube = cavs.tanh(self.T) * x  # type: ignore[arg-type]
        bent = cavs.reshape(self.flat, (3, 4)) * x  # type: ignore[arg-type]
        v.scatter(h=h)
        chosen = cavs.pick(h, cavs.argmax(x)) + cavs.pick(h, cavs.reshape(three[1:2], ()))
        score = cavs.reduce_sum(h) + cavs.reduce_sum(cavs.reshape(bent, (12,))) + chosen
        v.push("prediction", score + cavs.reduce_sum(cavs.reshape(cube, (24,))))


@pytest.mark.compiles
def test_matrices_and_integers_and_a_batch_in_which_nobody_has_them() -> None:
    rng = np.random.default_rng(0)
    given = {"x": rng.normal(size=(3, 4)), "three": [[0, 1, 2], [3, 2, 1], None]}
    some = cavs.Graph.from_children([[]] * 3, {**given, "target": [None, 1.0, 0.5]})
    nobody = cavs.Graph.from_children(
        [[]] * 3, {"x": [None] * 3, "three": [None] * 3, "target": [None] * 3}
    )
    found: dict[str, list[Any]] = {}
    for executor in ("reference", "tvm"):
        net = cavs.Network(Matrices())
        net.initialize(0)
        net.hybridize(executor)
        for graph in (some, nobody):
            with cavs.record():
                loss = cavs.loss.SquaredError()(net(graph))
            loss.backward()
            gradients = [dense(p.grad, p.shape).copy() for p in net.parameters().values()]  # type: ignore[arg-type]
            found.setdefault(executor, []).append([np.float32(loss), *gradients])
    for got, want in zip(found["tvm"], found["reference"], strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class Chooses(VertexFunction):
    arity = 0
    state = {"h": 4}

    def __init__(self, how: Any) -> None:
        self.how, self.E = how, cavs.Parameter((5, 4))

    def forward(self, v: Vertex) -> None:
        v.scatter(h=v.pull("x", (4,)))
        v.push("y", self.how(self, v))


def largest(v: Vertex) -> Value:
    return cavs.argmax(v.pull("long", (6,)))


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (lambda f, v: cavs.pick(v.pull("x", (4,)), largest(v)), ShapeError),
        (lambda f, v: cavs.one_hot(largest(v), 5), ShapeError),
        (lambda f, v: cavs.one_hot(cavs.reshape(largest(v), (1,))[0:1], 5), ShapeError),
        (lambda f, v: cavs.embedding(largest(v), f.E), TraceError),
    ],
)
def test_a_computed_index_cannot_leave_what_it_chooses_from(how: Any, error: Any) -> None:
    with pytest.raises(error, match=r"Chooses, (pick|one_hot|embedding) \(test_choices.py"):
        trace(Chooses(how))


def test_part_of_an_integer_input_is_checked_at_entry() -> None:
    def how(f: Any, v: Vertex) -> Value:
        return cavs.pick(v.pull("x", (4,)), cavs.reshape(v.pull("i", (2,), "int32")[0:1], ()))

    net = cavs.Network(Chooses(how))
    net.initialize(0)
    net.hybridize("reference")
    graph = cavs.Graph.from_children([[]] * 2, {"x": np.ones((2, 4)), "i": [[3, 3], [4, 0]]})
    with pytest.raises(GraphError, match="vertex 1: input 'i'.*takes 0..3"):
        net(graph)
