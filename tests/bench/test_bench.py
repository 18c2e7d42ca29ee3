"""The benchmark measures what it says: arithmetic, medians, a fair product to compare with."""

import itertools
import json
import os
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.paths import ROOT
from tvm_cavs.bench import names
from tvm_cavs.bench.arithmetic import product_flop, rows_of_kinds, tree_lstm_flop
from tvm_cavs.bench.measure import Case, Times, measure, parts_of, round_of, summarise
from tvm_cavs.bench.sgemm import CLOCKS, Sgemm, environment
from tvm_cavs.bench.table import table
from tvm_cavs.bench.workloads import (
    N_CLASSES,
    WORKLOADS,
    complete_trees,
    random_sequences,
    random_trees,
)
from tvm_cavs.cli.bench_cases import cases
from tvm_cavs.cli.bench_options import parse
from tvm_cavs.compiler import widening
from tvm_cavs.compiler.kinds import Kinds
from tvm_cavs.errors import BenchError, DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.kind import masks
from tvm_cavs.graph.sharing import share
from tvm_cavs.nn.loss import SoftmaxCrossEntropy

measuring = sys.modules["tvm_cavs.bench.measure"]  # the package has a function of this name


def test_the_names_that_can_be_given_are_those_there_are():
    assert names.WORKLOADS == tuple(WORKLOADS) and names.CLOCKS == tuple(CLOCKS)


@pytest.mark.parametrize(
    ("arguments", "own", "expected"), [("--embedding 7", 9, 7), ("", 9, 9), ("", None, 5)]
)
def test_the_width_of_a_word_is_the_users_or_the_workloads(arguments, own, expected):
    given = parse([*arguments.split(), "--hidden", "5", "--batch", "2", "--mode", "infer"])
    workload = SimpleNamespace(hidden=(3,), batch=(1,), embedding=own)
    (case,) = cases(given, workload)
    assert (case.hidden, case.embedding, case.batch) == (5, expected, 2)


def test_random_trees_are_binary_and_as_long_as_sentences():
    data = random_trees(400)
    forest = batch(data.graphs)
    slots = np.diff(forest.child_ptr)
    n_leaves = np.array([np.count_nonzero(graph.level == 0) for graph in data])
    assert set(slots.tolist()) == {0, 2}
    assert 2 <= n_leaves.min() and n_leaves.max() <= 52 and 18 < n_leaves.mean() < 21
    assert np.array_equal(forest.inputs["word"].present, slots == 0)
    assert forest.inputs["label"].present.all()
    again = batch(random_trees(400).graphs)
    assert np.array_equal(again.child, forest.child)
    assert np.array_equal(again.inputs["word"].values, forest.inputs["word"].values)


@pytest.mark.parametrize(("embedding", "hidden"), [(256, 256), (300, 150), (8, 8)])
def test_what_is_lowered_is_the_arithmetic_of_the_formula(embedding, hidden):
    workload = WORKLOADS["treelstm"](None)
    graph = batch(workload.data.graphs[:16])
    programs = workload.network(hidden, embedding).programs(SoftmaxCrossEntropy())
    kinds = Kinds(programs, ("word", "label"))
    kinds.learn(np.unique(masks(graph, programs.arity, kinds.pulls)[0]))
    rows = rows_of_kinds(kinds, graph)
    forward = tree_lstm_flop(graph, embedding, hidden, N_CLASSES)
    assert rows.sum() == graph.n_vertices
    assert product_flop(kinds.forward, rows) == forward
    assert product_flop(kinds.backward, rows) == 2 * forward


def test_vertices_of_one_kind_count_together_whatever_they_have(monkeypatch):
    """Past the most kinds, inputs are read and masked: vertices with other masks are of one."""
    monkeypatch.setattr(widening, "MAX_KINDS", 1)
    workload = WORKLOADS["treelstm"](None)
    graph = batch(workload.data.graphs[:16])
    programs = workload.network(4, 3).programs(SoftmaxCrossEntropy())
    kinds = Kinds(programs, ("word", "label"))
    bits = np.unique(masks(graph, programs.arity, kinds.pulls)[0])
    kinds.learn([*bits, bits[0] & ~(1 << programs.arity)])  # a leaf without a word
    given, some = graph.inputs["word"], np.arange(graph.n_vertices) % 3 > 0
    word = Field(given.values, given.present & some)
    rows = rows_of_kinds(kinds, graph.with_inputs({**graph.inputs, "word": word}))
    assert kinds.maybe and rows.sum() == graph.n_vertices


