"""What is measured: graphs, and how the network on them is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Dataset, build_graphs, ptb_dataset
from ..errors import DataError
from ..network import Network
from ..nn import TreeLSTM
from ..trainer import Trainer

N_CLASSES = 5
N_WORDS = 21701  # of the Stanford Sentiment Treebank
LEAVES = (2, 52)  # fewest and most leaves of a random tree


@dataclass(frozen=True)
class Workload:
    """Graphs and a recipe. embedding None: as wide as the state."""

    name: str
    data: Dataset
    n_words: int
    hidden: tuple[int, ...]
    batch: tuple[int, ...]
    embedding: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 0.0
    dropout: float = 0.0

    def network(self, hidden: int, embedding: int) -> Network:
        """An initialised binary Tree-LSTM with a 5-way classifier at every vertex."""
        net = Network(TreeLSTM(self.n_words, embedding, hidden, N_CLASSES, dropout=self.dropout))
        net.initialize(seed=1)
        return net

    def trainer(self, net: Network) -> Trainer:
        """What updates it."""
        return Trainer(net.parameters(), self.optimizer, lr=self.lr, weight_decay=self.weight_decay)


def random_trees(n: int, seed: int = 1) -> Dataset:
    """Binary trees with the lengths of treebank sentences; each span splits at a uniform place.

    Leaves: gamma-distributed, 19 on average. Inputs: `word` at leaves (some frequent, most rare, as
    in text), `label` at every vertex.
    """
    rng = np.random.default_rng(seed)
    n_leaves = np.clip(np.rint(rng.gamma(4.26, 4.5, n)), *LEAVES).astype(int)
    trees = [random_tree(rng, int(leaves)) for leaves in n_leaves]
    vertices = [slots for tree in trees for slots in tree]
    words = (N_WORDS * rng.random(len(vertices)) ** 3).astype(int).tolist()
    inputs = {
        "word": [None if slots else word for slots, word in zip(vertices, words, strict=True)],
        "label": rng.integers(0, N_CLASSES, len(vertices)).tolist(),
    }
    return Dataset.from_graphs(build_graphs(trees, inputs), "random trees")


def random_tree(rng: np.random.Generator, n_leaves: int) -> list[list[int | None]]:
    """Children of every vertex, the root first."""
    children: list[list[int | None]] = [[]]
    open_ = [(0, n_leaves)]
    while open_:
        vertex, n = open_.pop()
        if n == 1:
            continue
        left = int(rng.integers(1, n))
        for part in (left, n - left):
            children[vertex].append(len(children))
            open_.append((len(children), part))
            children.append([])
    return children


def treelstm(path: Path | None) -> Workload:
    """Random trees, embedding = hidden, plain SGD: what the tables compare."""
    if path is not None:
        raise DataError(f"workload treelstm makes its own trees; it takes no data, given {path}")
    return Workload("treelstm", random_trees(256), N_WORDS, hidden=(256,), batch=(1, 16, 64, 256))


def sst(path: Path | None) -> Workload:
    """Training on a treebank by the recipe of Tai et al. 2015, section 5."""
    if path is None:
        raise DataError("workload sst needs --data PATH, the treebank's train.txt")
    data = ptb_dataset(path, n_classes=N_CLASSES)
    assert data.vocab is not None
    return Workload(
        "sst",
        data,
        len(data.vocab),
        hidden=(150,),
        batch=(25, 100),
        embedding=300,
        optimizer="adagrad",
        lr=0.05,
        weight_decay=1e-4,
        dropout=0.5,
    )


WORKLOADS: dict[str, Callable[[Path | None], Workload]] = {"treelstm": treelstm, "sst": sst}
