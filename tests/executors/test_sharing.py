"""Equal vertices are computed once, and nothing else changes: outputs, gradients, resumed runs."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.law import dense, near
from helpers.random_graphs import N_CLASSES, N_WORDS, alike, random_dag, random_tree
from helpers.runs import TINY, Silent, assert_same_run, run_to_the_end
from schedules.knobs import DIRECT_VERTICES
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.errors import TraceError
from tvm_cavs.graph import sharing
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.digests import Names
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import resume, start
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.transform import programs

WORD: Names = ("word",)
TOLERANCE = 1e-5  # float32, relative to the largest element
LOSS = cavs.loss.SoftmaxCrossEntropy()


def results(net: cavs.Network, graph: Graph) -> dict[str, np.ndarray]:
    """Everything that a batch gives: outputs, loss, outputs in training, gradients."""
    found = {f"output {name}": value.copy() for name, value in net(graph).items()}
    with cavs.record():
        loss = LOSS(net(graph))
    loss.backward()
    found |= {f"training {name}": value.copy() for name, value in loss.outputs.items()}
    found |= {"loss": np.array(float(loss)), "n_labels": np.array(loss.n_labels)}
    return found | {f"gradient {name}": dense(p) for name, p in net.parameters().items()}


def network(cell: str, dropout: float = 0.0) -> cavs.Network:
    arity = 1 if cell in ("gru", "lstm") else 2
    made = CELLS[cell](
        vocab=N_WORDS, embedding=4, hidden=5, n_classes=N_CLASSES, arity=arity, dropout=dropout
    )
    net = cavs.Network(made)
    net.initialize(seed=3)
    rng = np.random.default_rng(5)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 0.5, p.shape))
    return net


def batches(arity: int) -> Iterator[Graph]:
    """Random batches of trees and DAGs, with equal subgraphs within and across examples."""
    rng = np.random.default_rng(17)
    graphs = list(Dataset.from_graphs(alike(rng, 20, arity)))
    for n in (1, 5, 20):
        yield batch([graphs[i] for i in rng.integers(0, len(graphs), n)])
    dags = [random_dag(rng, arity, 8) for _ in range(6)]
    yield batch([dags[i] for i in rng.integers(0, 6, 12)])


@pytest.mark.compiles
def test_a_batch_that_sharing_makes_small_is_prepared_as_a_small_one(cache: Path) -> None:
    """Small batches read weights where they lie, by kernels of their own."""
    graph = batch([random_tree(np.random.default_rng(2), 2, 9)] * 200)
    net = network("tree_rnn")
    net.hybridize("tvm", sharing=True, threads=1, cache=cache, records=False)
    net.prepare([graph], LOSS)
    executor: Any = net.executor(LOSS)
    loaded = executor.loaded
    run, _ = net.shared(graph, LOSS)
    assert graph.n_vertices > DIRECT_VERTICES >= run.n_vertices
    assert executor.plan(run, ahead=True).passes is loaded.direct is not None
    assert executor.loaded is loaded


@pytest.mark.compiles
@pytest.mark.parametrize("cell", ["tree_rnn", "lstm"])
def test_sharing_keeps_the_law(cell: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LEAST_GAIN", 10)  # so that small cells share by themselves
    net = network(cell)
    made = list(batches(net.function.arity))
    net.hybridize("reference", sharing=False)
    want = [results(net, graph) for graph in made]
    compiled = {"threads": 1, "cache": cache}
    choices: list[tuple[str, bool | None, dict[str, Any]]] = [
        ("reference", True, {}),
        ("tvm", True, compiled),
        ("tvm", None, compiled),
    ]
    if cell == "tree_rnn":  # of the others test_equivalence has the law without sharing
        choices.append(("tvm", False, compiled))
    for executor, choice, options in choices:
        net.hybridize(executor, sharing=choice, **options)
        for loss in (None, LOSS):
            net.prepare(made, loss)
        for number, (graph, right) in enumerate(zip(made, want, strict=True)):
            for name, value in results(net, graph).items():
                what = f"{executor}, sharing={choice}, batch {number}, {name}"
                near(value, right[name], what, TOLERANCE)
        if choice:
            assert net.last_sharing is not None and net.last_sharing.share < 0.8


@pytest.mark.compiles
def test_prepare_compiles_what_shared_batches_need(cache: Path) -> None:
    net, made = network("tree_rnn"), list(batches(2))
    net.hybridize("tvm", sharing=True, threads=1, cache=cache)
    net.prepare(made, LOSS)
    executor: Any = net.executor(LOSS)
    known = list(executor.kinds.kinds)
    for graph in made:
        with cavs.record():
            LOSS(net(graph))
    assert executor.kinds.kinds == known


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    model, executor = {"embedding": 3, "hidden": 4}, {"name": "reference", "sharing": True}
    config = RunConfig.model_validate(TINY | {"model": model, "executor": executor})
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
    whole = start(config, tmp_path / "whole")
    run_to_the_end(whole)
    assert whole.net.last_sharing is not None and whole.net.last_sharing.share < 0.9
    stop = Stop()

    def after_step(status: Any) -> None:
        if (status.epoch, status.batch) == (2, 2):
            stop.signal = signal.SIGINT

    assert fit(start(config, tmp_path / "half"), Silent(after_step), stop).interrupted
    run_to_the_end(resume(tmp_path / "half"))
    assert_same_run(tmp_path / "whole", tmp_path / "half")


@pytest.mark.parametrize("loss", [cavs.loss.SquaredError("logits", "x"), LOSS])
def test_gradients_are_those_of_the_reference_in_double(loss: Any) -> None:
    net = network("tree_lstm")
    graph = batch(alike(np.random.default_rng(1), 20))
    found = []
    for choice in (False, True):
        net.hybridize("reference", sharing=choice, dtype="float64")
        with cavs.record():
            value = loss(net(graph))
        value.backward()
        found.append([np.array(float(value)), *(dense(p) for p in net.parameters().values())])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_a_gradient_without_copies_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester is tested: counting every class once must not pass."""
    net, graph = network("tree_lstm"), batch(alike(np.random.default_rng(1), 20))
    net.hybridize("reference", sharing=False)
    want = results(net, graph)
    net.hybridize("reference", sharing=True)
    whole = sharing.with_copies
    monkeypatch.setattr("tvm_cavs.nn.network.with_copies", lambda graph, copies=None: whole(graph))
    with pytest.raises(AssertionError, match="gradient"):
        for name, value in results(net, graph).items():
            near(value, want[name], name, TOLERANCE)


