"""A profile counts every call, row and product of a step, and changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.random_graphs import N_CLASSES, N_WORDS, random_chain, random_tree

pytest.importorskip("tvm")

import tvm_cavs as cavs
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.kind import Kind
from tvm_cavs.profiling import occupancy, profiler
from tvm_cavs.profiling.occupancy import Level
from tvm_cavs.profiling.profiler import profile
from tvm_cavs.profiling.report import PRODUCTS, REST, Profile
from tvm_cavs.profiling.tape import Span
from tvm_cavs.runs import runlog
from tvm_cavs.runs.display import Plain
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import start
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.training.trainer import Trainer

LOSS = cavs.loss.SoftmaxCrossEntropy()


def network(cache: Path) -> cavs.Network:
    net = cavs.Network(cavs.nn.TreeLSTM(N_WORDS, 4, 5, N_CLASSES))
    net.initialize(seed=2)
    net.hybridize("tvm", sharing=False, threads=1, cache=cache)
    return net


def some_trees() -> list[Graph]:
    rng = np.random.default_rng(4)
    return [random_tree(rng, 2) for _ in range(5)]


@pytest.fixture(scope="module")
def trained(cache: Path) -> tuple[Profile, cavs.Network, Trainer, dict[str, np.ndarray]]:
    """A profile of a training step with Adagrad, and the parameters from before."""
    net = network(cache)
    trainer = Trainer(net.parameters(), "adagrad", lr=0.1)
    with cavs.record():
        loss = LOSS(net(cavs.batch(some_trees())))
    loss.backward()
    trainer.step(5)
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    before |= {f"state {name}": a.copy() for name, a in trainer.state().items()}
    return (
        profile(net, some_trees(), LOSS, trainer, repeats=2, gflop_per_s=50.0),
        net,
        trainer,
        before,
    )


@pytest.mark.compiles
def test_nothing_is_changed(trained) -> None:  # type: ignore[no-untyped-def]
    _, net, trainer, before = trained
    after = {name: p.data for name, p in net.parameters().items()}
    after |= {f"state {name}": a for name, a in trainer.state().items()}
    assert after.keys() == before.keys() and net.step == 1
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert net.observer is None and net.executor(LOSS).observer is None


@pytest.mark.compiles
def test_nothing_is_changed_where_a_step_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third one does, when two have changed parameters and the optimizer's state."""
    net = network(cache)
    trainer = Trainer(net.parameters(), "adagrad", lr=0.1)
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    state, step, done = trainer.state(), net.step, list[int]()
    state = {name: np.array(a) for name, a in state.items()}

    def failing(n: int) -> float:
        done.append(n)
        if len(done) == 3:
            raise RuntimeError("the third step")
        return Trainer.step(trainer, n)

    monkeypatch.setattr(trainer, "step", failing)
    with pytest.raises(RuntimeError, match="the third step"):
        profile(net, some_trees(), LOSS, trainer, repeats=2)
    for name, p in net.parameters().items():
        np.testing.assert_array_equal(p.data, before[name])
    for name, a in trainer.state().items():
        np.testing.assert_array_equal(a, state[name])
    assert net.step == step


def test_every_call_row_and_product_is_counted(trained) -> None:  # type: ignore[no-untyped-def]
    found, net, _, _ = trained
    graph = cavs.batch(some_trees())
    executor = net.executor(LOSS)
    planned = executor.plan(graph)
    executor.run(planned, Seeds())
    seen, parts = executor.workspace.seen_by(planned), map(planned.parts, ("forward", "backward"))
    calls = [c for each in parts for c in planned.passes.calls(each, seen, planned.replaced)]
    assert [k.rows for k in found.kernels] == [given[0] for _, given in calls]
    assert sum(line.calls for line in found.lines) == len(calls)
    assert all(line.seconds > 0 and line.rows > 0 for line in found.lines)
    leaves = int(np.sum(graph.level == 0))
    words = [x for x in found.lines if x.note == "4 x 15" and x.direction == "forward"]
    assert sum(x.rows for x in words) == leaves  # in two kinds: with a label, without
    assert sum(x.flop for x in words) == leaves * 2 * 4 * 15


