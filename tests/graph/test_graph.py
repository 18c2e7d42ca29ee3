"""graph.py against a slow obvious truth on random DAGs, and the message of every bad graph."""

import re
from typing import Any

import numpy as np
import pytest

from tvm_cavs.errors import GraphError
from tvm_cavs.graph.batching import batch, unbatch
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.graph import Graph, check, made_graph
from tvm_cavs.graph.kind import Kind, check_bits
from tvm_cavs.graph.levels import print_cycle


def random_dag(rng: np.random.Generator, arity: int = 3) -> Graph:
    """Shuffled numbering, empty slots anywhere, repeated children, several parents."""
    n = int(rng.integers(1, 30))
    order = rng.permutation(n)
    children: list[list[int | None]] = [[] for _ in range(n)]
    for rank in range(1, n):
        for _ in range(int(rng.integers(0, arity + 1))):
            below = order[rng.integers(0, rank)]
            children[order[rank]].append(None if rng.random() < 0.2 else int(below))
    word = [None if rng.random() < 0.4 else int(rng.integers(100)) for _ in range(n)]
    vector = [None if rng.random() < 0.4 else rng.normal(size=2).tolist() for _ in range(n)]
    return Graph.from_children(children, {"word": word, "vector": vector})


def slow_level(graph: Graph, vertex: int) -> int:
    slots = graph.child[graph.child_ptr[vertex] : graph.child_ptr[vertex + 1]]
    return max((1 + slow_level(graph, int(c)) for c in slots if c >= 0), default=0)


