"""Values at the border of what is legal: nothing, one, absent everywhere; both executors agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs

pytestmark = pytest.mark.compiles
ONES = np.ones


class Made(cavs.VertexFunction):
    """A vertex function from a body, with what it needs as attributes."""

    def __init__(
        self, body: Callable[[Any, Any], None], state: dict[str, int], arity: int = 2, **held: Any
    ) -> None:
        self.state, self.arity, self.body = state, arity, body
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, v: cavs.Vertex) -> None:
        self.body(self, v)


def affine(f: Any, v: Any) -> None:
    """x W, what the children gave, tanh."""
    h = v.pull("x", f.n) @ f.W
    for k in range(f.arity):
        h = h + v.gather(k).h
    v.scatter(h=cavs.tanh(h))
    v.push("prediction", h)


def only_pulled(f: Any, v: Any) -> None:
    x = v.pull("x", 2)
    v.scatter(h=x)
    v.push("prediction", x)


def only_children(f: Any, v: Any) -> None:
    h = v.gather(0).h * 0.5 + v.present("x")
    v.scatter(h=h)
    v.push("prediction", h @ f.W)


def unused(f: Any, v: Any) -> None:
    h = v.pull("x", 2) * f.b
    v.scatter(h=h)
    v.push("prediction", h)
    v.push("other", h @ f.W)


def classes(f: Any, v: Any) -> None:
    h = cavs.embedding(v.pull("word"), f.E)
    v.scatter(h=h)
    v.push("logits", h @ f.V)


def cubes(f: Any, v: Any) -> None:
    y = v.pull("y", (1, 2, 2)) * f.b
    h = cavs.reshape(cavs.reduce_sum(y), (2,)) + v.gather(0).h
    v.scatter(h=h)
    v.push("prediction", h)


def counted(f: Any, v: Any) -> None:
    """Nothing is learned, nothing is pulled."""
    h = v.gather(0).h + v.gather(1).h + 1.0
    v.scatter(h=h)
    v.push("prediction", h)


def silent(f: Any, v: Any) -> None:
    v.scatter(h=cavs.tanh(v.pull("x", 2) @ f.W))


P = cavs.Parameter
FUNCTIONS: dict[str, Callable[[], Made]] = {
    "no child": lambda: Made(affine, {"h": 3}, 0, W=P((2, 3)), n=2),
    "all of one": lambda: Made(affine, {"h": 1}, 1, W=P((1, 1)), n=1),
    "many slots": lambda: Made(affine, {"h": 1}, 9, W=P((1, 1)), n=1),
    "only pulled": lambda: Made(only_pulled, {"h": 2}),
    "only children": lambda: Made(only_children, {"h": 2}, W=P((2, 1))),
    "unused parameters": lambda: Made(unused, {"h": 2}, W=P((2, 3)), b=P((2,)), E=P((1, 1))),
    "one class": lambda: Made(classes, {"h": 1}, E=P((1, 1)), V=P((1, 1))),
    "one word": lambda: Made(classes, {"h": 2}, E=P((1, 2)), V=P((2, 3))),
    "cubes": lambda: Made(cubes, {"h": 2}, b=P((2,))),
    "nothing learned": lambda: Made(counted, {"h": 2}),
}
SHAPES: dict[str, list[list[list[int | None]]]] = {
    "one vertex": [[[]]],
    "one empty slot": [[[None], []]],
    "empty slots only": [[[None, None]]],
    "chain": [[[], [0], [1]]],
    "a tree and a vertex": [[[], [], [0, 1]], [[]]],
    "second slot": [[[], [None, 0]]],
}


def graph_of(name: str, function: Made, absent: bool) -> cavs.Graph | None:
    """A batch that the function takes, with every input anywhere or nowhere; None: too wide."""
    made = []
    for children in SHAPES[name]:
        if max(map(len, children)) > function.arity:
            return None
        n, width = len(children), getattr(function, "n", 2)
        target = next(iter(function.state.values())) if "V" not in vars(function) else 1
        target = 1 if name_of(function) == "only children" else target
        inputs: dict[str, Any] = {
            "x": ONES((n, width), "float32") * 0.5,
            "y": ONES((n, 1, 2, 2), "float32"),
            "word": np.zeros(n, "int32"),
            "label": np.zeros(n, "int32"),
            "target": ONES((n, target), "float32") * 2,
        }
        if absent:
            inputs = {key: [None] * n for key in inputs}
        made.append(cavs.Graph.from_children(children, inputs))
    return cavs.batch(made)


def name_of(function: Made) -> str:
    return function.body.__name__.replace("_", " ")


def passes(
    make: Callable[[], Made], executor: str, batches: list[cavs.Graph], **options: Any
) -> list[Any]:
    """Outputs, losses and gradients of every batch, one network for all."""
    function = make()
    net = cavs.Network(function)
    net.initialize(3)
    net.hybridize(executor, **options)
    loss_fn: Any = cavs.loss.SquaredError()
    if "V" in vars(function):
        loss_fn = cavs.loss.SoftmaxCrossEntropy()
    found: list[Any] = []
    net.prepare(batches, loss_fn)
    for i, batch in enumerate(batches):
        if i == 0:
            found += [value for _, value in sorted(net(batch).items())]
        with cavs.record():
            loss = loss_fn(net(batch))
        loss.backward()
        found.append(float(loss))
        for p in net.parameters().values():
            g = p.grad
            found.append(dense(g, p.shape) if isinstance(g, cavs.RowSparse) else np.array(g))
    return found


def dense(gradient: cavs.RowSparse, shape: tuple[int, ...]) -> np.ndarray:
    full = np.zeros(shape, "float32")
    full[gradient.rows] += gradient.values
    return full


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_executors_agree(name: str, cache: Any) -> None:
    make = FUNCTIONS[name]
    wanted = [graph_of(shape, make(), absent) for absent in (False, True) for shape in SHAPES]
    batches = [b for b in wanted if b is not None]
    want = passes(make, "reference", batches)
    threads = 3 if name in ("all of one", "one word") else 1  # more than rows, and than cores
    got = passes(make, "tvm", batches, threads=threads, cache=cache)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_a_function_that_pushes_nothing_runs_and_has_no_loss() -> None:
    function = Made(silent, {"h": 3}, W=P((2, 3)))
    net = cavs.Network(function)
    net.initialize(0)
    graph = cavs.Graph.from_sequence(2, {"x": ONES((2, 2), "float32")})
    for executor in ("reference", "tvm"):
        net.hybridize(executor)
        assert dict(net(graph)) == {}
        with cavs.record(), pytest.raises(cavs.TraceError, match="pushes nothing"):
            cavs.loss.SquaredError()(net(graph))


def test_an_input_that_nobody_has_may_be_of_any_type() -> None:
    """A batch after others that had it: what stands in its place is not read."""
    net = cavs.Network(FUNCTIONS["all of one"]())
    net.initialize(0)
    with_target = cavs.Graph.from_sequence(2, {"x": ONES((2, 1)), "target": [[1.0], [2.0]]})
    nobody = cavs.Graph.from_sequence(2, {"x": ONES((2, 1)), "target": [None, None]})
    for executor in ("reference", "tvm"):
        net.hybridize(executor)
        for graph, expected in ((with_target, True), (nobody, False)):
            with cavs.record():
                loss = cavs.loss.SquaredError()(net(graph))
            loss.backward()
            assert (float(loss) != 0.0) is expected