@pytest.mark.compiles
def test_levels_are_those_of_the_graphs(trained) -> None:  # type: ignore[no-untyped-def]
    levels, graph = trained[0].levels, cavs.batch(some_trees())
    assert [n.vertices for n in levels] == np.bincount(graph.level).tolist()
    tops = [max(g.level) for g in some_trees()]
    assert [n.graphs for n in levels] == [sum(t >= k for t in tops) for k in range(len(levels))]
    assert levels[0].calls == 0 and all(n.calls >= 1 for n in levels[1:])
    forward = [k for k in trained[0].kernels if trained[0].lines[k.line].direction == "forward"]
    products = [k for k in forward if trained[0].lines[k.line].kernel == "product"]
    for n in levels[1:]:
        assert n.calls == sum(k.level == n.number for k in products)


@pytest.mark.compiles
def test_the_summary_adds_up_to_the_step(trained) -> None:  # type: ignore[no-untyped-def]
    found = trained[0]
    lines = found.summary().splitlines()
    assert lines[0] == "a training step: 5 graphs, 5 levels, vertices: 35"
    rows = {line[34:].strip(): float(line[:9]) for line in lines[2:-1]}
    step = rows.pop("the step, timed as a whole")
    assert sum(rows.values()) == pytest.approx(step, abs=0.001 * len(rows))
    parts = {
        "planning",
        "packing weights",
        "outputs",
        "gradient assembly, sums of word rows",
    }
    parts |= {
        "update",
        "finding equal vertices",
        "putting the batch together",
        REST,
        *PRODUCTS.values(),
    }
    assert rows.keys() == parts - {PRODUCTS["column_sum"]} | rows.keys() & {PRODUCTS["column_sum"]}
    gflop = sum(line.flop for line in found.lines) / 1e9
    share = gflop / 50.0 / found.step_seconds
    assert lines[-1].strip().startswith(f"{share:.1%} of the floor: {gflop:.4g} GFLOP")
    assert max(map(len, str(found).splitlines())) <= 80


@pytest.mark.compiles
def test_inference_has_no_backward_pass(cache: Path) -> None:
    found = profile(network(cache), some_trees(), repeats=1)
    assert found.title == "inference: 5 graphs, 5 levels, vertices: 35"
    assert {line.direction for line in found.lines} == {"forward"}
    assert "gradient assembly" not in found.summary() and "update" not in found.phases
    assert "of the floor" not in found.summary()
    assert {"param.E", "state.h", "child.0"} <= found.memory.keys()


