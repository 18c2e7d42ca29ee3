"""Graphs -> the rows of a hand-written loop, by NumPy, vectorised: what a peer does for each batch.

Rows are in level order, so what a level computes is a slice. A tree's parents read their children
by index; a chain's steps hold the longest sequences first, so that the row before is a slice too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph import Graph


@dataclass(frozen=True)
class TreePlan:
    """Rows of binary trees with words at their leaves.

    Attributes:
        row: int64[n]; the row of every vertex of the batch.
        sizes: rows of every level; the leaves are the first.
        words: int64[n_leaves], labels: int64[n], in row order.
        child: int64[2 * n_inner]; rows of the children of each inner row, left and right in turn.
        slot: int64[n]; 1 + the place of a row in `child`, 0 for a root.
    """

    row: np.ndarray
    sizes: list[int]
    words: np.ndarray
    labels: np.ndarray
    child: np.ndarray
    slot: np.ndarray


@dataclass(frozen=True)
class ChainPlan:
    """Rows of sequences with a word at every step, longest first within a step.

    Attributes:
        row: int64[n]; the row of every vertex of the batch.
        sizes: rows of every step, never growing.
        words: int64[n], labels: int64[n], in row order.
        before: int64[n - sizes[0]]; the row before each row, from the second step on.
    """

    row: np.ndarray
    sizes: list[int]
    words: np.ndarray
    labels: np.ndarray
    before: np.ndarray


def plan_trees(graphs: Sequence[Graph]) -> TreePlan:
    """Every vertex has two children, or none and a word."""
    level = np.concatenate([g.level for g in graphs])
    order = np.argsort(level, kind="stable")
    row = inverse(order)
    sizes = np.bincount(level)
    n_leaves = int(sizes[0])
    first = np.cumsum([0, *(g.n_vertices for g in graphs[:-1])])
    child = np.concatenate([g.child for g in graphs])
    child = row[child + np.repeat(first, [len(g.child) for g in graphs])].reshape(-1, 2)
    number = np.cumsum(level > 0) - 1  # of an inner vertex among them
    child = child[number[order[n_leaves:]]].reshape(-1)
    slot = np.zeros(len(level), "int64")
    slot[child] = np.arange(1, len(child) + 1)
    words, labels = inputs(graphs, order)
    return TreePlan(row, sizes.tolist(), words[:n_leaves], labels, child, slot)


def plan_chains(graphs: Sequence[Graph]) -> ChainPlan:
    """Vertex i of a graph is step i of its sequence."""
    lengths = np.array([g.n_vertices for g in graphs])
    longest = np.argsort(-lengths, kind="stable")
    first = (np.cumsum(lengths) - lengths)[longest]
    n_shorter = np.cumsum(np.bincount(lengths, minlength=lengths.max() + 1))[:-1]
    sizes = len(graphs) - n_shorter
    starts = np.cumsum(sizes) - sizes
    step = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(step)) - starts[step]
    order = first[rank] + step
    later = slice(len(graphs), None)
    words, labels = inputs(graphs, order)
    before = starts[step[later] - 1] + rank[later]
    return ChainPlan(inverse(order), sizes.tolist(), words, labels, before)


def inputs(graphs: Sequence[Graph], order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words and labels in row order: int64[n] each."""
    words, labels = (
        np.concatenate([g.inputs[name].values for g in graphs])[order].astype("int64")
        for name in ("word", "label")
    )
    return words, labels


def inverse(order: np.ndarray) -> np.ndarray:
    """The place of every element in `order`."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place
