"""A network and a data set -> metrics, batch by batch in inference mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..data import Dataset, Loader
from ..errors import ConfigError, DataError
from ..graph import Graph
from ..nn import Network
from .metrics import METRICS, Tally

PREPARED_AT_ONCE = 1000  # graphs


def in_order(dataset: Dataset) -> Iterator[Graph]:
    """The graphs in large batches, in their own order."""
    return Loader(dataset, PREPARED_AT_ONCE, shuffle=False).batches(0)


def evaluate(
    net: Network,
    dataset: Dataset,
    metrics: Sequence[str],
    label: str = "label",
    batch_size: int = 64,
    output: str = "logits",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Each metric over the whole data set; None if `stop()` was true before the end.

    A metric is nan where the network's outputs are.

    Args:
        metrics: names, such as "accuracy" (every vertex that has a label) or "root_accuracy".
        label: the input that holds labels. output: what the network pushes for them.
        batch_size: graphs that run together; it changes no result.

    Raises:
        ConfigError: a metric that is unknown.
        DataError: the graphs have no input named `label`, a label that training refuses, or no
            label that a metric counts.
        GraphError: the graphs do not fit the network.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=1))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> chain = cavs.Graph.from_sequence(2, {"word": [7, 2], "label": [None, 0]})
        >>> print(cavs.evaluate(net, cavs.data.Dataset.from_graphs([chain]), ["accuracy"]))
        {'accuracy': 1.0}
    """
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise ConfigError(
            f"evaluate takes a list of metrics such as ['accuracy'], given {metrics!r:.60}"
        )
    tally = Tally(tuple(metrics))
    net.prepare(in_order(dataset))
    for batch in net.ahead(Loader(dataset, batch_size, shuffle=False)):
        if stop():
            return None
        outputs = net(batch)
        if output not in outputs:
            raise DataError(
                f"the network has no output {output!r} to measure; it pushes "
                f"{', '.join(outputs) or 'none'}. Give evaluate(..., output=NAME)."
            )
        tally.add(outputs[output], batch, label)
    for name, count in tally.counts.items():
        if not count:
            raise DataError(f"{dataset.name}: {nothing_to_count(name, label)}")
    return tally.values()


def nothing_to_count(name: str, label: str) -> str:
    """Why a metric has no value, in words that follow the name of the data."""
    metric = METRICS[name]
    which = "root" if metric.roots_only else "vertex"
    but = "" if metric.leaves_out is None else f" other than {metric.leaves_out}"
    plain = name.removeprefix("root_")
    remedy = f"Measure {plain}, or label roots." if metric.roots_only else "Label some vertices."
    return f"no {which} has a {label!r}{but}, so {name} has nothing to count. {remedy}"


def as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The same for a JSON file, which knows no nan and no infinity: null in their place."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
