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

from .errors import TraceError
from .functions import abs as absolute
from .functions import argmax, equal, exp, log, log_softmax, maximum, pick, reduce_sum
from .graph import Graph
from .vertex import Vertex


@dataclass(frozen=True)
class Loss:
    """The loss of one batch. `float(loss)` is its sum over the `n_labels` vertices that have a
    label. Its outputs are the user's own. A copy has everything but the backward pass.
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
    """A batch that waits for its loss, which `run` gives: `net(batch)` inside `record()`."""

    graph: Graph
    run: Callable[[LossFunction], Loss] = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        raise TraceError(
            f"outputs such as {name!r} stay in the compiled code while recording; "
            "give net(batch) to a loss, or call net(batch) outside record()"
        )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(LossFunction):
    """-log softmax(logits)[label] at every vertex that has a label; logits float32[n_classes]."""

    output: str = "logits"
    label: str = "label"

    def forward(self, v: Vertex) -> None:
        logits, label = v.output(self.output), v.pull(self.label)
        v.push("loss", -pick(log_softmax(logits), label))
        v.push("correct", equal(argmax(logits), label))


@dataclass(frozen=True)
class SquaredError(LossFunction):
    """(prediction - target)^2 at every vertex that has a target; both float32[1] or scalars."""

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
    """log(1 + exp(-y s)) for a scalar score s and a target 0 or 1 (y = 2 target - 1), where
    present.
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
