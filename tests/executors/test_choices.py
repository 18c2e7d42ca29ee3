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
    ("how", "op", "said"),
    [
        (
            lambda f, v: cavs.pick(v.pull("x", (4,)), largest(v)),
            "pick",
            "the index is an argmax of 6 elements, but there are 4 to choose from",
        ),
        (
            lambda f, v: cavs.one_hot(largest(v), 5),
            "one_hot",
            "the index is an argmax of 6 elements, but there are 5 to choose from",
        ),
        (
            lambda f, v: cavs.one_hot(cavs.reshape(largest(v), (1,))[0:1], 5),
            "one_hot",
            "the index of one_hot is one int32, given int32[1]",
        ),
        (
            lambda f, v: cavs.one_hot(cavs.reshape(cavs.reshape(largest(v), 1)[0:1], ()), 3),
            "one_hot",
            "the index is an argmax of 6 elements, but there are 3 to choose from",
        ),
        (
            lambda f, v: cavs.embedding(largest(v), f.E),
            "embedding",
            "expected an integer input as v.pull gives it, given a computed int32;",
        ),
    ],
)
def test_a_computed_index_cannot_leave_what_it_chooses_from(how: Any, op: str, said: str) -> None:
    with pytest.raises((ShapeError, TraceError)) as error:
        trace(Chooses(how))
    assert str(error.value).startswith(f"in Chooses, {op} (test_choices.py, line ")
    assert f"): {said}" in str(error.value)


def test_part_of_an_integer_input_is_checked_at_entry() -> None:
    def how(f: Any, v: Vertex) -> Value:
        return cavs.pick(v.pull("x", (4,)), cavs.reshape(v.pull("i", (2,), "int32")[0:1], ()))

    net = cavs.Network(Chooses(how))
    net.initialize(0)
    net.hybridize("reference")
    graph = cavs.Graph.from_children([[]] * 2, {"x": np.ones((2, 4)), "i": [[3, 3], [4, 0]]})
    with pytest.raises(
        GraphError, match=r"^graph 0, vertex 1: input 'i' is \[4 0\]; Chooses takes 0..3$"
    ):
        net(graph)


class Argmax(VertexFunction):
    """Whether the input `w` is the position of the largest element of `x`."""

    arity = 0
    state = {"h": 1}

    def __init__(self, width: int) -> None:
        self.width = width

    def forward(self, v: Vertex) -> None:
        x = v.pull("x", (self.width,))
        v.scatter(h=x[0:1])
        v.push("right", cavs.equal(v.pull("w"), cavs.argmax(x)))


def rows_with_ties(width: int) -> np.ndarray:
    """float32[60, width]: equal largest elements, zeros of both signs, infinities, NaN anywhere."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((60, width), dtype="float32")
    x[1::2] = rng.integers(0, 4, (30, width))
    x[::5, rng.integers(0, width)] = np.nan
    x[::7] = -np.inf
    x[1::7, rng.integers(0, width)] = np.inf
    x[3::10, -1] = np.nan
    x[4::10], x[4::10, ::2] = 0.0, -0.0
    return x


@pytest.mark.parametrize("width", [1, 5, 31, 32, 33, 47, 64, 100, 1000])
def test_argmax_is_the_first_of_equals_or_of_nan(width: int) -> None:
    """Short vectors go one by one; of long ones each lane of a register looks at its own part."""
    x = rows_with_ties(width)
    want = np.argmax(x, 1)
    net = cavs.Network(Argmax(width))
    net.initialize(0)
    graph = cavs.Graph.from_children([[]] * len(x), {"x": x, "w": want.tolist()})
    np.testing.assert_array_equal(net(graph)["right"], 1.0)
    wrong = graph.with_inputs({"x": x, "w": (want + 1).tolist()})
    assert not net(wrong)["right"].any()
