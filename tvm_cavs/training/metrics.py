"""Outputs and labels of a batch -> a total and a count, whose ratio over batches is the metric.

A row of METRICS counts what one batch holds, so that metrics stream: `Tally.add` per batch,
`values` at the end. Only vertices that have a label count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigError, DataError
from ..graph import Graph

# What the label of a loss is, and so which metrics fit it: one class a vertex (int32), numbers
# (float32), or yes and no (float32, 1 and 0).
LEARNS: Mapping[str, str] = {
    "softmax_cross_entropy": "classes",
    "squared_error": "numbers",
    "logistic": "answers",
}


@dataclass(frozen=True)
class Metric:
    """One row of METRICS.

    Attributes:
        learns: the metric fits losses that learn this, see LEARNS.
        roots_only: count only the vertices that are nobody's child.
        total: (outputs[n, width], labels[n] or labels[n, width]) -> the sum over them.
        larger_is_better: which way early stopping looks.
        leaves_out: a class whose vertices do not count.
        n_classes: the only number of classes that it is defined for.
    """

    learns: str
    roots_only: bool
    total: Callable[[np.ndarray, np.ndarray], float]
    larger_is_better: bool = True
    leaves_out: int | None = None
    n_classes: int | None = None

    def counted(self, graph: Graph, label: str) -> np.ndarray:
        """bool[n_vertices]: the vertices whose label counts."""
        given = graph.inputs[label]
        counted = given.present & graph.roots if self.roots_only else given.present
        return counted if self.leaves_out is None else counted & (given.values != self.leaves_out)


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The share of labels that are the largest output."""
    return float(np.count_nonzero(outputs.argmax(axis=1) == labels))


def _binary_accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Five-class sentiment read as two classes (Socher et al. 2013, section 5.2).

    Vertices whose label is 2 (neutral) do not count. Labels 0 and 1 are negative, 3 and 4 positive.
    The answer is positive where p(3) + p(4) > p(0) + p(1): the neutral probability plays no part,
    and the model is the five-class one, not a second model trained without neutral examples.
    """
    with np.errstate(over="ignore"):  # -inf is right for what is as far below
        p = np.exp(outputs - outputs.max(axis=1, keepdims=True))  # [n, 5], up to a factor per row
    positive = p[:, 3] + p[:, 4] > p[:, 0] + p[:, 1]
    return float(np.count_nonzero(positive == (labels > 2)))


def _squared_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The sum of (output - label)^2; its mean is over all elements, as NumPy's."""
    error = outputs.astype(np.float64) - labels
    return float((error * error).sum())