def assert_same(a: Graph, b: Graph) -> None:
    for name in ("child_ptr", "child", "level", "vertex_id", "graph_ptr"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.inputs.keys() == b.inputs.keys()
    for name, field in a.inputs.items():
        other = b.inputs[name]
        np.testing.assert_array_equal(field.present, other.present)
        np.testing.assert_array_equal(field.values, other.values)


@pytest.mark.parametrize("seed", range(40))
def test_levels_and_roots_equal_the_slow_truth(seed: int) -> None:
    graph = random_dag(np.random.default_rng(seed))
    check(graph)
    assert graph.level.tolist() == [slow_level(graph, v) for v in range(graph.n_vertices)]
    used = set(graph.child[graph.child >= 0].tolist())
    assert graph.roots.tolist() == [v not in used for v in range(graph.n_vertices)]
    assert graph.n_edges == sum(c >= 0 for c in graph.child)


@pytest.mark.parametrize("seed", range(20))
def test_batch_is_the_forest_and_unbatch_takes_it_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graphs = [random_dag(rng) for _ in range(int(rng.integers(2, 9)))]
    joined = batch(graphs)
    check(joined)
    assert joined.n_graphs == len(graphs)
    assert str(joined).startswith(
        f"Graph({len(graphs)} graphs, {joined.n_vertices} vertices, {joined.n_edges} edges, "
        f"levels 0..{joined.level.max()}, arity {max(g.arity for g in graphs)}; word: int32 at "
    )
    assert joined.n_vertices == sum(g.n_vertices for g in graphs)
    forest = Graph.from_csr(
        joined.child_ptr, joined.child, joined.inputs, joined.graph_ptr, joined.vertex_id
    )
    assert_same(joined, forest)
    assert_same(batch([batch(graphs[:1]), batch(graphs[1:])]), joined)
    for one, again in zip(graphs, unbatch(joined), strict=True):
        check(again)
        for name in ("child_ptr", "child", "level", "vertex_id"):
            np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert_same(batch(unbatch(joined)), joined)


def test_empty_slots_and_a_child_in_two_slots() -> None:
    graph = Graph.from_children([[], [None, 0], [0, 0, 1], [-1, -1]])
    assert graph.child_ptr.tolist() == [0, 0, 2, 5, 7]
    assert graph.child.tolist() == [-1, 0, 0, 0, 1, -1, -1]
    assert graph.level.tolist() == [0, 1, 2, 0]
    assert (graph.arity, graph.n_edges) == (3, 4)
    assert graph.roots.tolist() == [False, False, True, True]


def test_parents_edges_children_agree() -> None:
    by_children = Graph.from_children([[1, 4], [], [0, 3], [], []])
    assert_same(Graph.from_parents([2, 0, -1, 2, 0]), by_children)
    assert_same(Graph.from_parents(np.array([2, 0, 9, 2, 0]), root=9), by_children)
    assert_same(Graph.from_edges(5, [(0, 1), (2, 0), (0, 4), (2, 3)]), by_children)
    assert Graph.from_edges(3, [(2, 1), (2, 0)]).child.tolist() == [1, 0]
    assert Graph.from_edges(2, []).level.tolist() == [0, 0]


def test_many_edges_keep_their_order() -> None:
    """Of each parent, whatever lies between them: sorting is stable."""
    rng, n = np.random.default_rng(0), 300
    parents = rng.integers(200, n, 2000)
    edges = np.stack([parents, rng.integers(0, 200, 2000)], axis=1)
    graph = Graph.from_edges(n, edges)
    for p in range(200, n):
        slots = graph.child[graph.child_ptr[p] : graph.child_ptr[p + 1]]
        assert slots.tolist() == edges[parents == p, 1].tolist()


def test_sequence_is_a_chain() -> None:
    chain = Graph.from_children([[]] + [[i] for i in range(9)], {"x": list(range(10))})
    assert_same(Graph.from_sequence(10, {"x": np.arange(10)}), chain)
    check(Graph.from_sequence(1))
    assert Graph.from_sequence(100_000).level[-1] == 99_999


def test_inputs_become_int32_and_float32_with_holes() -> None:
    graph = Graph.from_children(
        [[], [], [0, 1]],
        {
            "word": [7, None, 0],
            "x": [None, [1.5, 2], [0, 1]],
            "y": np.ones((3, 2)),
            "z": [None] * 3,
        },
    )
    word, x, y, z = (graph.inputs[k] for k in ("word", "x", "y", "z"))
    assert word.values.dtype == np.int32 and word.values.tolist() == [7, -1, 0]
    assert word.present.tolist() == [True, False, True]
    assert x.values.dtype == np.float32 and x.values.tolist() == [[0, 0], [1.5, 2], [0, 1]]
    assert y.values.dtype == np.float32 and y.present.all()
    assert z.values.tolist() == [-1, -1, -1] and not z.present.any()
    assert str(graph) == (
        "Graph(1 graphs, 3 vertices, 2 edges, levels 0..1, arity 2; word: int32 at 2 of 3; "
        "x: float32[2] at 2 of 3; y: float32[2] at 3 of 3; z: int32 at 0 of 3)"
    )


def test_batch_fills_an_input_that_some_graphs_lack() -> None:
    a = Graph.from_sequence(2, {"x": [None, [1.0, 2.0]], "label": [3, 4]})
    b = Graph.from_sequence(1, {"x": [None]})
    joined = batch([b, a, b])
    assert joined.inputs["x"].values.tolist() == [[0, 0], [0, 0], [1, 2], [0, 0]]
    assert joined.inputs["x"].present.tolist() == [False, False, True, False]
    assert joined.inputs["label"].values.tolist() == [-1, 3, 4, -1]


def test_vertex_ids_are_kept() -> None:
    a = Graph.from_children([[], [0]], vertex_id=[5, 6])
    assert batch([a, Graph.from_sequence(1), a]).vertex_id.tolist() == [5, 6, -3, 5, 6]


BAD_CHILDREN: dict[str, tuple[Any, str]] = {
    "cycle": ([[1], [2], [3], [1]], "the graph has a cycle: 1 -> 2 -> 3 -> 1"),
    "self-loop": ([[], [0, 1]], "vertex 1 is its own child (self-loop in slot 1)"),
    "high": ([[], [0], [None, 3]], "vertex 2: child 3 in slot 1 is out of range; expected 0..2"),
    "low": ([[], [-2]], "vertex 1: child -2 in slot 0 is out of range"),
    "empty": ([], "the graph is empty; expected at least one vertex"),
    "float": ([[], [0.5]], "children: expected vertex indices (integers), got float"),
}


@pytest.mark.parametrize("name", BAD_CHILDREN)
def test_bad_children(name: str) -> None:
    children, message = BAD_CHILDREN[name]
    with pytest.raises(GraphError) as error:
        Graph.from_children(children)
    assert message in str(error.value)


def test_a_cycle_is_found_behind_a_long_path_and_shortened() -> None:
    n = 5_000
    with pytest.raises(GraphError, match=r"0 -> 1 -> .* more\) \.\.\. -> .* -> 4999 -> 0 "):
        Graph.from_children([[(i + 1) % n] for i in range(n)])
    with pytest.raises(GraphError, match="cycle: 2 -> 3 -> 2 "):
        Graph.from_children([[1], [2], [3], [2], []])


@pytest.mark.parametrize("n", [2, 11, 12, 13, 14, 40])
def test_the_middle_of_a_long_cycle_is_counted(n: int) -> None:
    text = print_cycle(list(range(n)))
    shown = [int(piece) for piece in text.split(" -> ") if piece.isdigit()]
    left_out = re.search(r"\((\d+) more\)", text)
    if n <= 12:
        assert shown == list(range(n)) and left_out is None
    else:
        assert left_out is not None and int(left_out[1]) == n - 12
        assert shown == [*range(6), *range(n - 6, n)]


def test_errors_in_a_batch_name_the_graph_and_number_within_it() -> None:
    ptr = np.array([0, 2, 4])
    with pytest.raises(GraphError, match="graph 1 of the batch, vertex 1: child -1 in slot 0 "):
        Graph.from_csr(np.array([0, 0, 0, 0, 1]), np.array([1]), graph_ptr=ptr)
    with pytest.raises(GraphError, match="graph 1 of the batch has a cycle: 0 -> 1 -> 0"):
        Graph.from_csr(np.array([0, 0, 0, 1, 2]), np.array([3, 2]), graph_ptr=ptr)
    with pytest.raises(GraphError, match="graph 1 of the batch is empty"):
        Graph.from_csr(np.array([0, 0, 0]), np.array([], int), graph_ptr=np.array([0, 2, 2]))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "children", [[[], [7]], [[], [0], [0, -2]], [[], [0, 4], [], [1]], [[], [0, 1]], [[], [2], [1]]]
)
def test_a_fault_in_a_batch_is_that_of_the_graph_alone(
    children: list[list[int]], place: int
) -> None:
    """In the same words: vertices, slots and limits are those of its graph, wherever that lies."""
    graphs = [[[], [], [0, 1], [2]], [[], [], [0, 1, 1]]]
    graphs.insert(place, children)
    before = [sum(map(len, graphs[:g])) for g in range(4)]
    child = [c + b for g, b in zip(graphs, before, strict=False) for slots in g for c in slots]
    child_ptr = np.cumsum([0, *(len(slots) for g in graphs for slots in g)])
    with pytest.raises(GraphError) as alone:
        Graph.from_children(children)
    with pytest.raises(GraphError) as together:
        Graph.from_csr(child_ptr, child, graph_ptr=before)
    where, text = f"graph {place} of the batch", str(alone.value)
    expected = text.replace("the graph", where) if "cycle" in text else f"{where}, {text}"
    assert str(together.value) == expected


