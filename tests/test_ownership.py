"""What a user gives stays the user's, and what was checked stays what it was; copies live alone."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.networks import LOSS, network
from helpers.random_graphs import random_tree
from tvm_cavs.errors import CavsError, TraceError
from tvm_cavs.graph.batching import batch, unbatch
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.recent import KEPT, Recent, key_of

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}
HOLED: Any = np.ma.MaskedArray([1, 2, 3], [0, 1, 0])
VALUES: dict[str, Any] = {
    "Decimal": [Decimal(1)] * 3,
    "beyond 64 bits": [2**63, -1, 0],
    "far beyond": [2**70, 0, 0],
    "beyond float32": np.array([1e39, 0, 0]),
    "masked": HOLED,
    "mixed": [True, 2, 3],
    "text": "abc",
    "bytes": b"abc",
    "dict": {0: 1, 1: 2, 2: 3},
    "set": {1, 2, 3},
    "scalar": np.float32(3),
    "0-d": np.array(3),
    "complex": [1j, 2, 3],
    "date": np.array(["2020-01-01"] * 3, "M8[D]"),
    "half a row": [[1, None], [1, 2], [1, 2]],
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_input_is_refused_in_words(name: str) -> None:
    with pytest.raises(CavsError, match="input 'x'"):
        Graph.from_sequence(3, {"x": VALUES[name]})


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int64", "uint64", "bool", ">i2"])
def test_inputs_of_any_dtype_order_and_strides_are_equal(dtype: str) -> None:
    values = np.arange(24).reshape(4, 6).astype(dtype)[:, ::2]
    forms = [values, np.asfortranarray(values), values.tolist(), list(values)]
    fields = [Field(v, np.ones(4, int)) for v in forms[:2]]
    made = [Graph.from_sequence(4, {"x": x}).inputs["x"] for x in (*forms, *fields)]
    for f in made:
        assert f.values.flags.c_contiguous and f.values.dtype in (np.float32, np.int32)
        np.testing.assert_array_equal(f.values, values)
        assert f.present.all() and f.present.dtype == bool


BAD: dict[str, Callable[[], Any]] = {
    "[2, E]": lambda: Graph.from_edges(4, np.array([[0, 1, 2], [1, 2, 3]])),
    "flat": lambda: Graph.from_edges(4, [0, 1, 2, 3]),  # type: ignore[list-item]
    "root 0": lambda: Graph.from_parents([0, 1, 1], root=0),
    "bool": lambda: Graph.from_children([[], [False]]),
    "masked": lambda: Graph.from_parents(HOLED),
    "wide": lambda: Graph.from_parents([2**70]),
    "dict": lambda: Graph.from_children({0: []}),  # type: ignore[arg-type]
    "set": lambda: Graph.from_children([[], {0}]),  # type: ignore[list-item]
    "number": lambda: Graph.from_children([[], 0]),  # type: ignore[list-item]
    "length": lambda: Graph.from_sequence(True),
    "float": lambda: Graph.from_edges(2.0, []),  # type: ignore[arg-type]
    "names": lambda: Graph.from_sequence(1, {"": [1]}),
    "inputs": lambda: Graph.from_sequence(1, [1]),  # type: ignore[arg-type]
    "ids": lambda: Graph.from_children([[]], vertex_id=["a"]),  # type: ignore[list-item]
    "no graphs": lambda: batch([]),
    "a graph": lambda: batch(Graph.from_sequence(1)),  # type: ignore[arg-type]
    "no graph": lambda: batch([Graph.from_sequence(1), 3]),  # type: ignore[list-item]
    "shape": lambda: cavs.Parameter((2.5, 3)),  # type: ignore[arg-type]
    "factor": lambda: cavs.Parameter((2,), lr_mult=float("nan")),
    "class": lambda: cavs.Network(cavs.nn.TreeLSTM),  # type: ignore[arg-type]
    "rows": lambda: cavs.RowSparse(np.array([1, 1]), np.ones((2, 3))),
    "widths": lambda: Field(np.ones(3), np.ones(2)),
    "presence": lambda: Field(np.ones(2), np.array([0, 2])),
}


@pytest.mark.parametrize("name", BAD)
def test_arguments_with_another_meaning_are_refused(name: str) -> None:
    with pytest.raises(CavsError):
        BAD[name]()


def test_what_was_given_is_copied_and_what_was_made_is_read_only() -> None:
    buffer, ptr = np.ones((2, 3), np.float32), np.array([0, 0, 1], np.int32)
    child, present = np.array([0], np.int32), np.ones(2, bool)
    made = Graph.from_csr(ptr, child, {"x": buffer, "y": Field(buffer, present)})
    by_hand = Graph(ptr, child, np.array([0, 1]), np.arange(2), np.array([0, 2]), made.inputs)
    for array in (buffer, ptr, child, present):
        array[...] = 7
    graphs = [made, by_hand, batch([made, made]), *unbatch(batch([made, by_hand]))]
    graphs += [f(g) for f in (copy.copy, *COPIES.values()) for g in graphs]
    for g in graphs:
        fields = [a for f in g.inputs.values() for a in (f.values, f.present)]
        for array in (g.child_ptr, g.child, g.level, g.vertex_id, g.graph_ptr, *fields):
            assert not array.flags.writeable and 7 not in array
        with pytest.raises(TypeError):
            g.inputs["z"] = 1  # type: ignore[index]


def test_places_are_identities_of_graphs_without() -> None:
    one, named = Graph.from_sequence(2), Graph.from_children([[], []], vertex_id=[4, 5])
    assert batch([one, named, one]).vertex_id.tolist() == [-1, -2, 4, 5, -5, -6]
    nested = batch([batch([one, one]), batch([one, named])])
    assert nested.vertex_id.tolist() == [-1, -2, -3, -4, -5, -6, 4, 5]
    assert unbatch(nested)[1].vertex_id.tolist() == [-1, -2]
    assert batch(unbatch(nested)).vertex_id.tolist() == nested.vertex_id.tolist()


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_network_and_trainer_go_on_as_the_original(how: str) -> None:
    net, graph = network("tree_lstm", 0.3), random_tree(np.random.default_rng(1), 2)
    trainer = cavs.Trainer(net.parameters(), "adam", lr=0.1)

    def step(net: cavs.Network, trainer: cavs.Trainer) -> float:
        with cavs.record():
            loss = LOSS(net(graph))
        loss.backward()
        trainer.step(1)
        return float(loss)

    step(net, trainer)
    again, other = COPIES[how]((net, trainer))
    assert [step(net, trainer) for _ in range(2)] == [step(again, other) for _ in range(2)]
    for name, p in net.parameters().items():
        mine = again.parameters()[name]
        np.testing.assert_array_equal(p.data, mine.data)
        assert not np.shares_memory(p.data, mine.data) and mine.data.ctypes.data % 64 == 0


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_loss_has_everything_but_the_backward_pass(how: str) -> None:
    net, graph = network(), random_tree(np.random.default_rng(1), 2)
    with cavs.record():
        loss = LOSS(net(graph))
    again = COPIES[how](loss)
    assert (float(again), again.n_labels) == (float(loss), loss.n_labels)
    for name, values in loss.outputs.items():
        np.testing.assert_array_equal(again.outputs[name], values)
    with pytest.raises(TraceError, match="a copy of a loss has no backward pass"):
        again.backward()
    loss.backward()


def test_a_parameter_that_changed_since_the_forward_pass_is_named() -> None:
    net, graph = network(), random_tree(np.random.default_rng(1), 2)
    with cavs.record():
        loss = LOSS(net(graph))
    with net.parameters()["W"].writing() as weight:
        weight += 1
    with pytest.raises(ValueError, match="read-only"):
        weight += 1
    with pytest.raises(TraceError, match="W changed between the forward and the backward"):
        loss.backward()


@dataclass(frozen=True)
class Weighted(SoftmaxCrossEntropy):
    factors: list[float] = field(default_factory=lambda: [1.0], compare=False)

    def forward(self, v: cavs.Vertex) -> None:
        v.push("loss", v.output(self.output)[:1].sum() * self.factors[0])


def test_losses_are_told_apart_by_all_they_hold() -> None:
    assert key_of(SoftmaxCrossEntropy()) == key_of(SoftmaxCrossEntropy())
    one, two = Weighted(), Weighted(factors=[2.0])
    assert one == two and key_of(one) != key_of(two)
    one.factors[0] = 2.0
    assert key_of(one) == key_of(two) != key_of(Weighted(factors=[2]))
    recent: Recent[int] = Recent()
    for i in range(3 * KEPT):
        assert recent.get(None, lambda: -1) == -1
        assert recent.get(i, lambda i=i: i) == i  # type: ignore[misc]
    assert len(recent) == KEPT
