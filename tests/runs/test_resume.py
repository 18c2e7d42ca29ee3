"""What a run keeps when it resumes otherwise: other batches, data, metrics, folders, processes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from helpers.runs import Silent, assert_same_run, config, run_to_the_end
from tvm_cavs.errors import CavsError, CheckpointError, ConfigError
from tvm_cavs.graph.batching import batch
from tvm_cavs.runs import runlog
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.pace import count_recent, recent_loss
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import resume, save, start
from tvm_cavs.runs.runlock import RunLock
from tvm_cavs.training.checkpoint import Progress


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of one epoch that has ended."""
    folder = tmp_path_factory.mktemp("done")
    run_to_the_end(start(config(epochs=1), folder))
    return folder


@pytest.mark.parametrize(
    "override",
    ["train.batch_size=5", "train.batch_size=1", "train.vertex_budget=30", "train.seed=9"],
)
def test_another_batch_size_or_seed_sees_every_example_of_the_epoch_once(tmp_path, override):
    stop, seen = Stop(), []

    def record_ids(run):
        def batches(epoch, done=0):
            for part in run.loader.parts(epoch, done):
                if epoch == 0:
                    seen.append(part.tolist())
                yield batch([run.loader.dataset[i] for i in part])

        run.loader.batches = batches
        return run

    def after_step(status):
        if status.batch == 2:
            stop.signal = signal.SIGINT

    fit(record_ids(start(config(epochs=1), tmp_path)), Silent(after_step), stop)
    first = sum(seen[:2], [])
    seen.clear()
    run_to_the_end(record_ids(resume(tmp_path, [override])))
    assert sorted(first + sum(seen, [])) == list(range(20))


def test_another_seed_counts_where_no_epoch_was_begun(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "run")
    run = resume(folder, ["train.seed=9", "train.epochs=2"])
    assert run.loader.seed == 9
    run.progress.epoch_examples = 6  # the second epoch has begun
    save(run)
    run.lock.release()
    assert resume(folder, ["train.seed=5"]).loader.seed == 9


def test_the_best_on_another_dev_set_is_no_best(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "run")
    best = (folder / runlog.BEST).read_bytes()
    progress = resume(folder, ["data.n_dev=4"], changed_data=True).progress
    assert (progress.best_value, progress.best_epoch) == (None, 0)
    assert not (folder / runlog.BEST).exists()
    assert (folder / "best-other-data.safetensors").read_bytes() == best


def test_one_process_at_a_time(tmp_path):
    run = start(config(epochs=1), tmp_path)
    with pytest.raises(CavsError, match=rf"in use by process {os.getpid()} on "):
        resume(tmp_path)
    run_to_the_end(run)
    resume(tmp_path).lock.release()


def test_changed_data_are_said_and_refused(tmp_path):
    run_to_the_end(start(config(epochs=1), tmp_path))
    with pytest.raises(CheckpointError, match=r"have changed since step 4:\n  train: 20 graphs"):
        resume(tmp_path, ["data.n_train=10"])
    run = resume(tmp_path, ["data.n_train=10", "train.epochs=2"], changed_data=True)
    assert "the data have changed" in run.notes[0]
    run_to_the_end(run)
    assert run.progress.n_examples == 30


def test_a_nan_metric_neither_wins_nor_blocks(tmp_path, monkeypatch):
    values = iter([float("nan"), 0.1, 0.5, float("nan"), 0.2])
    monkeypatch.setattr("tvm_cavs.runs.loop._evaluate", lambda *_: {"accuracy": next(values)})
    run = start(config(), tmp_path)
    run_to_the_end(run)
    assert (run.progress.best_value, run.progress.best_epoch) == (0.5, 3)
    epochs = [e for e in runlog.read_events(tmp_path) if e["event"] == "epoch"]
    assert epochs[0]["dev"] == {"accuracy": None}


