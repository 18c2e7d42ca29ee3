"""What ends a run from outside, or does not: no reader, no space, folders that are none."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from helpers.paths import ROOT
from helpers.runs import Silent, config, run_to_the_end
from tvm_cavs.errors import CavsError, CheckpointError, TargetError, TrainingError
from tvm_cavs.runs import report, runlog
from tvm_cavs.runs.display import Lasting, Plain
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.report import print_curves
from tvm_cavs.runs.run import resume, start
from tvm_cavs.runs.runlog import new_folder
from tvm_cavs.runs.schema import ExecutorConfig, RunConfig
from tvm_cavs.training.checkpoint import load_checkpoint

BUFFERED = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}


def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize("open_output", [closed_pipe, lambda: open("/dev/full", "w")])
def test_a_run_outlives_its_output(tmp_path, open_output):
    with open_output() as file:
        display = Plain(Console(file=Lasting(file)))
        display.line("x" * 100_000)
        fit(start(config(epochs=1), tmp_path), display, Stop())
    assert load_checkpoint(tmp_path / runlog.LAST).progress.epoch == 1


def test_the_command_in_front_of_head(tmp_path):
    """It ends well, says nothing of pipes, and has trained."""
    given = ["configs/demo.yaml", "executor.name=reference", "data.n_train=9", "data.n_dev=3"]
    given += ["data.n_test=3", "data.max_tokens=6", "model.hidden=4", "train.epochs=2"]
    with closed_pipe() as output:
        done = subprocess.run(
            [sys.executable, "scripts/train.py", *given, f"folder={tmp_path / 'run'}"],
            cwd=ROOT,
            env=BUFFERED,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert [e["event"] for e in runlog.read_events(tmp_path / "run")][-1] == "test"


def test_measuring_in_front_of_head(tmp_path):
    """A reader who has seen enough ends it well; a full disk is told."""
    run_to_the_end(start(config(epochs=1), tmp_path))
    for open_output, expected in ((closed_pipe, 0), (lambda: open("/dev/full", "w"), 1)):
        with open_output() as output:
            done = subprocess.run(
                [sys.executable, "scripts/evaluate.py", str(tmp_path)],
                cwd=ROOT,
                env=BUFFERED,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
            )
        assert done.returncode == expected
        assert ("standard output: No space left" in done.stderr) == expected
        assert len(done.stderr.splitlines()) == expected


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ('{"event": "epoch", "step": 1, "epoch": 1, "train_loss": null, "dev": {}}', True),
        ('{"event": "epoch", "step": 1, "epoch": 1, "train_loss": 1, "dev": []}', False),
        ('{"event": "step", "step": 1}', False),
        ('{"event": "step", "step": 1, "epoch": 1}', False),
        ('{"event": "step", "step": 1, "epoch": 1.0, "train_loss": 1}', False),
        ('{"event": "step", "step": true, "epoch": 1, "train_loss": 1}', False),
        ('{"event": "step", "step": 1, "epoch": 1, "train_loss": true}', False),
        ('{"event": "step", "step": 1, "epoch": 1, "train_loss": 1e999}', False),
        ('{"event": "epoch", "step": 1, "epoch": 1, "train_loss": 1, "dev": {"x": "y"}}', False),
        ('{"event": 1, "step": 1}', False),
        ('{"event": "test", "step": 1, "test": {}}', True),
        ("[]", False),
        (f'["{"x" * 100}"]', False),
        ("[", True),  # torn
    ],
)
def test_a_line_that_is_no_event_is_refused(tmp_path, line, fits):
    (tmp_path / "metrics.jsonl").write_text(f"\n{line}\n")
    if fits:
        assert len(runlog.read_events(tmp_path)) == line.endswith("}")
        return
    with pytest.raises(CavsError) as error:
        runlog.read_events(tmp_path)
    where, _, what = str(error.value).partition(": expected an event")
    assert where == f"{tmp_path / 'metrics.jsonl'}, line 2"
    assert what.endswith(f", given {line[:60]}. Correct or delete that line."), "its beginning"


def test_a_log_that_is_damaged_absent_or_none(tmp_path):
    """What is no text is a torn line; what is no file is said."""
    assert runlog.read_events(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\n{"event": "test", "step": 3}\n')
    assert runlog.read_events(tmp_path) == [{"event": "test", "step": 3}]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CavsError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        runlog.read_events(tmp_path)
    with pytest.raises(CavsError, match=r"cannot write .*metrics\.jsonl: Is a directory"):
        runlog.append(tmp_path, {"event": "test", "step": 4})
    with pytest.raises(CavsError, match=r"cannot write .*absent/x: No such file or directory\."):
        runlog.write_whole(tmp_path / "absent" / "x", "")


@pytest.mark.parametrize("n_bytes", [20, 3000])
def test_no_more_space(tmp_path, n_bytes):
    """Files may not grow beyond n_bytes: the log fails, or the checkpoint does; both in words."""
    run = start(config(epochs=2), tmp_path)
    before = (tmp_path / runlog.LAST).read_bytes()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        with pytest.raises(CavsError, match="then resume the run from its folder"):
            run_to_the_end(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / runlog.LAST).read_bytes() == before
    run_to_the_end(resume(tmp_path))
    epochs = [e["epoch"] for e in runlog.read_events(tmp_path) if e["event"] == "epoch"]
    assert epochs == [1, 2]


def test_a_picture_that_cannot_be_written_is_no_failure(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run_to_the_end(start(config(epochs=2), tmp_path))
    (tmp_path / "curve.png").mkdir()
    print_curves(Console(), tmp_path, "accuracy")
    where = f"no learning curve: {tmp_path / 'curve.png'}: Is a directory"
    assert where in capsys.readouterr().out


def test_an_epoch_without_a_loss_is_in_no_curve(tmp_path, monkeypatch):
    events = [
        {"event": "epoch", "epoch": i, "train_loss": loss, "dev": {"accuracy": i / 4}}
        for i, loss in enumerate((None, 2.0, 1.0))
    ]
    drawn = []
    monkeypatch.setattr(report, "read_events", lambda folder: events)
    monkeypatch.setattr(report, "save_picture", lambda path, *series: drawn.append(series))
    print_curves(Console(), tmp_path, "accuracy")
    assert drawn == [([1, 2], {"training loss": [2.0, 1.0], "dev accuracy": [0.25, 0.5]})]


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new_folder("~/run") == tmp_path / "run"
    (tmp_path / "file").touch()
    for wanted in ("file", "file/below"):
        said = f"the run's folder {tmp_path / wanted} cannot be made: [A-Z][a-z ]+\\. Set folder="
        with pytest.raises(CavsError, match=said):
            new_folder(tmp_path / wanted)
        with pytest.raises(CheckpointError, match="does not exist. Is this the folder of a run"):
            resume(tmp_path / wanted)
    for wanted, why in (("a\0", "embedded null"), ("~no-such-user/x", "Could not determine home")):
        with pytest.raises(CavsError, match=f"folder {wanted} cannot be made: {why}"):
            new_folder(wanted)


def targets(folder, values, **train):
    """A config that learns one number a vertex from a file in `folder`."""
    inputs = {"word": ["a", "b", None], "label": values}
    line = json.dumps({"children": [[], [], [0, 1]], "inputs": inputs})
    (folder / "train.jsonl").write_text(f"{line}\n" * 3)
    given = config(epochs=1).model_dump()
    given["data"] = {"name": "jsonl", "folder": str(folder), "train": "train.jsonl"}
    given["train"] |= {"metrics": (), "early_stop": {}, "loss": "squared_error", **train}
    return RunConfig.model_validate(given)


@pytest.mark.parametrize(
    ("values", "odd"),
    [([0.5, 1e30, 0.5], "1e\\+30"), ([[0.5, 0.5], [0.5, -1e30], [0.5, 2.0]], "-1e\\+30")],
)
def test_a_target_that_cannot_be_learned_is_named(tmp_path, values, odd):
    """Not the learning rate: its square is infinite, though it is finite."""
    run = start(targets(tmp_path, values), new_folder(tmp_path / "run"))
    places = (rf"line {n}, vertex 1 \(training example {n - 1}\)" for n in (1, 2, 3))
    where = rf"step 0: the loss is inf; .*train\.jsonl, ({'|'.join(places)}): "
    what = rf"input 'label' holds {odd}\. .* is kept: {run.folder / runlog.LAST}\."
    with pytest.raises(TrainingError, match=where + what), np.errstate(over="ignore"):
        run_to_the_end(run)


def test_a_run_goes_on_from_another_directory(tmp_path, monkeypatch):
    """What the config names relative to where the run began is found again."""
    begun = tmp_path / "begun"
    begun.mkdir()
    monkeypatch.chdir(begun)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = targets(begun, [0.5, 1.0, 0.5])
    for folder in (".", "~/begun", "../begun"):
        data = given.data.model_copy(update={"folder": folder})
        named = given.model_copy(update={"data": data})
        run = start(named, new_folder(tmp_path / "run"))
        monkeypatch.chdir("/")
        assert run_to_the_end(run).metrics == {}, "there is neither a dev nor a test set"
        assert "test" not in [e["event"] for e in runlog.read_events(run.folder)]
        again = resume(run.folder, ["train.epochs=2"])
        assert fit(again, Silent(), Stop()).reason == "all 2 epochs done"
        monkeypatch.chdir(begun)
        moved = resume(run.folder, [f"data.folder={folder}"])
        assert moved.config.data.folder == again.config.data.folder
        moved.lock.release()


@pytest.mark.compiles
def test_a_target_that_cannot_run_leaves_nothing(tmp_path):
    """Refused at the start, not after a folder with a checkpoint is there."""
    executor = {"name": "tvm", "target": {"kind": "llvm", "mcpu": "cortex-a72"}}
    given = config().model_copy(update={"executor": ExecutorConfig.model_validate(executor)})
    with pytest.raises(TargetError, match="cortex-a72"):
        start(given, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    assert new_folder(tmp_path) == tmp_path
