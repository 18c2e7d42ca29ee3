"""Leaving an optimisation out changes the kernels and nothing else: the law holds for each."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import tvm_cavs as cavs
from helpers import functions
from helpers.law import Case, assert_law, make_case
from helpers.paths import ROOT
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.bench.ablate import Ablation, _in_turn, ablate, ablation_table, summarise
from tvm_cavs.bench.ablation_plot import NAMES as NAMES_SHOWN
from tvm_cavs.bench.ablation_plot import save_ablations
from tvm_cavs.bench.measure import Case as Measured
from tvm_cavs.bench.measure import Round, Times
from tvm_cavs.bench.names import OFF, OVERLAP, measurable
from tvm_cavs.bench.workloads import WORKLOADS
from tvm_cavs.compiler.kinds import Kinds
from tvm_cavs.compiler.lowering.places import VIEWS
from tvm_cavs.compiler.lowering.region import Region
from tvm_cavs.compiler.lowering.specs import Outer, Product
from tvm_cavs.errors import BenchError, TargetError
from tvm_cavs.executors.tvm import TvmExecutor
from tvm_cavs.transform.options import ALL, SWITCHES, Options, leaving_out

NAMES = tuple(SWITCHES)
PAIRS = [NAMES[i : i + 2] for i in range(0, len(NAMES), 2)]
OTHERS = [(*NAMES[1:], NAMES[0])[i : i + 2] for i in range(0, len(NAMES), 2)]


def test_nothing_is_left_out_unless_named() -> None:
    assert leaving_out(()) == ALL == Options()
    assert leaving_out("lazy") == leaving_out(["lazy"]) == Options(lazy=False)
    assert set(SWITCHES) == set(Options.__dataclass_fields__)
    with pytest.raises(TargetError, match="'fused'; expected some of kinds, joined, lazy"):
        leaving_out(["kinds", "fused"])


def stages(*without: str) -> Kinds:
    """The kinds of a Tree-LSTM's leaf and inner vertex, in training, without some switches."""
    cell = cavs.nn.CELLS["tree_lstm"](N_WORDS, 4, 5, N_CLASSES)
    programs = cavs.Network(cell).programs(cavs.loss.SoftmaxCrossEntropy())
    kinds = Kinds(programs, ("word", "label"), leaving_out(without))
    kinds.learn([0b1100, 0b1011])
    return kinds


def specs(kinds: Kinds, stage: str, what: type) -> list[object]:
    """The kernels of one sort in the stages of one name, forward and backward."""
    groups = [g for g in (*kinds.forward, *kinds.backward) if g.stage == stage]
    found = [s.kernel.spec for g in groups for s in g.lowered.steps]
    return [spec for spec in found if isinstance(spec, what)]


def test_without_kinds_a_leaf_has_two_children_and_keeps_its_word() -> None:
    found = stages("kinds").kinds
    assert {k.slots for k in found} == {(0, 1)}
    assert {k.pulls for k in found} == {("word", "label"), ("label",)}


def test_without_joining_every_gate_is_a_product() -> None:
    assert len(specs(stages(), "recurrent", Product)) == 2
    assert (
        len(specs(stages("joined"), "recurrent", Product)) == 5 + 2
    )  # gates; children's gradients


def test_without_lazy_weight_gradients_run_level_by_level() -> None:
    assert specs(stages(), "lazy", Outer) and not specs(stages(), "recurrent", Outer)
    assert specs(stages("lazy"), "recurrent", Outer)
    assert all(g.stage != "lazy" for g in stages("lazy").backward)


def test_without_fusion_a_region_computes_one_value() -> None:
    def most(kinds: Kinds) -> int:
        regions = [r for s in ("eager", "recurrent", "lazy") for r in specs(kinds, s, Region)]
        return max(sum(x.op not in VIEWS | {"copy"} for x in r.lines) for r in regions)  # type: ignore[attr-defined]

    assert most(stages()) > 10
    assert most(stages("fusion")) == 1


def test_without_gather_products_read_one_piece_in_row_order() -> None:
    def operands(kinds: Kinds) -> list[tuple[object, ...]]:
        found = [r for s in ("eager", "recurrent", "lazy") for r in specs(kinds, s, Product)]
        return [spec.pieces for spec in found]  # type: ignore[attr-defined]

    assert max(len(pieces) for pieces in operands(stages())) == 2
    for (piece,) in operands(stages("gather")):
        assert piece.index is None  # type: ignore[attr-defined]


