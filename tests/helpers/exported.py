"""Small exported models, and what they answer one graph at a time."""

from pathlib import Path

import numpy as np

from helpers.functions import Attention
from helpers.gradient_check import initialized
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.data import TOKENS, Vocab, to_json
from tvm_cavs.deploy import Model, load
from tvm_cavs.executors import About
from tvm_cavs.graph import Graph
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.network import Network

WORDS = Vocab(("<unk>", *(f"w{i}" for i in range(1, N_WORDS))))
ARITY = 2
TWO_OUTPUTS = "two outputs"
TREE = Graph.from_children([[], [], [0, 1]], {"word": [1, 2, None]})


def export(folder: Path, cell: str = "tree_lstm", seed: int = 0) -> Path:
    """A network of random parameters, with an example and names of its classes.

    cell: one of tvm_cavs, or `TWO_OUTPUTS`, whose inputs may be absent.
    """
    made = Attention() if cell == TWO_OUTPUTS else CELLS[cell](N_WORDS, 3, 4, N_CLASSES)
    net = initialized(Network(made), seed)
    classes = [f"class {i}" for i in range(N_CLASSES)]
    about = About(WORDS.to_list(), ("word",), classes, line(TREE))
    net.export(folder, about=about, replace=True)
    return folder


def exported(folder: Path, cell: str = "tree_lstm", seed: int = 0) -> Model:
    """The same, loaded."""
    return load(export(folder, cell, seed))


def line(graph: Graph) -> str:
    """A graph as a client sends it."""
    return to_json(graph, {"word": TOKENS}, WORDS)


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Whether outputs are equal to the last bit."""
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )
