"""A data set is measured as if all its graphs were one batch, whatever runs together."""

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.random_graphs import N_CLASSES, N_WORDS, random_graph
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.errors import ConfigError, DataError
from tvm_cavs.training.evaluation import as_json, evaluate, in_order
from tvm_cavs.training.metrics import Tally

NAMES = ["root_accuracy", "accuracy"]


@pytest.fixture(scope="module")
def net() -> cavs.Network:
    net = cavs.Network(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES, dropout=0.5))
    net.initialize(seed=1)
    net.hybridize("reference")
    return net


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    graphs = []
    for _ in range(11):
        graph = random_graph(rng, 2, int(rng.integers(1, 8)))
        own = rng.integers(0, N_CLASSES, graph.n_vertices)
        graphs.append(graph.with_inputs({**graph.inputs, "other": own}))
    return Dataset.from_graphs(graphs, "eleven")


@pytest.mark.parametrize("label", ["label", "other"])
@pytest.mark.parametrize("batch_size", [1, 3, 11, 64])
def test_how_many_run_together_changes_no_metric(
    net: cavs.Network, dataset: Dataset, batch_size: int, label: str
) -> None:
    whole, tally = cavs.batch(dataset.graphs), Tally(tuple(NAMES))
    tally.add(net(whole)["logits"], whole, label)
    found = evaluate(net, dataset, NAMES, label, batch_size)
    assert found == pytest.approx(tally.values()) and found is not None and list(found) == NAMES
    assert 0 < found["accuracy"] < 1


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_it_stops_before_the_batch_at_which_it_is_told_to(
    net: cavs.Network, dataset: Dataset, n: int
) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > n

    found = evaluate(net, dataset, NAMES, batch_size=3, stop=stop)
    assert (found is None) == (n < 4) and asked == min(n + 1, 4)


def test_graphs_come_in_their_own_order(dataset: Dataset) -> None:
    together = list(in_order(dataset))
    assert [b.n_graphs for b in together] == [11]
    assert together[0].vertex_id.tolist() == list(range(dataset.n_vertices))


def test_what_cannot_be_measured_is_said(net: cavs.Network, dataset: Dataset) -> None:
    for given in ("accuracy", None, 3, "accuracy" * 10):
        with pytest.raises(ConfigError, match="takes a list of metrics such as ") as error:
            evaluate(net, dataset, given)  # type: ignore[arg-type]
        assert str(error.value).endswith(f"['accuracy'], given {repr(given)[:60]}")
    with pytest.raises(ConfigError, match="'acc' is unknown"):
        evaluate(net, dataset, ["acc"])
    with pytest.raises(DataError, match="no output 'score' to measure; it pushes logits.*NAME"):
        evaluate(net, dataset, NAMES, output="score")
    with pytest.raises(DataError, match="no input 'y' to compare with; they have word, "):
        evaluate(net, dataset, NAMES, "y")


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("accuracy", None, "no vertex has a 'label', so accuracy .*Label some vertices"),
        (
            "root_accuracy",
            [1, None],
            "no root has a 'label', so root_accuracy .*Measure accuracy, or label",
        ),
        ("binary_accuracy", [2, 2], "no vertex has a 'label' other than 2, so binary_accuracy"),
        (
            "root_binary_accuracy",
            [1, 2],
            "no root .*other than 2, so root_bin.*Measure binary_accuracy, or",
        ),
    ],
)
def test_nothing_to_count(name: str, labels: list[int | None] | None, said: str) -> None:
    net = cavs.Network(cavs.nn.LSTM(N_WORDS, 3, 4, 5))
    net.initialize(seed=0)
    net.hybridize("reference")
    graphs = [cavs.Graph.from_sequence(2, {"word": [0, 1], "label": labels or [None, None]})] * 3
    for names in ([name], ["accuracy", name]):  # which has something to count beside it
        with pytest.raises(DataError, match=f"^three: {said}"):
            evaluate(net, Dataset.from_graphs(graphs, "three"), names)


def test_json_has_numbers_and_null() -> None:
    given = {"a": 0.5, "b": float("nan"), "c": float("inf"), "d": -float("inf"), "e": 0.0}
    assert as_json(given) == {"a": 0.5, "b": None, "c": None, "d": None, "e": 0.0}
