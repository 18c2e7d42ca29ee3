"""Plans against plain loops on random batches: levels, groups, rows, spaces, segments, edges."""

import itertools
from typing import Any

import numpy as np
import pytest
from random_graphs import random_dag, random_tree

from tvm_cavs.errors import GraphError
from tvm_cavs.graph import Graph, batch
from tvm_cavs.plan import (
    Plan,
    kind_of,
    masks,
    parent_edges,
    plan,
    rows_by_value,
    segments,
    stable_order,
)
from tvm_cavs.rewrite import Kind

ARITY, PULLS = 3, ("word", "label", "x")
SEEDS = range(12)


def random_batch(seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    makers = (random_tree, random_dag)
    n_graphs = int(rng.integers(1, 7))
    return batch(
        [makers[rng.integers(2)](rng, ARITY, int(rng.integers(1, 16))) for _ in range(n_graphs)]
    )


class Kinds:
    """Numbers kinds in the order in which they are met; ranks them by a random permutation."""

    def __init__(self, seed: int) -> None:
        self.of_mask: dict[int, int] = {}
        self.rng = np.random.default_rng(seed)
        self.ranks = np.zeros(0, "int64")

    def __call__(self, distinct: np.ndarray) -> dict[int, int]:
        for mask in map(int, distinct):
            self.of_mask.setdefault(mask, len(self.of_mask))
        return self.of_mask

    def rank(self) -> np.ndarray:
        if len(self.ranks) != len(self.of_mask):
            self.ranks = self.rng.permutation(len(self.of_mask))
        return self.ranks


def planned(seed: int, pulls: Any = PULLS) -> tuple[Graph, Kinds, Plan]:
    graph, kinds = random_batch(seed), Kinds(seed)
    return graph, kinds, plan(graph, ARITY, pulls, kinds, kinds.rank)


def slots(graph: Graph, v: int) -> list[int]:
    held = graph.child[graph.child_ptr[v] : graph.child_ptr[v + 1]].tolist()
    return held + [-1] * (ARITY - len(held))


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_say_what_every_vertex_has(seed: int) -> None:
    graph = random_batch(seed)
    bits, children = masks(graph, ARITY, PULLS)
    for v in range(graph.n_vertices):
        assert children[v].tolist() == slots(graph, v)
        held = tuple(k for k, child in enumerate(slots(graph, v)) if child >= 0)
        pulls = tuple(name for name in PULLS if graph.inputs[name].present[v])
        assert kind_of(int(bits[v]), ARITY, PULLS) == Kind(held, pulls)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows(seed: int) -> None:
    graph, kinds, p = planned(seed)
    bits, _ = masks(graph, ARITY, PULLS)
    n = graph.n_vertices
    assert p.n_rows == n and p.n_levels == int(graph.level.max()) + 1
    assert sorted(p.order.tolist()) == list(range(n))
    assert p.row[p.order].tolist() == list(range(n))
    assert p.order[p.row].tolist() == list(range(n))
    sorted_levels = graph.level[p.order]
    assert (np.diff(sorted_levels) >= 0).all()
    assert p.kind_of_row.tolist() == [kinds.of_mask[int(b)] for b in bits[p.order]]
    for row, v in enumerate(p.order):
        for k, child in enumerate(slots(graph, v)):
            below = int(p.children[row, k])
            assert below == (-1 if child < 0 else p.row[child])
            assert below < 0 or sorted_levels[below] < sorted_levels[row]
    stable = [(graph.level[v], kinds.ranks[kinds.of_mask[int(bits[v])]], v) for v in range(n)]
    assert p.order.tolist() == [v for _, _, v in sorted(stable)]


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_are_contiguous_and_cells_count_them(seed: int) -> None:
    graph, kinds, p = planned(seed)
    pairs = list(zip(graph.level[p.order].tolist(), p.kind_of_row.tolist(), strict=True))
    groups = [(pair, len(list(run))) for pair, run in itertools.groupby(pairs)]
    cells = list(zip(p.cells.level.tolist(), p.cells.kind.tolist(), strict=True))
    assert [pair for pair, _ in groups] == cells and len(set(cells)) == len(cells)
    assert [count for _, count in groups] == p.cells.count.tolist()
    assert f"{graph.n_vertices} vertices" in str(p) and f"{len(cells)} groups" in str(p)


def rows_of_space(p: Plan, member: np.ndarray, base: int) -> dict[int, int]:
    """Row of every vertex of the member kinds in their own compact space, counted one by one."""
    found: dict[int, int] = {}
    for row, kind in enumerate(p.kind_of_row):
        if member[kind]:
            found[row] = base + len(found)
    return found


@pytest.mark.parametrize("by_level", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_segments_cover_every_vertex_once_and_are_contiguous_in_every_space(
    seed: int, by_level: bool
) -> None:
    graph, kinds, p = planned(seed)
    rng = np.random.default_rng(seed)
    n_kinds = len(kinds.ranks)
    member = rng.random(n_kinds) < 0.7
    others = [member | (rng.random(n_kinds) < 0.5) for _ in range(2)] + [np.ones(n_kinds, bool)]
    bases = [0, 1, 0]
    starts = [p.cells.starts(m, b) for m, b in zip(others, bases, strict=True)]
    spaces = [rows_of_space(p, m, b) for m, b in zip(others, bases, strict=True)]
    for m, space in zip(others, spaces, strict=True):
        assert p.cells.rows(m) == len(space)
    found = segments(p.cells, member, starts, by_level)
    covered: list[int] = []
    for i, (level, count) in enumerate(zip(found.level, found.count, strict=True)):
        first = int(found.starts[2][i])  # the space of all vertices: its rows are the plan's
        rows = list(range(first, first + int(count)))
        covered += rows
        levels = graph.level[p.order[rows]]
        assert levels[0] == level and (not by_level or (levels == level).all())
        for space, start in zip(spaces, found.starts, strict=True):
            assert [space[row] for row in rows] == list(range(start[i], start[i] + int(count)))
    assert covered == [row for row, kind in enumerate(p.kind_of_row) if member[kind]]
    for a in range(len(found.count) - 1):  # and are the longest such slices
        joined = all(s[a] + found.count[a] == s[a + 1] for s in found.starts)
        assert not joined or (by_level and found.level[a] != found.level[a + 1])


def test_segments_of_no_kind() -> None:
    _, kinds, p = planned(0)
    nobody = np.zeros(len(kinds.ranks), bool)
    found = segments(p.cells, nobody, [p.cells.starts(nobody)], by_level=True)
    assert len(found.level) == len(found.count) == len(found.starts[0]) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_parent_edges_against_a_plain_loop(seed: int) -> None:
    graph, kinds, p = planned(seed)
    kinds_by_number = {n: kind_of(m, ARITY, PULLS) for m, n in kinds.of_mask.items()}
    has_slot = np.array([bool(kinds_by_number[n].slots) for n in range(len(kinds_by_number))])
    pointers, edges = parent_edges(p, has_slot)
    expected: list[list[int]] = [[] for _ in range(p.n_rows)]
    number = 0  # rows of vertices with a child, counted
    for row in range(p.n_rows):
        if has_slot[p.kind_of_row[row]]:
            for k in range(ARITY):
                if p.children[row, k] >= 0:
                    expected[p.children[row, k]].append(number * ARITY + k)
            number += 1
    got = [edges[a:b].tolist() for a, b in zip(pointers[:-1], pointers[1:], strict=True)]
    assert got == expected
    assert sum(map(len, expected)) == graph.n_edges


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_by_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, int(rng.integers(0, 40)))
    distinct, pointers, positions = rows_by_value(values)
    assert distinct.tolist() == sorted(set(values.tolist()))
    for i, value in enumerate(distinct):
        at = positions[pointers[i] : pointers[i + 1]]
        assert at.tolist() == np.flatnonzero(values == value).tolist()


def test_an_example_keeps_its_order_in_every_batch() -> None:
    """Sums over parents and rows come in the same order whatever shares the batch."""
    rng = np.random.default_rng(0)
    one, other = random_dag(rng, ARITY, 12), random_dag(rng, ARITY, 12)
    kinds = Kinds(0)
    kinds(masks(batch([one, other]), ARITY, PULLS)[0])
    kinds.rank()
    alone = plan(one, ARITY, PULLS, kinds, kinds.rank)
    for graphs, at in (([one, other], 0), ([other, one], 12)):
        together = plan(batch(graphs), ARITY, PULLS, kinds, kinds.rank)
        mine = [v - at for v in together.order.tolist() if at <= v < at + 12]
        assert mine == alone.order.tolist()


def test_stable_order() -> None:
    rng = np.random.default_rng(1)
    for top in (5, 1 << 20):
        key = rng.integers(0, top, 500)
        assert stable_order(key).tolist() == sorted(range(500), key=lambda i: key[i])
    assert stable_order(np.zeros(0, "int64")).tolist() == []


def test_many_inputs() -> None:
    """More inputs than a small table of masks holds."""
    n = 40
    inputs = {f"in{i}": [1.0 if (v + i) % 3 else None for v in range(5)] for i in range(n)}
    graph = Graph.from_children([[], [0], [0, 1], [], [3]], inputs)
    kinds = Kinds(0)
    p = plan(graph, 2, tuple(inputs), kinds, kinds.rank)
    for row, v in enumerate(p.order):
        kind = next(m for m, number in kinds.of_mask.items() if number == p.kind_of_row[row])
        held = tuple(name for name, f in graph.inputs.items() if f.present[v])
        assert kind_of(kind, 2, tuple(inputs)).pulls == held


def test_more_slots_and_inputs_than_bits_are_an_error() -> None:
    inputs = {f"in{i}": [1.0, None] for i in range(62)}
    graph = Graph.from_children([[], [0]], inputs)
    kinds = Kinds(0)
    with pytest.raises(GraphError, match="2 slots and 62 inputs.*at most 62 together"):
        plan(graph, 2, tuple(inputs), kinds, kinds.rank)
