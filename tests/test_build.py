"""From a config to data, network, loss and trainer, for each kind of data."""

import json

import numpy as np
import pytest

from tvm_cavs import record
from tvm_cavs.build import (
    build_data,
    build_loss,
    build_network,
    build_trainer,
    load_pretrained,
    resolve,
)
from tvm_cavs.errors import DataError
from tvm_cavs.evaluation import evaluate
from tvm_cavs.schema import RunConfig

TREES = "(3 (2 good) (4 toast))\n(1 (0 bad) (2 (2 burnt) (1 toast)))\n"


def config(data, **sections):
    sections = {"model": {"embedding": 3, "hidden": 4}, **sections}
    return RunConfig.model_validate({"data": data, "executor": {"name": "reference"}, **sections})


def train_one_batch(given):
    """One step on the training data; the resolved config, the network and the data."""
    data = build_data(given)
    resolved = resolve(given, data)
    net = build_network(resolved, data.vocab)
    trainer = build_trainer(resolved, net)
    loss_fn = build_loss(resolved)
    graph = data.splits["train"].graphs[0]
    with record():
        loss = loss_fn(net(graph))
    loss.backward()
    trainer.step(1)
    return resolved, net, data


def test_listops_splits_are_disjoint_and_labelled():
    data = build_data(config({"name": "listops", "n_train": 30, "n_dev": 5, "n_test": 7}))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 30,
        "dev": 5,
        "test": 7,
    }
    words = [
        tuple(graph.inputs["word"].values.tolist())
        for split in data.splits.values()
        for graph in split
    ]
    assert len(set(words)) == 42
    assert str(data).endswith("16 words")


def test_listops_nary_resolves_the_arity():
    resolved, net, _ = train_one_batch(
        config({"name": "listops", "n_train": 40, "n_dev": 2, "n_test": 2, "form": "nary"})
    )
    assert resolved.model.arity == 5
    assert net.parameters()["V"].shape == (4, 10)


def test_the_official_listops_file_is_kept_out_of_training(tmp_path):
    path = tmp_path / "official.tsv"
    path.write_text("3\t3\n9\t( ( ( [MAX 3 ) 9 ) ] )\n")
    data = build_data(
        config({"name": "listops", "n_train": 20, "n_dev": 3, "max_tokens": 4, "test": str(path)})
    )
    assert len(data.splits["test"]) == 2
    official = {tuple(g.inputs["word"].values.tolist()) for g in data.splits["test"]}
    assert not official & {tuple(g.inputs["word"].values.tolist()) for g in data.splits["train"]}


def test_ptb_with_glove(tmp_path):
    (tmp_path / "train.txt").write_text(TREES)
    (tmp_path / "glove.txt").write_text("toast 1 2 3\nother 4 5 6\n")
    given = config(
        {"name": "ptb", "folder": str(tmp_path), "train": "train.txt", "dev": "train.txt"},
        model={"embedding": 3, "hidden": 4, "pretrained": str(tmp_path / "glove.txt")},
        train={
            "lr_mult": {"E": 0.0},
            "metrics": ["root_binary_accuracy"],
            "early_stop": {"metric": "root_binary_accuracy"},
        },
    )
    resolved, net, data = train_one_batch(given)
    assert data.splits.keys() == {"train", "dev"}
    assert load_pretrained(resolved, net, data.vocab) == 1
    np.testing.assert_array_equal(
        net.parameters()["E"].data[data.vocab.index(["toast"])[0]], [1, 2, 3]
    )
    assert evaluate(net, data.splits["dev"], resolved.train.metrics).keys() == {
        "root_binary_accuracy"
    }


def test_evaluation_reads_only_what_it_needs(tmp_path):
    (tmp_path / "dev.txt").write_text(TREES)
    given = config({"name": "ptb", "folder": str(tmp_path), "train": "absent", "dev": "dev.txt"})
    vocab = build_data(config({"name": "ptb", "train": str(tmp_path / "dev.txt")})).vocab
    assert build_data(given, ["dev"], vocab).splits.keys() == {"dev"}
    with pytest.raises(DataError, match="absent cannot be read"):
        build_data(given, ["dev"])


def write_jsonl(path, graphs):
    path.write_text("".join(json.dumps(graph) + "\n" for graph in graphs))
    return str(path)


def test_jsonl_regression_on_scalars(tmp_path):
    graph = {"parents": [1, None], "inputs": {"word": ["a", "b"], "target": [None, 0.5]}}
    path = write_jsonl(tmp_path / "train.jsonl", [graph])
    given = config(
        {"name": "jsonl", "train": path, "dev": path, "label": "target"},
        train={"loss": "squared_error", "metrics": ["mse"], "early_stop": {"metric": "mse"}},
    )
    resolved, net, data = train_one_batch(given)
    assert resolved.data.n_classes == 1
    assert evaluate(net, data.splits["dev"], ["mse"], "target")["mse"] < 1.0


def test_jsonl_classes_come_from_the_data(tmp_path):
    graph = {"parents": [1, None], "inputs": {"word": ["a", "b"], "label": [2, 0]}}
    path = write_jsonl(tmp_path / "train.jsonl", [graph])
    resolved, _, _ = train_one_batch(config({"name": "jsonl", "train": path}))
    assert resolved.data.n_classes == 3
    with pytest.raises(
        DataError, match="no input 'y' to learn; it has word, label. Set data.label"
    ):
        build_data(config({"name": "jsonl", "train": path, "label": "y"}))


def test_a_packed_file_is_found(tmp_path):
    import lzma

    with lzma.open(tmp_path / "train.txt.xz", "wt") as file:
        file.write(TREES)
    given = config({"name": "ptb", "folder": str(tmp_path), "train": "train.txt"})
    assert len(build_data(given).splits["train"]) == 2
