"""What benchmarks make of times: clocks and systems are made up, so every number is known."""

import io
import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from tvm_cavs.bench import compare as comparing
from tvm_cavs.bench import sgemm
from tvm_cavs.bench.compare import dense, in_turn, tolerance
from tvm_cavs.bench.measure import Case, Times, flop_of, parts_of, profile_case, round_of, summarise
from tvm_cavs.bench.sgemm import CLOCKS, Sgemm, fastest_product
from tvm_cavs.bench.table import COLUMNS, short, table
from tvm_cavs.bench.workloads import (
    LEAVES,
    LENGTHS,
    WORKLOADS,
    Workload,
    random_sequences,
    random_tree,
    random_trees,
)
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.errors import BenchError, DataError
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.loss import Loss, Recorded
from tvm_cavs.nn.recording import is_recording
from tvm_cavs.row_sparse import RowSparse

measuring = sys.modules["tvm_cavs.bench.measure"]  # the package has a function of this name
CASE = Case(hidden=4, embedding=3, batch=2, mode="train", threads=1)


class MadeUp:
    """A network, its executor and its trainer, whose parts take times that depend on the batch.

    In seconds: planning 1, forward 10, backward 100 for each vertex, an update 1000 for each graph.
    """

    def __init__(self, now):
        self.now, self.ran = now, []

    def executor(self, loss):
        return self

    def plan(self, graph):
        self.now[0] += graph.n_vertices

    def __call__(self, graph):
        self.ran.append(graph.n_vertices)
        if is_recording():
            return Recorded(graph, lambda loss: self.forward(graph))
        self.forward(graph)

    def forward(self, graph):
        self.plan(graph)
        self.now[0] += 10 * graph.n_vertices

        def backward():
            self.now[0] += 100 * graph.n_vertices

        return Loss(1.0, 1, {}, backward)

    def step(self, n):
        self.now[0] += 1000 * n


@pytest.fixture
def now(monkeypatch):
    """The time; putting a batch together takes half a second a graph."""
    held = [0.0]

    def batch(graphs):
        held[0] += 0.5 * len(graphs)
        return made(graphs)

    made = measuring.batch
    monkeypatch.setitem(CLOCKS, "wall", lambda: held[0])
    monkeypatch.setattr(measuring, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "batch", batch)
    return held


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_round_is_every_batch_once_in_its_parts(mode, now):
    net = MadeUp(now)
    workload = SimpleNamespace(trainer=lambda given: given)
    graphs = [Graph.from_sequence(n) for n in (1, 2, 4, 8, 16, 32)]
    run = round_of(net, workload, replace(CASE, mode=mode), [graphs[:2], graphs[2:5], graphs[5:]])
    for _ in range(2):  # nothing is left over from the first round
        net.ran.clear()
        trains = mode == "train"
        assert run() == [
            Times(0.5 * k, n, 10 * n, 100 * n * trains, 1000 * k * trains)
            for k, n in ((2, 3), (3, 28), (1, 32))
        ]
        assert net.ran == [3, 3, 3, 28, 32]  # one warms up, and the first one is not counted
    assert Times(1, 2, 4, 8, 16).total == 31
    assert "plan" in vars(MadeUp) and "plan" not in vars(net)  # it is timed inside only


def test_every_part_is_a_median_of_rounds_and_a_mean_of_batches():
    """What lies far off in one round does not count, of any part."""
    names = ("batch", "plan", "forward", "backward", "update")
    clocks = [
        [Times(*(scale * (k + 1.0) for k in range(5))) for scale in scales]
        for scales in ((1, 2, 90), (4, 3, 5))  # medians: 2 and 4, so 3 on the average
    ]
    of = {"flop": 6e9, "gflop_per_s": 0.5, "speeds": [0.25, 0.5, 0.125]}
    found = summarise("made up", CASE, clocks, **of)
    for k, name in enumerate(names):
        assert getattr(found, f"{name}_ms") == pytest.approx(3e3 * (k + 1))
    assert found.ms_per_batch == pytest.approx(45e3) and found.samples_per_s == pytest.approx(
        2 / 45
    )
    assert (found.product_gflop, found.sgemm_gflop_per_s) == (6.0, 0.5)
    assert found.share_of_floor == pytest.approx(12 / 45)
    seconds = (15 * 2.5, 15 * 2.5, 15 * 47.5)  # of a batch in each round
    by_round = [6 / s / t for s, t in zip(of["speeds"], seconds, strict=True)]
    assert found.share_in_pairs == pytest.approx(sorted(by_round)[1])
    ahead = summarise("made up", replace(CASE, overlap=True), clocks, **of)
    assert ahead.plan_ms is None, "it is no part of the time"
    row = found.row()
    assert row["samples_per_s"] == 0.044444 and row["hidden"] == 4 and row["overlap"] is False
    made = table([replace(found, sgemm_gflop_per_s=9.0), found])
    cells = [[*column.cells][0] for column in made.columns]
    assert cells == ["train", "4", "2", "45000", "6000", "0.0444", "6.00", "0.267", "0.320"]
    assert [column.header for column in made.columns] == [*COLUMNS.values()]
    assert made.caption == (
        "ms, of it planning, and GFLOP of a batch; floor: the share of its products at 0 GFLOP/s, "
        "NumPy's best; pairs: at NumPy's speed before each round"
    )


