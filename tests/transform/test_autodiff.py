"""The adjoint: what it is made of."""

from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.functions import OneSlot, Score
from helpers.gradient_check import (
    HIDDEN,
    LOSS,
    SEEDS,
    cell,
    check_gradients,
    dense,
    graphs_for,
    initialized,
)
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.errors import TraceError
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.graph import COPIES, Read
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.vertex import Vertex, VertexFunction, trace
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.network import Network
from tvm_cavs.transform.autodiff import differentiate
from tvm_cavs.transform.programs import SEED, counted, seeded


def test_a_chain_under_a_binary_cell_keeps_slots_apart() -> None:
    """The batch's widest vertex may have fewer slots than F gathers from."""
    network = initialized(Network(OneSlot()), 0)
    chain = Graph.from_children([[1], [2], []], {})
    check_gradients(network, Score(), chain)
    network = cell("tree_lstm")
    one = {"word": [None, None, 1], "label": [0, 1, 2]}
    check_gradients(network, LOSS, Graph.from_children([[2], [0], []], one))


class EachSlotAnotherField(VertexFunction):
    """Reads `h` of the first child and `c` of the second; its states are sums of both."""

    arity = 2
    state = {"h": 2, "c": 2}

    def forward(self, v: Vertex) -> None:
        here = v.gather(0).h + 2.0 * v.gather(1).c + v.pull("x", 2)
        v.scatter(h=here, c=here * here)
        v.push("score", cavs.reduce_sum(here))


def test_every_slot_of_every_field_gets_a_gradient() -> None:
    """Zero where F does not read it: what lies there may be of another batch."""
    network = Network(EachSlotAnotherField())
    adjoint = network.programs(Score()).adjoint
    assert adjoint is not None
    found = sorted((c["field"], c["slot"]) for _, c in adjoint.select("scatter"))
    assert found == [("c", 0), ("c", 1), ("h", 0), ("h", 1)]
    x = np.random.default_rng(0).standard_normal((3, 2)).astype("float32")
    check_gradients(network, Score(), Graph.from_children([[], [], [0, 1]], {"x": x}))


class SecondChild(VertexFunction):
    """Reads `h` of the second child alone, and `c` of none."""

    arity = 2
    state = {"h": 2, "c": 2}

    def forward(self, v: Vertex) -> None:
        here = 2.0 * v.gather(1).h + v.pull("x", 2)
        v.scatter(h=here, c=here * here)
        v.push("score", cavs.reduce_sum(here))


def test_a_slot_before_those_that_are_read_gets_no_gradient() -> None:
    adjoint = Network(SecondChild()).programs(Score()).adjoint
    assert adjoint is not None
    found = sorted((c["field"], c["slot"]) for _, c in adjoint.select("scatter"))
    assert found == [("c", 1), ("h", 1)]
    x = np.random.default_rng(0).standard_normal((3, 2)).astype("float32")
    graph = Graph.from_children([[], [], [0, 1]], {"x": x})
    check_gradients(Network(SecondChild()), Score(), graph)


def test_row_sparse_gradients_are_the_rows_of_the_batch() -> None:
    network = cell("tree_rnn")
    graph = graphs_for(network, 2)
    programs = network.programs(LOSS)
    assert programs.row_sparse == {"E"}
    executor = ReferenceExecutor(programs, network.parameters(), "float64")
    executor.forward(graph, SEEDS)
    gradient = executor.backward()["E"]
    words = graph.inputs["word"].values
    assert isinstance(gradient, cavs.RowSparse)
    assert gradient.rows.tolist() == sorted(set(words[words >= 0].tolist()))
    assert dense(gradient, (N_WORDS, 2)).shape == (N_WORDS, 2)


def test_an_output_of_integers_has_no_seed() -> None:
    """What goes back is asked for the gradients of all outputs that have one, and of no other."""

    class Both(VertexFunction):
        state = {"h": 2}

        def __init__(self) -> None:
            self.E, self.b = cavs.Parameter((N_WORDS, 2)), cavs.Parameter((2,))

        def forward(self, v: Vertex) -> None:
            word = v.pull("word")
            h = cavs.embedding(word, self.E) + self.b
            v.scatter(h=h)
            v.push("logits", h)
            v.push("word", word)
            v.push("best", cavs.argmax(h))

    made = seeded(Network(Both()).programs())
    assert [(r.name, r.shape, r.dtype) for r in made.reads] == [
        ("word", (), "int32"),
        (f"{SEED}logits", (2,), "float32"),
    ]
    assert made.adjoint is not None and made.row_sparse == {"E"}


def test_a_loss_counts_as_often_as_a_vertex_stands_for_others() -> None:
    plain = cell("tree_rnn").programs(LOSS)
    assert plain.adjoint is not None
    made = counted(plain)
    for before, after in ((plain.forward, made.forward), (plain.adjoint, made.adjoint)):
        assert after is not None
        read = [{c["name"] for _, c in p.select("pull")} for p in (before, after)]
        assert read[1] - read[0] == {COPIES}
    assert Read(COPIES, (), "float32", None) in made.reads