@pytest.mark.compiles
def test_a_step_is_timed_between_warm_ones_and_one_that_is_recorded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts steps."""
    n_steps, whole_step = 0, profiler._whole_step

    def counted(*given: Any) -> Callable[..., None]:
        run = whole_step(*given)

        def step(*parts: Any) -> None:
            nonlocal n_steps
            n_steps += 1
            run(*parts)

        return step

    monkeypatch.setattr(profiler, "_whole_step", counted)
    found = profile(network(cache), some_trees(), repeats=2, now=lambda: float(n_steps))
    assert found.step_seconds == 1.0 and n_steps == 1 + 2 * (profiler.WARM_UP + 2)


@pytest.mark.compiles
def test_the_step_that_is_shown_is_of_median_length(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, record = iter((300.0, 100.0, 200.0)), profiler._record

    def longer(*given: Any) -> profiler.Recording:
        made = record(*given)
        made.around.spans.append(Span(profiler.STEP, 0.0, next(lengths)))
        return made

    monkeypatch.setattr(profiler, "_record", longer)
    times = iter((0.0, 3.0, 10.0, 15.0, 20.0, 24.0))
    found = profile(network(cache), some_trees(), repeats=3, now=lambda: next(times))
    assert found.spans[-1].end == 200.0
    assert found.step_seconds == 4.0  # the median of the steps that are not recorded


def level(number: int, vertices: int, graphs: int, calls: int = 1, *kinds: Kind) -> Level:
    return Level(number, vertices, graphs, calls, kinds or (Kind((0, 1), ("label",)),))


def test_why_levels_are_small() -> None:
    label, silent, odd = Kind((0, 1), ("label",)), Kind((0, 1), ()), Kind((1,), ("label",))
    found = [
        level(0, 40, 4, 0),
        level(1, 16, 4),
        level(2, 12, 4, 2, label, silent),
        level(3, 9, 4, 2, silent, label),
        level(4, 5, 3, 2, odd, label),
        level(5, 2, 2),
        level(6, 1, 1),
    ]
    rows = [line.split("  ")[-1] for line in occupancy.table(found)[1:]]
    assert rows == [
        "no child to wait for: at once",
        "these graphs have no more",
        "label differ",
        "children differ; others are lower",
        "others are lower",
    ]
    assert [len(run) for run in occupancy.runs(found)] == [1, 1, 2, 1, 2]


def test_a_long_chain_takes_few_lines() -> None:
    chain = [level(0, 8, 8, 0), *(level(k, 8, 8) for k in range(1, 300))]
    text = occupancy.table(chain)
    assert len(text) == 3 and text[2].split()[:3] == ["1-299", "8", "1"]


def config(folder: Path, **given: object) -> RunConfig:
    tiny = {
        "data": {"name": "listops", "n_train": 18, "n_dev": 4, "n_test": 4, "max_tokens": 9},
        "model": {"embedding": 3, "hidden": 4, "dropout": 0.2},
        "train": {"batch_size": 3, "epochs": 2, "optimizer": "adam", "lr": 0.01},
        "executor": {"threads": 1},
    }
    return RunConfig.model_validate(tiny | given)


@pytest.mark.compiles
def test_a_profiled_run_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    ends = []
    for name, given in (("plain", False), ("profiled", True)):
        run = start(config(tmp_path, profile=given), runlog.new_folder(tmp_path / name))
        fit(run, Plain(Console()), Stop())
        losses = [e["train_loss"] for e in runlog.read_events(run.folder) if e["event"] == "epoch"]
        ends.append((losses, {k: p.data.copy() for k, p in run.net.parameters().items()}))
    assert ends[0][0] == ends[1][0] and len(ends[0][0]) == 2
    for name, array in ends[0][1].items():
        np.testing.assert_array_equal(array, ends[1][1][name], err_msg=name)
    plain, folder = tmp_path / "plain", tmp_path / "profiled"
    extra = {p.name for p in folder.iterdir()} - {p.name for p in plain.iterdir()}
    assert extra == {"profile.txt", "trace.json"}
    text = (folder / "profile.txt").read_text(encoding="utf-8")
    assert text.startswith("a training step: 3 graphs,") and text.endswith("\n")
    assert json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert text.splitlines()[3] in capsys.readouterr().out


def test_only_kernels_can_be_profiled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="executor reference has no kernels to time"):
        config(tmp_path, profile=True, executor={"name": "reference"})


@pytest.mark.compiles
def test_chains_are_profiled_too(cache: Path) -> None:
    rng = np.random.default_rng(0)
    net = cavs.Network(cavs.nn.CELLS["lstm"](N_WORDS, 3, 4, N_CLASSES))
    net.initialize(seed=1)
    net.hybridize("tvm", threads=1, cache=cache)
    found = profile(net, [random_chain(rng, n) for n in (3, 6)], LOSS, repeats=1)
    assert [n.graphs for n in found.levels] == [2, 2, 2, 1, 1, 1]


@pytest.mark.compiles
def test_equal_vertices_run_once_and_all_graphs_count(cache: Path) -> None:
    net = network(cache)
    net.hybridize("tvm", sharing=True, threads=1, cache=cache)
    tree = some_trees()[0]
    found = profile(net, [tree] * 3, LOSS, repeats=1)
    assert (
        f"vertices: {3 * tree.n_vertices}, {sum(n.vertices for n in found.levels)} of which "
        in (found.summary())
    )
    assert sum(n.vertices for n in found.levels) <= tree.n_vertices
    assert found.levels[0].graphs == 3
    assert found.phases["finding equal vertices"] > 0