def test_a_table_of_results_fits_a_narrow_terminal():
    clocks = [[Times(0.1, 0.1, 0.1, 0.1, 0.1)]]
    case = replace(CASE, hidden=1024, batch=1024)
    found = summarise("made up", case, clocks, 8888e9, 1000.0, [2000.0])
    for result in (found, replace(found, samples_per_s=123456.0, ms_per_batch=0.0123)):
        console = Console(width=80, file=io.StringIO())
        console.print(table([result]))
        text = console.file.getvalue()
        assert "…" not in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("threads", [1, 2])
def test_overlap_is_not_told_by_cpu_time(threads):
    case = replace(CASE, clock="cpu", overlap=True, threads=threads)
    with pytest.raises(BenchError, match='overlap hides planning.*give clock="wall"') as error:
        round_of(None, None, case, [])
    assert str(error.value).startswith(f"{case}: overlap hides")


def test_a_gradient_of_rows_is_compared_with_all_of_them():
    rows = RowSparse(rows=[2, 0], values=[[1.0, 2.0], [3.0, 4.0]])
    assert dense(rows, (3, 2)).tolist() == [[3, 4], [0, 0], [1, 2]]
    assert dense(None, (1, 2)).tolist() == [[0, 0]]
    given = np.ones((1, 2), np.float32)
    found = dense(given, (1, 2))
    assert found.tolist() == [[1, 1]] and not np.shares_memory(found, given)


@pytest.mark.parametrize(("mode", "times"), [("train", 3), ("infer", 1)])
def test_training_takes_the_products_of_a_forward_pass_three_times(mode, times, monkeypatch):
    """The mean over batches; here a batch's products are as many as its vertices."""
    monkeypatch.setattr(measuring, "rows_of_kinds", lambda kinds, graph: graph.n_vertices)
    monkeypatch.setattr(measuring, "product_flop", lambda groups, rows: rows)
    executor = SimpleNamespace(kinds=SimpleNamespace(forward=()))
    net = SimpleNamespace(
        executor=lambda loss: executor if (loss is None) == (times == 1) else None
    )
    parts = [[Graph.from_sequence(n) for n in sizes] for sizes in ((2, 3), (4, 1), (7, 1))]
    assert flop_of(net, replace(CASE, mode=mode), parts) == times * 6.0


@pytest.mark.parametrize("overlap", [False, True])
def test_a_table_says_whether_a_batch_is_planned_ahead(overlap):
    case = replace(CASE, overlap=overlap, threads=2)
    found = summarise("made up", case, [[Times(1, 1, 1)]], 1.0, 1.0, [1.0])
    threads = "2 thread(s) + 1 planning ahead" if overlap else "2 thread(s)"
    assert table([found]).title == f"made up, float32, {threads}, wall time"


def test_trees_and_sequences_are_as_long_as_they_say():
    """However many are drawn: the lengths of the texts are limits."""
    trees, chains = random_trees(1500), random_sequences(1500)
    leaves = [int(np.count_nonzero(graph.level == 0)) for graph in trees]
    lengths = [graph.n_vertices for graph in chains]
    assert (min(leaves), max(leaves)) == LEAVES
    assert min(lengths) >= LENGTHS[0] and max(lengths) <= LENGTHS[1]
    for graph in (trees[0], trees[1]):
        assert graph.inputs["word"].present.tolist() == (graph.level == 0).tolist()
        assert graph.inputs["label"].present.all()
    assert chains[0].inputs["word"].present.all()


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "sst"])
def test_a_workload_that_makes_its_graphs_takes_no_file(name, tmp_path):
    with pytest.raises(DataError) as error:
        WORKLOADS[name](tmp_path)
    said = f"workload {name} makes its own graphs; it takes no data, given {tmp_path}"
    assert str(error.value) == said


