"""Cells against the equations of their papers, in NumPy."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.gradient_check import initialized
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.arguments import shown
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.program import Program
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network

States = Sequence[tuple[np.ndarray, np.ndarray]]  # h and c of every child


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def state(
    name: str, p: Mapping[str, np.ndarray], x: np.ndarray, below: States
) -> tuple[np.ndarray, np.ndarray]:
    """h and c of a vertex with the word vector x; c is h where a cell has none."""
    hs = [h for h, _ in below]
    h = np.concatenate(hs)
    gates = x @ p["W"] + h @ p["U"] + p["b"]
    if name in ("tree_rnn", "tree_fc"):
        out = np.tanh(gates) if name == "tree_rnn" else np.maximum(gates, 0)
        return out, out
    if name in ("tree_gru", "gru"):
        z, *resets = np.split(sigmoid(gates), 1 + len(below))
        new = np.tanh(x @ p["Wn"] + (np.concatenate(resets) * h) @ p["Un"] + p["bn"])
        out = z * np.sum(hs, axis=0) + (1 - z) * new
        return out, out
    i, o, u, *forget = np.split(gates, 3 + len(below))
    cs = [c for _, c in below]
    kept = np.sum([sigmoid(f) * c for f, c in zip(forget, cs, strict=True)], axis=0)
    c = sigmoid(i) * np.tanh(u) + kept
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("arity", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CELLS)
def test_a_vertex_does_what_the_equations_say(name: str, arity: int) -> None:
    """Leaves with different words below one vertex that has all of them."""
    net = initialized(Network(CELLS[name](N_WORDS, 3, 4, N_CLASSES, arity=arity)), 2)
    net.hybridize("reference", dtype="float64")
    n = net.function.arity
    leaves: list[list[int]] = [[] for _ in range(n)]
    graph = Graph.from_children([*leaves, list(range(n))], {"word": list(range(n + 1))})
    found = net(graph)["logits"]
    p = {key: parameter.data.astype("float64") for key, parameter in net.parameters().items()}
    nothing = [(np.zeros(4), np.zeros(4))] * n
    states = [state(name, p, p["E"][k], nothing) for k in range(n)]
    states.append(state(name, p, p["E"][n], states))
    want = np.array([h for h, _ in states]) @ p["V"] + p["d"]
    np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_words_and_what_is_classified_are_dropped_in_training(name: str) -> None:
    net = Network(CELLS[name](N_WORDS, 3, 4, N_CLASSES, dropout=0.25))
    assert not list(net.programs().forward.select("dropout"))
    program = net.programs(SoftmaxCrossEntropy()).forward
    found = dict(program.select("dropout"))
    assert [c["rate"] for c in found.values()] == [0.25, 0.25]
    (word,) = (c for c in found.values() if program.calls[c.args[0]].op == "embedding")
    (h,) = (c for c in found.values() if c is not word)
    assert is_published(program, h.args[0]) and {word["site"], h["site"]} == {0, 1}
    classified = [c for _, c in program.select("matmul") if c.args[0] in found]
    weights = [program.calls[c.args[1]]["name"] for c in classified]
    assert "V" in weights and set(weights) <= {"V", "W", "Wn"} and len(weights) > 1


def is_published(program: Program, i: int) -> bool:
    return any(c.args[0] == i and c["field"] == "h" for _, c in program.select("scatter"))


SIZES = {"vocab": N_WORDS, "embedding": 3, "hidden": 4, "n_classes": N_CLASSES}
NO_COUNTS = [0, -1, 2.5, "4", None, True, [4], float("nan"), 2**62]
NO_RATES = [1, -0.1, 1.5, "0.5", None, True, float("nan")]


@pytest.mark.parametrize("name", CELLS)
def test_what_is_no_size_and_no_rate_is_refused_by_name(name: str) -> None:
    called = CELLS[name].__name__
    is_chain = CELLS[name](**SIZES, arity=3).arity == 1  # whatever is given
    assert is_chain == (name in ("lstm", "gru"))
    for what in (*SIZES, *([] if is_chain else ["arity"])):
        assert CELLS[name](**{**SIZES, what: 1})
        for bad in NO_COUNTS:
            with pytest.raises(cavs.ConfigError) as error:
                CELLS[name](**{**SIZES, what: bad})
            assert str(error.value) == (
                f"{called}({what}=...): expected a whole number from 1 to 2147483647, "
                f"given {shown(bad)}"
            )
    for rate in (0, 0.0, 0.5, 0.999):
        assert CELLS[name](**SIZES, dropout=rate)
    for bad in NO_RATES:
        with pytest.raises(cavs.ConfigError) as error:
            CELLS[name](**SIZES, dropout=bad)
        assert str(error.value) == (
            f"{called}(dropout=...): expected a finite number of 0 or more and below 1, "
            f"given {shown(bad)}"
        )


@pytest.mark.parametrize("name", CELLS)
def test_parameters_have_the_sizes_that_were_given(name: str) -> None:
    """Each size is another prime number, so that none can stand for another."""
    cell = CELLS[name](11, 5, 7, 3, arity=2)
    shapes = {key: p.shape for key, p in Network(cell).parameters().items()}
    assert shapes["E"] == (11, 5) and shapes["V"] == (7, 3) and shapes["d"] == (3,)
    assert shapes["W"][0] == 5 and shapes["U"][0] == 7 * cell.arity
    assert set(cell.state.values()) == {7}
    width = shapes["b"][0]
    assert shapes["W"][1] == shapes["U"][1] == width and width % 7 == 0
    for key, first in (("Wn", 5), ("Un", 7 * cell.arity)):
        assert shapes.get(key, (first, 7)) == (first, 7)


def test_the_table_has_every_cell() -> None:
    made = {c for c in vars(cavs.nn).values() if isinstance(c, type) and c.__name__ != "Cell"}
    assert {c for c in made if issubclass(c, cavs.nn.Cell)} == set(CELLS.values())


@pytest.mark.parametrize("name", CELLS)
def test_gates_that_lie_side_by_side_are_drawn_each_for_itself(name: str) -> None:
    """As wide as a matrix of one gate, however many there are."""
    net = Network(CELLS[name](11, 5, 7, 3))
    net.initialize(seed=1)
    for key in ("W", "U", "Wn", "Un"):
        if key in net.parameters():
            w = net.parameters()[key].data
            bound = (6 / (len(w) + 7)) ** 0.5
            assert 0.85 * bound < np.abs(w).max() <= bound


@pytest.mark.parametrize("name", CELLS)
def test_words_begin_small_biases_at_zero_and_the_classifier_wide(name: str) -> None:
    net = Network(CELLS[name](500, 5, 70, 30))
    net.initialize(seed=1)
    data = {key: p.data for key, p in net.parameters().items()}
    assert 0.049 < np.abs(data["E"]).max() <= 0.05
    bound = (6 / (70 + 30)) ** 0.5
    assert 0.98 * bound < np.abs(data["V"]).max() <= bound
    biases = data.keys() & {"b", "bn", "d"}
    assert {"b", "d"} <= biases and not any(data[key].any() for key in biases)
