"""A network and a data set -> metrics, batch by batch in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .data import Dataset, Loader
from .metrics import Tally
from .network import Network


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
    for batch in Loader(dataset, batch_size, shuffle=False):
        if stop():
            return None
        tally.add(net(batch)[output], batch, label)
    return tally.values()
