"""Inputs that any vertex may lack: one answer, whatever the kinds and the order of batches.

Wide kinds read zeros for what is absent. They run on both sides of the border where they begin, and
after batches that ran in specialised kinds.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.law import near, run
from helpers.random_graphs import random_dag
from tvm_cavs.compiler import widening
from tvm_cavs.graph import masks

pytestmark = pytest.mark.compiles
N_TAGS, N = 4, 5
LOSS = cavs.loss.SoftmaxCrossEntropy()


class Optional(cavs.VertexFunction):
    """Inputs of all types, each added in its own way; a table, dropout, what is there is asked."""

    def __init__(self, arity: int) -> None:
        self.arity, self.state = arity, {"h": N}
        self.E, self.T = cavs.Parameter((N_TAGS, 3)), cavs.Parameter((N_TAGS, N))
        self.W, self.X, self.V = (cavs.Parameter((m, N)) for m in (3, 2, 1))
        self.U = [cavs.Parameter((N, N)) for _ in range(arity)]
        self.b, self.O = cavs.Parameter((N,)), cavs.Parameter((N, 3))

    def forward(self, v: cavs.Vertex) -> None:
        word, tag = v.pull("word"), v.pull("tag")
        x, w = v.pull("x", 2), v.pull("w", (), "float32")
        y = v.dropout(cavs.embedding(word, self.E), 0.3) @ self.W + x @ self.X + self.b
        y = y + v.pull("v", 1) @ self.V + cavs.embedding(tag, self.T) * w
        y = y + v.present("w") * cavs.one_hot(tag, N) - cavs.equal(word, tag) * self.b
        for k, U in enumerate(self.U):
            y = y + v.gather(k).h @ U
        h = cavs.tanh(y) * (1.0 + w)
        v.scatter(h=h)
        v.push("logits", h @ self.O)


def graphs_of(rng: np.random.Generator, arity: int, n: int) -> list[cavs.Graph]:
    """Some have no word at all, some no label; a vertex has any of the other inputs."""
    made = []
    for number in range(n):
        graph = random_dag(rng, arity, int(rng.integers(1, 7)))
        size = graph.n_vertices

        def given(draw: Any, chance: float, size: int = size) -> list[Any]:
            return [draw() if rng.random() < chance else None for _ in range(size)]

        inputs = {
            "word": given(lambda: int(rng.integers(N_TAGS)), 0.6 * (number % 3 > 0)),
            "tag": given(lambda: int(rng.integers(N_TAGS)), 0.5),
            "x": given(lambda: rng.normal(size=2).astype("float32"), 0.5),
            "v": given(lambda: rng.normal(size=1).astype("float32"), 0.3),
            "w": given(lambda: float(rng.normal()), 0.5),
            "label": given(lambda: int(rng.integers(3)), 0.6 * (number % 4 > 0)),
        }
        made.append(graph.with_inputs(inputs))
    return list(cavs.data.Dataset.from_graphs(made).graphs)


class Case:
    """A network, graphs, and what the reference says of each graph alone."""

    def __init__(self, arity: int, n: int) -> None:
        self.rng = np.random.default_rng(arity)
        self.net = cavs.Network(Optional(arity))
        self.net.initialize(seed=3)
        self.net.seed(5)
        self.graphs = graphs_of(self.rng, arity, n)
        self.net.hybridize("reference")
        self.alone = [run(self.net, LOSS, g) for g in self.graphs]

    def check(self, chosen: list[int]) -> None:
        """A batch of these graphs gives what each of them gives alone."""
        got = run(self.net, LOSS, cavs.batch([self.graphs[i] for i in chosen]))
        for which in (0, 1):
            for name, value in got[which].items():
                want = np.concatenate([self.alone[i][which][name] for i in chosen])
                near(value, want, f"{name} of {len(chosen)} graphs")
        for name, value in got[2].items():
            want = np.sum([self.alone[i][2][name] for i in chosen], axis=0)
            near(value, want, f"gradient of {name}, {len(chosen)} graphs")

    def kinds(self) -> Any:
        executor: Any = self.net.executor(LOSS)
        return executor.kinds


@pytest.mark.parametrize("arity", [0, 1, 3])
def test_batch_after_batch(arity: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds are learned step by step, specialised first, then wide; slots are masked too."""
    monkeypatch.setattr(widening, "MAX_KINDS", 3)
    monkeypatch.setattr(widening, "MAX_SLOT_SETS", 2)
    case = Case(arity, 12)
    case.net.hybridize("tvm", threads=1, cache=cache)
    for chosen in ([0], [1, 2], list(range(12)), [3], list(range(9))):
        case.check(chosen)
    assert case.kinds().widening.maybe and len(case.kinds().kinds) <= 4


@pytest.mark.parametrize("room", [0, -1])
def test_on_both_sides_of_the_border(
    room: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many kinds as are allowed are all specialised; one more, and inputs become maybe."""
    case = Case(1, 4)
    pulls = ("word", "tag", "x", "w", "v", "label")
    found, _ = masks(cavs.batch(case.graphs), 1, pulls)
    n_kinds = len(np.unique(found))
    monkeypatch.setattr(widening, "MAX_KINDS", n_kinds + room)
    case.net.hybridize("tvm", threads=1, cache=cache)
    for chosen in ([0, 1], [2, 3], [0, 1]):
        case.check(chosen)
    kinds = case.kinds().kinds
    assert n_kinds > 8 and (len(kinds) == n_kinds) is (room == 0)
    assert all(bool(kind.maybe) is (room < 0) for kind in kinds)


def test_why_there_are_wide_kinds_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(widening, "MAX_KINDS", 3)
    case = Case(0, 6)
    case.net.hybridize("tvm", threads=1, cache=cache)
    with caplog.at_level(logging.INFO, "tvm_cavs"):
        case.check([0, 1, 2])
    said = [r.getMessage() for r in caplog.records]
    assert any("more than 3 kinds" in line and "read zeros where absent" in line for line in said)
    assert case.kinds().describe().splitlines()[0] in said[-1]


def test_a_row_that_no_vertex_chose_is_not_touched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent word is no row 0: an optimizer with momentum would move it."""
    monkeypatch.setattr(widening, "MAX_KINDS", 1)
    graph = cavs.Graph.from_sequence(
        4,
        {
            "word": [None, 2, None, 2],
            "tag": [1, None, None, 3],
            "label": [0, 1, None, 2],
            "x": [None, [1.0, 2.0], None, [1.0, 2.0]],
            "w": [None, 0.5, 1.5, None],
            "v": [None] * 4,
        },
    )
    net = cavs.Network(Optional(1))
    net.initialize(seed=0)
    for executor, options in (("reference", {}), ("tvm", {"threads": 1, "cache": cache})):
        net.hybridize(executor, **options)
        with cavs.record():
            loss = LOSS(net(graph))
        loss.backward()
        words = net.parameters()["E"].grad
        assert isinstance(words, cavs.RowSparse) and words.rows.tolist() == [2]


def test_kinds_left_out_and_many_inputs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without specialisation of slots the inputs are still bounded."""
    monkeypatch.setattr(widening, "MAX_KINDS", 2)
    case = Case(2, 8)
    case.net.hybridize("tvm", threads=1, cache=cache, without=("kinds",))
    case.check(list(range(8)))
    assert {kind.slots for kind in case.kinds().kinds} == {(0, 1)}
    assert len(case.kinds().kinds) <= 2
