"""Whoever runs beside a graph, and whenever it joins: its outputs have the same bits."""

import numpy as np
import pytest

from helpers.exported import ARITY, TWO_OUTPUTS, exported, same
from helpers.random_graphs import random_chain, random_dag, random_tree
from tvm_cavs.deploy import Model, load
from tvm_cavs.errors import GraphError
from tvm_cavs.graph import Graph, batch
from tvm_cavs.language import Parameter, Vertex, VertexFunction, tanh
from tvm_cavs.nn.network import Network
from tvm_cavs.runtime import Joined

pytestmark = pytest.mark.compiles
MAKERS = (random_tree, random_dag, lambda rng, _, n: random_chain(rng, n))


@pytest.fixture(scope="module", params=["tree_lstm", "tree_gru", "tree_fc", TWO_OUTPUTS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(tmp_path_factory.mktemp("models") / "model", request.param)


class Reads(VertexFunction):
    """Publishes and pushes what it is made of: its input and the children in some of its slots."""

    state = {"h": 2}

    def __init__(self, *slots: int) -> None:
        self.arity, self.slots = max(slots) + 1, slots
        self.W = Parameter((2, 2))

    def forward(self, v: Vertex) -> None:
        h = v.pull("x", 2)
        for k in self.slots:
            h = h + (k + 1.0) * v.gather(k).h
        v.scatter(h=tanh(h @ self.W))
        v.push("y", h)


@pytest.mark.parametrize("slots", [(1,), (2, 0)])
def test_children_are_those_of_the_slots_that_are_read(slots, tmp_path):
    """Where no kernel reads of a slot, the others stay what they are."""
    net = Network(Reads(*slots))
    net.initialize(seed=1)
    net.export(tmp_path / "model")
    model, rng = load(tmp_path / "model"), np.random.default_rng(3)
    given = []
    for n in rng.integers(1, 9, 12).tolist():
        tree = random_tree(rng, net.function.arity, n)
        x = rng.standard_normal((tree.n_vertices, 2), "float32")
        given.append(tree.with_inputs({"x": x}))
    for graph, found in zip(given, run_with_joins(model, given, rng, 20, 1), strict=True):
        assert same(found, model(graph))
        assert np.allclose(found["y"], wanted(net, graph), rtol=1e-5, atol=1e-6)


def wanted(net: Network, graph: Graph) -> np.ndarray:
    net.hybridize("reference", sharing=False)
    return net(graph)["y"]


def graphs(rng: np.random.Generator, n: int) -> list[Graph]:
    return [MAKERS[rng.integers(3)](rng, ARITY, int(rng.integers(1, 20))) for _ in range(n)]


def run_with_joins(
    model: Model, given: list[Graph], rng: np.random.Generator, room: int, least: int
) -> list[dict[str, np.ndarray]]:
    """The answers of graphs that join in groups of random size, at random times."""
    arena, waiting = model.arena(room), list(range(len(given)))
    found: list[dict[str, np.ndarray]] = [{} for _ in given]
    running: dict[Joined, tuple[list[int], np.ndarray, Graph]] = {}
    while waiting or running:
        for _ in range(int(rng.integers(0, 4))):
            taken = waiting[: int(rng.integers(1, 4))]
            together = batch([given[i] for i in taken]) if taken else None
            if together is None or arena.n_running + together.n_vertices > room:
                break
            part, rows = model.part(together, arena)
            running[arena.join(part)] = taken, rows, together
            del waiting[: len(taken)]
        if not running:
            continue
        for joined in arena.step(least)[0]:
            if joined.is_done:
                taken, rows, together = running.pop(joined)
                ends = together.graph_ptr
                for i, a, b in zip(taken, ends[:-1], ends[1:], strict=True):
                    found[i] = model.outputs_of(arena, joined, rows[a:b])
    return found


@pytest.mark.parametrize(("room", "least"), [(60, 1), (61, 8), (400, 1), (400, 16)])
def test_outputs_are_those_of_the_model_whenever_graphs_join(model, room, least):
    rng = np.random.default_rng(room + least)
    given = graphs(rng, 60)
    for graph, found in zip(given, run_with_joins(model, given, rng, room, least), strict=True):
        assert same(found, model(graph))


@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize("n_before", [0, 1, 4])
def test_a_child_of_long_ago_is_found_after_all_around_it_has_moved(model, n_before, least):
    """Leaves come and go beside a long graph until places and rows have been used up often."""
    n, rng = 60, np.random.default_rng(n_before)
    children = [[], *([i - 1, int(rng.integers(max(0, i - 40), i))] for i in range(1, n))]
    long = Graph.from_children(children, random_chain(rng, n).inputs)
    leaves = [random_chain(rng, 1) for _ in range(8)]
    arena = model.arena(n + 4)
    running = dict[Joined, tuple[Graph, np.ndarray]]()

    def join(graph: Graph) -> Joined:
        part, rows = model.part(graph, arena)
        joined = arena.join(part)
        running[joined] = graph, rows
        return joined

    for k in range(n_before):
        join(leaves[k])
    if n_before:
        arena.step()
        running.clear()
    whole, n_moved = join(long), 0
    while not whole.is_done:
        for k in rng.integers(0, len(leaves), 4).tolist():
            join(leaves[k])
        before = arena._n_rows
        went, _ = arena.step(least)
        n_moved += arena._n_rows < before
        for joined in [j for j in went if j.is_done]:
            graph, rows = running.pop(joined)
            assert same(model.outputs_of(arena, joined, rows), model(graph))
    assert n_moved and not running


def test_a_graph_may_be_read_before_its_neighbours_are_done(model):
    short, long = (random_chain(np.random.default_rng(0), n) for n in (2, 9))
    arena = model.arena(20)
    part, rows = model.part(batch([short, long]), arena)
    joined = arena.join(part)
    assert [arena.step() for _ in range(2)] == [([joined], 2), ([joined], 2)]
    assert same(model.outputs_of(arena, joined, rows[:2]), model(short)) and not joined.is_done


def test_what_does_not_fit_the_model_does_not_join(model):
    wide = Graph.from_children([[], [], [], [0, 1, 2]], {"word": [1, 1, 1, None]})
    said = f"^graph 0, vertex 3 has 3 children, but .* gathers from {ARITY}"
    with pytest.raises(GraphError, match=said):
        model.part(wide, model.arena(10))


def test_an_arena_that_is_cleared_answers_again(model):
    arena, graph = model.arena(9), random_chain(np.random.default_rng(1), 9)
    arena.join(model.part(graph, arena)[0])
    arena.step()
    arena.clear()
    part, rows = model.part(graph, arena)
    joined = arena.join(part)
    while not joined.is_done:
        arena.step()
    assert same(model.outputs_of(arena, joined, rows), model(graph))


def test_places_and_rows_are_used_to_the_last_and_not_beyond(model):
    """By one graph after the other, each of whose vertices is run once."""
    rng = np.random.default_rng(2)
    arena = model.arena(3)
    for n in (3, 3, 1, 2, 3, 3, 2, 1, 1):
        graph = random_chain(rng, n)
        part, rows = model.part(graph, arena)
        joined, n_run = arena.join(part), 0
        absent = arena._below[joined.first : joined.first + n][part.children < 0]
        assert (absent == -1).all()
        while not joined.is_done:
            went, n_rows = arena.step(least=2)
            assert went == [joined] and n_rows == min(2, n - n_run)
            n_run += n_rows
            assert max(arena._n_rows, arena._n_used) <= arena._n_places
        assert n_run == n and same(model.outputs_of(arena, joined, rows), model(graph))