def test_the_formula_counts_a_tree_of_three_vertices():
    graph = next(g for g in random_trees(400) if g.n_vertices == 3)
    leaf, inner, head = 4 * 3 * 7, 2 * 7 * 5 * 7, 7 * 5
    assert tree_lstm_flop(graph, embedding=4, hidden=7, n_classes=5) == 2 * (
        2 * leaf + inner + 3 * head
    )


def test_times_are_medians_over_rounds_and_means_over_batches():
    steady = [Times(plan=1.0, forward=2.0)] * 2 + [Times(plan=1.0, forward=50.0)]
    slower = [Times(plan=3.0, forward=4.0, update=1.0)]
    case = Case(hidden=4, embedding=4, batch=2, mode="train", threads=1)
    of = {"flop": 11e9, "gflop_per_s": 4.0}
    clocks = [steady, slower * 3]
    result = summarise("made up", case, clocks, **of, speeds=[2.0, 2.5, 1.0])
    assert result.ms_per_batch == pytest.approx(1e3 * (3 + 8) / 2)
    assert result.plan_ms == pytest.approx(2e3)
    assert result.samples_per_s == pytest.approx(2 / 5.5)
    assert result.share_of_floor == pytest.approx(11 / 4 / 5.5)
    assert result.share_in_pairs == pytest.approx(11 / 2.5 / 5.5)  # rounds: 1.0, 0.8, 0.37
    case = replace(case, overlap=True)
    ahead = summarise("made up", case, [steady], **of, speeds=[4.0] * 3)
    assert ahead.plan_ms is None and ahead.row()["plan_ms"] is None and ahead.overlap


def test_batches_are_whole_and_at_most_64():
    workload = WORKLOADS["treelstm"](None)
    assert [len(parts_of(workload, size)) for size in (1, 16, 64, 256)] == [64, 16, 4, 1]
    with pytest.raises(DataError, match="257 graphs: workload treelstm has 256"):
        parts_of(workload, 257)


def test_the_product_runs_with_our_threads_and_on_this_cpu():
    given = {"PATH": "/bin", "OPENBLAS_CORETYPE": "Prescott", "OMP_NUM_THREADS": "7"}
    found = environment(2, given)
    assert found["PATH"] == "/bin" and "OPENBLAS_CORETYPE" not in found
    assert {found[k] for k in found if k.endswith("_NUM_THREADS")} == {"2"}


def test_unfit_data_is_refused():
    with pytest.raises(DataError, match="needs --data PATH"):
        WORKLOADS["sst"](None)
    with pytest.raises(DataError, match="absent.txt cannot be read"):
        WORKLOADS["sst"](Path("absent.txt"))
    with pytest.raises(DataError, match="takes no data"):
        WORKLOADS["treelstm"](Path("x"))


@pytest.mark.compiles
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_small_case_is_measured(mode):
    workload = WORKLOADS["treelstm"](None)
    case = Case(hidden=4, embedding=4, batch=128, mode=mode, threads=1, clock="cpu")
    with Sgemm(1, "cpu") as sgemm:
        result = measure(workload, case, 1, sgemm)
    flop = [tree_lstm_flop(batch(part), 4, 4, N_CLASSES) for part in parts_of(workload, 128)]
    assert result.product_gflop == pytest.approx(
        np.mean(flop) / 1e9 * (3 if mode == "train" else 1)
    )
    parts = (result.batch_ms, result.plan_ms, result.forward_ms)
    assert min(parts) > 0 and sum(parts) <= 1.5 * result.ms_per_batch
    assert (result.backward_ms > 0) == (result.update_ms > 0) == (mode == "train")
    assert result.sgemm_gflop_per_s == sgemm.best > 1


