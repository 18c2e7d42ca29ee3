"""Random trees, DAGs and chains with words, vectors and labels at random vertices."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvm_cavs.graph.graph import Graph

N_WORDS, N_CLASSES, WIDTH = 5, 3, 3


def random_tree(rng: np.random.Generator, arity: int, n: int = 7) -> Graph:
    """Every vertex has one parent at most; slots may be empty before used ones; words on leaves."""
    order = rng.permutation(n)
    children: list[list[int | None]] = [[None] * arity for _ in range(n)]
    for rank in range(1, n):  # fill a free slot of a vertex that came before
        free = [(p, k) for p in order[:rank] for k in range(arity) if children[p][k] is None]
        p, k = free[rng.integers(len(free))]
        children[p][k] = int(order[rank])
    return Graph.from_children(_trimmed(children), _inputs(rng, children, words_on_inner=0.0))


def random_dag(rng: np.random.Generator, arity: int, n: int = 7) -> Graph:
    """Several parents, one child in two slots, empty slots before used ones, words on inner
    vertices too.
    """
    order = rng.permutation(n)
    children: list[list[int | None]] = [[] for _ in range(n)]
    for rank in range(1, n):
        for _ in range(int(rng.integers(0, arity + 1))):
            below = int(order[rng.integers(max(0, rank - 3), rank)])
            children[order[rank]].append(None if rng.random() < 0.25 else below)
        if len(children[order[rank]]) == 2 and rng.random() < 0.3:
            children[order[rank]][1] = children[order[rank]][0]
    return Graph.from_children(children, _inputs(rng, children, words_on_inner=0.5))


def random_chain(rng: np.random.Generator, n: int = 6) -> Graph:
    """Vertex i's only child is vertex i - 1; every vertex has a word."""
    children: list[list[int | None]] = [[] if i == 0 else [i - 1] for i in range(n)]
    return Graph.from_children(children, _inputs(rng, children, words_on_inner=1.0))


def random_graph(rng: np.random.Generator, arity: int, n: int = 7) -> Graph:
    """A tree, a DAG, or for one child also a chain."""
    makers: list[Any] = [random_tree, random_dag]
    if arity == 1:
        makers.append(lambda rng, arity, n: random_chain(rng, n))
    return makers[rng.integers(len(makers))](rng, arity, n)  # type: ignore[no-any-return]


def _trimmed(children: list[list[int | None]]) -> list[list[int | None]]:
    """Without the empty slots at the end: a leaf has no slots."""
    out = []
    for slots in children:
        used = [k for k, c in enumerate(slots) if c is not None]
        out.append(slots[: used[-1] + 1] if used else [])
    return out


def _inputs(
    rng: np.random.Generator, children: Sequence[Sequence[int | None]], words_on_inner: float
) -> dict[str, Any]:
    leaf = [all(c is None for c in slots) for slots in children]
    return {
        "word": [
            int(rng.integers(N_WORDS)) if alone or rng.random() < words_on_inner else None
            for alone in leaf
        ],
        "label": _some(rng, len(leaf), lambda: int(rng.integers(N_CLASSES))),
        "x": _some(rng, len(leaf), lambda: rng.normal(size=WIDTH).tolist()),
        "target": _some(rng, len(leaf), lambda: float(rng.integers(2))),
    }


def _some(rng: np.random.Generator, n: int, draw: Any) -> list[Any]:
    """A value at about two thirds of the vertices, and at one of them at least."""
    values = [draw() if rng.random() < 0.67 else None for _ in range(n)]
    values[int(rng.integers(n))] = draw()
    return values


def alike(rng: np.random.Generator, n: int, arity: int = 2) -> list[Graph]:
    """Small graphs of few words, so that many subgraphs are equal; some graphs twice."""
    made = [random_graph(rng, arity, int(rng.integers(1, 9))) for _ in range(n)]
    return [made[i] for i in rng.integers(0, n, n)]
