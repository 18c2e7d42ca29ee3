"""Outputs and labels of a batch -> a total and a count, whose ratio over batches is the metric.

A row of METRICS counts what one batch holds, so that metrics stream: `Tally.add` per batch, `value`
at the end. Only vertices that have a label count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from .errors import ConfigError, DataError
from .graph import Graph

Count: TypeAlias = tuple[float, int]


@dataclass(frozen=True)
class Metric:
    """One row of METRICS.

    Attributes:
        roots_only: count only the vertices that are nobody's child.
        count: (outputs[n, ...], labels[n]) -> (total, n counted), for vertices that have a label.
        larger_is_better: which way early stopping looks.
    """

    roots_only: bool
    count: Callable[[np.ndarray, np.ndarray], Count]
    larger_is_better: bool = True


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> Count:
    """The share of labels that are the largest output. outputs: float[n, n_classes]."""
    return float(np.count_nonzero(outputs.argmax(axis=1) == labels)), len(labels)


def _binary_accuracy(outputs: np.ndarray, labels: np.ndarray) -> Count:
    """Five-class sentiment read as two classes (Socher et al. 2013, section 5.2).

    Vertices whose label is 2 (neutral) do not count. Labels 0 and 1 are negative, 3 and 4 positive.
    The answer is positive where p(3) + p(4) > p(0) + p(1): the neutral probability plays no part,
    and the model is the five-class one, not a second model trained without neutral examples.
    """
    if outputs.shape[1] != 5:
        raise DataError(
            f"binary accuracy needs 5 classes (SST), got outputs of width {outputs.shape[1]}. "
            "Use root_accuracy."
        )
    outputs, labels = outputs[labels != 2], labels[labels != 2]
    p = np.exp(outputs - outputs.max(axis=1, keepdims=True))  # [n, 5], up to a factor per row
    positive = p[:, 3] + p[:, 4] > p[:, 0] + p[:, 1]
    return float(np.count_nonzero(positive == (labels > 2))), len(labels)


def _squared_error(outputs: np.ndarray, labels: np.ndarray) -> Count:
    """The mean of (output - label)^2. outputs: float[n] or float[n, 1]."""
    error = outputs.reshape(len(labels), -1) - labels.reshape(len(labels), -1)
    return float((error.astype(np.float64) ** 2).sum()), len(labels)


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(False, _accuracy),
    "root_accuracy": Metric(True, _accuracy),
    "binary_accuracy": Metric(False, _binary_accuracy),
    "root_binary_accuracy": Metric(True, _binary_accuracy),
    "mse": Metric(False, _squared_error, larger_is_better=False),
    "root_mse": Metric(True, _squared_error, larger_is_better=False),
}


@dataclass
class Tally:
    """The running totals of some metrics.

    Raises:
        ConfigError: a name is not in METRICS.
    """

    names: tuple[str, ...]
    totals: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in METRICS:
                raise ConfigError(f"metric {name!r} is unknown; expected one of {list(METRICS)}.")

    def add(self, outputs: np.ndarray, graph: Graph, label: str = "label") -> None:
        """Count one batch. outputs: float32[n_vertices, ...] in the graph's vertex order.

        Raises:
            DataError: the graph has no input named `label`.
        """
        if label not in graph.inputs:
            raise DataError(
                f"the graphs have no input {label!r} to compare with; they have "
                f"{', '.join(graph.inputs) or 'none'}."
            )
        labels, present = graph.inputs[label].values, graph.inputs[label].present
        for name in self.names:
            metric = METRICS[name]
            counted = present & graph.roots if metric.roots_only else present
            total, count = metric.count(outputs[counted], labels[counted])
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + count

    def values(self) -> dict[str, float]:
        """Each metric so far; nan where nothing was counted."""
        return {
            name: self.totals[name] / self.counts[name] if self.counts.get(name) else float("nan")
            for name in self.names
        }
