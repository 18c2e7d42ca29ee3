"""What `train`, `evaluate` and `export` are asked for -> what they read, measure and tell."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

pytest.importorskip("tvm")

from helpers.runs import TINY, run_to_the_end
from tvm_cavs.cli import evaluate, export, train
from tvm_cavs.cli.main import main
from tvm_cavs.cli.output import put, put_table
from tvm_cavs.data import Vocab
from tvm_cavs.errors import CavsError, ConfigError
from tvm_cavs.executors import About
from tvm_cavs.nn import Network
from tvm_cavs.runs import Outcome, RunConfig, process_age, start
from tvm_cavs.training import load_checkpoint

pytestmark = pytest.mark.compiles  # the optimizer
WORDS = ("a", "b", "c")


def write(path: Path, lengths: list[int], right: str = "yes") -> None:
    """Chains of so many vertices, the last of which has a sense; all have a label, too."""
    with path.open("w") as file:
        for n in lengths:
            inputs = {"word": [WORDS[n % 3]] * n, "label": [0.5] * n}
            inputs["sense"] = [None] * (n - 1) + [right if n % 2 else "no"]
            file.write(json.dumps({"parents": [*range(1, n), None], "inputs": inputs}) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of which there are a train and a dev set, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    write(folder / "train", [1, 2, 3, 4, 5])
    write(folder / "dev", [2, 3])
    data = {"name": "jsonl", "folder": str(folder), "train": "train", "dev": "dev"}
    given = {"data": data | {"label": "sense"}, "train": {"batch_size": 2, "epochs": 1}}
    made = start(RunConfig.model_validate(TINY | given), folder)
    run_to_the_end(made)
    return folder


def test_the_sets_that_there_are_are_measured_and_those_that_lack_are_named(run, tmp_path):
    def measured(*arguments):
        return evaluate.measure(evaluate.parse([str(run), *arguments]))[0]

    found = measured()
    assert set(found) == {"dev"} and set(found["dev"]) == {"accuracy", "root_accuracy"}
    write(tmp_path / "other", [2, 4, 6, 8])
    none = measured("--split", "test", f"data.test={tmp_path / 'other'}")["test"]
    write(tmp_path / "other", [1, 3, 5, 7])
    every = measured("--split", "test", f"data.test={tmp_path / 'other'}")["test"]
    assert none["accuracy"] + every["accuracy"] == 1.0  # there is one answer for all
    for given, said in (
        (["--split", "test"], rf"^{run} has no test set; add data\.test=PATH\.$"),
        (["--split", "dev", "--split", "test"], r"has no test set; add data\.test=PATH\.$"),
        (["data.dev=null"], r"has no dev or test set; add data\.dev=PATH, data\.test=PATH\.$"),
    ):
        with pytest.raises(CavsError, match=said):
            measured(*given)


def test_a_number_that_is_none_is_said_beside_the_results(capsys):
    evaluate.warn({"dev": {"mse": 1.5, "mae": float("nan")}, "test": {"mse": float("inf")}})
    shown = capsys.readouterr()
    why = "the outputs of these parameters are not finite"
    assert (shown.out, shown.err.splitlines()) == (
        "",
        [f"dev: mae is nan: {why}", f"test: mse is inf: {why}"],
    )


@pytest.fixture
def exported(monkeypatch):
    """What a network is asked to export; nothing is compiled."""
    asked = []

    def write(net, folder, graphs, about, *options, **more):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 2_340_000)
        table = net.parameters()["E"].data
        asked.append((table, list(graphs), about, options, more))

    monkeypatch.setattr(Network, "export", write)
    return asked


def test_what_is_exported_of_a_run(run, exported, tmp_path, capsys):
    """Of the best parameters, of the last, and where there are no best ones."""
    out = tmp_path / "out"
    for number, (flags, name) in enumerate(
        (([], "best"), (["--last"], "last"), (["--replace", "--backward"], "best"))
    ):
        arguments = [str(run), "--out", f"{out}{number}", *flags]
        assert main(["export", *arguments, "executor.name=reference"]) == 0
        told = capsys.readouterr().out
        assert told.startswith(f"{out}{number}: {name}.safetensors of {run}, step 3, 2.3 MB\n")
        assert f"print(load('{out}{number}'))" in told
        table, graphs, about, options, more = exported[-1]
        kept = load_checkpoint(run / f"{name}.safetensors")
        np.testing.assert_array_equal(table, kept.parameters["E"])
        assert [g.n_vertices for g in graphs] == [1, 2, 3, 4, 5]
        assert options == ("--replace" in flags, None, "--backward" in flags) and more == {}
        assert about.classes == ("no", "yes") and about.vocabulary == ["<unk>", "c", "b", "a"]
    arguments = [str(run), "--out", f"{out}-arm", "--target", "aarch64", "--linker", "some-cc"]
    assert main(["export", *arguments]) == 0
    capsys.readouterr()
    assert exported[-1][3:] == ((False, "some-cc", False), {"target": export.TARGETS["aarch64"]})
    (run / "best.safetensors").rename(run / "kept")
    try:
        assert main(["export", str(run), "--out", f"{out}-none"]) == 0
        assert "last.safetensors of" in capsys.readouterr().out
    finally:
        (run / "kept").rename(run / "best.safetensors")
    assert main(["export", str(run), "--out", f"{out}-x", "data.dev=absent"]) == 0
    assert exported[-1][2].example is None
    told = capsys.readouterr().err
    assert f"no examples in the manifest: {run}/absent" in told


def test_examples_are_three_graphs_of_up_to_forty_vertices(tmp_path):
    """As they stand in the dev set, and how its words are spelled."""
    for lower, unescape in ((False, True), (True, False)):
        data = {"name": "ptb", "folder": str(tmp_path), "train": "x", "dev": "dev", "n_classes": 5}
        data |= {"lower": lower, "unescape": unescape}
        config = RunConfig.model_validate(TINY | {"data": data, "model": {"arity": 2}})
        sizes = [41, 40, 2, 60, 39, 1]
        for kept in range(len(sizes) + 1):
            trees = ["(1 " * (n - 1) + "(0 tea)" + ")" * (n - 1) for n in sizes[:kept]]
            (tmp_path / "dev").write_text("\n".join(trees))
            about = export._about(config, Vocab(("<unk>", "tea")))
            lines = [] if about.example is None else about.example.split("\n")
            few = [n for n in sizes[:kept] if n <= 40][:3]
            assert [len(json.loads(line)["children"]) for line in lines] == few
            assert about == About(
                ["<unk>", "tea"],
                ("word",),
                None,
                "\n".join(lines) or None,
                {"spelling": {"lower": lower, "unescape": unescape}},
            )


def test_targets_by_name_or_by_their_attributes():
    assert export._target("host") == "host"
    for name, attributes in export.TARGETS.items():
        assert export._target(name) == attributes
        assert export._target(json.dumps(attributes)) == attributes
    names = ", ".join(export.TARGETS)
    for given, why in (("hots", "Expecting value"), ('{"kind": 1,}', "Expecting property name")):
        with pytest.raises(ConfigError) as error:
            export._target(given)
        said = f"--target: {given!r} is neither host, {names} nor JSON ({why}"
        assert str(error.value).startswith(said)
    with pytest.raises(ConfigError, match=f"--target: '{'x' * 59} is neither"):
        export._target("x" * 70)


def test_words_of_the_command_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = train.parse(["--resume", "r", "a=1", "b=2", "c=3"])
    assert (str(given.resume), given.overrides) == ("r", ["a=1", "b=2", "c=3"])
    assert train.parse(["demo", "a=1", "b=2"]).overrides == ["a=1", "b=2"]
    with pytest.raises(SystemExit):
        train.parse(["a=1", "b=2"])
    Path("a=1").touch()
    assert train.parse(["a=1", "b=2"]).config == "a=1"


def test_what_is_resumed_is_what_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "resume", lambda *given: asked.append(given))
    for flags, changed in (([], False), (["--changed-data"], True)):
        train.prepare(train.parse(["--resume", "r", "train.lr=1", *flags]), None)
        assert asked[-1] == (Path("r"), ["train.lr=1"], changed)


def told(say, *given):
    """What is said on a console that folds nothing."""
    shown = io.StringIO()
    say(Console(file=shown, width=200), *given)
    return shown.getvalue()


@pytest.mark.parametrize("notes", [[], ["one", "another"]])
@pytest.mark.parametrize("executor", ["reference", "tvm"])
def test_what_is_said_before_the_first_step(notes, executor):
    of_executor = SimpleNamespace(executor=SimpleNamespace(name=executor))
    run = SimpleNamespace(folder="runs/a", data="train 3 graphs", notes=notes, config=of_executor)
    compiling = ": compiling what is not yet cached" if executor == "tvm" else ""
    expected = ["run runs/a: train 3 graphs", *notes, f"executor {executor}{compiling}"]
    assert told(train.announce, run).splitlines() == expected


@pytest.mark.parametrize("best", [0, 3])
@pytest.mark.parametrize("metrics", [{}, {"dev": {"accuracy": 0.5}}])
def test_what_is_said_after_the_last_step(best, metrics, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "print_curves", lambda console, *given: asked.append(given))
    monitored = SimpleNamespace(early_stop=SimpleNamespace(metric="root_accuracy"))
    run = SimpleNamespace(
        folder="runs/a",
        progress=SimpleNamespace(best_epoch=best),
        config=SimpleNamespace(train=monitored),
    )
    shown = told(train.summarise, run, Outcome("done", metrics=metrics), "python {}.py")
    title = "best parameters, epoch 3" if best else train.NOT_MEASURED
    assert (title in " ".join(shown.split())) == ("50.00 %" in shown) == bool(metrics)
    assert shown.endswith("measure again: python evaluate.py runs/a\n")
    assert asked == [("runs/a", "root_accuracy")]


@pytest.mark.parametrize("signal", [None, 15])
def test_how_a_training_ends(signal, run, tmp_path, monkeypatch, capsys):
    """With a summary and 0, or with how to go on and the number of the signal."""
    folder, asked = shutil.copytree(run, tmp_path / "run"), []

    def fit(run, display, stop, age):
        stop.signal, run.progress.seconds = signal, 61.0
        run.lock.release()
        asked.append(age)
        return Outcome("it is over", interrupted=signal is not None)

    monkeypatch.setattr(train, "fit", fit)
    status = main(["train", "--resume", str(folder)], "x {}")
    end = capsys.readouterr().out.partition("it is over")[2]
    assert end.startswith(": 3 steps in 1:01\n") and asked == [process_age]
    assert status == (0 if signal is None else 128 + signal)
    assert (f"resume with: x train --resume {folder}\n" in end) == (signal is not None)
    assert (f"measure again: x evaluate {folder}\n" in end) == (signal is None)


def test_a_result_that_cannot_be_written_is_an_error_that_says_why(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(CavsError, match="standard output: No space left on device. Free some"):
            put("a result")


@pytest.mark.parametrize("width", ["30", "200"])
def test_a_table_is_as_wide_as_the_terminal_and_ends_with_its_last_line(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    made = Table("one", "another")
    made.add_row("x" * 60, "y")
    put_table(made)
    lines = capsys.readouterr().out.split("\n")
    assert lines[-1] == "" and lines[-2].endswith("┘")
    assert max(map(len, lines)) == (30 if width == "30" else len(lines[0])) <= int(width)
    assert any("x" * 60 in line for line in lines) == (width == "200")