@pytest.mark.parametrize(
    ("child_ptr", "graph_ptr", "name"),
    [
        *(([1, 1, 2, 2], [0, 3], "child_ptr"), ([0, 1, 1, 1], [0, 3], "child_ptr")),
        *(([0, 1, 1, 5], [0, 3], "child_ptr"), ([-4, 1, 2, 2], [0, 3], "child_ptr")),
        ([0, 1, 2, 2], [1, 3], "graph_ptr"),
        *(([0, 1, 2, 2], [0, 1, 4], "graph_ptr"), ([0, 1, 2, 2], [0, 2], "graph_ptr")),
    ],
)
def test_pointers_rise_from_zero_to_the_end(
    child_ptr: list[int], graph_ptr: list[int], name: str
) -> None:
    end = 2 if name == "child_ptr" else 3
    given = child_ptr if name == "child_ptr" else graph_ptr
    told = f"^{name} must rise from 0 to {end}, got {given[0]} to {given[-1]}\\.$"
    with pytest.raises(GraphError, match=told):
        Graph.from_csr(child_ptr, [-1, -1], graph_ptr=graph_ptr)


def test_what_a_vertex_has_fits_into_an_integer() -> None:
    check_bits(60, 2)
    with pytest.raises(GraphError, match="^60 slots and 3 inputs: expected at most 62 together"):
        check_bits(60, 3)
    with pytest.raises(GraphError, match="^1 slots and 62 inputs: expected at most 62 together"):
        check_bits(1, 62)


def test_a_kind_says_what_a_vertex_has_and_may_have() -> None:
    assert str(Kind((0, 2), ("word", "x"))) == "children 0,2; word, x"
    assert str(Kind((0, 2), ("word", "x"), (2, "word"))) == "children 0,2?; word?, x"
    assert str(Kind((), ())) == "no child; no input"


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "length": ([1, 2], "input 'word' has 2 rows; expected one per vertex: 3."),
    "row too many": ([1, 2, 3, None], "input 'word' has 4 rows; expected one per vertex: 3."),
    "string": (["a", None, "b"], "input 'word': expected integers or floats, got <U1 such as 'a'"),
    "ragged": ([[1.0], [1.0, 2.0], None], "input 'word': its rows differ in shape"),
    "big": (
        [2**40, 0, 0],
        "input 'word': a value does not fit int32 (-2147483648 to 2147483647).",
    ),
    "scalar": (3, "input 'word': expected a list or an array of numbers, given int 3."),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(name: str) -> None:
    given, message = BAD_INPUTS[name]
    with pytest.raises(GraphError) as error:
        Graph.from_sequence(3, {"word": given})
    assert message in str(error.value)


