"""What a run keeps when it resumes otherwise: other batches, data, metrics, folders, processes."""

import os
import signal

import pytest
from runs_for_tests import Silent, config, run_to_the_end

from tvm_cavs import runlog
from tvm_cavs.errors import CavsError, CheckpointError
from tvm_cavs.fit import fit
from tvm_cavs.graph import batch
from tvm_cavs.process import Stop
from tvm_cavs.run import resume, start


@pytest.mark.parametrize("override", ["train.batch_size=5", "train.seed=9"])
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
    monkeypatch.setattr("tvm_cavs.fit._evaluate", lambda *_: {"accuracy": next(values)})
    run = start(config(), tmp_path)
    run_to_the_end(run)
    assert (run.progress.best_value, run.progress.best_epoch) == (0.5, 3)
    epochs = [e for e in runlog.read_events(tmp_path) if e["event"] == "epoch"]
    assert epochs[0]["dev"] == {"accuracy": None}
