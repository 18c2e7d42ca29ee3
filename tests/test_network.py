"""Network, losses and executors as a user meets them: the right use, and what wrong use says."""

import math
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from gradient_check import dense, initialized
from random_graphs import N_CLASSES, N_WORDS, random_dag, random_tree

import tvm_cavs as cavs
from tvm_cavs import execution
from tvm_cavs.errors import GraphError, ShapeError, TargetError, TraceError
from tvm_cavs.execution import Programs, Result, Seeds
from tvm_cavs.graph import Graph, batch, unbatch
from tvm_cavs.loss import LOSSES, LogisticLoss, LossFunction, SoftmaxCrossEntropy, SquaredError
from tvm_cavs.network import Network
from tvm_cavs.nn import CELLS
from tvm_cavs.vertex import Parameter, Vertex, VertexFunction, trace

LOSS = SoftmaxCrossEntropy()


def network(name: str = "tree_lstm", dropout: float = 0.0, dtype: str = "float64") -> Network:
    net = initialized(Network(CELLS[name](N_WORDS, 3, 4, N_CLASSES, dropout=dropout)), 0)
    net.hybridize("reference", dtype=dtype)
    return net


def some_graphs(n: int, seed: int = 0, arity: int = 2) -> list[Graph]:
    """Trees and DAGs whose vertices have identities of their own."""
    rng, first, out = np.random.default_rng(seed), 0, []
    for i in range(n):
        g = (random_tree, random_dag)[i % 2](rng, arity)
        ids = np.arange(first, first + g.n_vertices)
        out.append(Graph(g.child_ptr, g.child, g.level, ids, g.graph_ptr, g.inputs))
        first += g.n_vertices
    return out


def gradients(net: Network) -> dict[str, np.ndarray]:
    found = {}
    for name, p in net.parameters().items():
        assert p.grad is not None
        found[name] = dense(p.grad, p.shape)
    return found


# ---- the right use ----


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
    memory = a.parameters()["W"].data
    a.initialize(seed=2)
    assert memory is a.parameters()["W"].data
    np.testing.assert_array_equal(memory, c.parameters()["W"].data)


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
    assert list(net.parameters()) == ["A", "layers.0", "layers.1"]
    assert [p.name for p in net.parameters().values()] == list(net.parameters())
    read = [c["name"] for _, c in net.programs().forward.select("param")]
    assert sorted(read) == sorted(net.parameters())


# ---- losses ----


class Given(VertexFunction):
    """Pushes its inputs, so that a loss's value is a formula of them."""

    arity = 2
    state = {"h": 1}

    def __init__(self) -> None:
        self.one = Parameter((1,), cavs.init.Constant(1.0))

    def forward(self, v: Vertex) -> None:
        v.scatter(h=v.pull("s", (1,)) * self.one)
        v.push("score", v.pull("s", (1,)) * self.one)
        v.push("prediction", v.pull("p", (2,)) * self.one)
        v.push("logits", v.pull("z", (3,)) * self.one)


def given() -> tuple[Network, Graph]:
    net = Network(Given())
    net.initialize()
    net.hybridize("reference", dtype="float64")
    rng = np.random.default_rng(0)
    inputs = {
        "s": np.array([[0.0], [3.0], [-2.0], [80.0], [-80.0]], "float32"),
        "p": rng.normal(size=(5, 2)).astype("float32"),
        "z": np.array([[0, 1, 2], [5, 5, 1], [-90, 80, 1], [0, 0, 0], [1, 2, 3]], "float32"),
        "label": [2, 0, 0, None, 1],
        "target": [[0.0], [1.0], None, [0.0], [0.0]],
        "goal": [[1.0, 2.0], None, [0.0, 0.0], [3.0, -1.0], None],
    }
    return net, Graph.from_children([[], [0], [], [2, 1], []], inputs)