def test_other_bad_graphs() -> None:
    with pytest.raises(GraphError, match="vertex 0: its parent 5 is out of range; expected 0..1"):
        Graph.from_parents([5, -1])
    with pytest.raises(GraphError, match=r"vertex 1: its parent 5 is out .* expected 0\.\.2\. Are"):
        Graph.from_parents([2, 5, 7])
    for parent in (-1, 4):
        told = rf"^vertex 3: its parent {parent} is out of range; expected 0\.\.3\. Are"
        with pytest.raises(GraphError, match=told):
            Graph.from_edges(4, [(1, 0), (parent, 3), (9, 2)])
    for root in (0, 3):
        told = rf"root={root} is the number of a vertex too \(they are 0\.\.3\)"
        with pytest.raises(GraphError, match=told):
            Graph.from_parents([1, root, 0, 0], root=root)
    assert Graph.from_parents([1, 2], root=2).roots.tolist() == [False, True]
    with pytest.raises(GraphError, match="length: expected a whole number from 1 .* given 0"):
        Graph.from_sequence(0)
    for ids in ([1], [1, 2, 3]):
        with pytest.raises(GraphError, match=f"vertex_id has {len(ids)} entries; expected 2,"):
            Graph.from_children([[], []], vertex_id=ids)
    with pytest.raises(GraphError, match="vertex_id has 6 entries; expected 4, one a vertex"):
        Graph.from_children([[], [0], [0], [2]], vertex_id=range(6))
    with pytest.raises(GraphError, match="batch got no graphs"):
        batch([])
    a, none = Graph.from_sequence(1, {"x": [1]}), Graph.from_sequence(1)
    for other, kind in (([0.5], "float32[]"), ([[1, 2]], "int32[2]")):
        with pytest.raises(GraphError) as error:
            batch([none, a, none, Graph.from_sequence(1, {"x": other}), a])
        told = f"input 'x': graph 1 holds int32[] and graph 3 holds {kind}. One input has"
        assert str(error.value).startswith(told)
    for slots, given in ((None, "NoneType None"), (4, "int 4"), ("ab", "str 'ab'")):
        with pytest.raises(GraphError) as error:
            Graph.from_children([[], (), slots, 5])  # type: ignore[list-item]
        told = f"a list or an array of vertices ([] for a leaf), given {given}."
        assert str(error.value) == f"children of vertex 2: expected {told}"


def test_lists_given_to_the_constructor_of_arrays_are_told_where_to_go() -> None:
    remedy = re.escape("go to Graph.from_children(children, inputs).")
    for rows in ([[], [], [0, 1]], ((), (0,)), [[]]):
        for more in ((), ({"word": [1, 2, None]},)):
            with pytest.raises(GraphError, match=f"slots of .*, given a list of lists.*{remedy}"):
                Graph(rows, *more)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=f"in all slots .*, given dict\\. .*{remedy}"):
        Graph([0, 0], {"word": [1]})  # type: ignore[arg-type]


def test_what_is_not_given_to_the_constructor_is_found() -> None:
    made = Graph([0, 0, 0, 2], [0, 1])  # type: ignore[arg-type]
    assert_same(made, Graph.from_children([[], [], [0, 1]]))
    assert_same(Graph([0, 0]), Graph.from_children([[]]))  # type: ignore[arg-type]


def test_check_sees_a_wrong_level() -> None:
    good = Graph.from_sequence(3)
    structure = good.child_ptr, good.child, np.zeros(3, np.int32), good.vertex_id, good.graph_ptr
    with pytest.raises(GraphError, match="vertex 1: the stored level is wrong"):
        Graph(*structure, {})
    with pytest.raises(GraphError, match="vertex 1: the stored level is wrong"):
        check(made_graph(*structure, {}))
    joined = batch([good, good])
    for wrong, told in (
        (1, "graph 0 of the batch, vertex 1:"),
        (5, "graph 1 of the batch, vertex 2:"),
    ):
        level = joined.level.copy()
        level[wrong] += 1
        with pytest.raises(GraphError, match=f"^{told} the stored level is wrong"):
            check(
                made_graph(
                    joined.child_ptr, joined.child, level, joined.vertex_id, joined.graph_ptr, {}
                )
            )


