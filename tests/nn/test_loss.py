"""Losses against their formulas."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.networks import LOSS, gradients, network
from tvm_cavs.errors import TraceError
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.language.vertex import Vertex, VertexFunction
from tvm_cavs.nn.loss import LOSSES, LogisticLoss, LossFunction, SoftmaxCrossEntropy, SquaredError
from tvm_cavs.nn.network import Network


class Given(VertexFunction):
    """Pushes its inputs, so that a loss's value is a formula of them."""

    arity = 2
    state = {"h": 1}

    def __init__(self) -> None:
        self.one = Parameter((1,), cavs.init.Constant(1.0))

    def forward(self, v: Vertex) -> None:
        v.scatter(h=v.pull("s", (1,)) * self.one)
        v.push("score", v.pull("s", (1,)) * self.one)
        v.push("prediction", v.pull("p", (2,)) * self.one)
        v.push("logits", v.pull("z", (3,)) * self.one)


def given() -> tuple[Network, Graph]:
    net = Network(Given())
    net.initialize()
    net.hybridize("reference", dtype="float64")
    rng = np.random.default_rng(0)
    inputs = {
        "s": np.array([[0.0], [3.0], [-2.0], [800.0], [-800.0]], "float32"),
        "p": rng.normal(size=(5, 2)).astype("float32"),
        "z": np.array([[0, 1, 2], [5, 5, 1], [-900, 800, 1], [0, 0, 0], [1, 2, 3]], "float32"),
        "label": [2, 0, 0, None, 1],
        "target": [[0.0], [1.0], None, [0.0], [0.0]],
        "goal": [[1.0, 2.0], None, [0.0, 0.0], [3.0, -1.0], None],
    }
    return net, Graph.from_children([[], [0], [], [2, 1], []], inputs)


def value(loss_fn: LossFunction) -> tuple[Any, Network, Graph]:
    net, graph = given()
    with cavs.record():
        loss = loss_fn(net(graph))
    loss.backward()
    return loss, net, graph


def test_softmax_cross_entropy() -> None:
    loss, _, graph = value(SoftmaxCrossEntropy())
    z = graph.inputs["z"].values.astype("float64")
    label = graph.inputs["label"].values
    want = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[range(5), label]
    want[3] = 0.0
    np.testing.assert_allclose(loss.outputs["loss"], want, rtol=1e-12, atol=1e-14)
    assert loss.outputs["correct"].tolist() == [1, 1, 0, 0, 0]
    assert loss.n_labels == 4 and float(loss) == pytest.approx(want.sum(), rel=1e-12)


def test_what_is_printed_of_a_loss_and_of_a_recorded_batch_is_what_they_hold() -> None:
    loss, net, graph = value(SquaredError(label="goal"))
    held = f"value={loss.value!r}, n_labels=3, outputs={loss.outputs!r}"
    assert repr(loss) == f"Loss({held})" == repr(copy.copy(loss))
    with cavs.record():
        assert repr(net(graph)) == f"Recorded(graph={graph!r})"


def test_logistic_loss_is_stable_and_right() -> None:
    loss, net, graph = value(LogisticLoss())
    scores, targets = [0.0, 3.0, None, 800.0, -800.0], [0.0, 1.0, 0.0, 0.0, 0.0]
    want, slope = [], 0.0
    for s, t in zip(scores, targets, strict=True):
        y = 2 * t - 1
        want.append(0.0 if s is None else max(-y * s, 0.0) + math.log1p(math.exp(-abs(s))))
        if s is not None:
            slope += s * (0.5 * math.tanh(0.5 * s) + 0.5 - t)
    np.testing.assert_allclose(loss.outputs["loss"], want, rtol=1e-12, atol=1e-12)
    assert gradients(net)["one"] == pytest.approx(slope)
    assert graph.inputs["target"].present.sum() == loss.n_labels


def test_squared_error() -> None:
    loss, net, graph = value(SquaredError(label="goal"))
    p, goal = (graph.inputs[k].values.astype("float64") for k in ("p", "goal"))
    error = (p - goal) * graph.inputs["goal"].present[:, None]
    np.testing.assert_allclose(loss.outputs["loss"], (error**2).sum(1), rtol=1e-12)
    assert gradients(net)["one"] == pytest.approx((2 * error * p).sum())


@dataclass(frozen=True)
class Score(LossFunction):
    """The score itself."""

    def forward(self, v: Vertex) -> None:
        v.push("loss", cavs.reduce_sum(v.output("score")))


def test_a_loss_that_is_infinite_both_ways_is_nan() -> None:
    """And says so without a warning, as its gradient does."""
    net, _ = given()
    graph = Graph.from_children([[], []], {"s": [[np.inf], [-np.inf]]})
    with cavs.record():
        loss = Score()(net(graph))
    loss.backward()
    assert math.isnan(float(loss)) and np.isnan(gradients(net)["one"])


def test_losses_are_equal_by_value_and_compiled_once() -> None:
    net = network()
    assert net.programs(SoftmaxCrossEntropy()) is net.programs(SoftmaxCrossEntropy())
    assert net.programs(SoftmaxCrossEntropy(label="word")) is not net.programs(LOSS)
    assert all(issubclass(loss, LossFunction) for loss in LOSSES.values())


def test_a_loss_without_a_scalar_or_an_output() -> None:
    net = network()
    with pytest.raises(TraceError, match="no output 'score'; the vertex function pushes logits$"):
        net.programs(LogisticLoss())

    class Silent(LossFunction): ...

    with pytest.raises(NotImplementedError, match=r"^Silent must define forward\(self, v\)$"):
        net.programs(Silent())

    @dataclass(frozen=True)
    class Vector(LossFunction):
        def forward(self, v: Vertex) -> None:
            v.push("loss", v.output("logits"))

    with pytest.raises(
        TraceError,
        match=r"^TreeLSTM \+ Vector: .*, push one scalar named 'loss'; found float32\[3\]$",
    ):
        net.programs(Vector())


def test_an_input_that_nobody_has_reads_zeros() -> None:
    net, _ = given()
    floats = {"s": [[1.0]], "p": [None], "z": [[0.0, 1.0, 2.0]]}
    prediction = net(Graph.from_children([[]], floats))["prediction"]
    assert prediction.shape == (1, 2) and not prediction.any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_the_output_and_the_label_that_it_is_told(name: str) -> None:
    class Mine(VertexFunction):
        arity, state = 0, {"x": 3}

        def forward(self, v: Vertex) -> None:
            v.scatter(x=v.pull("x", (3,)))
            v.push("mine", v.pull("x", (3,)))

    loss: Any = LOSSES[name]
    program = Network(Mine()).programs(loss(output="mine", label="truth")).forward
    assert {c["name"] for _, c in program.select("pull", "present")} == {"x", "truth"}
