"""The matrix-product arithmetic of a batch: from what was lowered, and a formula to check that."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..compiler import Group, Kinds
from ..graph import Graph, masks

PRODUCTS = ("product", "outer")


def rows_of_kinds(kinds: Kinds, graph: Graph) -> np.ndarray:
    """Vertices of each kind in a batch whose kinds are all known: int64[n_kinds]."""
    bits, _ = masks(graph, kinds.programs.arity, kinds.pulls)
    rows = np.zeros(len(kinds.kinds), "int64")
    for mask, count in zip(*np.unique(bits, return_counts=True), strict=True):
        rows[kinds.of_mask(int(mask))] += count
    return rows


def product_flop(groups: Iterable[Group], rows: np.ndarray) -> int:
    """Floating-point operations of the products and weight gradients in `groups`: 2 n K N each.

    Shapes: rows int64[n_kinds].
    """
    flop = 0
    for group in groups:
        n = int(rows[group.member].sum())
        for step in group.lowered.steps:
            if step.kernel.kind in PRODUCTS:
                flop += 2 * n * step.kernel.spec.k * step.kernel.spec.n_columns  # type: ignore[union-attr]
    return flop


def tree_lstm_flop(graph: Graph, embedding: int, hidden: int, n_classes: int) -> int:
    """The forward products of a binary Tree-LSTM where words are at the leaves only.

    A leaf has no state product and no forget gates; an inner vertex has no word product; every
    vertex has its logits. Training does three times as much.
    """
    leaves = int(np.count_nonzero(graph.level == 0))
    inner = graph.n_vertices - leaves
    gates = leaves * embedding * 3 * hidden + inner * 2 * hidden * 5 * hidden
    return 2 * (gates + graph.n_vertices * hidden * n_classes)
