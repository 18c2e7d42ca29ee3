"""Metrics on outputs whose right answer can be counted by eye."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tvm_cavs.errors import ConfigError, DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.loss import LOSSES
from tvm_cavs.training.evaluation import as_json
from tvm_cavs.training.metrics import LEARNS, METRICS, Tally, fitting

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
    logits = np.log(np.maximum(probabilities, 1e-30))
    tally.add(logits - [[7.0], [0.0], [900.0], [-2000.0]], graph)  # a row has its own scale
    assert tally.values() == {"binary_accuracy": pytest.approx(2 / 3)}
    assert tally.counts == {"binary_accuracy": 3}


def test_binary_accuracy_of_logits_from_one_end_of_float32_to_the_other():
    """Their differences leave it, which warns nobody: what is as far below counts for nothing."""
    logits = np.float32([[-3e38, 0, 0, 0, 3e38], [3e38, 0, 0, 0, -3e38]])
    tally = Tally(("binary_accuracy",))
    tally.add(logits, Graph.from_children([[], []], {"label": [4, 4]}))
    assert tally.values() == {"binary_accuracy": 1 / 2}


def test_binary_accuracy_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 5, 200), rng.normal(size=(200, 5))
    chains = [Graph.from_children([[], [0]], {"label": y}) for y in labels.reshape(100, 2)]
    tally = Tally(("binary_accuracy", "root_binary_accuracy"))
    tally.add(logits.astype(np.float32), batch(chains))
    right = [
        (math.exp(p[3]) + math.exp(p[4]) > math.exp(p[0]) + math.exp(p[1])) == (y > 2)
        for p, y in zip(logits, labels, strict=True)
    ]
    counted = [i for i, y in enumerate(labels) if y != 2]
    for name, its in (
        ("binary_accuracy", counted),
        ("root_binary_accuracy", [i for i in counted if i % 2]),
    ):
        assert tally.counts[name] == len(its)
        assert tally.totals[name] == sum(right[i] for i in its)


def test_mse():
    graph = Graph.from_children([[], [0]], {"label": [1.0, 3.0]})
    tally = Tally(("mse", "root_mse"))
    tally.add(np.array([[2.0], [1.0]], np.float32), graph)
    assert tally.values() == {"mse": 2.5, "root_mse": 4.0}
    assert not METRICS["mse"].larger_is_better


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3)])
def test_mse_is_that_of_numpy(shape):
    rng = np.random.default_rng(0)
    labels, outputs = rng.normal(size=(2, *shape)).astype(np.float32)
    halves = [Graph.from_children([[]] * 4, {"y": labels[:4]})]
    halves.append(Graph.from_children([[]] * 3, {"y": labels[4:]}))
    tally = Tally(("mse",))
    for graph, part in zip(halves, (outputs[:4], outputs[4:]), strict=True):
        tally.add(part, graph, "y")
    expected = np.mean((outputs.astype(np.float64) - labels) ** 2)
    assert tally.values()["mse"] == pytest.approx(expected, rel=1e-12)


def test_answers():
    graph = Graph.from_children([[], [0], [1]], {"label": [[1.0], [0.0], [1.0]]})
    tally = Tally(("answer_accuracy", "root_answer_accuracy"))
    tally.add(np.array([[2.0], [-1.0], [-3.0]], np.float32), graph)
    assert tally.values() == {"answer_accuracy": 2 / 3, "root_answer_accuracy": 0.0}
    tally.add(np.zeros((3, 1), np.float32), graph)  # a score of 0 is a no
    assert tally.values() == {"answer_accuracy": 3 / 6, "root_answer_accuracy": 0.0}


def test_every_loss_has_metrics_of_its_own():
    assert LEARNS.keys() == LOSSES.keys()
    for loss in LOSSES:
        plain, root = fitting(loss)[:2]
        assert root == f"root_{plain}" and METRICS[root].roots_only
    for name, metric in METRICS.items():
        root = METRICS[f"root_{name.removeprefix('root_')}"]
        assert root.roots_only and metric.roots_only == (metric == root) == name.startswith("root")
        assert replace(root, roots_only=False) == replace(metric, roots_only=False)


def test_outputs_that_are_no_number():
    """Neither a right answer nor a wrong one; and JSON has no word for it."""
    for name, label in (("accuracy", [0, 1]), ("mse", [0.0, 1.0])):
        for bad in (np.nan, np.inf, -np.inf):
            tally = Tally((name,))
            outputs = np.full((2, 2 if name == "accuracy" else 1), bad, np.float32)
            tally.add(outputs, Graph.from_children([[], [0]], {"label": label}))
            assert math.isnan(tally.values()[name])
            assert as_json(tally.values()) == {name: None}


def test_a_class_that_cannot_be():
    """A logit of -inf rules one class out, which is no fault."""
    tally = Tally(("accuracy",))
    tally.add(np.array([[-np.inf, 0.0]], np.float32), Graph.from_children([[]], {"label": [1]}))
    assert tally.values() == {"accuracy": 1.0}


BAD_PAIRS = {
    "below": ([0, -2], (2, 3), "accuracy", "graph 1, vertex 1: 'label' is -2; expected a class in"),
    "above": (
        [0, 3],
        (2, 3),
        "accuracy",
        "graph 1, vertex 1: 'label' is 3; expected a class in 0..2",
    ),
    "real": (
        [0.5, 1.0],
        (2, 3),
        "root_accuracy",
        r"root_accuracy takes labels that are classes, int32.* got float32\[2\] and",
    ),
    "flat": ([0, 1], (2,), "accuracy", r"and outputs float32.* got int32\[2\] .* shape \[2\]\."),
    "deep": ([0, 1], (2, 3, 1), "accuracy", r"of shape \[2, 3, 1\]. For numbers use mse"),
    "wide": ([[0], [1]], (2, 3), "accuracy", r"got int32\[2, 1\] and outputs of shape \[2, 3\]"),
    "answers": ([0.0, math.inf], (2, 1), "answer_accuracy", "'label' is .inf.; expected finite"),
    "width": (
        [[0.5, 1.0]] * 2,
        (2, 1),
        "root_mse",
        r"^root_mse takes .* shape of the labels; got float32\[2, 2\] and outputs of .* \[2, 1\]",
    ),
    "no width": (
        [0, 1],
        (2, 0),
        "accuracy",
        r"^accuracy takes outputs of a width of 1 or more; got int32\[2\] and .* shape \[2, 0\]",
    ),
    "rows": ([0.5, 1.0], (3, 1), "mse", r"shape \[3, 1\]; expected a row for each of 2 vertices"),
    "half nan": ([[0.5, 1.0], [math.nan, 1.0]], (2, 2), "mse", "vertex 1: 'label' is .nan"),
    "nan": ([0.5, math.nan], (2, 1), "mse", "vertex 1: 'label' is .nan.; expected finite numbers"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_labels_that_training_refuses(name):
    labels, shape, metric, message = BAD_PAIRS[name]
    values = np.array(labels, {"i": np.int32, "f": np.float32}[np.asarray(labels).dtype.kind])
    graph = Graph.from_children([[], [0]], {"label": Field(values, np.ones(2, bool))})
    tally = Tally((metric,), n_graphs=1)
    with pytest.raises(DataError, match=message):
        tally.add(np.zeros(shape, np.float32), graph)


def test_graphs_are_numbered_over_all_batches():
    tally, graph = Tally(("accuracy", "root_accuracy")), Graph.from_sequence(1, {"label": [1]})
    for n in (2, 3):
        tally.add(one_hot([1] * n, 3), batch([graph] * n))
    for g, v in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 2)):
        chains = [Graph.from_sequence(n, {"label": [0] * n}) for n in (1, 2, 3)]
        labels = [7 if i == v else 0 for i in range(g + 1)]
        chains[g] = Graph.from_sequence(g + 1, {"label": labels})
        with pytest.raises(DataError, match=f"accuracy: graph {5 + g}, vertex {v}: 'label' is 7"):
            tally.add(one_hot([1] * 6, 3), batch(chains))


def test_nothing_counted_is_nan():
    assert math.isnan(Tally(("accuracy",)).values()["accuracy"])


def test_refusals():
    with pytest.raises(ConfigError) as error:
        Tally(("acuracy",))
    assert str(error.value) == f"metric 'acuracy' is unknown; expected one of {list(METRICS)}."
    with pytest.raises(ConfigError, match="'acuracy' is unknown; expected one of"):
        Tally(("accuracy", "acuracy"))
    with pytest.raises(DataError, match="no input 'target'.*they have label, other\\.$"):
        two = GRAPH.with_inputs({**GRAPH.inputs, "other": np.zeros(6)})
        Tally(("accuracy",)).add(one_hot([0] * 6, 3), two, label="target")
    with pytest.raises(DataError, match="to compare with; they have none.$"):
        Tally(("accuracy",)).add(one_hot([0], 3), Graph.from_children([[]]))
    for name, other in (
        ("binary_accuracy", "accuracy"),
        ("root_binary_accuracy", "root_accuracy"),
    ):
        with pytest.raises(DataError, match=f"^{name} needs 5 classes.* width 3. Use {other}.$"):
            Tally((name,)).add(one_hot([0] * 6, 3), GRAPH)
