"""The systems tvm_cavs is compared with: they compute the same, and what differs is told."""

import json
import os
import re
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.paths import ROOT
from schedules.target import host_target, simd
from tvm_cavs.bench import compare as comparing
from tvm_cavs.bench.compare import (
    KINK_TOLERANCE,
    OURS,
    Comparison,
    PeerResult,
    Peers,
    compare,
    outputs,
    peer_result,
)
from tvm_cavs.bench.measure import Case, Result, Times
from tvm_cavs.bench.peer_plot import COLORS, FLOOR, save_comparison
from tvm_cavs.bench.peer_table import peer_table
from tvm_cavs.bench.peer_table import short as peer_short
from tvm_cavs.bench.peers import PEERS, mkl
from tvm_cavs.bench.peers.plan import plan_chains, plan_trees
from tvm_cavs.bench.peers.process import KEEP_MEMORY, Peer
from tvm_cavs.bench.sgemm import PAUSE, THREAD_VARIABLES, Sgemm
from tvm_cavs.bench.workloads import WORKLOADS, random_sequences, random_trees
from tvm_cavs.errors import BenchError, PeerError, TargetError
from tvm_cavs.graph.batching import batch

PEER_MODULE = "tvm_cavs.bench.peers.serve"
N_GRAPHS = {"treelstm": 6, "treefc": 2, "varlstm": 6, "lm": 2}
BY_HAND = [
    (workload, system)
    for workload, systems in PEERS.items()
    for system in systems
    if system != "compile"  # half a minute of a C++ compiler; `level` is the same code
]


@pytest.fixture(scope="module", params=["train", "infer"])
def mode(request):
    return request.param


@pytest.fixture(scope="module", params=list(PEERS))
def truth(request, mode):
    """A small network on a workload and what the reference executor computes for a batch."""
    workload = WORKLOADS[request.param](None)
    case = Case(hidden=4, embedding=3, batch=N_GRAPHS[request.param], mode=mode, threads=1)
    graphs = workload.data.graphs[: case.batch]
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("reference", sharing=False)
    parameters = {name: p.data.copy() for name, p in net.parameters().items()}
    return workload, case, graphs, parameters, outputs(net, case, graphs)


class Gone:
    """A peer's process that ends before it is asked anything."""

    started: dict = {}

    def __init__(self, command, env, **_):
        Gone.started = {"command": command, "env": env}
        self.stdin = self.stdout = self

    def write(self, _):
        raise BrokenPipeError

    def wait(self):
        return 3