def value(loss_fn: LossFunction) -> tuple[Any, Network, Graph]:
    net, graph = given()
    with cavs.record():
        loss = loss_fn(net(graph))
    loss.backward()
    return loss, net, graph


def test_softmax_cross_entropy() -> None:
    loss, _, graph = value(SoftmaxCrossEntropy())
    z = graph.inputs["z"].values.astype("float64")
    label = graph.inputs["label"].values
    want = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[range(5), label]
    want[3] = 0.0
    np.testing.assert_allclose(loss.outputs["loss"], want, rtol=1e-12, atol=1e-14)
    assert loss.outputs["correct"].tolist() == [1, 1, 0, 0, 0]
    assert loss.n_labels == 4 and float(loss) == pytest.approx(want.sum(), rel=1e-12)


def test_logistic_loss_is_stable_and_right() -> None:
    loss, net, graph = value(LogisticLoss())
    scores, targets = [0.0, 3.0, None, 80.0, -80.0], [0.0, 1.0, 0.0, 0.0, 0.0]
    want, slope = [], 0.0
    for s, t in zip(scores, targets, strict=True):
        y = 2 * t - 1
        want.append(0.0 if s is None else max(-y * s, 0.0) + math.log1p(math.exp(-abs(s))))
        if s is not None:
            slope += s * (0.5 * math.tanh(0.5 * s) + 0.5 - t)
    np.testing.assert_allclose(loss.outputs["loss"], want, rtol=1e-12, atol=1e-12)
    assert gradients(net)["one"] == pytest.approx(slope)
    assert graph.inputs["target"].present.sum() == loss.n_labels


def test_squared_error() -> None:
    loss, net, graph = value(SquaredError(label="goal"))
    p, goal = (graph.inputs[k].values.astype("float64") for k in ("p", "goal"))
    error = (p - goal) * graph.inputs["goal"].present[:, None]
    np.testing.assert_allclose(loss.outputs["loss"], (error**2).sum(1), rtol=1e-12)
    assert gradients(net)["one"] == pytest.approx((2 * error * p).sum())


def test_losses_are_equal_by_value_and_compiled_once() -> None:
    net = network()
    assert net.programs(SoftmaxCrossEntropy()) is net.programs(SoftmaxCrossEntropy())
    assert net.programs(SoftmaxCrossEntropy(label="word")) is not net.programs(LOSS)
    assert all(issubclass(loss, LossFunction) for loss in LOSSES.values())


# ---- wrong use ----


def test_order_of_record_forward_and_backward() -> None:
    net, (one, two) = network(), some_graphs(2)
    with pytest.raises(TraceError, match="SoftmaxCrossEntropy takes net.*record.*given dict"):
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
    with pytest.raises(TraceError, match=r"parameter \w+ \(\d.*no data yet; call net.initialize"):
        net(some_graphs(1)[0])
    with pytest.raises(ShapeError, match="positive integers"):
        Parameter(())
    with pytest.raises(ShapeError, match="expected shape"):
        net.parameters()["W"].set_data(np.zeros((1, 1)))

    class Wrong(CELLS["tree_rnn"]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(N_WORDS, 3, 4, N_CLASSES)
            self.W = Parameter((3, 4), init=lambda rng, shape: np.zeros(7))

    with pytest.raises(ShapeError, match=r"parameter W: expected shape \(3, 4\), gave \(7,\)"):
        Network(Wrong()).initialize()


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
            Graph.from_children([[], [], [], [0, 1, 2]], {"word": [0, 1, 2, None]}),
            "graph 0, vertex 3 has 3 children, but TreeLSTM + SoftmaxCrossEntropy gathers from 2",
        ),
    ],
)
def test_batches_that_do_not_fit(graph: Graph, text: str) -> None:
    net = network()
    with pytest.raises(GraphError, match=re.escape(text)), cavs.record():
        LOSS(net(graph))