def test_an_epoch_cut_short_is_none(tmp_path):
    """Neither for the best nor for patience; it goes on where it was cut."""
    run = start(config(max_seconds=1e-6, epochs=2, early_stop={"patience": 1}), tmp_path)
    display = Silent()
    assert set(fit(run, display, Stop()).metrics) == {"dev", "test"}
    progress = run.progress
    assert (progress.epoch, progress.step, progress.best_value) == (0, 1, None)
    assert (progress.best_epoch, progress.n_bad_epochs) == (0, 0)
    assert not (tmp_path / runlog.BEST).exists()
    assert display.lines[-1].endswith("(cut short)")
    again = resume(tmp_path, ["train.max_seconds=100", "train.epochs=1"])
    run_to_the_end(again)
    assert (again.progress.n_examples, again.progress.best_epoch) == (20, 1)
    whole = [e["whole"] for e in runlog.read_events(tmp_path) if e["event"] == "epoch"]
    assert whole == [False, True]


def test_another_metric_begins_its_own_account(tmp_path):
    """A best of 0.9 of one metric must not stand in the way of 0.5 of another."""
    run = start(config(epochs=1), tmp_path)
    run_to_the_end(run)
    best = (tmp_path / runlog.BEST).read_bytes()
    run.progress.best_value = 2.0
    save(run)
    run = resume(tmp_path, ["train.early_stop.metric=root_accuracy", "train.epochs=2"])
    assert "the best epoch so far was found by accuracy" in run.notes[0]
    run_to_the_end(run)
    assert (run.progress.best_epoch, run.progress.n_bad_epochs) == (2, 0)
    assert (tmp_path / "best-accuracy.safetensors").read_bytes() == best


@pytest.mark.parametrize(
    "override",
    ["model.cell=tree_gru", "model.hidden=5", "model.embedding=2", "model.arity=3"]
    + ["model.pretrained=/glove.txt", "train.optimizer=sgd", "data.form=nary"]
    + ["data.label=list_label", "data={name: jsonl, train: x}"],
)
def test_what_a_resume_cannot_change_is_not_written_down(done, override):
    before = (done / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"cannot change(.|\n)*  (model|train|data)\..* now"):
        resume(done, [override])
    assert (done / "config.yaml").read_bytes() == before


def test_other_versions_are_said(done, monkeypatch):
    monkeypatch.setattr("tvm_cavs.runs.run.installed_versions", lambda: {"numpy": "9.9"})
    run = resume(done)
    run.lock.release()
    assert "written with" in run.notes[0] and "(now 9.9)" in run.notes[0]


def test_a_killed_process_leaves_no_lock(tmp_path):
    held = "import sys, time, pathlib; from tvm_cavs.runs.runlock import RunLock; "
    held += "lock = RunLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(CavsError, match=rf"in use by process {process.pid} on .*folder=PATH"):
            RunLock(tmp_path)
        process.kill()
    RunLock(tmp_path).release()


def test_the_loss_shown_is_that_of_the_last_steps():
    progress = Progress()
    for step in range(200):
        count_recent(progress, 7.0 if step < 150 else 2.0, 2)
    assert recent_loss(progress) == 1.0
    assert recent_loss(Progress()) == 0.0


@pytest.mark.parametrize("at", ["epoch", "test"])
def test_a_kill_between_a_line_and_its_checkpoint_leaves_one_line(tmp_path, monkeypatch, at):
    """The line is there, and its checkpoint is not: a resumed run says it again, in its place."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run_to_the_end(start(config(epochs=2, checkpoint_seconds=1e-9), whole))

    class Killed(BaseException):
        pass

    put = runlog.put

    def put_and_die(folder, event):
        put(folder, event)
        if event["event"] == at:
            raise Killed

    run = start(config(epochs=2, checkpoint_seconds=1e-9), killed)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runlog, "put", put_and_die)
        run_to_the_end(run)
    run.lock.release()
    run_to_the_end(resume(killed))
    assert_same_run(whole, killed)
    lines = [(e["event"], e["epoch"]) for e in runlog.read_events(killed)]
    assert [line for line in lines if line[0] != "step"] == [
        ("epoch", 1),
        ("epoch", 2),
        ("test", lines[-1][1]),
    ]