def without(case: Case, names: tuple[str, ...], cache: Path) -> Case:
    """The same case on an executor that leaves these out."""
    case.net.hybridize("tvm", threads=1, cache=cache, without=names)
    executor = case.net.executor(case.loss)
    assert isinstance(executor, TvmExecutor)
    assert executor.kinds.options == leaving_out(names)
    return case


@pytest.fixture(scope="module")
def tree_lstm(cache: Path) -> Case:
    cell = cavs.nn.CELLS["tree_lstm"](N_WORDS, 4, 5, N_CLASSES, dropout=0.3)
    return make_case(cell, cavs.loss.SoftmaxCrossEntropy(), cache, threads=1, n=3)


@pytest.mark.compiles
@pytest.mark.parametrize("names", [*PAIRS, NAMES], ids=" ".join)
def test_the_law_for_a_tree_lstm(names: tuple[str, ...], tree_lstm: Case, cache: Path) -> None:
    assert_law(without(tree_lstm, names, cache))


AWKWARD = [functions.Attention, functions.Passed, functions.FiveGates]


@pytest.mark.compiles
@pytest.mark.parametrize(("names", "make"), list(zip(OTHERS, cycle(AWKWARD), strict=False)))
def test_the_law_for_awkward_functions(
    names: tuple[str, ...], make: type[cavs.VertexFunction], cache: Path
) -> None:
    """Each switch with another than above, and one function for both."""
    loss = cavs.loss.SoftmaxCrossEntropy() if make is functions.FiveGates else functions.Score()
    assert_law(without(make_case(make(), loss, cache, threads=1, n=3), names, cache))


CASE = Measured(hidden=4, embedding=4, batch=2, mode="train", threads=1, clock="cpu")


def test_ratios_are_medians_of_pairs() -> None:
    seconds = {"full": [1.0, 2.0, 4.0], "lazy": [1.5, 3.0, 20.0], "kinds": [4.0, 2.0, 4.0]}
    found = summarise("made up", CASE, seconds, n_batches=4)
    assert found.ms == 500.0 and found.ratios == {"lazy": 1.5, "kinds": 1.0}
    rows = list(found.rows())
    assert rows[0] | {"without": "lazy", "ms_full": 500.0, "ms_without": 750.0} == rows[0]
    assert rows[1]["ratio"] == 1.0 and rows[1]["batch"] == 2
    wide = Ablation("treelstm", CASE, 1234.5, dict.fromkeys(OFF, 12.345))
    text = ablation_table([found, wide]).splitlines()
    assert text[0] == "made up, 1 thread(s), cpu time: time without / with each"
    assert text[1].split() == ["mode", "hidden", "batch", "ms", "lazy", "kinds"]
    assert len(text) == 4 and text[2].split() == ["train", "4", "2", "500.000", "1.50", "1.00"]
    assert max(map(len, text)) <= 80
    case = replace(CASE, clock="wall", overlap=True, threads=3)
    ahead = ablation_table([replace(wide, case=case)])
    assert ahead.splitlines()[0] == (
        "treelstm, 3 thread(s) + 1 planning ahead, wall time: time without / with each"
    )


def test_what_overlap_is_worth_takes_wall_time() -> None:
    assert measurable("wall") == OFF and measurable("cpu") == tuple(n for n in OFF if n != OVERLAP)
    with pytest.raises(BenchError, match="without overlap, cpu time: .* with --clock wall"):
        ablate(WORKLOADS["treelstm"](None), CASE, 1, ["lazy", "overlap"])


def test_only_the_rounds_without_overlap_plan_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Measured] = []

    def round_of(net: object, workload: object, case: Measured, parts: object) -> Round:
        made.append(case)
        return lambda: [Times(forward=3.0 - case.overlap)]

    module = importlib.import_module("tvm_cavs.bench.ablate")  # the package has a function so named
    monkeypatch.setattr(module, "round_of", round_of)
    workload = WORKLOADS["treelstm"](None)
    found = ablate(workload, replace(CASE, clock="wall"), 2, ["lazy", "overlap"])
    assert [case.overlap for case in made] == [True, True, False] and found.case.overlap
    assert found.ratios == {"lazy": 1.0, "overlap": 1.5}
    assert all(row["overlap"] for row in found.rows())
    some = ablate(workload, replace(CASE, clock="wall"), 1, ["lazy"])
    assert some.case.overlap and made[3].overlap and made[4].overlap, "asked for or not"
    cpu = ablate(workload, CASE, 2)
    assert tuple(cpu.ratios) == measurable("cpu") and not cpu.case.overlap
    assert not any(case.overlap for case in made[5:])