def test_where_an_input_is_absent_its_value_is_what_kernels_read() -> None:
    """Whatever a user's array holds there: 0.0, or -1 of integers."""
    here = np.array([True, False])
    for given, filler in ((np.array([1.5, 7.0], "float32"), 0.0), (np.array([3, 7], "int32"), -1)):
        field = Graph.from_children([[], []], {"x": Field(given, here)}).inputs["x"]
        assert field.values.tolist() == [given[0], filler]


def test_presence_is_told_by_truth_values_or_zeros_and_ones() -> None:
    values = np.ones(3, np.float32)
    for good in ([True, False, True], [1, 0, 1], [1.0, 0.0, 1.0]):
        assert Field(values, np.array(good)).present.tolist() == [True, False, True]
    for bad in ([2, 0, 1], [0.5, 0, 1], [1, 0, -1], [1, 0], [[1], [0], [1]]):
        with pytest.raises(GraphError) as error:
            Field(values, np.array(bad))
        shape = list(np.shape(bad))
        told = f"present has shape {shape} for values of shape [3]; expected one bool a row."
        assert str(error.value) == f"Field: {told}"
    with pytest.raises(GraphError, match=r"shape \[2\] for values of shape \[3, 4\]; expected"):
        Field(np.ones((3, 4)), np.array([1, 0]))


@pytest.mark.parametrize(
    ("falls", "v"), [([0, 2, 1, 2], 1), ([0, -1, 1, 2], 0), ([0, 0, 3, 2], 1), ([0, 1, 1, 0, 2], 2)]
)
def test_where_pointers_fall_is_told(falls: list[int], v: int) -> None:
    """Or go beyond the slots: both ends are right."""
    told = f"child_ptr must rise from 0 to 2, and goes from {falls[v]} to {falls[v + 1]}."
    with pytest.raises(GraphError, match=f"^vertex {v}: {told}$"):
        Graph.from_csr(falls, [-1, -1])
    with pytest.raises(GraphError, match=f"^graph 1 of the batch, vertex {v}: {told}$"):
        Graph.from_csr([0, *falls], [-1, -1], graph_ptr=[0, 1, len(falls)])


@pytest.mark.parametrize("child_ptr", [[], [0]])
def test_graphs_of_no_vertex_at_all_are_empty(child_ptr: list[int]) -> None:
    with pytest.raises(GraphError, match="^graph 0 of the batch is empty; expected at least one"):
        Graph.from_csr(child_ptr, [], {}, [0, 1, 2])
    with pytest.raises(GraphError, match="^graph 1 of the batch is empty; expected at least one"):
        Graph.from_csr(child_ptr, [], {}, [0, 1, 1])
    with pytest.raises(GraphError, match="^the graph is empty; expected at least one vertex"):
        Graph.from_csr(child_ptr, [], {}, [0, 1])


@pytest.mark.parametrize("graph_ptr", [[], [0]])
def test_pointers_to_no_graph_are_refused(graph_ptr: list[int]) -> None:
    with pytest.raises(GraphError, match="the graph is empty; expected at least one vertex"):
        Graph.from_csr([0, 0], [], {}, graph_ptr)


@pytest.mark.parametrize("name", ["child_ptr", "child", "graph_ptr", "vertex_id"])
@pytest.mark.parametrize("wrong", [[0, 0.5], "01", [[0], [1]], np.array([0.0, 1.0])])
def test_what_is_no_array_of_integers_is_refused_by_its_name(name: str, wrong: Any) -> None:
    good: dict[str, Any] = {
        "child_ptr": [0, 0, 1],
        "child": [0],
        "graph_ptr": [0, 2],
        "vertex_id": [3, 4],
    }
    assert Graph.from_csr(**good).n_vertices == 2
    with pytest.raises(GraphError, match=f"^{name}: "):
        Graph.from_csr(**{**good, name: wrong})


@pytest.mark.parametrize(
    ("child_ptr", "child", "what"),
    [([0, 0, 0, 2], np.array(1), "child"), (np.array(3), [0, 1], "child_ptr")],
)
def test_a_number_is_no_array_of_indices(child_ptr: Any, child: Any, what: str) -> None:
    with pytest.raises(
        GraphError, match=rf"^{what}: expected 1 axes, given an array of shape \[\]"
    ):
        Graph.from_csr(child_ptr, child)
