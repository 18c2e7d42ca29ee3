"""Equal vertices are found exactly, and computing them once changes no result."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.random_graphs import N_WORDS, alike, random_graph
from tvm_cavs.graph.batching import batch, unbatch
from tvm_cavs.graph.digests import Names, find_digests
from tvm_cavs.graph.graph import Graph, check
from tvm_cavs.graph.sharing import COPIES, Policy, Shared, first_of_class, share, with_copies
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.transform.programs import choose_policy

WORD: Names = ("word",)
TOLERANCE = 1e-5  # float32, relative to the largest element
LOSS = cavs.loss.SoftmaxCrossEntropy()


def naive(graph: Graph, names: Names) -> list[int]:
    """The first vertex equal to each, by a dictionary of everything that it depends on."""
    key_of: dict[int, Any] = {}
    numbers: dict[Any, int] = {}
    for v in np.argsort(graph.level, kind="stable").tolist():
        slots = graph.child[graph.child_ptr[v] : graph.child_ptr[v + 1]].tolist()
        fields = [graph.inputs[name] for name in names]
        inputs = [f.values[v].tobytes() if f.present[v] else None for f in fields]
        key = (tuple(inputs), tuple(key_of[c] if c >= 0 else None for c in slots))
        key_of[v] = numbers.setdefault(key, len(numbers))
    first: dict[int, int] = {}
    return [first.setdefault(key_of[v], v) for v in range(graph.n_vertices)]


def assert_is_naive(graph: Graph, names: Names, made: Shared | None) -> None:
    """`made` joins exactly the vertices that the dictionary joins, in order of the first."""
    first = naive(graph, names)
    kept = sorted(set(first))
    if made is None:
        assert len(kept) == graph.n_vertices
        return
    check(made.graph)
    assert made.of.tolist() == [kept.index(v) for v in first]
    assert made.of.dtype == np.int32 and made.copies.dtype == np.float32
    assert made.copies.tolist() == [first.count(v) for v in kept]
    assert made.graph.level.tolist() == graph.level[kept].tolist()
    assert list(made.graph.inputs) == list(names)
    for name, field in made.graph.inputs.items():
        np.testing.assert_array_equal(field.values, graph.inputs[name].values[kept])
        np.testing.assert_array_equal(field.present, graph.inputs[name].present[kept])
    for new, v in enumerate(kept):
        slots = graph.child[graph.child_ptr[v] : graph.child_ptr[v + 1]]
        want = [made.of[c] if c >= 0 else -1 for c in slots]
        ptr = made.graph.child_ptr
        assert made.graph.child[ptr[new] : ptr[new + 1]].tolist() == want


@pytest.mark.parametrize("named", [True, False])
def test_digests_of_views_and_batches_are_those_of_the_graphs_alone(named: bool) -> None:
    """Whichever are known before: of a forest, of a batch, of its parts."""
    rng, names = np.random.default_rng(0), ("word", "x")
    for first in ("forest", "views", "batch", "none"):
        graphs = alike(rng, 9, arity=2)
        forest = batch(graphs if named else [replace(g) for g in graphs])
        if first == "forest":
            find_digests(forest, names)
        views = unbatch(forest)
        chosen = [views[i] for i in rng.integers(9, size=6)]
        joined = batch(chosen if named else [replace(g) for g in chosen])
        if first != "none":
            for graph in {"views": chosen, "batch": [joined], "forest": [forest]}[first]:
                find_digests(graph, names)
        for graph in (joined, forest, *chosen):
            alone = [find_digests(replace(g), names) for g in unbatch(graph)]
            assert find_digests(graph, names).tolist() == np.concatenate(alone).tolist()


def test_digests_of_inputs_that_change_places_differ() -> None:
    """Else the slow way would join them, vertex by vertex."""
    one = Graph.from_sequence(2, {"a": [1, 2], "b": [3, None]})
    other = Graph.from_sequence(2, {"a": [3, None], "b": [1, 2]})
    found = [find_digests(graph, ("a", "b")).tolist() for graph in (one, other)]
    assert not set(found[0]) & set(found[1]) and len(set(found[0])) == 2
    for a, b in (([1, 2], [3, 3]), ([3, 3], [1, 2])):  # each of several inputs counts
        graph = Graph.from_children([[], []], {"a": a, "b": b})
        assert len(set(find_digests(graph, ("a", "b")).tolist())) == 2
    slots = [Graph.from_children([[], [], c], {"a": [1, 2, 3]}) for c in ([0, 1], [1, 0])]
    left, right = (find_digests(graph, ("a",)).tolist() for graph in slots)
    assert left[:2] == right[:2] and left[2] != right[2]


NAME_SETS: list[Names] = [(), WORD, ("word", "label"), ("x",), ("word", "x", "target")]


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_dictionary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graphs = alike(rng, int(rng.integers(1, 12)), arity=int(rng.integers(1, 4)))
    graph, names = batch(graphs), NAME_SETS[seed % len(NAME_SETS)]
    assert_is_naive(graph, names, share(graph, names))
    assert first_of_class(graph, names).tolist() == naive(graph, names)


@pytest.mark.parametrize("n_digests", [1, 2, 7])
@pytest.mark.parametrize("seed", range(12))
def test_colliding_digests_change_nothing(seed: int, n_digests: int) -> None:
    graph = batch(alike(np.random.default_rng(seed), 8))
    names = NAME_SETS[seed % len(NAME_SETS)]

    def few(graph: Graph, names: Names) -> np.ndarray:
        return find_digests(graph, names) % np.uint64(n_digests)

    assert_is_naive(graph, names, share(graph, names, digests=few))


def test_colliding_digests_of_all_different_vertices() -> None:
    graph = Graph.from_sequence(20, {"word": list(range(20))})
    zeros = np.zeros(20, np.uint64)
    assert share(graph, WORD, digests=lambda graph, names: zeros) is None


@pytest.mark.parametrize("given", [[0.0, None], [None, 0.0]])
def test_presence_alone_makes_vertices_differ(given: list[float | None]) -> None:
    """Whatever their digests are, and although the stored values have the same bits."""
    graph = Graph.from_children([[], []], {"x": given})
    zeros = np.zeros(2, np.uint64)
    assert share(graph, ("x",), digests=lambda graph, names: zeros) is None
    assert first_of_class(graph, ("x",)).tolist() == [0, 1]


def test_an_input_of_which_only_the_presence_is_read() -> None:
    class Known(cavs.VertexFunction):
        arity, state = 1, {"h": 1}

        def forward(self, v: cavs.Vertex) -> None:
            known = cavs.reshape(v.present("x"), (1,))
            v.scatter(h=known + v.gather(0).h)
            v.push("y", known)

    net = cavs.Network(Known())
    net.hybridize("reference", sharing=True)
    graph = Graph.from_children([[], [], []], {"x": [1.0, None, 1.0]})
    np.testing.assert_array_equal(net(graph)["y"], [[1.0], [0.0], [1.0]])
    assert net.last_sharing is not None


@pytest.mark.parametrize("names", NAME_SETS)
def test_digests_do_not_depend_on_how_a_batch_was_made(names: Names) -> None:
    graphs = [random_graph(np.random.default_rng(s), 2, 7) for s in range(20)]
    alone = np.concatenate([find_digests(replace(g), names) for g in graphs])
    together = batch(graphs)
    twice = batch([batch(graphs[:7]), batch(graphs[7:])])
    forest = batch(unbatch(replace(together)))
    for graph in (together, twice, forest, batch(graphs)):  # the last finds them in the parts
        np.testing.assert_array_equal(find_digests(graph, names), alone)
    mine = find_digests(graphs[0], names)
    assert mine is find_digests(graphs[0], names)
    np.testing.assert_array_equal(mine, alone[: len(mine)])


def test_inputs_cannot_change_after_digests_were_found() -> None:
    graph = Graph.from_children([[], [], [0, 1]], {"word": [3, 3, None]})
    made = share(graph, WORD)
    assert made is not None and made.of.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="read-only"):
        graph.inputs["word"].values[1] = 4
    assert share(graph.with_inputs({"word": [3, 4, None]}), WORD) is None


def test_one_slot_is_not_the_first_of_two() -> None:
    """Though digests say so: a vertex with fewer slots, all equal to those of the other."""
    graph = Graph.from_children([[], [0, 0], [0], [0, 0]], {"word": [1, 2, 2, 2]})
    collide = np.array([1, 2, 2, 2], np.uint64)
    shared = share(graph, WORD, digests=lambda graph, names: collide)
    assert shared is not None and shared.of.tolist() == [0, 1, 2, 1]
    assert shared.graph.child.tolist() == [0, 0, 0]


def test_a_vertex_keeps_the_identity_of_the_first_that_it_stands_for() -> None:
    graph = Graph.from_children(
        [[], [], [0], [1], []], {"word": [1, 1, 2, 2, 3]}, vertex_id=[50, 40, 30, 20, 10]
    )
    shared = share(graph, WORD)
    assert shared is not None and shared.of.tolist() == [0, 0, 1, 1, 2]
    assert shared.graph.vertex_id.tolist() == [50, 30, 10]
    assert shared.copies.tolist() == [2, 2, 1]
    for made, copies in (
        (with_copies(graph), [1] * 5),
        (with_copies(shared.graph, shared.copies), [2, 2, 1]),
    ):
        field = made.inputs[COPIES]
        assert field.values.dtype == "float32" and field.values.tolist() == copies
        assert field.present.all() and list(made.inputs) == ["word", COPIES]


def test_sharing_inside_one_example() -> None:
    twins = [[], [], [0, 1], [], [], [3, 4], [2, 5], [None, 2], [2, None]]
    graph = Graph.from_children(twins, {"word": [1, 2, None, 1, 2, None, None, None, None]})
    made = share(graph, WORD)
    assert made is not None
    assert made.of.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert made.copies.tolist() == [2, 2, 2, 1, 1, 1]
    assert made.graph.child.tolist() == [0, 1, 2, 2, -1, 2, 2, -1]
    assert str(made) == "6 of 9 vertices computed (67%)"


def test_all_vertices_equal() -> None:
    graph = batch([Graph.from_children([[]] * 5, {"word": [4] * 5}) for _ in range(3)])
    made = share(graph, WORD)
    assert made is not None
    assert made.graph.n_vertices == 1 and made.copies.tolist() == [15.0]
    assert made.of.tolist() == [0] * 15


def test_labels_tell_equal_words_apart() -> None:
    graph = Graph.from_children([[], [], []], {"word": [1, 1, 1], "label": [0, 1, None]})
    assert share(graph, ("word", "label")) is None
    made = share(graph, WORD)
    assert made is not None and made.of.tolist() == [0, 0, 0]


def test_floats_are_compared_by_bits() -> None:
    nan = float("nan")
    other_nan = np.array([0x7FC00001], np.uint32).view(np.float32)[0]
    values = np.array([nan, nan, 0.0, -0.0, 0.0, other_nan], np.float32)
    graph = Graph.from_children([[]] * 6, {"x": values})
    made = share(graph, ("x",))
    assert made is not None and made.of.tolist() == [0, 0, 1, 2, 1, 3]
    wide = Graph.from_children([[]] * 6, {"x": np.stack([np.ones(6), values], axis=1)})
    made = share(wide, ("x",))
    assert made is not None and made.of.tolist() == [0, 0, 1, 2, 1, 3]


def test_values_of_absent_inputs_do_not_matter() -> None:
    field = cavs.graph.Field(np.array([1, 2, 2, 2], np.int32), np.array([False, False, True, True]))
    graph = Graph.from_children([[]] * 4, {"word": field})
    made = share(graph, WORD)
    assert made is not None and made.of.tolist() == [0, 0, 1, 1]
    digests = find_digests(graph, WORD)  # else they would be found equal only level by level
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_is_left_alone_where_little_is_shared() -> None:
    graph = Graph.from_children([[]] * 100, {"word": [*range(99), 0]})
    assert Policy(WORD).share(graph) is not None and Policy(WORD, 0.05).share(graph) is None
    same = Graph.from_children([[]] * 100, {"word": [5] * 100})
    assert Policy(WORD, 0.05).share(same) is not None


def test_is_left_alone_where_levels_are_small() -> None:
    chain = Graph.from_sequence(50, {"word": [1] * 50})
    many = batch([chain] * 20)
    assert Policy(WORD, 0.05, 20).share(chain) is None
    made = Policy(WORD, 0.05, 20).share(many)
    assert made is not None and made.graph.n_vertices == 50
    for n in (20, 21):  # 20 vertices on each of 50 levels are enough, on each of 51 too few
        graph = batch([chain] * 19 + [Graph.from_sequence(70 - n, {"word": [1] * (70 - n)})])
        assert graph.n_vertices == 1000 - (n - 20)
        assert (Policy(WORD, 0.0, 20).share(graph) is not None) == (n == 20)


@pytest.mark.parametrize("sharing", [None, True])
def test_an_input_is_compared_once_however_often_it_is_read(sharing: bool | None) -> None:
    class Reads(cavs.VertexFunction):
        arity, state = 0, {"h": 2}

        def __init__(self) -> None:
            self.W = cavs.Parameter((200, 200))

        def forward(self, v: cavs.Vertex) -> None:
            x, there = v.pull("x", 200), v.present("x") * v.present("a")
            v.scatter(h=(x @ self.W + v.pull("b", 200) * there)[:2] * v.pull("x", 200)[:2])

    policy = choose_policy(cavs.Network(Reads()).programs().forward, sharing)
    assert policy is not None and sorted(policy.names) == ["a", "b", "x"]


def test_the_wider_the_cell_the_less_must_be_saved() -> None:
    def automatic(hidden: int) -> Policy | None:
        cell = CELLS["tree_rnn"](vocab=N_WORDS, embedding=hidden, hidden=hidden, n_classes=2)
        return choose_policy(cavs.Network(cell).programs().forward, None)

    narrow, middle, wide = automatic(16), automatic(128), automatic(256)
    assert narrow is None and middle is not None and wide is not None
    assert 0 < wide.least < middle.least < 1 and wide.names == ("word",)