def test_dropout_turns_it_off_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LEAST_GAIN", 10)
    net, graph = network("tree_lstm", dropout=0.3), batch(alike(np.random.default_rng(1), 40))
    net.hybridize("reference")
    with cavs.record():
        LOSS(net(graph))
    assert net.last_sharing is None
    net(graph)
    assert net.last_sharing is not None and net.last_sharing.shared < net.last_sharing.vertices
    net.hybridize("reference", sharing=True)
    net(graph)
    said = "^TreeLSTM . SoftmaxCrossEntropy: sharing=True, but dropout"
    with cavs.record(), pytest.raises(TraceError, match=said):
        LOSS(net(graph))


def test_off_leaves_programs_as_they_are() -> None:
    net, graph = network("tree_lstm"), random_tree(np.random.default_rng(0), 2)
    net.hybridize("reference", sharing=False)
    run, shared = net.shared(graph, LOSS)
    assert run is graph and shared is None
    with cavs.record():
        LOSS(net(graph)).backward()
    assert net.last_sharing is None and sharing.COPIES not in str(net.programs(LOSS).adjoint)


def test_the_name_of_copies_is_reserved() -> None:
    class Takes(cavs.nn.TreeLSTM):
        def forward(self, v: cavs.Vertex) -> None:
            super().forward(v)
            v.push("score", v.pull(sharing.COPIES, (), "float32"))

    net = cavs.Network(Takes(N_WORDS, 4, 5, N_CLASSES))
    with pytest.raises(TraceError, match="^Takes: the input name .* is reserved"):
        net.programs()