def test_a_batch_is_a_graph() -> None:
    with pytest.raises(GraphError, match=r"takes a Graph, given list; .*cavs.batch\(graphs\)"):
        network()(some_graphs(2))


def test_an_input_that_nobody_in_the_batch_has() -> None:
    net = network()
    graph = Graph.from_children([[], [0]], {"word": [None, None], "label": [None, 1]})
    assert np.isfinite(net(graph)["logits"]).all()
    given_net, _ = given()
    floats = {"s": [[1.0]], "p": [None], "z": [[0.0, 1.0, 2.0]]}
    assert not given_net(Graph.from_children([[]], floats))["prediction"].any()


def function(forward: Any, **attributes: Any) -> VertexFunction:
    """A vertex function with this `forward(self, v)`."""

    class Mistaken(VertexFunction):
        arity = 2
        state = {"h": 3, "c": 3}

        def __init__(self) -> None:
            self.W = Parameter((3, 3))
            vars(self).update(attributes)

        def forward(self, v: Vertex) -> None:
            forward(self, v)

    return Mistaken()


def twice(self: Any, v: Vertex) -> None:
    h = v.gather(0).h
    v.scatter(h=h, c=h)
    v.scatter(h=h, c=h)


def branches(self: Any, v: Vertex) -> None:
    if v.gather(0).h[:1] > 0:
        v.push("a", v.gather(0).h)


def pushes_twice(self: Any, v: Vertex) -> None:
    v.push("a", v.gather(0).h)
    v.push("a", v.gather(1).h)


def pulls_twice(self: Any, v: Vertex) -> None:
    v.pull("x", (3,))
    v.pull("x", (4,))


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (twice, "scatter (test_network.py, line {}: v.scatter(h=h, c=h)): it was called before"),
        (branches, "a float32[1] has no truth value"),
        (pushes_twice, "output 'a' was pushed before"),
        (pulls_twice, "expected float32[3] as it was pulled before, now float32[4]"),
        (lambda self, v: v.scatter(h=v.gather(0).h), "scatter(h)"),
        (lambda self, v: v.scatter(h=v.gather(0).h), "the fields of `state` are h, c"),
        (
            lambda self, v: v.scatter(h=v.gather(0).h[:2], c=v.gather(0).c),
            "field 'h' is float32[3]",
        ),
        (lambda self, v: v.scatter(h=1.0, c=2.0), "expected a value, given float"),
        (lambda self, v: v.scatter(h=self.W[0:1], c=self.W), "the same for every vertex"),
        (lambda self, v: v.gather(5), "gather(5)"),
        (lambda self, v: v.gather(2), "expected a slot in 0..1"),
        (lambda self, v: v.gather(-1), "set the class attribute `arity`"),
        (lambda self, v: v.gather("0"), "gather('0')"),
        (lambda self, v: v.gather(0).hidden, "no field 'hidden'; the state is h, c"),
        (lambda self, v: v.gather(0).h @ Parameter((3, 3)), "operand Parameter(?, (3, 3))"),
        (lambda self, v: v.gather(0).h * Parameter((3,)), "given Parameter; arrays are Parameters"),
        (lambda self, v: v.pull("x", (3,), "float64"), "expected float32 or int32"),
        (lambda self, v: v.pull("x", (0,)), "positive size"),
        (lambda self, v: cavs.split(v.gather(0).h, 2), "does not divide into 2 equal parts"),
        (lambda self, v: cavs.embedding(v.pull("w"), self.W * 2.0), "expected a parameter"),
        (lambda self, v: cavs.tanh(1.0), "expected a value of the vertex, given float"),
        (lambda self, v: cavs.concat(), "given nothing"),
        (
            lambda self, v: v.output("logits"),
            "no output 'logits'; the vertex function pushes nothing",
        ),
        (lambda self, v: v.gather(0).h + OTHER, "a value of another trace"),
        (lambda self, v: [*v.gather(0).h], "takes slices like x[10:20], given x[0]"),
    ],
)
def test_mistakes_in_forward_name_the_line(forward: Any, text: str) -> None:
    with pytest.raises((TraceError, ShapeError)) as caught:
        trace(function(forward))
    message = str(caught.value)
    assert re.search(re.escape(text).replace(r"\{\}", r"\d+"), message), message
    assert "test_network.py, line" in message


