"""What is measured: graphs, and how the network on them is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import LISTOPS_VOCAB, Dataset, build_graphs, generate, listops_dataset, ptb_dataset
from ..errors import DataError
from ..graph import Graph
from ..nn import CELLS, Network
from ..training import Trainer

N_CLASSES = 5
N_WORDS = 21701  # of the Stanford Sentiment Treebank
LEAVES = (2, 52)  # fewest and most leaves of a random tree
COMPLETE_LEAVES = 256  # of a tree of workload treefc
LENGTHS = (1, 82)  # fewest and most words of a sequence, as in the Penn Treebank
CHAIN = 1000  # vertices of workload chain
LM_WORDS, LM_LENGTH = 33_278, 35  # of workload lm: WikiText-2's words, a sequence's steps


@dataclass(frozen=True)
class Workload:
    """Graphs and a recipe. embedding None: as wide as the state. cell: a name in nn.CELLS."""

    name: str
    cell: str
    data: Dataset
    n_words: int
    hidden: tuple[int, ...]
    batch: tuple[int, ...]
    embedding: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 0.0
    dropout: float = 0.0
    n_classes: int = N_CLASSES

    def network(self, hidden: int, embedding: int) -> Network:
        """The cell, initialised, with a classifier at every vertex."""
        sizes = self.n_words, embedding, hidden, self.n_classes
        net = Network(CELLS[self.cell](*sizes, dropout=self.dropout))
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
    is_leaf = [not slots for tree in trees for slots in tree]
    return Dataset.from_graphs(build_graphs(trees, random_inputs(rng, is_leaf)), "random trees")


def random_inputs(rng: np.random.Generator, has_word: list[bool]) -> dict[str, list[int | None]]:
    """`word` where there is one (some frequent, most rare, as in text), `label` everywhere."""
    words = (N_WORDS * rng.random(len(has_word)) ** 3).astype(int).tolist()
    return {
        "word": [word if has else None for has, word in zip(has_word, words, strict=True)],
        "label": rng.integers(0, N_CLASSES, len(has_word)).tolist(),
    }


def complete_trees(n: int, seed: int = 1) -> Dataset:
    """Complete binary trees of 256 leaves; inputs as of random trees."""
    inner = COMPLETE_LEAVES - 1
    tree: list[list[int | None]] = [[2 * v + 1, 2 * v + 2] for v in range(inner)]
    tree += [[] for _ in range(COMPLETE_LEAVES)]
    inputs = random_inputs(np.random.default_rng(seed), [not slots for slots in tree] * n)
    return Dataset.from_graphs(build_graphs([tree] * n, inputs), "complete trees")


def random_sequences(n: int, seed: int = 1) -> Dataset:
    """Chains with the lengths of Penn Treebank sentences; a word and a label at every step.

    Lengths: gamma-distributed, 21 on average, deviation 10.
    """
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.rint(rng.gamma(4.3, 4.9, n)), *LENGTHS).astype(int).tolist()
    chains = [[[i - 1] if i else [] for i in range(length)] for length in lengths]
    inputs = random_inputs(rng, [True] * sum(lengths))
    return Dataset.from_graphs(build_graphs(chains, inputs), "random sequences")


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
    make_own("treelstm", path)
    trees = random_trees(256)
    return Workload("treelstm", "tree_lstm", trees, N_WORDS, (256,), batch=(1, 16, 64, 256))


def treefc(path: Path | None) -> Workload:
    """Complete trees of 256 leaves, one layer with ReLU a vertex (Looks et al. 2017).

    Fold looks at the root only and Cavs (Xu et al. 2018) pushes at every vertex; here every vertex
    has its 5-way softmax loss. A leaf's state is the layer on its word's vector.
    """
    make_own("treefc", path)
    return Workload("treefc", "tree_fc", complete_trees(64), N_WORDS, (256, 512), (1, 16, 64))


def varlstm(path: Path | None) -> Workload:
    """An LSTM on sequences of varying length, the recurrent part of Cavs's Var-LSTM.

    No softmax over a vocabulary: a 5-way one at every step makes gradients flow.
    """
    make_own("varlstm", path)
    return Workload("varlstm", "lstm", random_sequences(256), N_WORDS, (256, 512), (1, 16, 64))


def lm(path: Path | None) -> Workload:
    """A language model: an LSTM that predicts the next of WikiText-2's 33,278 words at every step.

    The words are drawn, few often and most rarely. Nearly all of the time is one product, with as
    many columns as there are words (Merity et al. 2016; batch and length of Zaremba et al. 2014).
    """
    make_own("lm", path)
    rng, n = np.random.default_rng(5), 80
    text = (LM_WORDS * rng.random((n, LM_LENGTH + 1)) ** 3).astype(int)
    graphs = [
        Graph.from_sequence(LM_LENGTH, {"word": words[:-1], "label": words[1:]}) for words in text
    ]
    data = Dataset.from_graphs(graphs, "random text")
    return Workload("lm", "lstm", data, LM_WORDS, (200,), batch=(20,), n_classes=LM_WORDS)


def make_own(name: str, path: Path | None) -> None:
    """The workload has no use for a file."""
    if path is not None:
        raise DataError(f"workload {name} makes its own graphs; it takes no data, given {path}")


def sst(path: Path | None) -> Workload:
    """Training on a treebank by the recipe of Tai et al. 2015, section 5."""
    if path is None:
        raise DataError("workload sst needs --data PATH, the treebank's train.txt")
    data = ptb_dataset(path, n_classes=N_CLASSES)
    assert data.vocab is not None
    return Workload(
        "sst",
        "tree_lstm",
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


def chain(path: Path | None) -> Workload:
    """An LSTM on 1,000 words, one vertex a level: what a level costs besides its arithmetic."""
    make_own("chain", path)
    rng, inputs = np.random.default_rng(4), {}
    inputs["word"] = rng.integers(0, N_WORDS, CHAIN).tolist()
    inputs["label"] = rng.integers(0, N_CLASSES, CHAIN).tolist()
    data = Dataset.from_graphs([Graph.from_sequence(CHAIN, inputs)] * 4, "chain")
    return Workload("chain", "lstm", data, N_WORDS, hidden=(8,), batch=(1,))


def listops(path: Path | None) -> Workload:
    """Generated list operations, trained as configs/demo.yaml does: many equal subtrees."""
    make_own("listops", path)
    data = listops_dataset(generate(2000, seed=1, max_tokens=100, pool=10000))
    return Workload(
        "listops",
        "tree_lstm",
        data,
        len(LISTOPS_VOCAB),
        hidden=(128,),
        batch=(16, 64),
        embedding=64,
        optimizer="adam",
        lr=3e-3,
        n_classes=10,
    )


WORKLOADS: dict[str, Callable[[Path | None], Workload]] = {
    "treelstm": treelstm,
    "treefc": treefc,
    "varlstm": varlstm,
    "lm": lm,
    "sst": sst,
    "listops": listops,
    "chain": chain,
}