def test_three_digits_are_shown():
    values = (1234.5, 123.45, 12.345, 0.0012345, 0.0000123, 0.0, None, "train", 7)
    assert list(map(short, values)) == [
        *("1234", "123", "12.3", "0.00123", "0.00001", "0", "-", "train", "7")
    ]


@pytest.mark.parametrize(
    ("n_graphs", "size", "n_parts"),
    [(10, 3, 3), (9, 3, 3), (3, 3, 1), (100, 1, 64), (300, 2, 64), (300, 100, 2), (300, 257, 1)],
)
def test_parts_are_whole_batches_in_order(n_graphs, size, n_parts):
    data = Dataset.from_graphs([Graph.from_sequence(1) for _ in range(n_graphs)])
    parts = parts_of(SimpleNamespace(data=data, name="made up"), size)
    assert [len(part) for part in parts] == [size] * n_parts
    flat = [*itertools.chain.from_iterable(parts)]
    assert all(a is b for a, b in zip(flat, data.graphs, strict=False))


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_profile_is_of_the_first_batch_as_it_is_measured(mode, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "profile", lambda *given, **named: asked.append((given, named)))
    chosen = []
    net = SimpleNamespace(hybridize=lambda *given, **named: chosen.append((given, named)))
    workload = SimpleNamespace(
        network=lambda hidden, embedding: (chosen.append((hidden, embedding)), net)[1],
        trainer=lambda given: ("trainer of", given),
        data=Dataset.from_graphs([Graph.from_sequence(n) for n in (1, 2, 3, 4)]),
    )
    case = replace(CASE, mode=mode, threads=3, precision="bf16", clock="cpu")
    profile_case(workload, case, 12.5)
    named = {"sharing": False, "threads": 3, "precision": "bf16"}
    assert chosen == [(4, 3), (("tvm",), named)]
    (((given, graphs, *rest), options),) = asked
    assert given is net and [g.n_vertices for g in graphs] == [1, 2]
    assert options == {"gflop_per_s": 12.5, "now": CLOCKS["cpu"]}
    trains = mode == "train"
    assert len(rest) == 2 * trains and (not trains or rest[1] == ("trainer of", net))


def test_the_best_product_is_kept_and_counts_two_operations_an_element(monkeypatch):
    ticks = itertools.accumulate([0.0, 0.01, 0.01, 0.05, 0.01, 0.01, 0.02, 0.09])
    speed = fastest_product(lambda: None, lambda: next(ticks))
    assert speed == pytest.approx(2 * 1024**3 / 0.02 / 1e9)
    one = object.__new__(Sgemm)
    answers = iter(("3.0\n", "5.0\n", "4.0\n"))
    one.best = 0.0
    one._process = SimpleNamespace(
        stdin=SimpleNamespace(write=lambda text: None, flush=lambda: None),
        stdout=SimpleNamespace(readline=lambda: next(answers)),
    )
    monkeypatch.setattr(sgemm.time, "sleep", lambda seconds: None)
    assert [one.measure() for _ in range(3)] == [3.0, 5.0, 4.0] and one.best == 5.0


def test_every_line_that_is_read_asks_for_a_product_of_its_own(monkeypatch, capsys):
    speeds = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(sgemm, "SIZE", 2)
    monkeypatch.setattr(sgemm, "fastest_product", lambda product, now: next(speeds))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n\n"))
    sgemm.serve(CLOCKS["cpu"])
    assert capsys.readouterr().out == "1.0\n2.0\n3.0\n"


def test_every_round_begins_with_another_system():
    order, products = [], []

    def peer(name):
        return SimpleNamespace(system=name, round=lambda: (order.append(name), [len(order)])[1])

    product = SimpleNamespace(measure=lambda: (products.append(len(order)), len(order))[1])
    ours, theirs, speeds = in_turn(lambda: order.append("us"), [peer("a"), peer("b")], 4, product)
    assert order == "us a b  a b us  b us a  us a b".split()
    assert products == speeds == [0, 3, 6, 9] and len(ours) == 4
    assert theirs == {"a": [[2], [4], [9], [11]], "b": [[3], [5], [7], [12]]}


