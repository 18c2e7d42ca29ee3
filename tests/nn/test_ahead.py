"""Batches that are planned while others run: the same results, and what wrong use says."""

import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.random_graphs import N_CLASSES, N_WORDS, random_tree
from tvm_cavs.errors import GraphError
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn import ahead as helping
from tvm_cavs.nn import network
from tvm_cavs.row_sparse import RowSparse

pytest.importorskip("tvm")
LOSS = cavs.loss.SoftmaxCrossEntropy()


@pytest.fixture(autouse=True)
def _always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the passes of these small networks are, and however few the cores."""
    monkeypatch.setattr(network, "LONG_FORWARD", -1.0)
    monkeypatch.setattr(network.os, "cpu_count", lambda: 64)


TREES = [cavs.batch([random_tree(np.random.default_rng(s), 2, 9)]) for s in range(5)]
SHAPES: list[list[list[int | None]]] = [[[], [], [0, 1], [], [2, 3]], [[], [], [0, 1]]]
WORDS = [[0, k, None, 1, None][: 5 - 2 * (k % 2)] for k in range(4)]
GRAPHS = [
    Graph.from_children(SHAPES[k % 2], {"word": words, "label": [0] * len(words)})
    for k, words in enumerate(WORDS)
]


def compiled(cache: Path, everything: bool = True) -> cavs.Network:
    """A network; prepared for all graphs of this file at once, whose kernels all tests share."""
    net = cavs.Network(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES))
    net.initialize(seed=2)
    net.hybridize("tvm", threads=1, cache=cache)
    for loss in (None, LOSS) if everything else ():
        net.prepare([*TREES, *GRAPHS], loss)
    return net


def test_batches_planned_ahead_train_alike(cache: Path) -> None:
    """The same losses and parameters, bit for bit, with kinds that are new in the middle."""
    rng = np.random.default_rng(5)
    batches = [cavs.batch([TREES[i] for i in rng.permutation(5)[:4]]) for _ in range(5)]
    inputs = {"word": [1, 2, 3], "label": [0, 1, 2]}
    batches.append(Graph.from_children([[], [0], [1]], inputs))
    batches += batches[:3]
    results = []
    for ahead in (False, True):
        net = compiled(cache)
        trainer, losses = cavs.Trainer(net.parameters(), "adagrad", lr=0.1), []
        for graph in net.ahead(batches, LOSS) if ahead else batches:
            with cavs.record():
                loss = LOSS(net(graph))
            loss.backward()
            trainer.step(graph.n_graphs)
            losses.append(float(loss))
            net(graph)  # another executor of the same network, and the same one with another batch
            with cavs.record():
                LOSS(net(batches[0]))
        results.append((losses, [p.data.copy() for p in net.parameters().values()]))
    assert results[0][0] == results[1][0] and len(set(results[0][0])) > 5
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_that_does_not_fit_stops_the_loop_when_its_turn_comes(cache: Path) -> None:
    net = compiled(cache)
    good = TREES[0]
    bad = Graph.from_children([[]], {"label": [0]})
    seen = []
    with pytest.raises(GraphError, match="pulls 'word', which the graph does not have"):
        for graph in net.ahead([good, good, bad, good]):
            seen.append(net(graph)["logits"].copy())
    assert len(seen) == 2 and list(net.ahead([])) == []


def test_another_graph_inside_the_loop(cache: Path) -> None:
    """And the same one for something else: what was planned is for one graph and one executor."""
    net = compiled(cache)
    want = [net(graph)["logits"].copy() for graph in GRAPHS]
    for number, _ in enumerate(net.ahead(GRAPHS)):
        other = (number + 1) % 4
        np.testing.assert_array_equal(net(GRAPHS[other])["logits"], want[other])
    for number, graph in enumerate(net.ahead(GRAPHS, LOSS)):
        np.testing.assert_array_equal(net(graph)["logits"], want[number])


def test_a_loss_can_wait_while_batches_are_taken(cache: Path) -> None:
    """What was planned for a batch stays until its backward pass is done."""
    found = []
    for n_taken in (0, 3):
        net = compiled(cache)
        taken: Any = net.ahead(TREES, LOSS)
        with cavs.record():
            loss = LOSS(net(next(taken)))
        for _ in range(n_taken):
            next(taken)
        loss.backward()
        found.append({name: gradient(p) for name, p in net.parameters().items()})
        taken.close()
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)


def gradient(p: Any) -> np.ndarray:
    rows = isinstance(p.grad, RowSparse)
    return np.copy(p.grad.values if rows else p.grad)


def test_preparing_between_the_passes_changes_nothing(cache: Path) -> None:
    net = compiled(cache, everything=False)
    alone = Graph.from_children([[]], {"word": [1], "label": [0]})
    found = []
    for more in (False, True):
        with cavs.record():
            loss = LOSS(net(alone))
        if more:
            net.prepare([Graph.from_children([[], [0]], {"word": [1, 2], "label": [0, 1]})], LOSS)
        loss.backward()
        found.append({name: gradient(p) for name, p in net.parameters().items()})
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)


def test_where_it_would_lose_the_loop_plans_by_itself(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short passes, or no core to spare."""
    for name, value in (("LONG_FORWARD", 60.0), ("os", SimpleNamespace(cpu_count=lambda: 1))):
        with monkeypatch.context() as patch:
            patch.setattr(network, name, value)
            patch.setattr(helping.Helper, "begin", lambda *_: pytest.fail("not by itself"))
            net = compiled(cache)
            assert len([net(graph) for graph in net.ahead(TREES)]) == 5


def test_a_loader_that_hangs_does_not_hold_up_an_interruption(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "PATIENCE", 0.01)
    hangs, go = threading.Event(), threading.Event()

    def loader() -> Iterator[Graph]:
        yield from TREES[:2]
        hangs.set()
        go.wait()

    net = compiled(cache)
    taken: Any = net.ahead(loader())
    for _ in range(2):
        net(next(taken))
    assert hangs.wait(60)
    with pytest.raises(KeyboardInterrupt):
        taken.throw(KeyboardInterrupt)
    waits = [thread for thread in threading.enumerate() if thread.name == "tvm_cavs-ahead"]
    assert waits and all(thread.daemon for thread in waits), "nor the end of the program"
    go.set()


def test_a_helper_ends_with_what_it_is_doing_and_holds_nothing_that_it_has_done() -> None:
    class Thing:
        pass

    thing, gone, done = Thing(), threading.Event(), []
    weakref.finalize(thing, gone.set)

    def slow() -> None:
        time.sleep(0.05)
        done.append(1)

    with helping.Helper("tvm_cavs-once") as helper:
        helper.begin(partial(id, thing))
        helper.result()
        del thing
        assert gone.wait(5), "though there is nothing else to do"
        helper.begin(slow)
    assert done == [1]
    assert not [thread for thread in threading.enumerate() if thread.name == "tvm_cavs-once"]
