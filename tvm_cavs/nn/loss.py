"""Losses: Programs joined to the end of a vertex function, so that logits never leave compiled
code.

A loss is a frozen dataclass with `forward(self, v)`, written in the vertex language; it reads what
F pushed with `v.output(name)` and pushes the scalar `loss`, and by custom `correct` (1.0 where the
prediction is right).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import TraceError
from ..graph import Graph
from ..language import Vertex, argmax, equal, exp, log, log_softmax, maximum, pick, reduce_sum
from ..language import abs as absolute


@dataclass(frozen=True)
class Loss:
    """The loss of one batch. `float(loss)` is its sum over the `n_labels` vertices that have a
    label. Its outputs are the user's own. A copy has everything but the backward pass.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> inputs = {"word": [7, 2], "label": [None, 1]}
        >>> with cavs.record():
        ...     loss = cavs.loss.SoftmaxCrossEntropy()(net(cavs.Graph.from_sequence(2, inputs)))
        >>> loss.backward()
        >>> print(float(loss) > 0, loss.n_labels, sorted(loss.outputs))
        True 1 ['correct', 'loss']
    """

    value: float
    n_labels: int
    outputs: Mapping[str, np.ndarray]
    _backward: Any = field(repr=False)

    def __float__(self) -> float:
        return self.value

    def backward(self) -> None:
        """Fill the `grad` of every parameter.

        Raises:
            TraceError: the network has run another batch since, a parameter has changed since, or
                this is a copy.
        """
        if self._backward is None:
            raise TraceError("a copy of a loss has no backward pass; call it on the loss itself")
        self._backward()

    def __reduce__(self) -> tuple[type[Loss], tuple[Any, ...]]:
        return Loss, (self.value, self.n_labels, self.outputs, None)


class LossFunction:
    """Base of all losses: `loss_fn(net(batch))` inside `record()` runs the forward pass in training
    mode.

    Examples:
        A loss of one's own, |logit - target|:

        >>> from dataclasses import dataclass
        >>> import tvm_cavs as cavs
        >>> @dataclass(frozen=True)
        ... class AbsoluteError(cavs.loss.LossFunction):
        ...     label: str = "target"
        ...     def forward(self, v):
        ...         error = cavs.abs(v.output("logits") - v.pull(self.label, 1))
        ...         v.push("loss", cavs.reduce_sum(error * v.present(self.label)))
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=1))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(2, {"word": [7, 2], "target": [None, [50.0]]})
        >>> with cavs.record():
        ...     loss = AbsoluteError()(net(graph))
        >>> print(f"{float(loss):.0f} at {loss.n_labels} vertex")
        50 at 1 vertex
    """

    label: str = ""

    def forward(self, v: Vertex) -> None:
        """What the loss adds to one vertex."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, v)")

    def __call__(self, recorded: Recorded) -> Loss:
        """The loss of a batch, summed over the vertices that have a label.

        Raises:
            TraceError: `recorded` was made outside `record()`.
        """
        if not isinstance(recorded, Recorded):
            raise TraceError(
                f"{type(self).__name__} takes net(batch) made inside `with record():`, "
                f"given {type(recorded).__name__}"
            )
        return recorded.run(self)


@dataclass(frozen=True)
class Recorded:
    """A batch that waits for its loss, which `run` gives: `net(batch)` inside `record()`.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> with cavs.record():
        ...     recorded = net(cavs.Graph.from_sequence(2, {"word": [7, 2], "label": [0, 1]}))
        >>> print(type(recorded).__name__, recorded.graph.n_vertices)
        Recorded 2
    """

    graph: Graph
    run: Callable[[LossFunction], Loss] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        raise TraceError(
            f"outputs such as {name!r} stay in the compiled code while recording; "
            "give net(batch) to a loss, or call net(batch) outside record()"
        )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(LossFunction):
    """-log softmax(logits)[label] at every vertex that has a label; logits float32[n_classes].

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 2}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 2))
        ...         v.push("logits", v.pull("x", 2))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(2, {"x": [[0.0, 0.0], [1.0, 2.0]], "label": [1, None]})
        >>> with cavs.record():
        ...     loss = cavs.loss.SoftmaxCrossEntropy()(net(graph))
        >>> print(f"{float(loss):.2f} at {loss.n_labels} vertex")
        0.69 at 1 vertex
    """

    output: str = "logits"
    label: str = "label"

    def forward(self, v: Vertex) -> None:
        logits, label = v.output(self.output), v.pull(self.label)
        v.push("loss", -pick(log_softmax(logits), label))
        v.push("correct", equal(argmax(logits), label))


@dataclass(frozen=True)
class SquaredError(LossFunction):
    """(prediction - target)^2 at every vertex that has a target; both scalars, or float32[n], whose
    elements are summed.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 1}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 1))
        ...         v.push("prediction", v.pull("x", 1))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(2, {"x": [[5.0], [6.0]], "target": [[2.0], None]})
        >>> with cavs.record():
        ...     loss = cavs.loss.SquaredError()(net(graph))
        >>> print(f"{float(loss):.2f} at {loss.n_labels} vertex")
        9.00 at 1 vertex
    """

    output: str = "prediction"
    label: str = "target"

    def forward(self, v: Vertex) -> None:
        prediction = v.output(self.output)
        target = v.pull(self.label, prediction.shape, "float32")
        error = (prediction - target) * v.present(self.label)
        squared = error * error
        v.push("loss", squared if not squared.shape else reduce_sum(squared))


@dataclass(frozen=True)
class LogisticLoss(LossFunction):
    """log(1 + exp(-y s)) for a score s and a target 0 or 1 (y = 2 target - 1), where present; both
    scalars, or float32[n], whose elements are summed.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 1}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 1))
        ...         v.push("score", v.pull("x", 1))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(2, {"x": [[0.0], [6.0]], "target": [[1.0], None]})
        >>> with cavs.record():
        ...     loss = cavs.loss.LogisticLoss()(net(graph))
        >>> print(f"{float(loss):.2f} at {loss.n_labels} vertex")
        0.69 at 1 vertex
    """

    output: str = "score"
    label: str = "target"

    def forward(self, v: Vertex) -> None:
        score = v.output(self.output)
        target = v.pull(self.label, score.shape, "float32")
        stable = maximum(score, 0.0) - score * target + log(1.0 + exp(-absolute(score)))
        each = stable * v.present(self.label)
        v.push("loss", each if not each.shape else reduce_sum(each))


LOSSES = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "squared_error": SquaredError,
    "logistic": LogisticLoss,
}