def test_warming_up_goes_through_the_batches_until_its_time_is_over(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    for seconds, n_steps in ((0.0, 1), (3.5, 4)):
        monkeypatch.setattr(measuring, "WARM_SECONDS", seconds)
        seen = []
        measuring.warm_up(seen.append, ["a", "b", "c"])
        assert seen == list("abca")[:n_steps]


@pytest.mark.compiles
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_with_overlap_another_thread_plans_and_the_wait_counts(mode, monkeypatch):
    workload = WORKLOADS["treelstm"](None)
    case = Case(hidden=4, embedding=4, batch=64, mode=mode, threads=1, overlap=True)
    net, parts = workload.network(4, 4), parts_of(workload, 64)
    net.hybridize("tvm", sharing=False, threads=1)
    executor = net.executor(SoftmaxCrossEntropy() if mode == "train" else None)
    seconds = [0.0]
    monkeypatch.setattr("tvm_cavs.nn.network.LONG_FORWARD", -1.0)  # however short a pass is
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setitem(CLOCKS, "wall", lambda: seconds[0])
    monkeypatch.setattr(measuring, "WARM_SECONDS", 0.0)
    run = round_of(net, workload, case, parts)
    run()  # compiles
    plan, main, where = executor.plan, threading.get_ident(), []

    def slow(graph, *given):
        seconds[0] += 1
        where.append((graph.n_vertices, threading.get_ident() != main))
        return plan(graph, *given)

    monkeypatch.setattr(executor, "plan", slow)
    found = run()
    sizes = [batch(part).n_vertices for part in [parts[0], *parts, parts[0]]]
    # One to warm up; then each once, the first in line, and one that is not run.
    assert where == [(sizes[0], False), *((size, k > 0) for k, size in enumerate(sizes))]
    assert len(found) == len(parts) and all(times.plan == 0 for times in found)
    passed = sum(times.total for times in found)
    assert len(parts) - 1 <= passed <= len(parts) + 1  # when the first and the last are planned


@pytest.mark.compiles
def test_a_case_is_measured_with_overlap():
    workload = WORKLOADS["treelstm"](None)
    case = Case(hidden=4, embedding=4, batch=128, mode="infer", threads=1, overlap=True)
    with Sgemm(1) as sgemm:
        result = measure(workload, case, 1, sgemm)
        with pytest.raises(BenchError, match='CPU time adds up what all threads do; give clock="w'):
            measure(workload, replace(case, clock="cpu"), 1, sgemm)
    assert result.plan_ms is None and result.batch_ms > 0
    parts = result.batch_ms + result.forward_ms
    assert 0.5 * result.ms_per_batch < parts < 1.5 * result.ms_per_batch


def script(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/bench.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.compiles
def test_the_script_prints_one_json_object_a_case():
    done = script("--hidden", "4", "--batch", "64", "256", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["batch"], row["workload"], row["mode"]) for row in rows] == [
        (64, "treelstm", "train"),
        (256, "treelstm", "train"),
    ]
    wanted = {"hidden", "threads", "ms_per_batch", "samples_per_s", "plan_ms", "product_gflop"}
    assert wanted | {"sgemm_gflop_per_s", "share_of_floor"} <= set(rows[0])


def test_the_script_says_what_is_wrong():
    done = script("--workload", "sst")
    assert done.returncode == 1 and "error: workload sst needs --data PATH" in done.stderr


def test_cpu_time_is_for_one_thread(capsys):
    parse = runpy.run_path(str(ROOT / "scripts" / "bench.py"))["parse"]
    with pytest.raises(SystemExit):
        parse(["--clock", "cpu", "--threads", "2"])
    assert "use it with --threads 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlap", "--clock", "cpu"], "--clock cpu cannot tell; use --clock wall"),
        (["--ablate", "overlap", "--clock", "cpu"], "--clock cpu cannot tell; use --clock wall"),
        (["--overlap", "--profile"], "--peers and --profile run one batch after the other"),
        (["--overlap", "--peers", "torch"], "--peers and --profile run one batch after the other"),
        (["--overlap", "--ablate"], "--ablate has it in the full time already"),
    ],
)
def test_overlap_is_told_by_wall_time_and_no_other_system(arguments, message, capsys):
    parse = runpy.run_path(str(ROOT / "scripts" / "bench.py"))["parse"]
    with pytest.raises(SystemExit):
        parse(arguments)
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert parse(["--overlap"]).overlap and not parse([]).overlap


ONE_OR_MORE = "--hidden, --embedding, --batch, --threads and --rounds are 1 or more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *((f"--{name} 0", ONE_OR_MORE) for name in ("embedding", "threads", "rounds")),
        *((f"--{name} 4 0", ONE_OR_MORE) for name in ("hidden", "batch")),
        ("--embedding -1", ONE_OR_MORE),
        ("--plot a.png", "--plot draws what --ablate or --peers finds; give one of them"),
        ("--peers torch --ablate", "--peers compares with everything on; not with --ablate"),
        ("--trace a.json", "--trace writes what --profile finds; give both"),
        ("--dropout -0.1", "--dropout is 0 or more, and below 1"),
        ("--dropout 1", "--dropout is 0 or more, and below 1"),
        ("--clock cpu --threads 2", "--clock cpu adds up the time of all threads"),
        ("--profile --trace absent/a", "--trace absent/a: expected a file in a folder that exists"),
        ("--ablate --plot .", "--plot .: expected a file in a folder that exists"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse(arguments.split())
    assert error.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments",
    ["--embedding 1 --hidden 1 --batch 1 --rounds 1", "--dropout 0", "--dropout 0.99"]
    + ["--clock cpu --threads 1", "--ablate lazy --plot a.png", "--profile --trace a.json"],
)
def test_what_goes_together_is_taken(arguments):
    parse(arguments.split())