def test_outputs_may_differ_more_only_where_a_unit_may_be_open_or_shut():
    usual, kink, rounded = comparing.TOLERANCE, comparing.KINK_TOLERANCE, comparing.BF16_TOLERANCE
    assert usual < kink < rounded
    for workload, mode in itertools.product(("treelstm", "treefc", "varlstm"), ("train", "infer")):
        case = replace(CASE, mode=mode)
        wanted = kink if (workload, mode) == ("treefc", "train") else usual
        assert tolerance(workload, case) == wanted
        assert tolerance(workload, replace(case, precision="bf16")) == rounded


RECIPES = {  # cell, widths, batches, width of a word, classes, dropout, optimizer, lr, decay
    "treelstm": ("tree_lstm", (256,), (1, 16, 64, 256), None, 5, 0.0, "sgd", 0.01, 0.0),
    "treefc": ("tree_fc", (256, 512), (1, 16, 64), None, 5, 0.0, "sgd", 0.01, 0.0),
    "varlstm": ("lstm", (256, 512), (1, 16, 64), None, 5, 0.0, "sgd", 0.01, 0.0),
    "lm": ("lstm", (200,), (20,), None, 33278, 0.0, "sgd", 0.01, 0.0),
    "sst": ("tree_lstm", (150,), (25, 100), 300, 5, 0.5, "adagrad", 0.05, 1e-4),
    "listops": ("tree_lstm", (128,), (16, 64), 64, 10, 0.0, "adam", 3e-3, 0.0),
    "chain": ("lstm", (8,), (1,), None, 5, 0.0, "sgd", 0.01, 0.0),
}


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_recipes_are_those_that_the_texts_name(name, tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("(3 (2 good) (4 tea))\n")
    made = WORKLOADS[name](path if name == "sst" else None)
    found = made.cell, made.hidden, made.batch, made.embedding, made.n_classes, made.dropout
    assert (*found, made.optimizer, made.lr, made.weight_decay) == RECIPES[name]
    assert made.name == name


def test_a_treebank_has_five_classes(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("(3 (2 good) (5 tea))\n")
    with pytest.raises(DataError, match="5"):
        WORKLOADS["sst"](path)


GRAPHS = {  # how many, their vertices, their words added up, the most levels
    "treelstm": (256, 9320, 25535918, 14),
    "treefc": (64, 32704, 88739778, 9),
    "varlstm": (256, 5288, 28838861, 68),
    "lm": (80, 2800, 23211664, 35),
    "listops": (2000, 76684, 316966, 53),
    "chain": (4, 4000, 44692700, 1000),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_graphs_of_a_workload_are_the_same_in_every_version(name):
    """So that times of two versions are of the same work."""
    data = WORKLOADS[name](None).data
    words = sum(int(graph.inputs["word"].values.sum()) for graph in data.graphs)
    most = max(graph.n_levels for graph in data.graphs)
    assert (len(data.graphs), data.n_vertices, words, most) == GRAPHS[name]


def test_a_workload_makes_the_network_and_the_trainer_of_its_recipe(monkeypatch):
    data = Dataset.from_graphs([Graph.from_sequence(1)])
    recipe = {"dropout": 0.25, "optimizer": "adam", "lr": 0.5, "weight_decay": 0.125}
    made = Workload("made up", "tree_gru", data, 7, (1,), (1,), n_classes=3, **recipe)
    net = made.network(5, 4)
    shapes = {name: p.shape for name, p in net.parameters().items()}
    assert shapes["E"] == (7, 4) and shapes["V"] == (5, 3) and net.function.dropout == 0.25
    again = made.network(5, 4).parameters()
    other = made.network(5, 4)
    other.initialize(seed=1)
    for name, p in net.parameters().items():
        assert np.array_equal(p.data, again[name].data)
        assert np.array_equal(p.data, other.parameters()[name].data)
    asked = []
    module = sys.modules["tvm_cavs.bench.workloads"]
    monkeypatch.setattr(module, "Trainer", lambda *given, **named: asked.append((given, named)))
    made.trainer(net)
    ((parameters, optimizer), options) = asked[0]
    assert parameters == net.parameters() and optimizer == "adam"
    assert options == {"lr": 0.5, "weight_decay": 0.125}


def test_a_span_splits_at_any_place():
    rng = np.random.default_rng(0)
    left = [0] * 6

    def n_leaves(tree, vertex):
        return sum(n_leaves(tree, c) for c in tree[vertex]) if tree[vertex] else 1

    for _ in range(600):
        tree = random_tree(rng, 5)
        assert len(tree) == 9 and n_leaves(tree, 0) == 5
        left[n_leaves(tree, tree[0][0])] += 1
    assert left[0] == left[5] == 0 and min(left[1:5]) > 100  # uniform: 150 each
