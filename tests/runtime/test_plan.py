"""Plans against plain loops on random batches: levels, groups, rows, spaces, segments, edges."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import host_kernels_in_numpy as oracle
from helpers.random_graphs import random_dag, random_tree
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.host import host_kernels
from tvm_cavs.errors import GraphError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.kind import Kind, kind_of, masks
from tvm_cavs.runtime.batch_inputs import Grouped, edge_call, edge_needs
from tvm_cavs.runtime.memory import HostMemory, tensor_of
from tvm_cavs.runtime.needs import Needs
from tvm_cavs.runtime.plan import CHILDREN, Plan
from tvm_cavs.runtime.planner import Planner, Ranks, UnknownKindsError
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.routine import Held
from tvm_cavs.runtime.series import integer
from tvm_cavs.runtime.slices import SLICES, Spaces
from tvm_cavs.runtime.spaces import Space
from tvm_cavs.runtime.tables import COUNT, GROUP, LEVEL
from tvm_cavs.transform.stages import STAGES

ARITY, PULLS = 3, ("word", "label", "x")
SEEDS = range(12)


def planner_of(compiler: Compiler, arity: int, pulls: Sequence[str]) -> Planner:
    return Planner(host_kernels(compiler), arity, pulls)


def random_batch(seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    makers = (random_tree, random_dag)
    n_graphs = int(rng.integers(1, 7))
    return batch(
        [makers[rng.integers(2)](rng, ARITY, int(rng.integers(1, 16))) for _ in range(n_graphs)]
    )


class Kinds:
    """Numbers kinds in the order in which they are met; ranks them by a random permutation."""

    def __init__(self, planner: Planner, seed: int) -> None:
        self.of_mask: dict[int, int] = {}
        self.ranks = np.zeros(0, "int64")
        self._planner, self._rng = planner, np.random.default_rng(seed)

    def learn(self, distinct: Sequence[int]) -> None:
        for mask in distinct:
            self.of_mask.setdefault(mask, len(self.of_mask))
        self.ranks = self._rng.permutation(len(self.of_mask))

    def plan(self, graph: Graph, memory: HostMemory) -> Plan:
        """A plan, by the kinds so far or with those that the batch brings."""
        try:
            return self._planner.plan(graph, memory, self._known())
        except UnknownKindsError as unknown:
            self.learn(unknown.masks)
        return self._planner.plan(graph, memory, self._known())

    def _known(self) -> Ranks:
        return self._planner.ranks(self.of_mask, self.ranks)


@pytest.fixture(scope="module")
def compiler(cache: Path) -> Compiler:
    return Compiler("host", 1, cache)


Made = tuple[Graph, Kinds, Plan, Planner, HostMemory]


@pytest.fixture
def planned(compiler: Compiler) -> Callable[[int], Made]:
    def make(seed: int) -> Made:
        graph, planner, memory = (
            random_batch(seed),
            planner_of(compiler, ARITY, PULLS),
            HostMemory(),
        )
        kinds = Kinds(planner, seed)
        return graph, kinds, kinds.plan(graph, memory), planner, memory

    return make


def slots(graph: Graph, v: int) -> list[int]:
    held = graph.child[graph.child_ptr[v] : graph.child_ptr[v + 1]].tolist()
    return held + [-1] * (ARITY - len(held))


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_say_what_every_vertex_has(seed: int, compiler: Compiler) -> None:
    graph, memory = random_batch(seed), HostMemory()
    bits, children = masks(graph, ARITY, PULLS)
    found = planner_of(compiler, ARITY, PULLS).masks(graph, memory)
    assert found.tolist() == bits.tolist()
    assert memory.read(CHILDREN).tolist() == children.ravel().tolist()
    for v in range(graph.n_vertices):
        assert children[v].tolist() == slots(graph, v)
        held = tuple(k for k, child in enumerate(slots(graph, v)) if child >= 0)
        pulls = tuple(name for name in PULLS if graph.inputs[name].present[v])
        assert kind_of(int(bits[v]), ARITY, PULLS) == Kind(held, pulls)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows(seed: int, planned: Any) -> None:
    graph, kinds, p, *_ = planned(seed)
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
def test_sort_against_numpy(seed: int, planned: Any) -> None:
    graph, kinds, p, *_ = planned(seed)
    bits, _ = masks(graph, ARITY, PULLS)
    lookup = np.zeros(1 << (ARITY + len(PULLS)), "int64")
    for mask, kind in kinds.of_mask.items():
        lookup[mask] = kinds.ranks[kind]
    *rows, cells = oracle.sort(graph.level, bits, lookup, np.argsort(kinds.ranks))
    for found, expected in zip((p.row, p.order, p.kind_of_row), rows, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip((p.cells.level, p.cells.kind, p.cells.size), cells, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_are_contiguous_and_cells_count_them(seed: int, planned: Any) -> None:
    graph, kinds, p, *_ = planned(seed)
    pairs = list(zip(graph.level[p.order].tolist(), p.kind_of_row.tolist(), strict=True))
    groups = [(pair, len(list(run))) for pair, run in itertools.groupby(pairs)]
    cells = list(zip(p.cells.level.tolist(), p.cells.kind.tolist(), strict=True))
    assert [pair for pair, _ in groups] == cells and len(set(cells)) == len(cells)
    assert [count for _, count in groups] == p.cells.size.tolist()
    n_levels = int(graph.level.max()) + 1
    first, *lines = str(p).splitlines()
    assert first == f"plan: {graph.n_vertices} vertices, {n_levels} levels, {len(cells)} groups"
    told = [f"level {a} kind {b} {n} vertices" for (a, b), n in groups]
    assert [" ".join(line.split()) for line in lines] == told


def rows_of_space(p: Plan, member: np.ndarray, base: int) -> dict[int, int]:
    """Row of every vertex of the member kinds in their own compact space, counted one by one."""
    found: dict[int, int] = {}
    for row, kind in enumerate(p.kind_of_row):
        if member[kind]:
            found[row] = base + len(found)
    return found


def slices_of(
    p: Plan,
    member: np.ndarray,
    others: list[np.ndarray],
    by_level: bool,
    planner: Planner,
    memory: HostMemory,
) -> Any:
    """Slices of a group of kinds; a space for each of `others` (every second based), used by it.

    Two more groups, of all kinds, and a space that none uses take part.
    """
    used = [Space("state" if i % 2 else "pull", i) for i in range(len(others))]
    unused = Space("save", "x")
    of_space = dict(zip((*used, unused), (*others, ~member), strict=True))

    def group(stage: str, member: np.ndarray) -> Any:
        spaces = (*used, Space("scratch"))
        return SimpleNamespace(stage=stage, member=member, spaces=spaces, steps=())

    everyone = np.ones_like(member)
    mine = group("recurrent" if by_level else "eager", member)
    compiled = SimpleNamespace(
        forward=(group("lazy", everyone), mine),
        backward=(group("lazy", everyone), group("recurrent", member), group("eager", everyone)),
        members={**of_space, Space("edges"): everyone},
    )
    spaces = Spaces(compiled, planner)  # type: ignore[arg-type]
    cut = spaces.cut(p, memory)
    first, n = cut.place("forward")
    slices = spaces.slices(cut, memory)[first : first + n]
    found = [s for s in slices if s.group is mine]
    groups = [*compiled.forward, *compiled.backward]
    check_order(spaces, cut, memory, groups)
    check_segments(p, spaces, cut, memory, groups, compiled.members)
    columns = [spaces.column(s) for s in used]
    check_counts(p, spaces, cut, memory, compiled.members)
    assert spaces.column(Space("scratch")) == 0 and all(s.row[0] == 0 for s in found)
    return [(s.level, s.n_rows, [s.row[c] for c in columns]) for s in found]


def check_segments(
    p: Plan,
    spaces: Spaces,
    cut: Any,
    memory: HostMemory,
    groups: list[Any],
    members: dict[Space, np.ndarray],
) -> None:
    """NumPy finds the same slices, in the same order."""
    expected = oracle.segments(
        (p.cells.level, p.cells.kind, p.cells.size),
        np.array([space.base for space in members]),
        np.array([STAGES.index(g.stage) for g in groups]),
        np.array([g.member for g in groups]),
        np.array([[space in g.spaces for space in members] for g in groups]),
        np.array(list(members.values())),
    )
    found = memory.read(SLICES)[: cut.n * spaces.width].reshape(cut.n, spaces.width)
    np.testing.assert_array_equal(found, np.concatenate(list(expected)))


def check_counts(
    p: Plan, spaces: Spaces, cut: Any, memory: HostMemory, members: dict[Space, np.ndarray]
) -> None:
    """Rows of every space, with those before the first."""
    found = spaces.counts(cut, memory)
    for (space, member), count in zip(members.items(), found.tolist(), strict=True):
        assert count == space.base + sum(bool(member[kind]) for kind in p.kind_of_row)
    memory.fill(SLICES, -1)
    assert (found >= 0).all()  # they are a copy


def check_order(spaces: Spaces, cut: Any, memory: HostMemory, groups: list[Any]) -> None:
    """Sorting says the same: by stage, by level (backward from the highest), as they were found."""
    rows = memory.read(SLICES)[: cut.n * spaces.width].reshape(cut.n, spaces.width)
    sizes = [int((rows[:, GROUP] == g).sum()) for g in range(len(groups))]
    assert [min(size, 2) for size in sizes] == list(cut.often)
    assert cut.most_rows == max(rows[:, COUNT], default=0)
    assert (cut.n_forward, cut.n) == (sum(sizes[:2]), sum(sizes))

    def key(row: Any) -> tuple[bool, int, int]:
        stage, backward = STAGES.index(groups[row[GROUP]].stage), row[GROUP] >= 2
        level = int(row[LEVEL]) if stage == 1 else 0
        return backward, stage, -level if backward else level

    expected = sorted(rows, key=key)
    found = [s.row for s in spaces.slices(cut, memory)]
    assert found == [row.tolist() for row in expected]


@pytest.mark.parametrize("by_level", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_slices_cover_every_vertex_once_and_are_contiguous_in_every_space(
    seed: int, by_level: bool, planned: Any
) -> None:
    graph, kinds, p, planner, memory = planned(seed)
    rng = np.random.default_rng(seed)
    n_kinds = len(kinds.ranks)
    member = rng.random(n_kinds) < 0.7
    others = [member | (rng.random(n_kinds) < 0.5) for _ in range(2)] + [np.ones(n_kinds, bool)]
    spaces = [rows_of_space(p, m, i % 2) for i, m in enumerate(others)]
    found = slices_of(p, member, others, by_level, planner, memory)
    covered: list[int] = []
    for level, count, starts in found:
        rows = list(range(starts[2], starts[2] + count))  # in the space of all: the plan's rows
        covered += rows
        levels = graph.level[p.order[rows]]
        assert levels[0] == level and (not by_level or (levels == level).all())
        for space, start in zip(spaces, starts, strict=True):
            assert [space[row] for row in rows] == list(range(start, start + count))
    assert covered == [row for row, kind in enumerate(p.kind_of_row) if member[kind]]
    for (level, count, starts), (next_level, _, after) in itertools.pairwise(found):
        joined = all(s + count == t for s, t in zip(starts, after, strict=True))
        assert not joined or (by_level and level != next_level)  # they are the longest


def test_slices_of_no_kind(planned: Any) -> None:
    _, kinds, p, planner, memory = planned(0)
    nobody = np.zeros(len(kinds.ranks), bool)
    assert slices_of(p, nobody, [nobody], True, planner, memory) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_parent_edges_against_a_plain_loop(seed: int, planned: Any) -> None:
    graph, kinds, p, planner, memory = planned(seed)
    kinds_by_number = {n: kind_of(m, ARITY, PULLS) for m, n in kinds.of_mask.items()}
    has_slot = np.array([bool(kinds_by_number[n].slots) for n in range(len(kinds_by_number))])
    Needs(edge_needs(0, 1, ARITY), 2).make_room(memory, (p.n_rows, p.n_rows))
    member = Held(tensor_of(has_slot.astype("uint8")))
    planner.series([edge_call(planner, member)], 1).run(memory, (p.n_rows,))
    pointers = memory.read(BufferId(Role.PARENT_POINTERS))[: p.n_rows + 1]
    edges = memory.read(BufferId(Role.PARENT_SLOTS))
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
def test_group_of_equal_values(seed: int, compiler: Compiler) -> None:
    rng, planner, memory = (
        np.random.default_rng(seed),
        planner_of(compiler, 1, ("word",)),
        HostMemory(),
    )
    grouped = Grouped("word")
    arguments = grouped.arguments(integer(0))
    series = planner.series([(planner.kernels["group"], arguments)], 1)
    for _ in range(2):  # it leaves its counters as they were
        values = rng.integers(-1, 9, int(rng.integers(0, 40)))  # -1: no value
        index = BufferId(Role.INDEX, "word")
        memory.rows(index, len(values), 0, "int32")
        memory.write(index, values)
        Needs(grouped.needs(0, 9), 1).make_room(memory, (len(values),))
        series.run(memory, (len(values),))
        distinct = grouped.values(memory)
        assert distinct.tolist() == list(dict.fromkeys(values[values >= 0].tolist()))
        roles = Role.GROUP_POINTERS, Role.GROUP_ROWS
        pointers, positions = (memory.read(BufferId(role, "word")) for role in roles)
        for i, value in enumerate(distinct):
            at = positions[pointers[i] : pointers[i + 1]]
            assert at.tolist() == np.flatnonzero(values == value).tolist()
        assert not memory.read(BufferId(Role.GROUP_COUNTS, "word")).any()


def test_an_example_keeps_its_order_in_every_batch(compiler: Compiler) -> None:
    """Sums over parents and rows come in the same order whatever shares the batch."""
    rng = np.random.default_rng(0)
    one, other = random_dag(rng, ARITY, 12), random_dag(rng, ARITY, 12)
    planner, memory = planner_of(compiler, ARITY, PULLS), HostMemory()
    kinds = Kinds(planner, 0)
    kinds.learn(np.unique(masks(batch([one, other]), ARITY, PULLS)[0]).tolist())
    alone = kinds.plan(one, memory).order.tolist()
    for graphs, at in (([one, other], 0), ([other, one], 12)):
        together = kinds.plan(batch(graphs), memory)
        mine = [v - at for v in together.order.tolist() if at <= v < at + 12]
        assert mine == alone


def test_kinds_that_others_have_learned_are_ranked_again(compiler: Compiler) -> None:
    """What the planner knows may change between two batches."""
    rng, planner, memory = (
        np.random.default_rng(3),
        planner_of(compiler, ARITY, PULLS),
        HostMemory(),
    )
    graph, kinds = random_tree(rng, ARITY, 15), Kinds(planner, 1)
    for _ in range(4):
        p = kinds.plan(graph, memory)
        ranks = [kinds.ranks[k] for k in p.kind_of_row]
        levels = graph.level[p.order].tolist()
        assert sorted(zip(levels, ranks, strict=True)) == list(zip(levels, ranks, strict=True))
        kinds.learn([1 << 5])


def test_many_inputs(compiler: Compiler) -> None:
    """More inputs than a small table of masks holds."""
    n = 40
    inputs = {f"in{i}": [1.0 if (v + i) % 3 else None for v in range(5)] for i in range(n)}
    graph = Graph.from_children([[], [0], [0, 1], [], [3]], inputs)
    planner = planner_of(compiler, 2, tuple(inputs))
    kinds = Kinds(planner, 0)
    p = kinds.plan(graph, HostMemory())
    for row, v in enumerate(p.order):
        kind = next(m for m, number in kinds.of_mask.items() if number == p.kind_of_row[row])
        held = tuple(name for name, f in graph.inputs.items() if f.present[v])
        assert kind_of(kind, 2, tuple(inputs)).pulls == held


@pytest.mark.parametrize("n", [5, 40])
def test_bits_that_tell_no_kinds_apart(n: int, compiler: Compiler) -> None:
    """They are set in all masks that the planner knows, by a table of masks and by search."""
    inputs = {f"in{i}": [1.0 if (v + i) % 5 > 1 else None for v in range(5)] for i in range(n)}
    graph = Graph.from_children([[], [0], [0, 1], [], [3]], inputs)
    planner = planner_of(compiler, 2, tuple(inputs))
    maybe = sum(1 << (2 + i) for i in range(n))
    bits, _ = masks(graph, 2, tuple(inputs))
    number = {int(m): i for i, m in enumerate(np.unique(bits | maybe))}
    ranks = planner.ranks(number, np.arange(len(number))[::-1].copy(), maybe)
    p = planner.plan(graph, HostMemory(), ranks)
    assert p.kind_of_row.tolist() == [number[int(bits[v] | maybe)] for v in p.order]
    assert 1 < len(number) < len(np.unique(bits))


def test_more_slots_and_inputs_than_bits_are_an_error(compiler: Compiler) -> None:
    inputs = {f"in{i}": [1.0, None] for i in range(62)}
    with pytest.raises(GraphError, match="^2 slots and 62 inputs.*at most 62 together"):
        planner_of(compiler, 2, tuple(inputs))
    with pytest.raises(GraphError, match="^2 slots and 62 inputs.*at most 62 together"):
        masks(Graph.from_children([[], [0]], inputs), 2, tuple(inputs))


def test_slots_of_a_batch_are_numbered(compiler: Compiler) -> None:
    """Of all the same number, used or not: rows of children are numbered by slot."""
    graph: Any = SimpleNamespace(n_vertices=2**30)
    planner = planner_of(compiler, 2, ())
    with pytest.raises(GraphError, match="slots of a batch.*2,147,483,648, .*fewer slots"):
        planner.plan(graph, HostMemory(), Kinds(planner, 0)._known())