def test_the_table_says_that_batches_were_planned_ahead():
    case = Case(hidden=4, embedding=4, batch=2, mode="train", threads=1)
    clocks = [[Times(plan=1.0, forward=2.0)]]
    for given, title, plan in (
        (case, "treelstm, float32, 1 thread(s), wall time", "1000"),
        (
            replace(case, overlap=True),
            "treelstm, float32, 1 thread(s) + 1 planning ahead, wall time",
            "-",
        ),
    ):
        made = table([summarise("treelstm", given, clocks, 1e9, 1.0, [1.0])])
        assert made.title == title
        assert [*made.columns[4].cells] == [plan]


def test_complete_trees_are_complete():
    data = complete_trees(2)
    for graph in data:
        assert np.bincount(graph.level).tolist() == [256 >> level for level in range(9)]
        assert np.array_equal(graph.inputs["word"].present, graph.level == 0)
    words = [graph.inputs["word"].values.tolist() for graph in data]
    assert words[0] != words[1]


def test_random_sequences_are_chains_as_long_as_sentences():
    data = random_sequences(400)
    lengths = np.array([graph.n_vertices for graph in data])
    assert lengths.min() >= 1 and lengths.max() <= 82
    assert 20 < lengths.mean() < 22 and 9 < lengths.std() < 11
    assert all(np.array_equal(graph.level, np.arange(graph.n_vertices)) for graph in data)
    assert batch(data.graphs).inputs["word"].present.all()


def test_a_language_model_predicts_the_next_word_of_many():
    workload = WORKLOADS["lm"](None)
    assert len(workload.data.graphs) == 80 and workload.n_words == workload.n_classes == 33278
    for graph in workload.data.graphs:
        word, label = (graph.inputs[name] for name in ("word", "label"))
        assert graph.n_vertices == 35 and word.present.all() and label.present.all()
        assert word.values[1:].tolist() == label.values[:-1].tolist()
        assert word.values.min() >= 0 and max(word.values.max(), label.values.max()) < 33278
    words = np.concatenate([graph.inputs["word"].values for graph in workload.data.graphs])
    assert np.median(words) < 33278 / 6 < 33278 / 2 < words.max()  # few are frequent


def test_the_products_of_other_cells_are_counted():
    e, h = 6, 8
    n_trees, inner = 2, 255
    layer = n_trees * (256 * e * h + inner * 2 * h * h)
    assert forward_flop("treefc", n_trees, e, h) == 2 * (layer + n_trees * 511 * h * N_CLASSES)
    n_steps = sum(graph.n_vertices for graph in random_sequences(256)[:5])
    later = n_steps - 5  # a first step has no forget gate and no state product
    gates = 5 * e * 3 * h + later * (e + h) * 4 * h
    assert forward_flop("varlstm", 5, e, h) == 2 * (gates + n_steps * h * N_CLASSES)


def forward_flop(name, n_graphs, embedding, hidden):
    """What is lowered for the first graphs of a workload."""
    workload = WORKLOADS[name](None)
    graph = batch(workload.data.graphs[:n_graphs])
    programs = workload.network(hidden, embedding).programs(SoftmaxCrossEntropy())
    kinds = Kinds(programs, ("word", "label"))
    kinds.learn(np.unique(masks(graph, programs.arity, kinds.pulls)[0]))
    return product_flop(kinds.forward, rows_of_kinds(kinds, graph))


def test_list_operations_repeat_themselves_and_have_ten_classes() -> None:
    workload = WORKLOADS["listops"](None)
    graph = batch(workload.data.graphs[:64])
    made = share(graph, ("word", "label"))
    assert made is not None and made.graph.n_vertices < 0.6 * graph.n_vertices
    assert workload.network(4, 3).parameters()["V"].shape == (4, 10)


def test_a_chain_has_a_level_for_every_vertex() -> None:
    (graph, *_) = WORKLOADS["chain"](None).data.graphs
    assert graph.n_vertices == int(graph.level.max()) + 1 == 1000


def test_dropout_is_a_share() -> None:
    assert "--dropout is 0 or more, and below 1" in script("--dropout", "1").stderr
