"""Network as a user meets it: training, batches, and what wrong use says."""

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.networks import LOSS, gradients, network, some_graphs
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs import executors
from tvm_cavs.errors import GraphError, ShapeError, TraceError
from tvm_cavs.executors import registry
from tvm_cavs.graph.batching import batch, unbatch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.sharing import COPIES
from tvm_cavs.language.functions import embedding
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.language.vertex import Vertex, VertexFunction
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.network import Network
from tvm_cavs.transform import SEED


def test_a_training_loop_learns() -> None:
    net = network("tree_rnn", dropout=0.1)
    graphs = batch(some_graphs(4))
    trainer = cavs.Trainer(net.parameters(), "adam", lr=0.05)
    values = []
    for _ in range(15):
        with cavs.record():
            loss = LOSS(net(graphs))
        loss.backward()
        trainer.step(graphs.n_graphs)
        values.append(float(loss))
    assert values[-1] < 0.6 * values[0]
    assert net.step == 15
    assert loss.n_labels == int(graphs.inputs["label"].present.sum())
    assert set(loss.outputs) == {"loss", "correct"}


def test_outputs_come_in_the_order_of_the_batch() -> None:
    net, graphs = network(dtype="float32"), some_graphs(3)
    together = net(batch(graphs))["logits"]
    assert together.dtype == np.float32 and together.shape == (batch(graphs).n_vertices, N_CLASSES)
    apart = np.concatenate([net(g)["logits"] for g in graphs])
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("name", CELLS)
def test_order_and_composition_of_batches_do_not_matter(name: str) -> None:
    net = network(name, dropout=0.3)
    graphs = some_graphs(6, 3, net.function.arity)
    whole, parts = None, {}
    for groups in ([range(6)], [(5, 2, 0, 1, 4, 3)], [(4, 1), (3,), (0, 5, 2)]):
        sums: dict[str, Any] = {}
        outputs: dict[int, np.ndarray] = {}
        for group in groups:
            net.step = 7
            with cavs.record():
                loss = LOSS(net(batch([graphs[i] for i in group])))
            loss.backward()
            for w, g in gradients(net).items():
                sums[w] = sums.get(w, 0.0) + g
            ends = np.cumsum([graphs[i].n_vertices for i in group])[:-1]
            outputs.update(zip(group, np.split(loss.outputs["loss"], ends), strict=True))
        if whole is None:
            whole, parts = sums, outputs
        for i in range(6):
            np.testing.assert_array_equal(outputs[i], parts[i])
        for w, total in sums.items():
            np.testing.assert_allclose(total, whole[w], rtol=1e-12, atol=1e-12, err_msg=w)


def test_unbatch_gives_the_same_as_batch() -> None:
    net, graphs = network(), some_graphs(3)
    again = unbatch(batch(graphs))
    for a, b in zip(graphs, again, strict=True):
        np.testing.assert_array_equal(net(a)["logits"], net(b)["logits"])


def test_inference_is_without_dropout_and_does_not_count() -> None:
    net, graph = network(dropout=0.5), some_graphs(1)[0]
    net.seed(11)
    assert net.dropout_seed == 11
    a, b = net(graph)["logits"], net(graph)["logits"]
    np.testing.assert_array_equal(a, b)
    assert net.step == 0
    with cavs.record():
        loss = LOSS(net(graph))
    before = float(loss)
    net(graph)  # inference between forward and backward is allowed
    loss.backward()
    net.step = 0
    with cavs.record():
        assert float(LOSS(net(graph))) == before
        assert float(LOSS(net(graph))) != before


def test_initialize_is_a_function_of_the_seed() -> None:
    a, b, c = (Network(CELLS["tree_gru"](N_WORDS, 3, 4, N_CLASSES)) for _ in range(3))
    for net, seed in ((a, 1), (b, 1), (c, 2)):
        net.initialize(seed=seed)
    for name, p in a.parameters().items():
        np.testing.assert_array_equal(p.data, b.parameters()[name].data)
        assert p.data.dtype == np.float32 and p.data.ctypes.data % 64 == 0
    assert not np.array_equal(a.parameters()["W"].data, c.parameters()["W"].data)
    for bad in (-1, 1.5, "1", None, True):
        with pytest.raises(cavs.ConfigError) as error:
            a.initialize(bad)  # type: ignore[arg-type]
        said = f"initialize(seed): expected a whole number of 0 or more, given {bad!r}"
        assert str(error.value) == said
    memory = a.parameters()["W"].data
    a.initialize(seed=2)
    assert memory is a.parameters()["W"].data
    np.testing.assert_array_equal(memory, c.parameters()["W"].data)