def _leak() -> Any:
    kept = []

    def forward(self: Any, v: Vertex) -> None:
        h = v.gather(0).h
        kept.append(h)
        v.scatter(h=h, c=h)

    trace(function(forward))
    return kept[0]


OTHER = _leak()


def test_mistakes_around_forward() -> None:
    with pytest.raises(TraceError, match=r"Mistaken.forward \(line \d+\) never scatters c, h"):
        trace(function(lambda self, v: None))
    with pytest.raises(TraceError, match="needs `self.state"):
        trace(function(twice, state={}))
    with pytest.raises(TraceError, match=r"state\['h'\]: expected a positive width, given 2.5"):
        trace(function(twice, state={"h": 2.5}))
    with pytest.raises(TraceError, match="arity: expected a number of children"):
        trace(function(twice, arity=None))
    for held in ({"a": Parameter((3,))}, [Parameter((3,)), 1], [[Parameter((3,))]]):
        with pytest.raises(TraceError, match="weights holds parameters among other things"):
            Network(function(twice, weights=held))
    with pytest.raises(NotImplementedError, match=r"must define forward\(self, v\)"):
        VertexFunction().forward(None)  # type: ignore[arg-type]


def test_a_loss_without_a_scalar_or_an_output() -> None:
    net = network()
    with pytest.raises(TraceError, match="no output 'score'; the vertex function pushes logits"):
        net.programs(LogisticLoss())

    @dataclass(frozen=True)
    class Vector(LossFunction):
        def forward(self, v: Vertex) -> None:
            v.push("loss", v.output("logits"))

    with pytest.raises(TraceError, match=r"push one scalar named 'loss'; found float32\[3\]"):
        net.programs(Vector())


# ---- executors ----


class Doubling:
    """An executor that is not ours: every output is 2."""

    def __init__(self, programs: Programs, parameters: Any, scale: float = 2.0) -> None:
        self.names = [c["name"] for _, c in programs.forward.select("push")]
        self.scale = scale

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        return Result({n: np.full(graph.n_vertices, self.scale) for n in self.names})

    def backward(self) -> dict[str, Any]:
        return {}


def test_unknown_executors_and_options() -> None:
    net = network()
    with pytest.raises(TargetError, match="executor 'tmv': expected one of reference, tvm"):
        net.hybridize("tmv")
    with pytest.raises(TargetError, match="'reference' has no option threads; expected dtype"):
        net.hybridize("reference", threads=2)
    net.hybridize("reference", dtype="float16")
    with pytest.raises(TargetError, match="expected dtype float32 or float64, given 'float16'"):
        net(some_graphs(1)[0])


def test_a_registered_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_REGISTERED", dict(execution._REGISTERED))
    execution.register("doubling", lambda: Doubling)
    assert "doubling" in execution.names()
    net = network()
    net.hybridize("doubling", scale=3.0)
    assert set(net(some_graphs(1)[0])["logits"].tolist()) == {3.0}
    net.hybridize("reference")
    assert net(some_graphs(1)[0])["logits"].shape == (7, N_CLASSES)


def test_an_executor_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", f"{__name__}:Doubling", "tvm_cavs.executors")
    monkeypatch.setattr(execution, "entry_points", lambda group: [entry])
    net = network()
    net.hybridize("theirs")
    assert set(net(some_graphs(1)[0])["logits"].tolist()) == {2.0}
    with pytest.raises(TargetError, match="expected one of reference, theirs, tvm"):
        net.hybridize("ours")
