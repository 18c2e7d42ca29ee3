"""Levels: found one vertex at a time where a graph is small, round by round where it is large."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tvm_cavs.errors import GraphError
from tvm_cavs.graph import Graph, small_graph
from tvm_cavs.graph import levels as found
from tvm_cavs.graph.levels import FEW

SIZES = (1, 2, 7, FEW - 2, FEW - 1, FEW, FEW + 40)


def longest_paths(children: list[list[int]]) -> list[int]:
    """By the definition: the most edges down from each vertex, each found anew."""
    level = [0] * len(children)
    for _ in children:
        level = [max((level[c] + 1 for c in slots if c >= 0), default=0) for slots in children]
    return level


def random_children(rng: np.random.Generator, n: int, order: np.ndarray) -> list[list[int]]:
    """Up to three children before a vertex in `order`, some twice, and some empty slots."""
    children: list[list[int]] = [[] for _ in range(n)]
    for place, vertex in enumerate(order.tolist()):
        for _ in range(int(rng.integers(0, 4)) if place else 0):
            near = max(0, place - int(rng.integers(1, 9)))
            children[vertex].append(-1 if rng.random() < 0.1 else int(order[near]))
    return children


def csr(children: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    pointers = np.cumsum([0, *map(len, children)])
    return pointers, np.array([c for slots in children for c in slots], np.int64)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("ordered", [True, False])
def test_levels_are_longest_paths(n: int, ordered: bool) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        order = np.arange(n) if ordered else rng.permutation(n)
        children = random_children(rng, n, order)
        level, waiting = found.levels(*csr(children))
        assert level.dtype == waiting.dtype == np.int32
        assert level.tolist() == longest_paths(children)
        assert not waiting.any()


@pytest.mark.parametrize("n", SIZES[2:])
def test_both_ways_wait_for_the_same_children(n: int) -> None:
    """Of a cycle, and of what lies above it."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        children = random_children(rng, n, rng.permutation(n))
        one, other = rng.choice(n, 2, replace=False).tolist()
        children[one].append(other)
        children[other].append(one)
        pointers, child = csr(children)
        given = pointers.astype("int32"), child.astype("int32")
        slow = found.one_by_one(pointers.tolist(), child.tolist())[1]
        fast = found._round_by_round(*given)[1]
        assert slow == fast.tolist()
        assert slow[one] > 0 and slow[other] > 0


@pytest.mark.parametrize("n", [*SIZES, 3000])
def test_parents_are_those_of_a_loop(n: int) -> None:
    """In the order of the slots that a vertex fills, however many share it."""
    for near in (True, False):
        rng = np.random.default_rng(n)
        children = random_children(rng, n, rng.permutation(n))
        if not near:  # three vertices are the children of all
            children = [[int(c) for c in rng.integers(-1, min(n, 3), 2)] for _ in range(n)]
        parents: list[list[int]] = [[] for _ in range(n)]
        for v, slots in enumerate(children):
            for c in slots:
                if c >= 0:
                    parents[c].append(v)
        pointers, parent = found.parents_of(*csr(children))
        assert pointers.dtype == np.int64 and parent.dtype == np.int32
        assert pointers.tolist() == csr(parents)[0].tolist()
        assert parent.tolist() == csr(parents)[1].tolist()


@pytest.mark.parametrize("n", SIZES[2:])
def test_a_cycle_that_is_said_is_one(n: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        order = rng.permutation(n)
        children = random_children(rng, n, order)
        low, high = sorted(rng.choice(n, 2, replace=False).tolist())
        for place in range(low, high):  # a path from low to high, and back
            children[order[place + 1]].insert(0, int(order[place]))
        children[order[low]].append(int(order[high]))
        pointers, child = csr(children)
        cycle = found.find_cycle(pointers, child, found.levels(pointers, child)[1])
        assert cycle[0] == cycle[-1] and len(set(cycle)) == len(cycle) - 1 > 0
        for v, below in itertools.pairwise(cycle):
            assert below in children[v]
        with pytest.raises(GraphError, match="the graph has a cycle: "):
            Graph.from_children(children)


@pytest.mark.parametrize("n", [2, 3, 9, 10, 11, 12, 40])
def test_of_a_long_cycle_both_ends_are_said(n: int) -> None:
    cycle, most = [*range(n - 1), 0], found.MAX_CYCLE_PRINTED
    text = found.print_cycle(cycle)
    said = text.split(" -> ")
    assert said[0] == said[-1] == "0" and len(said) <= most + 1
    if n <= most:
        assert said == list(map(str, cycle))
        return
    at = next(i for i, piece in enumerate(said) if "more" in piece)
    assert said[:at] == list(map(str, cycle[:at]))
    assert said[at + 1 :] == list(map(str, cycle[at + 1 - len(said) :]))
    assert said[at] == f"... ({n - len(said) + 1} more) ..."


@pytest.mark.parametrize("seed", range(4))
def test_ranges_pointers_and_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, count = rng.integers(0, 50, (2, 9)) * [[1], [seed > 0]]
    expected = [i for f, n in zip(first, count, strict=True) for i in range(f, f + n)]
    assert found.ranges(first, count).tolist() == expected
    ends = found.pointers(count.tolist())
    assert ends.dtype == np.int64 and ends.tolist() == [sum(count[:i]) for i in range(10)]
    assert found.steps(ends).tolist() == count.tolist()


@pytest.mark.parametrize("n", SIZES)
def test_a_small_graph_is_what_csr_makes_of_it(n: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        children = random_children(rng, n, rng.permutation(n))
        pointers, child = csr(children)
        words = {"word": rng.integers(0, 9, n)}
        small = small_graph(list(map(len, children)), child.tolist(), words)
        if n >= FEW:
            assert small is None
            continue
        assert small is not None
        whole = Graph.from_csr(pointers, child, words, vertex_id=np.arange(n))
        for name in ("child_ptr", "child", "level", "vertex_id", "graph_ptr"):
            one, other = getattr(small, name), getattr(whole, name)
            assert one.dtype == other.dtype and not one.flags.writeable, name
            assert one.tolist() == other.tolist(), name
        assert small.inputs["word"].values.tolist() == whole.inputs["word"].values.tolist()


@pytest.mark.parametrize(
    ("n_slots", "child"),
    [
        ([], []),
        ([0, 1], [2]),
        ([0, 1], [-2]),
        ([0, 1], [1]),
        ([1, 1], [1, 0]),
        ([0, 1], []),
        ([0, 1], [0, 0]),
        ([-1, 2], [0]),
    ],
)
def test_what_is_no_graph_is_left_to_csr(n_slots: list[int], child: list[int]) -> None:
    assert small_graph(n_slots, child, {}) is None


@pytest.mark.parametrize("name", ["", None, 1])
def test_an_input_has_a_name(name: Any) -> None:
    with pytest.raises(GraphError) as error:
        Graph.from_children([[]], {name: [7]})
    assert str(error.value) == (
        "inputs: expected a mapping of names to lists or arrays, such as "
        f'{{"word": [1, 2]}}, given {{{name!r}: [7]}}.'
    )
