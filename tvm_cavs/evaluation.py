"""A network and a data set -> metrics, batch by batch in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .data import Dataset, Loader
from .graph import Graph
from .metrics import Tally
from .network import Network

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

    Raises:
        DataError: the graphs have no input named `label`.
        GraphError: the graphs do not fit the network.
    """
    tally = Tally(tuple(metrics))
    net.prepare(in_order(dataset))
    for batch in net.ahead(Loader(dataset, batch_size, shuffle=False)):
        if stop():
            return None
        tally.add(net(batch)[output], batch, label)
    return tally.values()
