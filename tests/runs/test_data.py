"""A run on data of each kind: first start, resume and evaluation read them alike."""

import importlib.util
import json

import numpy as np
import pytest

from helpers.paths import ROOT
from tvm_cavs.errors import CavsError, DataError
from tvm_cavs.runs import runlog
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.run import resume, save, start
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.runs.splits import SPLITS, build_data
from tvm_cavs.training.checkpoint import load_checkpoint

SCRIPT = ROOT / "scripts" / "evaluate.py"


class Silent:
    def status(self, status):
        pass

    def line(self, text):
        pass


def evaluate_script():
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, labels, words=("a", "b", "c")):
    """A chain for every label, which stands at its root."""
    lines = []
    for n, label in labels:
        inputs = {"word": [words[n % 3]] * n, "label": [None] * (n - 1) + [label]}
        lines.append(json.dumps({"parents": [*range(1, n), None], "inputs": inputs}))
    path.write_text("\n".join(lines), encoding="utf-8")


LEARNED = {  # label of a chain of n, the loss, its metric
    "numbers": (lambda n: n + 0.5, "squared_error", "mse"),
    "whole numbers": (lambda n: n, "squared_error", "mse"),
    "lists": (lambda n: [n, 0.5], "squared_error", "mse"),
    "words": (lambda n: "SML"[n % 3], "softmax_cross_entropy", "accuracy"),
    "answers": (lambda n: n % 2, "logistic", "answer_accuracy"),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_start_resume_and_evaluate(kind, tmp_path, capsys):
    label, loss, metric = LEARNED[kind]
    for split, lengths in (("train", (1, 2, 3, 4, 5)), ("dev", (2, 4)), ("test", (3,))):
        write(tmp_path / split, [(n, label(n)) for n in lengths])
    config = RunConfig.model_validate(
        {
            "data": {"name": "jsonl", "folder": str(tmp_path)}
            | {split: split for split in ("train", "dev", "test")},
            "model": {"embedding": 2, "hidden": 2},
            "train": {"loss": loss, "epochs": 3, "batch_size": 2, "optimizer": "adam", "lr": 0.3},
            "executor": {"name": "reference"},
        }
    )
    folder = tmp_path / "run"
    folder.mkdir()
    fit(start(config, folder), Silent(), Stop())
    run = resume(folder, ["train.epochs=5"])
    outcome = fit(run, Silent(), Stop())
    epochs = [event for event in runlog.read_events(folder) if event["event"] == "epoch"]
    values = [event["dev"][metric] for event in epochs]
    best = np.argmin(values) if loss == "squared_error" else np.argmax(values)
    assert (len(epochs), run.progress.best_epoch) == (5, best + 1)
    assert run.progress.best_value == values[best]
    assert load_checkpoint(folder / runlog.BEST).progress.step == 3 * (best + 1)
    script = evaluate_script()
    assert script.main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == outcome.metrics
    write(tmp_path / "test", [(3, "odd" if kind != "lists" else 1.0)])
    with pytest.raises(DataError, match="test, line 1, vertex 2: "):
        script.main([str(folder)])
    with pytest.raises(CavsError, match="no test set; add data.test=PATH"):
        script.main([str(folder), "--split", "test", "data.test=null"])


def test_json_has_no_nan(tmp_path, capsys):
    """Parameters that overflow: null in JSON, and in words beside it."""
    write(tmp_path / "train", [(1, 1), (2, 0)])
    config = RunConfig.model_validate(
        {
            "data": {"name": "jsonl", "train": str(tmp_path / "train")},
            "model": {"embedding": 2, "hidden": 2},
            "executor": {"name": "reference"},
        }
    )
    folder = tmp_path / "run"
    folder.mkdir()
    run = start(config, folder)
    for name, value in (("b", 100.0), ("V", 3e38)):  # every gate is open, every output overflows
        parameter = run.net.parameters()[name]
        parameter.set_data(np.full(parameter.shape, value, np.float32))
    save(run)
    assert evaluate_script().main([str(folder), "--json", "--split", "train"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out, parse_constant=pytest.fail) == {
        "train": {"accuracy": None, "root_accuracy": None}
    }
    assert "train: accuracy is nan: the outputs of these parameters are not finite" in printed.err


@pytest.mark.parametrize("place", ["/", ".", "..", "~"])
def test_a_folder_in_the_place_of_a_file_is_said(place, tmp_path):
    """Also one that has no name of its own."""
    data = {"name": "listops", "n_train": 2, "n_dev": 1, "n_test": 1, "test": place}
    config = RunConfig.model_validate({"data": data, "executor": {"name": "reference"}})
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        start(config, tmp_path)


def test_what_training_has_read_of_an_input_holds_for_every_split(tmp_path):
    """Though the dev set, which is read between the two, never has it."""
    for split, values in (("train", [1.5, 2.0]), ("dev", [None, None]), ("test", ["a", "b"])):
        inputs = {"word": ["a", "b"], "x": values, "label": [None, 1]}
        line = {"children": [[], [0]], "inputs": inputs}
        (tmp_path / split).write_text(json.dumps(line), encoding="utf-8")
    data = {"name": "jsonl", "n_classes": 2, **{s: f"{tmp_path / s}" for s in SPLITS}}
    model = {"cell": "tree_rnn", "embedding": 2, "hidden": 2}
    with pytest.raises(DataError, match=r"test.*'x'.*(number|token)"):
        build_data(RunConfig.model_validate({"data": data, "model": model}))