def test_a_peers_process_has_its_own_threads_memory_and_paths(monkeypatch):
    monkeypatch.setattr("tvm_cavs.bench.peers.process.subprocess.Popen", Gone)
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    peer = Peer("level", "treelstm", 2, {"ONE_MORE": "1"})
    env = Gone.started["env"]
    assert Gone.started["command"][2:] == [PEER_MODULE, "level", "treelstm", "2"]
    assert {env[name] for name in THREAD_VARIABLES} == {"2"} and "OPENBLAS_CORETYPE" not in env
    assert KEEP_MEMORY.items() <= env.items() and env["ONE_MORE"] == "1"
    assert env["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "mine"]
    with pytest.raises(PeerError, match="ended with code 3; stderr has the reason"):
        peer.round()


@pytest.mark.parametrize(("threads", "pause"), [(1, 0.0), (2, PAUSE)])
def test_a_pool_has_a_moment_to_fall_asleep(monkeypatch, threads, pause):
    """Its threads spin on after their last product; who has none need not wait."""
    slept = []
    monkeypatch.setattr("tvm_cavs.bench.peers.process.subprocess.Popen", Gone)
    monkeypatch.setattr("tvm_cavs.bench.peers.process.time.sleep", slept.append)
    monkeypatch.setattr(Peer, "_ask", lambda *_: {"seconds": [1.0]})
    assert Peer("level", "treelstm", threads, {}).round() == [1.0]
    assert slept == [pause] and PAUSE > 0


def test_peers_compute_what_the_reference_does(truth):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    from tvm_cavs.bench.peers.serve import deviation
    from tvm_cavs.bench.peers.systems import gradients, make

    workload, case, graphs, parameters, wanted = truth
    for system in (s for w, s in BY_HAND if w == workload.name):
        run = make(system, workload.name, parameters)
        given = run.parameters()
        assert all(np.array_equal(given[name], parameters[name]) for name in parameters), system
        if case.mode == "infer":
            assert deviation(run.infer(graphs), wanted["logits"]) < 1e-5, system
            continue
        loss, found = gradients(run, graphs)
        assert loss == pytest.approx(float(wanted["loss"]), rel=1e-5), system
        assert found.keys() == parameters.keys()
        for name in found:
            assert deviation(found[name], wanted[name]) < 1e-5, (system, name)


@pytest.mark.parametrize("wanted", ["train", "infer"])
def test_the_first_of_several_batches_is_compared_with_what_is_given(wanted, tmp_path):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    from tvm_cavs.bench.peers.serve import Server
    from tvm_cavs.bench.peers.systems import gradients

    server = Server("level", "treelstm", 1)
    server.start(asdict(Case(hidden=4, embedding=3, batch=64, mode=wanted, threads=1)))
    assert len(server.parts) > 1
    for number, part in enumerate(server.parts[:2]):
        if wanted == "infer":
            found = {"logits": server.run.infer(part)}
        else:
            loss, found = gradients(server.run, part)
            found["loss"] = np.array(loss)
            server._again()
        np.savez(tmp_path / "expected.npz", **found)
        off = server.check(str(tmp_path / "expected.npz"))["deviation"]
        assert off.keys() == found.keys() and (max(off.values()) < 1e-5) == (number == 0)


@pytest.mark.parametrize(("workload", "system"), BY_HAND)
def test_a_batch_leaves_nothing_behind_for_the_next(workload, system):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    from tvm_cavs.bench.peers.systems import make

    made = WORKLOADS[workload](None)
    graphs = made.data.graphs
    parameters = {n: p.data for n, p in made.network(4, 4).parameters().items()}
    run = make(system, workload, parameters)
    first = run.infer(graphs[:1]).copy()
    run.train(graphs[1:4], lr=0.0)
    assert np.allclose(run.infer(graphs[:1]), first, rtol=0, atol=1e-6)
    fresh = make(system, workload, parameters)
    for each in (run, fresh):
        each.train(graphs[1:2], lr=0.1)
    assert not np.allclose(run.infer(graphs[:1]), first, rtol=0, atol=1e-6)
    wanted = fresh.parameters()
    for name, values in run.parameters().items():
        assert np.allclose(values, wanted[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("found", "by"),
    [
        ([1.0, -4.0], 0.0),
        ([1.0, -3.0], 0.25),
        ([np.nan, -4.0], np.inf),
        ([1.0, np.inf], np.inf),
        ([1.0], np.inf),
        ([[1.0, -4.0]], np.inf),
    ],
)
def test_a_deviation_is_a_part_of_the_largest_value(found, by):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    from tvm_cavs.bench.peers.serve import deviation

    assert deviation(np.array(found), np.array([1.0, -4.0])) == by


def test_a_plan_of_trees_puts_children_below_their_parents():
    graphs = random_trees(20).graphs
    plan, forest = plan_trees(graphs), batch(graphs)
    n_leaves = plan.sizes[0]
    level = np.repeat(np.arange(len(plan.sizes)), plan.sizes)
    assert np.array_equal(level[plan.row], forest.level)
    assert np.array_equal(plan.labels[plan.row], forest.inputs["label"].values)
    vertex = np.argsort(plan.row)
    for number, children in enumerate(plan.child.reshape(-1, 2)):
        parent = vertex[n_leaves + number]
        slots = forest.child[forest.child_ptr[parent] : forest.child_ptr[parent + 1]]
        assert vertex[children].tolist() == slots.tolist()
        assert plan.slot[children].tolist() == [2 * number + 1, 2 * number + 2]
    assert np.array_equal(plan.slot[plan.row] == 0, forest.roots)
    assert np.array_equal(plan.words, forest.inputs["word"].values[vertex[:n_leaves]])


def test_a_plan_of_sequences_puts_the_longest_first():
    graphs = random_sequences(20).graphs
    plan, chains = plan_chains(graphs), batch(graphs)
    assert plan.sizes == sorted(plan.sizes, reverse=True) and plan.sizes[0] == 20
    step = np.repeat(np.arange(len(plan.sizes)), plan.sizes)
    assert np.array_equal(step[plan.row], chains.level)
    later = chains.level > 0
    before = plan.before[plan.row[later] - 20]
    assert np.array_equal(before, plan.row[chains.child])
    starts = np.cumsum([0, *plan.sizes[:-1]])
    rank = np.arange(len(step)) - starts[step]
    assert np.array_equal(rank[plan.row[later]], rank[before])
    assert np.array_equal(plan.words[plan.row], chains.inputs["word"].values)


def result(**changed):
    case = Case(hidden=256, embedding=256, batch=64, mode="train", threads=1)
    values = dict.fromkeys(
        ("samples_per_s", "batch_ms", "plan_ms", "forward_ms", "backward_ms", "update_ms"), 1.0
    )
    given = {"ms_per_batch": 40.0, "product_gflop": 8.0, "sgemm_gflop_per_s": 250.0} | values
    return Result(
        "varlstm", **asdict(case), **given, share_of_floor=0.8, share_in_pairs=0.9, **changed
    )


def comparison():
    case = asdict(Case(hidden=256, embedding=256, batch=64, mode="train", threads=1))
    return Comparison(
        result(),
        (
            PeerResult("level", "varlstm", **case, ms_per_batch=123456.0, ratio=12.34),
            PeerResult("compile", "varlstm", **case, note="RuntimeError: no C++ compiler"),
            PeerResult("module", "varlstm", **case, ms_per_batch=0.012345, ratio=0.5),
            PeerResult(
                "manual", "varlstm", **case, ms_per_batch=64.0, ratio=1.6, gflop_per_s=230.0
            ),
        ),
    )


def test_a_table_has_80_columns_and_says_what_failed():
    lines = peer_table([comparison()] * 2).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[2].split() == (
        "256 64 32.0 40.0 0.80 123456 12.3 - - 0.0123 0.50 64.0 1.60".split()
    )
    assert lines[-1] == ("compile, train, hidden 256, batch 64: RuntimeError: no C++ compiler")
    assert lines[1].split()[5:] == ["level", "x", "compile", "x", "module", "x", "manual", "x"]


def test_a_table_says_what_it_compares():
    lines = peer_table([comparison()] * 2).splitlines()
    assert lines[0] == "varlstm, train, 1 thread(s), wall time, ms a batch"
    many = replace(comparison(), ours=replace(comparison().ours, threads=3, clock="cpu"))
    assert peer_table([many]).startswith("varlstm, train, 3 thread(s), cpu time, ms a batch\n")
    assert lines[4:7] == [
        "floor: the products alone at 250 GFLOP/s, NumPy's best; torch's best: 230",
        "share: floor / ours; x: a peer's time / ours in the same round, median",
        "",
    ]
    first = comparison()
    slow = [
        replace(p, gflop_per_s=speed) for p, speed in zip(first.peers, (7, 0, 90, 8), strict=True)
    ]
    other = replace(first, peers=tuple(slow), ours=replace(first.ours, mode="infer"))
    texts = peer_table([first, other]).split("\n\n")
    assert [text.splitlines()[0].split(",")[1] for text in texts[:2]] == [" train", " infer"]
    assert texts[1].splitlines()[-2].endswith("torch's best: 90")
    without = replace(first, peers=first.peers[1:2])
    assert "torch's best: 0\n" in peer_table([without])


def test_rows_name_their_system():
    ours, *peers = comparison().rows()
    assert (ours["system"], ours["ratio"], ours["ms_per_batch"]) == ("tvm_cavs", 1.0, 40.0)
    assert [row["system"] for row in peers] == ["level", "compile", "module", "manual"]
    shared = {"workload", "hidden", "batch", "mode", "threads", "clock", "ms_per_batch", "ratio"}
    assert all(shared <= row.keys() for row in json.loads(json.dumps([ours, *peers])))


def test_a_ratio_is_that_of_a_round():
    seconds = np.array([[1.0, 3.0], [10.0, 30.0], [2.0, 6.0]])
    ours = np.array([[1.0, 1.0], [10.0, 10.0], [4.0, 4.0]])  # the second round was disturbed

    class Made:
        system, gflop_per_s = "manual", 200.0

    case = Case(hidden=4, embedding=4, batch=2, mode="train", threads=1)
    found = peer_result("treelstm", case, Made, seconds, ours)
    assert found.ratio == 2.0 and found.ms_per_batch == pytest.approx(1e3 * (2 + 6) / 2)


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    assert save_comparison(tmp_path / "bars.png", [comparison()])
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_a_panel_for_every_width_and_mode(tmp_path, monkeypatch):
    """Two in a row, the left ones with a label; bars of every batch, all of them in sight. Below
    them what each colour is, and the mark.
    """
    figure = pytest.importorskip("matplotlib.figure", reason="the extra bench is not installed")
    from matplotlib.colors import to_hex

    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    first = comparison()
    ours = [
        replace(first.ours, mode=mode, hidden=h, batch=n)
        for mode, h in (("train", 4), ("train", 8), ("infer", 8))
        for n in (1, 64)
    ]
    results = [replace(first, ours=each) for each in ours]
    slower = tuple(replace(p, ratio=p.ratio and 3 * p.ratio) for p in first.peers)
    results[1] = replace(results[1], peers=slower)
    fewer = [replace(r, peers=r.peers[:1]) for r in results[:2]]
    for given, labels in ((results, [True, False, True]), (results[:2], [True]), (fewer, [True])):
        assert save_comparison(tmp_path / "bars.png", given)
        axes = drawn[-1].axes
        assert [bool(a.get_ylabel()) for a in axes] == labels
        assert axes[0].get_title() == "varlstm, train, hidden 4"
        n_columns, n_rows = min(2, len(axes)), -(-len(axes) // 2)
        assert drawn[-1].get_figwidth() == pytest.approx(1.0 + 5.2 * n_columns)
        assert drawn[-1].get_figheight() == pytest.approx(0.7 + 2.6 * n_rows)
        texts = [[t.get_text() for t in a.get_xticklabels()] for a in axes]
        assert texts == [["batch 1", "batch 64"]] * len(labels)
        for a in axes:
            assert max(bar.get_height() for bar in a.patches) < a.get_ylim()[1]
        (legend,) = drawn[-1].legends
        systems = {OURS, *(p.system for p in given[0].peers)}
        shown = zip(legend.get_texts(), legend.legend_handles, strict=True)
        colors = {
            t.get_text(): to_hex(bar.get_facecolor()) for t, bar in shown if t.get_text() != FLOOR
        }
        assert colors == {name: COLORS[name] for name in systems}
        assert len(legend.get_texts()) == len(systems) + 1


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not save_comparison(tmp_path / "bars.png", [comparison()])


def test_without_torch_the_command_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"pip install 'tvm_cavs\[bench\]'"):
        Peers("treelstm", 1)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_workload_without_peers_is_refused(precision):
    with pytest.raises(
        BenchError, match="sst has no peers; those of treelstm, treefc, varlstm, lm are"
    ):
        Peers("sst", 1, precision=precision)


def test_only_what_may_fail_is_left_out(tmp_path):
    """Each is started, compared within the workload's tolerance and run once, in this order."""
    asked, expected = [], {"U": np.ones((2, 3))}

    class Made:
        def __init__(self, system, fails):
            self.system, self.fails = system, fails

        def start(self, case):
            asked.append((self.system, case))
            if self.fails:
                raise PeerError("no C++ compiler")

        def check(self, path, tolerance):
            asked.append((dict(np.load(path)).keys(), tolerance))

        def round(self):
            asked.append("round")

    case = Case(hidden=4, embedding=4, batch=2, mode="train", threads=1)
    peers = object.__new__(Peers)
    peers._workload, peers.folder = "treefc", tmp_path
    peers.peers = [Made("compile", True), Made("manual", False)]
    assert peers.ready(case, expected) == {"compile": "no C++ compiler"}
    within = ({"U": 0}.keys(), KINK_TOLERANCE)
    assert asked == [("compile", case), ("manual", case), within, "round"]
    peers.peers = [Made("manual", True)]
    said = re.escape(f"peer manual, {case}: no C++ compiler")
    with pytest.raises(BenchError, match=f"^{said}$"):
        peers.ready(case, expected)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_peers_are_those_that_can_round(precision, monkeypatch):
    monkeypatch.setattr(comparing, "check_torch", lambda: None)
    monkeypatch.setitem(PEERS, "treelstm", ("manual", *comparing.OF_BF16))
    asked = {"manual"} - set(comparing.OF_BF16) if precision == "float32" else set()
    assert set(Peers("treelstm", 1, precision=precision)._names) == {*comparing.OF_BF16} | asked


def test_a_loss_is_compared_beside_the_gradients():
    workload = WORKLOADS["treelstm"](None)
    net = workload.network(3, 2)
    net.hybridize("reference")
    graphs = list(workload.data.graphs[:2])
    case = Case(hidden=3, embedding=2, batch=2, mode="train", threads=1)
    found = outputs(net, case, graphs)
    assert found.keys() == {*net.parameters(), "loss"} and found["loss"].shape == ()
    assert outputs(net, replace(case, mode="infer"), graphs).keys() == {"logits"}


@pytest.mark.parametrize("n_started", [1, 2])
def test_processes_are_closed_though_one_does_not_start(n_started, monkeypatch):
    closed = []

    class Made:
        def __init__(self, system, *given):
            if system == "level" and n_started == 1:
                raise PeerError("no process")
            self.close = lambda: closed.append(system)

    monkeypatch.setattr(comparing, "Peer", Made)
    monkeypatch.setattr(comparing, "check_torch", lambda: None)
    monkeypatch.setitem(PEERS, "treelstm", ("manual", "level"))
    try:
        with Peers("treelstm", 1, "installed") as peers:
            assert not closed and peers.folder.is_dir()
    except PeerError:
        assert n_started == 1
    assert closed == ["level", "manual"][-n_started:]


def test_unlocking_takes_a_compiler(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("vendor_id : GenuineIntel")
    assert not mkl.is_locked(info)
    monkeypatch.setattr(mkl, "is_locked", lambda: False)
    assert mkl.unlock(tmp_path) == {}
    monkeypatch.setattr(mkl, "is_locked", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(TargetError, match="--mkl installed"):
        mkl.unlock(tmp_path)


def test_other_outputs_stop_the_comparison(tmp_path, monkeypatch):
    peer = object.__new__(Peer)
    peer.system = "manual"
    monkeypatch.setattr(
        Peer, "_ask", lambda *_, **__: {"deviation": {"U": 2e-4, "b": 1e-6, "W": float("nan")}}
    )
    with pytest.raises(BenchError) as found:
        peer.check(tmp_path, 1e-4)
    assert str(found.value) == (
        "peer manual does not compute what tvm_cavs does: U deviates by 2.0e-04, W deviates by nan "
        "of its largest value; expected at most 1e-04. No times are worth comparing."
    )


@pytest.mark.compiles
def test_a_peer_takes_turns_with_us(monkeypatch):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    monkeypatch.setitem(PEERS, "treelstm", ("manual",))
    workload = WORKLOADS["treelstm"](None)
    case = Case(hidden=4, embedding=4, batch=128, mode="train", threads=1, clock="cpu")
    with Sgemm(1, "cpu") as sgemm, Peers("treelstm", 1, "installed") as peers:
        found = compare(workload, case, 1, sgemm, peers)
        with pytest.raises(PeerError, match="FileNotFoundError"):
            peers.peers[0].check(peers.folder / "absent.npz", 1e-4)
        with pytest.raises(PeerError, match="^TypeError: .*'two$"):  # the first line says it
            peers.peers[0]._ask("start", case={"two\nlines": 1})
    (manual,) = found.peers
    assert manual.ratio == pytest.approx(manual.ms_per_batch / found.ours.ms_per_batch, rel=0.5)
    assert manual.gflop_per_s > 1 and not manual.note


@pytest.mark.compiles
def test_a_peer_rounds_where_we_do(monkeypatch):
    """Autocast reaches the loop over levels; the loops by hand write where it does not look."""
    pytest.importorskip("torch", reason="the extra bench is not installed")
    if not simd(host_target(1)).bf16:
        pytest.skip("no bfloat16 products here")
    monkeypatch.setitem(PEERS, "treelstm", ("level", "manual"))
    workload = WORKLOADS["treelstm"](None)
    case = Case(36, 36, batch=128, mode="train", threads=1, clock="cpu", precision="bf16")
    with Sgemm(1, "cpu") as sgemm, Peers("treelstm", 1, "installed", "bf16") as peers:
        (level,) = compare(workload, case, 1, sgemm, peers).peers
    assert level.system == "level" and level.ratio and not level.note


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_peer_rounds_to_the_same_format(precision):
    torch = pytest.importorskip("torch", reason="the extra bench is not installed")
    from tvm_cavs.bench.peers.serve import Server

    its = SimpleNamespace(case=SimpleNamespace(precision=precision))
    with Server._rounding(its):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"float32": torch.float32, "bf16": torch.bfloat16}[precision]


def test_a_peer_that_cannot_run_is_left_out_of_the_rounds(monkeypatch):
    """And told of; the others go on."""
    net = SimpleNamespace(hybridize=lambda *_, **__: None)
    workload = SimpleNamespace(name="made up", network=lambda *_: net)
    for name, made in {"parts_of": [[None]], "outputs": {}, "flop_of": 4e9}.items():
        monkeypatch.setattr(comparing, name, lambda *_, made=made: made)
    monkeypatch.setattr(comparing, "round_of", lambda *_: lambda: [Times(forward=1.0)])

    def refuse():
        raise AssertionError("it was run")

    level = SimpleNamespace(system="level", round=lambda: [3.0], gflop_per_s=7.0)
    failed = SimpleNamespace(system="compile", round=refuse)
    peers = SimpleNamespace(peers=[failed, level], ready=lambda *_: {"compile": "no compiler"})
    sgemm = SimpleNamespace(measure=lambda: 2.0, best=8.0)
    found = compare(workload, Case(4, 4, 2, "train", 1), 3, sgemm, peers)
    assert [(p.system, p.note, p.ratio) for p in found.peers] == [
        ("compile", "no compiler", None),
        ("level", "", 3.0),
    ]
    assert (found.ours.share_of_floor, found.ours.share_in_pairs) == (0.5, 2.0)


def test_numbers_of_a_table_have_three_digits():
    shown = {0.0: "0", 1234.5: "1234", 56.78: "56.8", 5.678: "5.68", 0.01234: "0.0123"}
    assert {value: peer_short(value) for value in shown} == shown
