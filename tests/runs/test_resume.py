"""What a run keeps when it resumes otherwise: other batches, data, metrics, folders, processes."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from helpers.runs import TINY, Silent, assert_same_run, config, parameters, run_to_the_end
from tvm_cavs.data import Loader
from tvm_cavs.errors import CavsError, CheckpointError, ConfigError
from tvm_cavs.graph.batching import batch
from tvm_cavs.runs import runlog
from tvm_cavs.runs.config import load_config
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.pace import count_recent, recent_loss
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import _check_data, _check_fixed, absolute, resume, save, start
from tvm_cavs.runs.runlock import RunLock
from tvm_cavs.runs.runlog import new_folder
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.training.checkpoint import (
    Checkpoint,
    Progress,
    installed_versions,
    load_checkpoint,
)


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
    again = record_ids(resume(tmp_path, [override]))
    run_to_the_end(again)
    assert sorted(first + sum(seen, [])) == list(range(20))
    assert again.loader.seed == again.config.train.seed, "which the next epoch takes"


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
    before = load_checkpoint(tmp_path / runlog.LAST).data["train"]
    with pytest.raises(CheckpointError) as error:
        resume(tmp_path, ["data.n_train=10"])
    run = resume(tmp_path, ["data.n_train=10", "train.epochs=2"], changed_data=True)
    now, whole = run.fingerprints["train"], run.data.splits["train"]
    assert before.startswith("20 graphs, ")
    assert re.fullmatch(rf"10 graphs, {whole.n_vertices} vertices, digest [0-9a-f]{{8}}", now)
    changed = f"the data have changed since step 4:\n  train: {before} before, {now} now"
    assert run.notes[0].startswith(f"{changed}\n  dev: 6 graphs, ")
    assert str(error.value).startswith(f"{run.notes[0]}\nRestore the data or the keys under data:")
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
    found = "the best epoch so far was found by accuracy; root_accuracy begins anew"
    assert run.notes[0] == found
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


def test_other_versions_are_said(done, tmp_path, monkeypatch):
    """Besides what else there is to say."""
    monkeypatch.setattr("tvm_cavs.runs.run.installed_versions", lambda: {"numpy": "9.9"})
    folder = shutil.copytree(done, tmp_path / "run")
    changed, versions = resume(folder, ["data.n_train=10"], changed_data=True).notes
    assert changed.startswith("the data have changed")
    written = installed_versions()
    assert versions.startswith("the checkpoint was written with tvm_cavs ")
    assert f"apache-tvm {written['apache-tvm']} (now not installed), " in versions
    assert versions.endswith(f", numpy {written['numpy']} (now 9.9)")


def test_what_a_resume_changes_is_saved_and_nothing_else(done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "run")
    path = folder / "config.yaml"
    path.write_text("# mine\n" + path.read_text())
    before = path.read_text()
    resume(folder).lock.release()
    assert path.read_text() == before
    run = resume(folder, ["train.epochs=7"])
    assert load_config(path) == run.config and run.config.train.epochs == 7


def test_what_is_refused_keeps_no_folder(done, tmp_path):
    """Not even while its error is looked at."""
    with pytest.raises(ConfigError) as first:
        start(config(warmup=99), tmp_path)
    RunLock(tmp_path).release()
    with pytest.raises(ConfigError) as second:
        resume(done, ["model.hidden=5"])
    RunLock(done).release()
    assert first.tb and second.tb


def test_another_metric_before_any_epoch_is_no_news(tmp_path):
    stop = Stop()

    def after_step(status):
        stop.signal = signal.SIGINT

    fit(start(config(), tmp_path), Silent(after_step), stop)
    assert resume(tmp_path, ["train.early_stop.metric=root_accuracy"]).notes == []


def test_batches_are_those_of_the_config(tmp_path):
    run = start(config(batch_size=4, vertex_budget=25, seed=5), tmp_path)
    hand = Loader(run.data.splits["train"], 4, 25, shuffle=True, seed=5)
    for epoch in range(2):
        parts = [part.tolist() for part in run.loader.parts(epoch)]
        assert parts == [part.tolist() for part in hand.parts(epoch)]
        assert {len(part) for part in parts} > {4}, "either limit counts"


def test_words_begin_with_what_is_known_of_them(tmp_path):
    """And a run that goes on does so with what has become of that."""
    (tmp_path / "words").write_text("3 1 2 3\nother 4 5 6\n[MAX 7 8 9\n")
    given = config(epochs=1)
    model = given.model.model_copy(update={"pretrained": str(tmp_path / "words")})
    run = start(given.model_copy(update={"model": model}), new_folder(tmp_path / "run"))
    assert run.notes == [f"2 of 16 words found in {tmp_path / 'words'}"]
    rows = run.data.vocab.index(["3", "[MAX"])
    assert parameters(run)["E"][rows].tolist() == [[1, 2, 3], [7, 8, 9]]
    run_to_the_end(run)
    again = resume(run.folder)
    assert again.notes == []
    last = load_checkpoint(run.folder / runlog.LAST).parameters["E"]
    assert parameters(again)["E"].tolist() == last.tolist() and last[rows[0], 0] != 1


@pytest.mark.parametrize("form", ["listops", "ptb"])
def test_paths_of_a_config_hold_from_anywhere(form, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    data = {"listops": {"test": "a"}, "ptb": {"folder": "a", "train": "b"}}[form]
    for given, whole in (("a", tmp_path / "a"), ("~/a", tmp_path / "home" / "a"), ("/a", "/a")):
        named = {key: given if path == "a" else path for key, path in data.items()}
        model = TINY["model"] | {"pretrained": given}
        made = absolute(RunConfig.model_validate({"data": {"name": form} | named, "model": model}))
        expected = {key: str(whole) if path == "a" else path for key, path in data.items()}
        assert {key: getattr(made.data, key) for key in data} == expected
        assert made.model.pretrained == str(whole)
    made = absolute(config())
    assert (made.data.test, made.model.pretrained) == (None, None)


# Data of files, of which one set alone can change.

GRAPH = '{{"children": [[], [0]], "inputs": {{"word": ["a", "{}"], "label": [0, 1]}}}}\n'


def write_sets(folder, **words):
    """Six graphs for each set that is named, with its word in them."""
    for split, word in words.items():
        (folder / split).write_text(GRAPH.format(word) * 6)


@pytest.fixture
def begun(tmp_path):
    """A run in its second epoch of three steps, of a train and a dev set."""
    write_sets(tmp_path, train="b", dev="a")
    data = {"name": "jsonl", "folder": str(tmp_path), "train": "train", "dev": "dev"}
    train = TINY["train"] | {"batch_size": 2}
    stop = Stop()

    def after_step(status):
        stop.signal = signal.SIGINT if status.epoch == 2 else None

    run = start(
        RunConfig.model_validate(TINY | {"data": data, "train": train}),
        new_folder(tmp_path / "run"),
    )
    fit(run, Silent(after_step), stop)
    return run


@pytest.mark.parametrize("changed", ["train", "dev"])
def test_what_begins_again_where_data_have_changed(begun, tmp_path, changed):
    """The epoch, on another training set; the account of the best, on another dev set."""
    write_sets(tmp_path, **{changed: "c"})
    run = resume(begun.folder, changed_data=True)
    progress, before = run.progress, begun.progress
    assert run.data.vocab.to_list() == begun.data.vocab.to_list(), "of which parameters are"
    of_the_epoch = ("epoch_examples", "batch", "epoch_labels", "epoch_loss")
    now, then = ([getattr(p, name) for name in of_the_epoch] for p in (progress, before))
    assert then[:3] == [2, 1, 4] and now == ([0, 0, 0, 0.0] if changed == "train" else then)
    assert (progress.epoch, progress.step, progress.n_examples) == (1, 4, 8)
    assert progress.best_epoch == (1 if changed == "train" else 0)
    assert (begun.folder / runlog.BEST).exists() == (changed == "train")


def test_another_seed_waits_for_the_next_epoch(begun):
    """Also where a run has gone on in between, and is saved in the same epoch."""
    run = resume(begun.folder, ["train.seed=9"])
    save(run)
    run.lock.release()
    again = resume(begun.folder)
    assert (again.loader.seed, again.config.train.seed) == (0, 9)
    again.lock.release()


@pytest.mark.parametrize("override", ["n_classes=3", "classes=[a, b]", "min_count=2", "label=x"])
def test_what_words_and_classes_mean_cannot_change(begun, override):
    with pytest.raises(ConfigError, match=rf"  data\.{override.partition('=')[0]}: .* now"):
        resume(begun.folder, [f"data.{override}"])


@pytest.mark.parametrize("key", ["lower", "unescape"])
def test_how_words_are_spelled_cannot_change(key):
    data = {"name": "ptb", "train": "x"}
    before, now = (
        RunConfig.model_validate(TINY | {"data": data | {key: given}}) for given in (False, True)
    )
    checkpoint = Checkpoint({}, config=before.model_dump(mode="json"))
    with pytest.raises(ConfigError, match=f"  data.{key}: False in the run, True now"):
        _check_fixed(checkpoint, now)
    _check_fixed(checkpoint, before)


def test_what_an_older_checkpoint_does_not_tell_is_not_compared(begun):
    """Keys that it had not yet, and the data."""
    _check_fixed(Checkpoint({}, config={"model": {"hidden": 4}}), begun.config)
    _check_data(begun, Checkpoint({}), changed_data=False)


def test_a_folder_that_is_absent_cannot_be_locked(tmp_path):
    said = f"the run's folder {tmp_path}/absent cannot be written: No such file.*or set folder="
    with pytest.raises(CavsError, match=said):
        RunLock(tmp_path / "absent")


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


@pytest.mark.parametrize("at", ["epoch", "checkpoint", "test"])
def test_a_kill_around_a_line_and_its_checkpoint_leaves_one_line(tmp_path, monkeypatch, at):
    """The line is there, and its checkpoint is not: a resumed run says it again, in its place.

    There is no checkpoint without its line.
    """
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

    def save_and_die(run, name=runlog.LAST):
        save(run, name)
        if (name, run.progress.epoch, at) == (runlog.LAST, 1, "checkpoint"):
            raise Killed

    run = start(config(epochs=2, checkpoint_seconds=1e-9), killed)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runlog, "put", put_and_die)
        patch.setattr("tvm_cavs.runs.loop.save", save_and_die)
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