def _answers_right(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The share of scores that are above 0 where the label is 1, and not where it is 0."""
    return float(np.count_nonzero((outputs > 0) == (labels > 0.5)))


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("classes", False, _accuracy),
    "root_accuracy": Metric("classes", True, _accuracy),
    "binary_accuracy": Metric("classes", False, _binary_accuracy, leaves_out=2, n_classes=5),
    "root_binary_accuracy": Metric("classes", True, _binary_accuracy, leaves_out=2, n_classes=5),
    "mse": Metric("numbers", False, _squared_error, larger_is_better=False),
    "root_mse": Metric("numbers", True, _squared_error, larger_is_better=False),
    "answer_accuracy": Metric("answers", False, _answers_right),
    "root_answer_accuracy": Metric("answers", True, _answers_right),
}


def fitting(loss: str) -> list[str]:
    """The metrics that fit a loss; the first two are measured where none are named."""
    return [name for name, metric in METRICS.items() if metric.learns == LEARNS[loss]]


@dataclass
class Tally:
    """The running totals of some metrics.

    Raises:
        ConfigError: a name is not in METRICS.
    """

    names: tuple[str, ...]
    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    n_graphs: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            if not isinstance(name, str) or name not in METRICS:
                raise ConfigError(f"metric {name!r} is unknown; expected one of {list(METRICS)}.")

    def add(self, outputs: np.ndarray, graph: Graph, label: str = "label") -> None:
        """Count one batch. outputs: float32[n_vertices, ...] in the graph's vertex order.

        Raises:
            DataError: the graph has no input named `label`; outputs or labels that do not fit each
                other or a metric; a label that is no class or not finite. The graph is named,
                numbered over all batches so far.
        """
        if label not in graph.inputs:
            raise DataError(
                f"the graphs have no input {label!r} to compare with; they have "
                f"{', '.join(graph.inputs) or 'none'}."
            )
        outputs, labels = np.asarray(outputs), graph.inputs[label].values
        if outputs.shape[:1] != (graph.n_vertices,):
            raise DataError(
                f"outputs have the shape {list(outputs.shape)}; expected a row for each of "
                f"{graph.n_vertices} vertices."
            )
        for name in self.names:
            metric = METRICS[name]
            flat, given = _matched(name, metric, outputs, labels)
            counted = metric.counted(graph, label)
            self._check_labels(name, graph, np.flatnonzero(counted), flat, given, label)
            flat, given = flat[counted], given[counted]
            total = metric.total(flat, given) if _is_sound(metric, flat) else math.nan
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + given.size
        self.n_graphs += graph.n_graphs

    def values(self) -> dict[str, float]:
        """Each metric so far; nan where nothing was counted or an output was nan."""
        return {
            name: self.totals[name] / self.counts[name] if self.counts.get(name) else math.nan
            for name in self.names
        }

    def _check_labels(
        self,
        name: str,
        graph: Graph,
        vertices: np.ndarray,
        outputs: np.ndarray,
        labels: np.ndarray,
        label: str,
    ) -> None:
        """As a loss does: every label is a class that there is an output for, or finite."""
        is_class, n = METRICS[name].learns == "classes", outputs.shape[1]
        given = labels[vertices]
        right = (given >= 0) & (given < n) if is_class else np.isfinite(given).all(axis=1)
        if not right.all():
            first = int(np.argmin(right))
            g = int(np.searchsorted(graph.graph_ptr, vertices[first], "right")) - 1
            expected = f"a class in 0..{n - 1}" if is_class else "finite numbers"
            raise DataError(
                f"{name}: graph {self.n_graphs + g}, vertex "
                f"{vertices[first] - graph.graph_ptr[g]}: {label!r} is {given[first]}; "
                f"expected {expected}."
            )


def _is_sound(metric: Metric, outputs: np.ndarray) -> bool:
    """Whether outputs are numbers; a class may have a logit of -inf, but not all classes."""
    decisive = outputs.max(axis=1) if metric.learns == "classes" else outputs
    return bool(np.isfinite(decisive).all())


def _matched(
    name: str, metric: Metric, outputs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs as [n, width], and labels as [n] classes or [n, width] numbers.

    Raises:
        DataError: they do not fit each other, or the metric.
    """
    is_class = metric.learns == "classes"
    shapes = f"got {labels.dtype}{list(labels.shape)} and outputs of shape {list(outputs.shape)}"
    if is_class and (labels.dtype != np.int32 or labels.ndim != 1 or outputs.ndim != 2):
        raise DataError(
            f"{name} takes labels that are classes, int32[n], and outputs float32[n, n_classes]; "
            f"{shapes}. For numbers use mse."
        )
    if not outputs.size:
        raise DataError(f"{name} takes outputs of a width of 1 or more; {shapes}.")
    if metric.n_classes not in (None, outputs.shape[-1]):
        raise DataError(
            f"{name} needs {metric.n_classes} classes (SST), got outputs of width "
            f"{outputs.shape[-1]}. Use {name.replace('binary_', '')}."
        )
    if is_class:
        return outputs, labels
    outputs, labels = outputs.reshape(len(outputs), -1), labels.reshape(len(labels), -1)
    if outputs.shape != labels.shape:
        raise DataError(f"{name} takes outputs of the shape of the labels; {shapes}.")
    return outputs, labels