class Asks(VertexFunction):
    """Whether a vertex has an input, which it does not read."""

    state = {"h": 1}

    def __init__(self, name: str, reads: bool = False) -> None:
        self.name, self.reads = name, reads

    def forward(self, v: Vertex) -> None:
        there = v.present(self.name)
        v.scatter(h=cavs.reshape(v.pull(self.name, (), "float32") if self.reads else there, 1))


def test_an_input_that_is_only_asked_for_is_one() -> None:
    (read,) = Network(Asks("w")).programs().reads
    assert (read.name, read.shape, read.dtype, read.limit) == ("w", None, "", None)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", [COPIES, f"{SEED}logits"])
def test_names_of_inputs_that_are_made_here_are_reserved(name: str, reads: bool) -> None:
    with pytest.raises(
        TraceError, match=f"^Asks: the input name '{name}' is reserved; use another"
    ):
        Network(Asks(name, reads)).programs()


def test_a_table_used_as_a_matrix_too_has_a_dense_gradient() -> None:
    class Tied(VertexFunction):
        arity = 2
        state = {"h": N_WORDS}

        def __init__(self) -> None:
            self.E = cavs.Parameter((N_WORDS, N_WORDS))

        def forward(self, v: Vertex) -> None:
            h = cavs.tanh(cavs.embedding(v.pull("word"), self.E) + v.gather(0).h)
            v.scatter(h=h)
            v.push("logits", (h @ self.E)[:N_CLASSES])

    network = initialized(Network(Tied()), 0)
    assert network.programs(LOSS).row_sparse == frozenset()
    check_gradients(network, LOSS, graphs_for(network, 3))


def test_the_adjoint_needs_a_scalar_loss() -> None:
    program = trace(CELLS["tree_rnn"](N_WORDS, 2, HIDDEN, N_CLASSES))
    with pytest.raises(
        TraceError, match="^TreeRNN: .*, push one scalar named 'loss'; found no such output"
    ):
        differentiate(program)
    with pytest.raises(TraceError, match=r"scalar named 'logits'; found float32\[3\]"):
        differentiate(program, "logits")


class OneUse(cavs.VertexFunction):
    """The sum of one use of a parameter, weighted by numbers of the vertex."""

    arity = 0

    def __init__(self, shape: tuple[int, ...], use: Any) -> None:
        self.state, self.use, self.P = {"h": 1}, use, cavs.Parameter(shape)

    def forward(self, v: cavs.Vertex) -> None:
        y = self.use(self.P, v)
        flat = cavs.reshape(y, (y.type.size,))
        weighted = cavs.reduce_sum(flat * v.pull("weight", (y.type.size,)), keepdims=True)
        v.scatter(h=weighted)
        v.push("prediction", weighted)


def gradient_of(function: OneUse, data: np.ndarray, **inputs: np.ndarray) -> np.ndarray:
    """Of the prediction, at one vertex: of (prediction - target)^2 with a target 1/2 below it."""
    net = cavs.Network(function)
    function.P.set_data(data)
    net.hybridize("reference", dtype="float64")
    given = {name: value[None] for name, value in inputs.items()}
    answer = net(cavs.Graph.from_sequence(1, given))["prediction"]
    with cavs.record():
        loss = cavs.loss.SquaredError()(
            net(cavs.Graph.from_sequence(1, {**given, "target": answer - 0.5}))
        )
    loss.backward()
    return np.array(function.P.grad)


def test_ties_of_a_maximum_share_its_gradient() -> None:
    function = OneUse(
        (4,), lambda p, v: cavs.reduce_max(p * 1.0, keepdims=True) + v.pull("x", (1,))
    )
    found = gradient_of(function, np.array([1, 3, 3, 2.0]), x=np.ones(1), weight=np.array([2.0]))
    np.testing.assert_allclose(found, [0, 1, 1, 0], rtol=1e-4)


@pytest.mark.parametrize("choose", [cavs.maximum, cavs.minimum])
def test_of_two_equal_values_the_second_has_the_whole_gradient(choose: Any) -> None:
    function = OneUse((4,), lambda p, v: choose(p[:2], p[2:]) + v.pull("x", (2,)))
    weight = np.array([2.0, -3.0])
    found = gradient_of(function, np.array([1.0, -1.0] * 2), x=np.ones(2), weight=weight)
    np.testing.assert_allclose(found, [0, 0, *weight], rtol=1e-4)


@pytest.mark.parametrize(("use", "at_zero"), [(cavs.abs, -1), (cavs.relu, 0)])
def test_the_derivative_where_there_is_none(use: Any, at_zero: int) -> None:
    function = OneUse((1,), lambda p, v: use(p) + v.pull("x", (1,)))
    found = gradient_of(function, np.zeros(1), x=np.ones(1), weight=np.array([3.0]))
    np.testing.assert_allclose(found, [3 * at_zero], rtol=1e-4)


def test_a_middle_axis_that_was_broadcast_is_summed() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=24)
    function = OneUse((2, 1, 4), lambda p, v: p * v.pull("x", (2, 3, 4)))
    found = gradient_of(function, rng.normal(size=(2, 1, 4)), x=x, weight=weight)
    want = (x * weight.reshape(2, 3, 4)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
