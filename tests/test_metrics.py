"""Metrics on outputs whose right answer can be counted by eye."""

import math

import numpy as np
import pytest

from tvm_cavs.errors import ConfigError, DataError
from tvm_cavs.graph import Graph, batch
from tvm_cavs.metrics import METRICS, Tally

# Two trees of three vertices (the last is the root) and labels on some of them.
GRAPH = batch(
    [
        Graph.from_children([[], [], [0, 1]], {"label": [1, None, 0]}),
        Graph.from_children([[], [], [0, 1]], {"label": [1, 1, 2]}),
    ]
)


def one_hot(classes, width):
    return np.eye(width, dtype=np.float32)[classes]


def test_accuracy_counts_labelled_vertices():
    tally = Tally(("accuracy", "root_accuracy"))
    tally.add(one_hot([1, 0, 0, 1, 0, 1], 3), GRAPH)
    assert tally.values() == {"accuracy": 3 / 5, "root_accuracy": 1 / 2}
    assert tally.counts == {"accuracy": 5, "root_accuracy": 2}


def test_batches_add_up():
    tally = Tally(("accuracy",))
    tally.add(one_hot([1, 0, 0, 1, 1, 2], 3), GRAPH)
    tally.add(one_hot([0, 0, 1, 0, 0, 0], 3), GRAPH)
    assert tally.values() == {"accuracy": 5 / 10}


def test_binary_accuracy_sums_probabilities_and_leaves_neutral_out():
    graph = Graph.from_children([[], [], [], []], {"label": [0, 2, 4, 3]})
    probabilities = np.array(
        [
            [0.30, 0.15, 0.10, 0.40, 0.05],  # argmax 3, but 0.45 against 0.45: not positive: right
            [0.00, 0.00, 0.10, 0.40, 0.50],  # neutral: does not count
            [0.05, 0.05, 0.70, 0.10, 0.10],  # argmax neutral, 0.2 against 0.1: positive: right
            [0.50, 0.00, 0.10, 0.20, 0.20],  # 0.4 against 0.5: negative: wrong
        ]
    )
    tally = Tally(("binary_accuracy",))
    tally.add(np.log(np.maximum(probabilities, 1e-30)) - 7.0, graph)
    assert tally.values() == {"binary_accuracy": pytest.approx(2 / 3)}
    assert tally.counts == {"binary_accuracy": 3}


def test_mse():
    graph = Graph.from_children([[], [0]], {"label": [1.0, 3.0]})
    tally = Tally(("mse", "root_mse"))
    tally.add(np.array([[2.0], [1.0]], np.float32), graph)
    assert tally.values() == {"mse": 2.5, "root_mse": 4.0}
    assert not METRICS["mse"].larger_is_better


def test_nothing_counted_is_nan():
    assert math.isnan(Tally(("accuracy",)).values()["accuracy"])


def test_refusals():
    with pytest.raises(ConfigError, match="'acuracy' is unknown; expected one of"):
        Tally(("acuracy",))
    with pytest.raises(DataError, match="no input 'target'.*they have label"):
        Tally(("accuracy",)).add(one_hot([0] * 6, 3), GRAPH, label="target")
    with pytest.raises(DataError, match="needs 5 classes.*width 3"):
        Tally(("binary_accuracy",)).add(one_hot([0] * 6, 3), GRAPH)
