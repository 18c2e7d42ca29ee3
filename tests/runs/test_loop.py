"""Runs: exact resume, early stopping, and everything that can end one."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers.paths import ROOT
from helpers.runs import Silent, assert_same_run, config, parameters, run_to_the_end
from schedules.knobs import DIRECT_VERTICES
from tvm_cavs import whole_files
from tvm_cavs.compiler import Compiler
from tvm_cavs.errors import CavsError, CheckpointError, ConfigError, TrainingError
from tvm_cavs.nn.recording import record
from tvm_cavs.runs import loop, runlog
from tvm_cavs.runs.loop import Outcome, _keep_best, fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import resume, start
from tvm_cavs.runs.runlog import new_folder
from tvm_cavs.runs.schema import ExecutorConfig
from tvm_cavs.training.checkpoint import load_checkpoint
from tvm_cavs.training.evaluation import evaluate


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_to_the_end(start(config(), folder))
    return folder


@pytest.mark.parametrize("n_steps", [1, 4, 6])
def test_resume_is_exact(whole, tmp_path, n_steps):
    """Stopped in the middle and at the end of an epoch of 4 steps, with dropout and Adam."""
    stop = Stop()

    def after_step(status):
        if (status.epoch - 1) * 4 + status.batch == n_steps:
            stop.signal = signal.SIGINT

    outcome = fit(start(config(), tmp_path), Silent(after_step), stop)
    assert outcome.interrupted
    assert load_checkpoint(tmp_path / runlog.LAST).progress.step == n_steps
    outcome = run_to_the_end(resume(tmp_path))
    assert outcome.reason == "all 3 epochs done"
    assert_same_run(whole, tmp_path)


def test_resume_after_a_kill_uses_the_last_checkpoint(whole, tmp_path):
    """What came after the checkpoint, log lines included, is done again."""

    def after_step(status):
        if (status.epoch, status.batch) == (3, 2):
            raise SystemExit  # nothing is saved

    with pytest.raises(SystemExit):
        fit(start(config(), tmp_path), Silent(after_step), Stop())
    assert load_checkpoint(tmp_path / runlog.LAST).progress.step == 8
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        line = '{"event": "step", "step": 10, "epoch": 3, "train_loss": 1.0}'
        file.write(line + '\n{"event": "st')  # torn
    run_to_the_end(resume(tmp_path))
    assert_same_run(whole, tmp_path)


def test_what_a_run_leaves(whole):
    names = {path.name for path in whole.iterdir()} - {"curve.png"}
    assert names == {
        "config.yaml",
        "versions.json",
        "metrics.jsonl",
        "run.lock",
        runlog.LAST,
        runlog.BEST,
    }
    epochs = [event for event in runlog.read_events(whole) if event["event"] == "epoch"]
    assert [event["step"] for event in epochs] == [4, 8, 12]
    assert set(epochs[0]["dev"]) == {"accuracy", "root_accuracy"}
    text = (whole / "config.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# python scripts/train.py {whole}/config.yaml\n")
    assert "arity: 2" in text
    versions = json.loads((whole / "versions.json").read_text())
    assert versions["numpy"] == np.__version__
    assert {"tvm_cavs", "python", "machine", "system", "processors"} <= set(versions)
    best, last = load_checkpoint(whole / runlog.BEST), load_checkpoint(whole / runlog.LAST)
    assert last.optimizer and not best.optimizer, "of what is only measured"


def test_a_run_is_the_loop_written_by_hand(tmp_path):
    """Sums are divided by examples, not by labels; plain SGD, for which that matters."""
    given = config(epochs=1, optimizer="sgd")
    run, hand = start(given, new_folder(tmp_path / "run")), start(given, new_folder(tmp_path / "b"))
    run_to_the_end(run)
    for batch in hand.loader.batches(0):
        with record():
            loss = hand.loss(hand.net(batch))
        assert loss.n_labels != batch.n_graphs
        loss.backward()
        hand.trainer.step(batch.n_graphs)
    for name, array in parameters(hand).items():
        np.testing.assert_array_equal(
            array, load_checkpoint(run.folder / runlog.LAST).parameters[name]
        )


def test_a_finished_run_can_be_extended(whole, tmp_path):
    run_to_the_end(start(config(epochs=1), tmp_path))
    assert fit(resume(tmp_path), Silent(), Stop()).reason == "all 1 epochs done"
    run_to_the_end(resume(tmp_path, ["train.epochs=3"]))
    last, other = load_checkpoint(whole / runlog.LAST), load_checkpoint(tmp_path / runlog.LAST)
    for name, array in last.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name])


def test_early_stopping_keeps_the_best(tmp_path):
    run = start(config(lr=1e-9, epochs=9, early_stop={"patience": 2}), tmp_path)
    display = Silent()
    outcome = fit(run, display, Stop())
    assert outcome.reason == "no better dev accuracy for 2 epochs"
    assert run.progress.epoch == 3
    assert run.progress.best_epoch == 1
    assert load_checkpoint(tmp_path / runlog.BEST).progress.step == 4
    assert outcome.metrics["dev"]["accuracy"] == run.progress.best_value
    assert display.lines[0].endswith("*")
    assert not display.lines[1].endswith("*")


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        ("softmax_cross_entropy", (0.5, 0.4, 0.5, 0.6, 0.1)),
        ("squared_error", (0.5, 0.6, 0.5, 0.4, 0.9)),
    ],
)
def test_a_better_epoch_forgets_the_bad_ones(tmp_path, monkeypatch, loss, values):
    """One that is as good is not better."""
    run = start(config(loss=loss), tmp_path)
    monkeypatch.setattr("tvm_cavs.runs.loop.save", lambda *_: None)
    counts = []
    for value in values:
        _keep_best(run, value)
        counts.append(run.progress.n_bad_epochs)
    assert counts == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(("values", "best"), [((0.5, 0.4, 0.3), 1), ((0.1, 0.5, 0.2), 2)])
def test_what_is_measured_last_are_the_best_parameters(tmp_path, monkeypatch, values, best):
    """Also of a run that had ended, and goes on to do that alone."""
    given, seen = iter(values), []

    def evaluated(run, split, stop):
        seen.append((split, parameters(run)["W"].tolist()))
        return {"accuracy": next(given, 0.0)}

    monkeypatch.setattr("tvm_cavs.runs.loop._evaluate", evaluated)
    run = start(config(), tmp_path)
    outcome = run_to_the_end(run)
    assert set(outcome.metrics) == {"dev", "test"} and run.progress.best_epoch == best
    assert seen[3:] == [("dev", seen[best - 1][1]), ("test", seen[best - 1][1])]
    assert run_to_the_end(resume(tmp_path)) == Outcome("all 3 epochs done", metrics=outcome.metrics)
    assert seen[5:] == seen[3:5] and seen[2] != seen[3]


def test_an_evaluation_that_is_stopped_says_nothing(tmp_path):
    run = start(config(), tmp_path)
    dev, metrics = run.data.splits["dev"], ("accuracy",)
    assert evaluate(run.net, dev, metrics, stop=lambda: True) is None
    assert evaluate(run.net, dev, metrics) is not None


@pytest.mark.parametrize(
    ("number", "reason"),
    [(2, "stopped after step 8")]
    + [(n, "all 3 epochs done; stopped before the last measurement") for n in (4, 5)],
)
def test_a_run_that_is_stopped_while_it_is_measured(whole, tmp_path, monkeypatch, number, reason):
    """After an epoch, or at the end on dev and test: it is measured when it goes on."""
    stop, calls = Stop(), itertools.count(1)

    def measured(*given, **named):
        stop.signal = signal.SIGINT if next(calls) == number else None
        return evaluate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr("tvm_cavs.runs.loop.evaluate", measured)
        outcome = fit(start(config(), tmp_path), Silent(), stop)
    assert (outcome.reason, outcome.interrupted, outcome.metrics) == (reason, True, {})
    assert set(run_to_the_end(resume(tmp_path)).metrics) == {"dev", "test"}
    assert_same_run(whole, tmp_path)


def test_time_limit(tmp_path):
    run = start(config(max_seconds=1e-6), tmp_path)
    outcome = run_to_the_end(run)
    assert outcome.reason == "train.max_seconds = 1e-06 used up"
    assert (run.progress.step, run.progress.epoch) == (1, 0)
    assert set(outcome.metrics) == {"dev", "test"}


def test_nan_loss(tmp_path):
    run = start(config(), tmp_path)

    def after_step(status):
        if (status.epoch, status.batch) == (2, 2):
            with run.net.parameters()["W"].writing() as weight:
                weight[0, 0] = np.nan

    with pytest.raises(TrainingError) as error:
        fit(run, Silent(after_step), Stop())
    examples = ", ".join(str(i) for i in run.loader.parts(1)[2])
    where = f"step 6 (epoch 2, batch 3, training examples {examples}): the loss is nan"
    assert where in str(error.value)
    assert f"last good checkpoint is kept: {tmp_path / runlog.LAST}. Look" in str(error.value)
    for array in load_checkpoint(tmp_path / runlog.LAST).parameters.values():
        assert np.isfinite(array).all()


def test_nan_gradient(tmp_path):
    run = start(config(), tmp_path)
    before = parameters(run)
    run.trainer.parameters["V"].grad = None
    backward = run.net.executor(run.loss).backward

    def broken():
        return {name: grad * np.inf if name == "V" else grad for name, grad in backward().items()}

    run.net.executor(run.loss).backward = broken
    with (
        pytest.raises(TrainingError, match=r"step 0 \(epoch 1, batch 1,.*gradient norm.*V:"),
        np.errstate(invalid="ignore"),
    ):
        fit(run, Silent(), Stop())
    for name, array in parameters(run).items():
        np.testing.assert_array_equal(array, before[name])


def test_disk_full_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = start(config(), tmp_path)
    before = (tmp_path / runlog.LAST).read_bytes()
    monkeypatch.setattr(whole_files, "_open_for_writing", lambda path: open("/dev/full", "wb"))
    with pytest.raises(
        CheckpointError, match="cannot write .*best.safetensors: the disk is full.*resume"
    ):
        run_to_the_end(run)
    assert (tmp_path / runlog.LAST).read_bytes() == before


def test_refusals(tmp_path):
    with pytest.raises(
        ConfigError, match=r"train\.lr_mult\.e: no such parameter.*expected one of E"
    ):
        start(config(lr_mult={"e": 0.1}), tmp_path)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/absent/last.* does not exist"):
        resume(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="does not exist"):
        resume(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir()), "no lock where there is no run"
    run_to_the_end(start(config(epochs=1), tmp_path))
    with pytest.raises(ConfigError, match=r"model\.hidden: 4 in the run, 5 now"):
        resume(tmp_path, ["model.hidden=5"])
    with pytest.raises(CavsError, match="cannot be made"):
        new_folder(tmp_path / runlog.LAST / "x")


def test_a_run_gets_a_folder_of_its_own(tmp_path):
    (tmp_path / "demo").mkdir()
    assert new_folder(tmp_path / "demo") == tmp_path / "demo"  # empty
    (tmp_path / "demo" / "run.lock").touch()
    assert new_folder(tmp_path / "demo") == tmp_path / "demo"  # of a run that never began
    (tmp_path / "demo" / "config.yaml").touch()
    assert new_folder(tmp_path / "demo") == tmp_path / "demo-2"


# The commands, each in a process of its own.

ARGUMENTS = [
    "configs/demo.yaml",
    "executor.name=reference",
    "data.n_train=30",
    "data.n_dev=5",
    "data.n_test=5",
    "data.max_tokens=6",
    "data.seed=0",
    "model.embedding=3",
    "model.hidden=4",
    "train.batch_size=3",
]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def command(script, *arguments):
    return [sys.executable, str(ROOT / "scripts" / script), *arguments]


def call(script, *arguments):
    """The finished process of a script, with its output."""
    return subprocess.run(
        command(script, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_train_and_evaluate_commands(tmp_path):
    folder = tmp_path / "run"
    done = call("train.py", *ARGUMENTS, "train.epochs=2", f"folder={folder}")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout, "plain lines when piped"
    assert "epoch 2  0:0" in done.stdout
    assert "dev accuracy over epochs" in done.stdout
    evaluated = call("evaluate.py", str(folder), "--json", "executor.name=reference")
    assert evaluated.returncode == 0, evaluated.stderr
    test = [event for event in runlog.read_events(folder) if event["event"] == "test"][0]["test"]
    assert json.loads(evaluated.stdout)["test"] == test


def test_ctrl_c_and_resume(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = [*ARGUMENTS, "train.epochs=4"]
    assert call("train.py", *arguments, f"folder={whole}").returncode == 0
    process = subprocess.Popen(
        command("train.py", *arguments, f"folder={stopped}"),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not runlog.read_events(stopped) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"resume with: python scripts/train.py --resume {stopped}" in output
    resumed = call("train.py", "--resume", str(stopped))
    assert resumed.returncode == 0, resumed.stderr
    first, second = load_checkpoint(whole / runlog.LAST), load_checkpoint(stopped / runlog.LAST)
    assert first.progress.step == second.progress.step
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name])


def test_errors_are_one_message(tmp_path):
    done = call("train.py", "configs/demo.yaml", "train.lrr=1", "model.cell=tree_lstn")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "train.lrr = 1: unknown key; did you mean train.lr?" in done.stderr
    assert "did you mean 'tree_lstm'?" in done.stderr
    assert "does not exist" in call("evaluate.py", os.fspath(tmp_path)).stderr


@pytest.mark.compiles
def test_nothing_is_compiled_once_training_has_begun(tmp_path, monkeypatch):
    """But the optimizer's few lines; neither for small batches of a data set that is large."""
    small, data = config(epochs=1, batch_size=2), config().data
    data = data.model_copy(update={"n_train": 120})
    given = small.model_copy(update={"executor": ExecutorConfig(), "data": data})
    made, executables, begun = [], Compiler.executables, []

    def noted(self, forms, n):
        made.extend(bool(begun) for f in forms if not f.symbol.startswith("update"))
        return executables(self, forms, n)

    train = loop._train_epoch
    monkeypatch.setattr(Compiler, "executables", noted)
    monkeypatch.setattr(loop, "_train_epoch", lambda *given: begun.append(1) or train(*given))
    monkeypatch.setattr(loop, "_finish_epoch", lambda *given: False)
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path / "kernels"))
    run = start(given, new_folder(tmp_path / "run"))
    assert sum(g.n_vertices for g in run.data.splits["train"].graphs) > DIRECT_VERTICES
    fit(run, Silent(), Stop())
    assert begun and made and not any(made)


@pytest.mark.compiles
def test_resume_is_exact_on_the_compiled_executor(tmp_path):
    """Also after the best parameters were put back for the final measurement."""
    given = config(epochs=2).model_copy(update={"executor": ExecutorConfig(name="tvm")})
    whole, stopped, stop = tmp_path / "whole", tmp_path / "stopped", Stop()
    outcome = run_to_the_end(start(given, new_folder(whole)))

    def after_step(status):
        if (status.epoch, status.batch) == (2, 1):
            stop.signal = signal.SIGTERM

    assert fit(start(given, new_folder(stopped)), Silent(after_step), stop).interrupted
    assert stop.exit_code == 143
    assert run_to_the_end(resume(stopped)) == outcome
    assert_same_run(whole, stopped)
    measured = run_to_the_end(resume(stopped, ["executor.name=reference"])).metrics
    for split, values in measured.items():
        for name, value in values.items():
            assert value == pytest.approx(outcome.metrics[split][name], abs=0.03)