def test_each_network_is_that_of_the_case_without_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(cavs.Network, "hybridize", lambda net, name, **given: asked.append(given))
    module = importlib.import_module("tvm_cavs.bench.ablate")
    monkeypatch.setattr(module, "round_of", lambda *_: lambda: [Times(forward=1.0)])
    case = replace(CASE, threads=2, precision="bf16")
    ablate(WORKLOADS["treelstm"](None), case, 1, ["lazy", "sharing"])
    common = {"threads": 2, "precision": "bf16"}
    assert asked == [common, common | {"without": ("lazy",)}, common | {"sharing": False}]


def test_what_the_first_round_compiles_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("tvm_cavs.bench.ablate")
    monkeypatch.setattr(cavs.Network, "hybridize", lambda *_, **__: None)
    times = iter([60.0, 90.0] + [1.0, 2.0] * 3)  # of two networks, in turn
    monkeypatch.setattr(module, "_in_turn", lambda names, _: names)
    monkeypatch.setattr(module, "round_of", lambda *_: lambda: [Times(forward=next(times))])
    found = ablate(WORKLOADS["treelstm"](None), CASE, 3, ["lazy"])
    assert found.ratios == {"lazy": 2.0}
    assert next(times, None) is None


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_round_begins_with_another_network(n: int) -> None:
    """So in as many rounds as there are networks each is once at every place."""
    names = [f"{k}" for k in range(n)]
    rounds = [_in_turn(names, number) for number in range(2 * n)]
    assert rounds[:n] == rounds[n:] and rounds[0] == names
    assert all(sorted(column) == names for column in zip(*rounds[:n], strict=True))


def test_lines_go_over_the_batches_of_one_mode_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="the extra plot is not installed")
    drawn: list[Any] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    results = [
        Ablation("treelstm", replace(CASE, mode=mode, batch=n), 1.0, dict.fromkeys(OFF, float(n)))
        for mode in ("infer", "train")
        for n in (64, 1, 16)
    ]
    assert save_ablations(tmp_path / "a.png", results)
    titles = [f"treelstm, {mode}, hidden 4" for mode in ("train", "infer")]
    assert [a.get_title() for a in drawn[0].axes] == titles
    more = [replace(r, case=replace(r.case, hidden=h)) for h in (1, 2) for r in results]
    ticks = [text.get_text() for text in drawn[0].axes[0].get_xticklabels()]
    assert ticks == ["1", "16", "64"]
    for given, n_panels in ((results[:3], 1), (results, 2), (more, 4)):  # none becomes narrow
        assert save_ablations(tmp_path / "a.png", given) and len(drawn[-1].axes) == n_panels
        assert drawn[-1].get_figwidth() >= 3.6 * n_panels
    for axes in drawn[0].axes:
        lines = axes.get_lines()[: len(OFF)]
        assert all(line.get_xdata().tolist() == [1, 16, 64] for line in lines)
        assert all(line.get_ydata().tolist() == [1, 16, 64] for line in lines)
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} == {
        NAMES_SHOWN[n] for n in OFF
    }


@pytest.mark.compiles
def test_every_switch_is_measured_and_drawn(tmp_path: Path) -> None:
    workload = WORKLOADS["treelstm"](None)
    cases = [replace(CASE, batch=n, mode="infer", clock="wall") for n in (128, 256)]
    results = [ablate(workload, case, 1) for case in cases]
    for found in results:
        assert tuple(found.ratios) == OFF and found.ms > 0
        assert all(0.01 < ratio < 100 for ratio in found.ratios.values())
    pytest.importorskip("matplotlib")
    assert save_ablations(tmp_path / "a.png", results)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.compiles
def test_the_script_prints_one_json_object_a_switch() -> None:
    arguments = "--hidden 4 --batch 256 --rounds 1 --json --ablate lazy sharing".split()
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["without"], row["batch"]) for row in rows] == [("lazy", 256), ("sharing", 256)]