def test_parameters_of_one_shape_are_drawn_apart() -> None:
    class Two(cavs.VertexFunction):
        state = {"h": 2}

        def __init__(self) -> None:
            self.A, self.B = (cavs.Parameter((2, 2)) for _ in range(2))

    net = Network(Two())
    net.initialize(seed=1)
    a, b = (p.data for p in net.parameters().values())
    assert not np.isclose(a, b).any()


def test_parameters_have_the_names_of_attributes_and_tied_ones_count_once() -> None:
    class Tied(VertexFunction):
        arity = 1
        state = {"h": 2}

        def __init__(self) -> None:
            self.A = self.B = Parameter((2, 2))
            self.layers = [Parameter((2, 2)), Parameter((2, 2)), self.A]
            self.again = self.layers

        def forward(self, v: Vertex) -> None:
            h = v.gather(0).h @ self.A + v.pull("x", (2,)) @ self.B
            for w in self.layers:
                h = cavs.tanh(h @ w)
            v.scatter(h=h @ self.again[1])

    net = Network(Tied())
    net.parameters().clear()  # what was given is the caller's own
    assert list(net.parameters()) == ["A", "layers.0", "layers.1"]
    assert [p.name for p in net.parameters().values()] == list(net.parameters())
    read = [c["name"] for _, c in net.programs().forward.select("param")]
    assert sorted(read) == sorted(net.parameters())


def test_order_of_record_forward_and_backward() -> None:
    net, (one, two) = network(), some_graphs(2)
    with pytest.raises(TraceError, match="^SoftmaxCrossEntropy takes net.*record.*given dict$"):
        LOSS(net(one))  # type: ignore[arg-type]
    with cavs.record():
        waiting = net(one)
        with pytest.raises(TraceError, match="'logits' stay in the compiled code while recording"):
            waiting["logits"]
        first = LOSS(waiting)
        second = LOSS(net(two))
    with pytest.raises(TraceError, match="not the network's last: call backward"):
        first.backward()
    second.backward()
    with pytest.raises(RuntimeError), cavs.record():
        raise RuntimeError
    assert "logits" in net(one)  # record ended although its body failed


def test_a_parameter_before_initialize() -> None:
    net = Network(CELLS["tree_rnn"](N_WORDS, 3, 4, N_CLASSES))
    net.hybridize("reference")
    with pytest.raises(
        TraceError, match=r"^parameter E \(5, 3\) has no data yet; call net.initialize"
    ):
        net(some_graphs(1)[0])
    with pytest.raises(ShapeError, match="positive whole numbers"):
        Parameter(())
    with pytest.raises(ShapeError, match="expected shape"):
        net.parameters()["W"].set_data(np.zeros((1, 1)))

    for shape in ((7,), (12,), (4, 3), (1, 3, 4)):

        class Wrong(CELLS["tree_rnn"]):  # type: ignore[misc]
            def __init__(self, given: tuple[int, ...] = shape) -> None:
                super().__init__(N_WORDS, 3, 4, N_CLASSES)
                self.W = Parameter((3, 4), init=lambda rng, shape: np.zeros(given))

        made = Wrong()
        with pytest.raises(ShapeError) as error:
            Network(made).initialize()
        said = f"of parameter W: expected shape (3, 4), gave {shape}"
        assert str(error.value) == f"initialiser {made.W.init} {said}"


LEAVES: list[list[int | None]] = [[], [0], []]


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (
            Graph.from_children(LEAVES, {"x": [1.0, 2.0, 3.0]}),
            "pulls 'word', which the graph does not have; it has x",
        ),
        (Graph.from_children(LEAVES, {}), "it has no inputs"),
        (
            Graph.from_children(LEAVES, {"word": [0, 99, 1], "label": [0, 0, 0]}),
            "graph 0, vertex 1: input 'word' is 99; TreeLSTM + SoftmaxCrossEntropy takes 0..4",
        ),
        (
            Graph.from_children(LEAVES, {"word": [0, -2, 1], "label": [0, 0, 0]}),
            "graph 0, vertex 1: input 'word' is -2",
        ),
        (
            batch(
                [
                    Graph.from_children(LEAVES, {"word": [0, 0, 1], "label": y})
                    for y in ([0, 1, 2], [0, 0, 3])
                ]
            ),
            "graph 1, vertex 2: input 'label' is 3; TreeLSTM + SoftmaxCrossEntropy takes 0..2",
        ),
        (
            Graph.from_children(LEAVES, {"word": [0.0, 1.0, 2.0], "label": [0, 0, 0]}),
            "pulls 'word' as int32; the graph gives float32 per vertex",
        ),
        (
            Graph.from_children(LEAVES, {"word": [[0], [1], [2]], "label": [0, 0, 0]}),
            "pulls 'word' as int32; the graph gives int32[1] per vertex",
        ),
        (
            Graph.from_children([[], [0], [], [0, 1, 2]], {"word": [0, 1, 2, None]}),
            "graph 0, vertex 3 has 3 children, but TreeLSTM + SoftmaxCrossEntropy gathers from 2",
        ),
    ],
)
def test_batches_that_do_not_fit(graph: Graph, text: str) -> None:
    net = network()
    with pytest.raises(GraphError, match=re.escape(text)), cavs.record():
        LOSS(net(graph))


