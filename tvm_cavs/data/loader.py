"""Dataset -> batches. The order of an epoch is a pure function of (seed, epoch).

So a run that resumes in the middle of an epoch needs three integers and no random state.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import DataError
from ..graph import Graph, batch
from .columns import is_integer
from .dataset import Dataset


class Loader:
    """Iterating yields the batches of epoch `loader.epoch` and moves it to the next one.

    Args:
        batch_size: the most graphs in a batch, where given.
        vertex_budget: the most vertices in a batch, where given. At least one of the two is.
        shuffle: False keeps the order of the dataset.

    Raises:
        DataError: an empty dataset, no limit, a limit below 1, a graph above the vertex budget, a
            seed that is no integer of 0 or more.

    Examples:
        >>> import tvm_cavs as cavs
        >>> graphs = [cavs.Graph.from_sequence(n) for n in (2, 3, 5, 1, 4)]
        >>> dataset = cavs.data.Dataset.from_graphs(graphs)
        >>> loader = cavs.data.Loader(dataset, vertex_budget=6, shuffle=False)
        >>> print([batch.n_vertices for batch in loader], loader.epoch)
        [5, 6, 4] 1
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = None,
        vertex_budget: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.vertex_budget = vertex_budget
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._check()
        self._n_vertices = np.array([graph.n_vertices for graph in dataset], np.int64)
        self._check_budget()

    def __repr__(self) -> str:
        most = {"graphs": self.batch_size, "vertices": self.vertex_budget}
        limits = " and ".join(f"{n} {what}" for what, n in most.items() if n is not None)
        return f"Loader({self.dataset!r}, batches of {limits} at most, epoch {self.epoch})"

    def order(self, epoch: int) -> np.ndarray:
        """int64[n_graphs]: the graphs of an epoch, in the order in which they are batched."""
        n = len(self.dataset)
        if not is_integer(epoch) or epoch < 0:
            raise DataError(f"an epoch is an integer of 0 or more, got {epoch!r}.")
        if not self.shuffle:
            return np.arange(n)
        seeds = np.random.SeedSequence([self.seed, epoch])
        return np.argsort(np.random.PCG64(seeds).random_raw(n), kind="stable")

    def parts(self, epoch: int, done: int = 0) -> list[np.ndarray]:
        """The graphs of every batch of an epoch, as indices into the dataset.

        Args:
            done: how many graphs of the epoch's order to leave out, because they have been run.
        """
        order = self.order(epoch)[done:]
        if not len(order):
            return []
        if self.vertex_budget is None:
            size = self.batch_size or max(1, len(order))
            return np.split(order, range(size, len(order), size))
        filled, n, cuts = 0, 0, []
        for place, size in enumerate(self._n_vertices[order].tolist()):
            if filled + size > self.vertex_budget or n == self.batch_size:
                cuts.append(place)
                filled, n = 0, 0
            filled, n = filled + size, n + 1
        return np.split(order, cuts)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Graph]:
        """The batches of an epoch without its first `done` graphs. `epoch` stays as it is."""
        graphs = self.dataset.graphs
        for part in self.parts(epoch, done):
            yield batch([graphs[i] for i in part.tolist()])

    def __iter__(self) -> Iterator[Graph]:
        epoch = self.epoch
        self.epoch += 1
        return self.batches(epoch)

    def __len__(self) -> int:
        """Batches of the next epoch; with a vertex budget epochs may differ."""
        if self.vertex_budget is None and self.batch_size is not None:
            return -(-len(self.dataset) // self.batch_size)
        return len(self.parts(self.epoch))

    def _check(self) -> None:
        if not isinstance(self.dataset, Dataset):
            raise DataError(
                f"a Loader takes a Dataset, got {type(self.dataset).__name__}; graphs of your own "
                "become one with Dataset.from_graphs(graphs)."
            )
        limits = {"batch_size": self.batch_size, "vertex_budget": self.vertex_budget}
        if not len(self.dataset):
            raise DataError(f"{self.dataset.name} has no graphs; expected at least one.")
        if all(limit is None for limit in limits.values()):
            raise DataError("a Loader needs batch_size, vertex_budget or both; got neither.")
        for name, limit in limits.items():
            if limit is not None and (not is_integer(limit) or limit < 1):
                raise DataError(f"{name} must be an integer of 1 or more, got {limit!r}.")
        if not is_integer(self.seed) or self.seed < 0:
            raise DataError(f"seed must be an integer of 0 or more, got {self.seed!r}.")

    def _check_budget(self) -> None:
        largest = int(self._n_vertices.argmax())
        if self.vertex_budget is not None and self._n_vertices[largest] > self.vertex_budget:
            raise DataError(
                f"{self.dataset.name}: graph {largest} has {self._n_vertices[largest]} vertices, "
                f"more than vertex_budget={self.vertex_budget}. Raise the budget or drop the graph."
            )