@pytest.mark.parametrize("rows", [(3, 5), (5, 3)])
def test_a_number_that_chooses_twice_must_fit_both(rows: tuple[int, int]) -> None:
    class Two(VertexFunction):
        arity, state = 0, {"h": 2}

        def __init__(self) -> None:
            self.A, self.B = (Parameter((n, 2)) for n in rows)

        def forward(self, v: Vertex) -> None:
            number = v.pull("number")
            v.scatter(h=embedding(number, self.A) + embedding(number, self.B))

    net = Network(Two())
    net.initialize()
    net.hybridize("reference")
    net(Graph.from_children([[]], {"number": [2]}))
    with pytest.raises(GraphError, match="input 'number' is 3; Two takes 0..2"):
        net(Graph.from_children([[]], {"number": [3]}))


def test_a_batch_is_a_graph() -> None:
    with pytest.raises(GraphError, match=r"takes a Graph, given list; .*cavs.batch\(graphs\)"):
        network()(some_graphs(2))


def test_an_input_that_nobody_in_the_batch_has() -> None:
    net = network()
    graph = Graph.from_children([[], [0]], {"word": [None, None], "label": [None, 1]})
    assert np.isfinite(net(graph)["logits"]).all()


def test_prepare_checks_every_batch() -> None:
    net = network()
    net.prepare(some_graphs(3))
    with pytest.raises(GraphError, match="pulls 'word'"):
        net.prepare([*some_graphs(3), Graph.from_children([[]], {})])


def test_an_export_is_for_what_the_network_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is told otherwise; of options that only running has it hears nothing."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(executors, "export", lambda *given, **options: asked.append(options))

    def made(programs: Any, parameters: Any, target: str) -> None: ...

    monkeypatch.setitem(registry._REGISTERED, "mine", lambda: made)
    net = Network(CELLS["lstm"](N_WORDS, 2, 3, 2))
    net.initialize()
    mine = {"target": "host", "precision": "bf16", "records": False}
    for executor, options, told in (
        ("tvm", {}, {}),
        ("tvm", mine | {"threads": 2, "cache": False, "without": ()}, mine),
        ("reference", {"dtype": "float64"}, {}),
        ("mine", {"target": "a toaster"}, {}),
    ):
        net.hybridize(executor, **options)
        net.export("there")
        net.export("there", precision="float32", target="other")
        assert asked[-2:] == [told, told | {"precision": "float32", "target": "other"}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (cavs.nn.TreeLSTM, f"{cavs.nn.TreeLSTM!r}; call the class to make one"),
        (3, "3; see nn.CELLS"),
        (None, "None; see nn.CELLS"),
        ("lstm", "'lstm'; see nn.CELLS"),
        ("x" * 99, f"'{'x' * 59}; see nn.CELLS"),
    ],
)
def test_what_is_no_vertex_function_is_refused_with_the_way_to_one(given, said):
    with pytest.raises(cavs.TraceError) as error:
        cavs.Network(given)
    assert str(error.value) == f"Network: expected a VertexFunction, given {said}"


@pytest.mark.parametrize("name", [COPIES, f"{SEED}logits"])
@pytest.mark.parametrize("look", [Vertex.pull, Vertex.present])
def test_inputs_of_our_own_have_names_that_no_other_has(look: Any, name: str) -> None:
    class Takes(VertexFunction):
        arity, state = 0, {"x": 1}

        def forward(self, v: Vertex) -> None:
            v.scatter(x=v.pull("x", (1,)))
            look(v, name)

    with pytest.raises(TraceError, match=f"^Takes: the input name '{name}' is reserved"):
        Network(Takes()).programs()


def test_before_the_first_batch_nothing_was_shared_or_seen() -> None:
    net = network("tree_rnn")
    for each in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert each.last_sharing is None and each.observer is None
