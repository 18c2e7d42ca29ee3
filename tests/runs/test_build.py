"""From a config to data, network, loss and trainer, for each kind of data."""

import gc
import inspect
import json

import numpy as np
import pytest

from tvm_cavs import record
from tvm_cavs.data import LISTOPS_VOCAB, Loader, Vocab, generate, listops_dataset
from tvm_cavs.errors import ConfigError, DataError
from tvm_cavs.nn import CELLS, Network, SoftmaxCrossEntropy
from tvm_cavs.runs import build, splits
from tvm_cavs.runs.build import build_loss, build_network, build_trainer, load_pretrained
from tvm_cavs.runs.fingerprints import fingerprint
from tvm_cavs.runs.schema import ExecutorConfig, RunConfig
from tvm_cavs.runs.splits import build_data, resolve
from tvm_cavs.training.evaluation import evaluate

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
    sizes = {name: (len(split), split.n_vertices) for name, split in data.splits.items()}
    told = [f"{name} {n} graphs, {n_vertices} vertices" for name, (n, n_vertices) in sizes.items()]
    assert str(data).split("; ") == [*told, "16 words"]


def test_a_split_is_the_same_whichever_are_read():
    given = config({"name": "listops", "n_train": 9, "n_dev": 5, "n_test": 7})
    whole = build_data(given)
    for wanted in (["dev"], ["test"], ["train"], ["test", "train"]):
        some = build_data(given, wanted, whole.vocab)
        assert list(some.splits) == [name for name in ("train", "dev", "test") if name in wanted]
        for name, split in some.splits.items():
            assert fingerprint(split) == fingerprint(whole.splits[name])


def test_what_is_drawn_is_for_test_then_dev_then_train():
    given = {"name": "listops", "n_train": 9, "n_dev": 2, "n_test": 3, "seed": 3}
    found = build_data(config({**given, "max_tokens": 6, "form": "nary"})).splits
    drawn = generate(14, 3, 6)
    for split, part in (("test", drawn[:3]), ("dev", drawn[3:5]), ("train", drawn[5:])):
        assert fingerprint(found[split]) == fingerprint(listops_dataset(part, "nary", split))


def test_every_key_reaches_what_reads_a_file(tmp_path, monkeypatch):
    """Each has a value of its own; classes that have names are as many as those."""
    asked = []

    def reader(name):
        read = getattr(splits, name)

        def noted(*given, **named):
            bound = inspect.signature(read).bind(*given, **named)
            asked.append({"reader": name, **bound.arguments})
            raise DataError("enough")

        monkeypatch.setattr(splits, name, noted)

    reader("ptb_dataset")
    reader("jsonl_dataset")
    shared = {"folder": str(tmp_path), "train": "t", "n_classes": 2, "min_count": 7}
    vocab, named = Vocab(("<unk>", "a")), ("no", "yes")
    for data in (
        {"name": "ptb", "lower": True},
        {"name": "ptb", "unescape": True},
        {"name": "ptb", "classes": named},
        {"name": "jsonl", "label": "sense"},
        {"name": "jsonl", "classes": named},
    ):
        with pytest.raises(DataError, match="enough"):
            build_data(config(shared | data), ["train"], vocab)
        found, classes = asked.pop(), data.get("classes")
        label = data.get("label", "label")
        kind = "tokens" if classes else "integers"
        expected = {"path": tmp_path / "t", "vocab": vocab, "min_count": 7, "classes": classes}
        expected |= {"kinds": {"word": "tokens", label: kind}, "reader": f"{data['name']}_dataset"}
        if data["name"] == "ptb":
            expected |= {key: data.get(key, False) for key in ("lower", "unescape")}
            expected["n_classes"] = None if classes else 2
        else:
            expected |= {"label": label, "n_classes": 2}
        assert found == expected


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


def test_reading_leaves_the_garbage_collector_as_it_was():
    given = config({"name": "listops", "n_train": 3, "n_dev": 1, "n_test": 1})
    was_enabled = gc.isenabled()
    try:
        for enable in (gc.disable, gc.enable):
            enable()
            before = gc.isenabled()
            build_data(given)
            assert gc.isenabled() == before
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_class_that_no_vertex_has_is_one_too(tmp_path):
    """As long as the config names it; and graphs of single vertices have room for a child."""
    graph = {"children": [[]], "inputs": {"word": ["a"], "label": ["no"]}}
    path = write_jsonl(tmp_path / "train.jsonl", [graph])
    data = {"name": "jsonl", "train": path, "classes": ["no", "perhaps", "yes"]}
    resolved, net, _ = train_one_batch(config(data))
    assert resolved.data.n_classes == 3 and net.parameters()["V"].shape == (4, 3)
    assert resolved.model.arity == 1


def test_an_input_is_in_other_splits_what_it_is_in_training(tmp_path):
    def split(name, value):
        inputs = {"word": ["a"], "label": [1], "more": [value]}
        return write_jsonl(tmp_path / name, [{"children": [[]], "inputs": inputs}])

    given = {"name": "jsonl", "train": split("train", 0.5), "dev": split("dev", 2)}
    found = build_data(config(given)).splits["dev"]
    assert found[0].inputs["more"].values.tolist() == [2.0] and found.kinds["more"] == "numbers"
    with pytest.raises(DataError, match="'b' stands where numbers such as 0.5 are expected"):
        build_data(config({**given, "test": split("test", "b")}))


def test_jsonl_classes_come_from_the_data(tmp_path):
    graph = {"parents": [1, None], "inputs": {"word": ["a", "b"], "label": [2, 0]}}
    path = write_jsonl(tmp_path / "train.jsonl", [graph])
    resolved, _, _ = train_one_batch(config({"name": "jsonl", "train": path}))
    assert resolved.data.n_classes == 3
    with pytest.raises(
        DataError, match="no input 'y' to learn; it has word, label. Set data.label"
    ):
        build_data(config({"name": "jsonl", "train": path, "label": "y"}))
    with pytest.raises(DataError, match="data.label is word, the input that cells read"):
        build_data(config({"name": "jsonl", "train": path, "label": "word"}))


def test_room_for_more_children_than_there_are(tmp_path):
    """What a config says of its own accord is not taken from the data."""
    path = write_jsonl(tmp_path / "train.jsonl", GOOD)
    resolved, net, _ = train_one_batch(
        config({"name": "jsonl", "train": path}, model={"embedding": 3, "hidden": 4, "arity": 3})
    )
    assert resolved.model.arity == 3 and net.function.arity == 3


# One door: what is refused. Each: lines of train and dev, of the config, a message.


def tree(*labels, arity=1, **inputs):
    children = [[], [0] * arity] if len(labels) == 2 else [[]]
    inputs = {"word": ["a", "b"][: len(labels)], "label": list(labels), **inputs}
    return {"children": children, "inputs": {k: v for k, v in inputs.items() if v is not None}}


GOOD = [tree(0, 1), tree(2, 0)]
REAL = [tree(0.5, 1.5), tree(None, 2)]
MSE = {"loss": "squared_error"}
REFUSED = {
    "dev without labels": (GOOD, [tree(None, None)], {}, "dev has no labels: 'label' is null"),
    "dev without the input": (
        GOOD,
        [tree(0, 1, label=None)],
        {},
        "dev has no input 'label' to learn; it has word. Set",
    ),
    "train without labels": ([tree(None, None)], GOOD, {}, "train has no labels"),
    "dev with more children": (
        GOOD,
        [*GOOD, tree(0, 1, arity=3)],
        {},
        "dev, line 3, vertex 1 has 3 children, but tree_lstm takes 1. Set model.arity=3",
    ),
    "the widest of several": (
        GOOD,
        [tree(0, 1, arity=2), tree(0, 1, arity=4), tree(0, 1, arity=3)],
        {},
        "dev, line 2, vertex 1 has 4 children, but tree_lstm takes 1. Set model.arity=4",
    ),
    "a tree for a chain": (
        [tree(0, 1, arity=2)],
        GOOD,
        {},
        "line 1, vertex 1 has 2 children, but lstm takes 1. It is for chains: choose a cell for",
    ),
    "dev without words": (
        GOOD,
        [tree(0, 1, word=None)],
        {},
        "dev: the input 'word' is missing; .* It has label. Write",
    ),
    "words as integers": (
        [tree(0, 1, word=[0, 1])],
        GOOD,
        {},
        "train, line 1, vertex 0: input 'word'",
    ),
    "dev with other words": (GOOD, [tree(0, 1, word=[0, 1])], {}, "line 1, vertex 0: input 'word'"),
    "a class too many": (
        GOOD,
        [tree(0, 3)],
        {},
        "line 1, vertex 1: .*label 3 is out of",
    ),
    "a list for a class": (
        GOOD,
        [tree(None, [1, 2])],
        {},
        "dev, line 1, vertex 1: .*the label is a list; expected an integer in 0..2, or null",
    ),
    "below the classes": (
        [tree(0, -1)],
        GOOD,
        {},
        "line 1, vertex 1: label -1 does not fit softmax_cross_entropy; expected an integer of 0",
    ),
    "real labels": (
        [tree(0, 1), tree(0.5, 1)],
        GOOD,
        {},
        "line 2, vertex 0: label 0.5 does not",
    ),
    "real in dev": (GOOD, [tree(0, 2.0)], {}, "dev, line 1, vertex 1: input 'label': "),
    "words in dev": (GOOD, [tree(0, None), tree("a", None)], {}, "line 2, vertex 0: input 'label'"),
    "words for a number": ([tree("a", "b")], GOOD, MSE, "'a' stands where numbers such as 0.5"),
    "wider in dev": (
        REAL,
        [tree([1, 2], None)],
        MSE,
        "line 1, vertex 0: label .1.0, 2.0. does not .*expected one number, as in the training",
    ),
    "narrower in dev": (
        [tree([1, 2.5], None)],
        [tree([0.5], None)],
        MSE,
        "line 1, vertex 0: label .0.5. does not .*expected a list of 2 numbers, as in the training",
    ),
    "a matrix": ([tree([[1.0]], None)], REAL, MSE, "line 1, vertex 0: label .* a list of numbers"),
    "no answer": (
        REAL,
        REAL,
        {"loss": "logistic"},
        "train, line 1, vertex 1: label .1.5. does not fit logistic; expected 0 to 1",
    ),
    "less than an answer": (
        [tree(0.5, -0.5)],
        REAL,
        {"loss": "logistic"},
        "vertex 1: label .-0.5.*expected 0 to 1",
    ),
    "no root": (
        GOOD,
        [tree(0, None)],
        {"metrics": ["root_accuracy"]},
        "dev: no root has a 'label', so root_accuracy has nothing to count. Measure accuracy",
    ),
    "stopped by what none has": (
        GOOD,
        [tree(0, None)],
        {"early_stop": {"metric": "root_accuracy"}},
        "dev: no root has a 'label', so root_accuracy has nothing to count. Measure accuracy",
    ),
    "whole, but no integer": (
        [tree(None, 2.0)],
        GOOD,
        {},
        "line 1, vertex 1: label 2.0 does not",
    ),
    "six classes": (
        [tree(0, 5)],
        GOOD,
        {"metrics": ["binary_accuracy"]},
        "binary_accuracy needs 5 classes .SST., but there are 6. Use accuracy",
    ),
    "only neutral": (
        [tree(0, 4)],
        [tree(2, 2)],
        {"metrics": ["binary_accuracy"]},
        "dev: no vertex has a 'label' other than 2, so binary_accuracy",
    ),
    "three classes": (
        GOOD,
        GOOD,
        {"metrics": ["binary_accuracy"]},
        "binary_accuracy needs 5 classes .SST., but there are 3. Use accuracy",
    ),
    "an unseen class": (
        [tree("NP", "S")],
        [tree("NP", "VP")],
        {},
        "dev, line 1, vertex 1: .* 'VP' is none of the 2 classes of the training set: NP, S",
    ),
}


def split_config(folder, train, dev, **given):
    write_jsonl(folder / "train", train)
    write_jsonl(folder / "dev", dev)
    data = {"name": "jsonl", "folder": str(folder), "train": "train", "dev": "dev"}
    model = {"embedding": 2, "hidden": 2}
    if train and train[0]["children"][-1] == [0, 0]:
        model["cell"] = "lstm"
    return config(data, model=model, train=given)


@pytest.mark.parametrize("name", REFUSED)
def test_a_split_is_refused_before_the_first_epoch(name, tmp_path):
    """By a first start, and by an evaluation or a resume of a run that good data started."""
    train, dev, given, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        build_data(split_config(tmp_path, train, dev, **given))
    try:
        good = build_data(split_config(tmp_path, train, train, **given))
    except DataError:
        return  # it is the training set that is refused
    write_jsonl(tmp_path / "dev", dev)
    for wanted in (["dev"], ["train", "dev"]):
        with pytest.raises(DataError, match=message):
            build_data(good.config, wanted, good.vocab)


ACCURACY = ("accuracy", "root_accuracy")
ANSWERS = ("answer_accuracy", "root_answer_accuracy")
ACCEPTED = {  # what the saved config says of them: n_classes, classes, metrics
    "classes": (GOOD, {}, 3, None, ACCURACY),
    "words": (
        [tree("S", "NP"), tree(None, "S")],
        {},
        2,
        ("NP", "S"),
        ("accuracy", "root_accuracy"),
    ),
    "no root": ([tree(0, None)], {}, 1, None, ("accuracy",)),
    "numbers": (REAL, MSE, 1, None, ("mse", "root_mse")),
    "whole numbers": ([tree(None, 7)], MSE, 1, None, ("mse", "root_mse")),
    "lists": ([tree([1, 2.5], None)], MSE, 2, None, ("mse",)),
    "answers": (
        [tree(0, 1)],
        {"loss": "logistic"},
        1,
        None,
        ("answer_accuracy", "root_answer_accuracy"),
    ),
    "kept": (GOOD, {"metrics": ["root_accuracy"]}, 3, None, ("root_accuracy",)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_data_decide_is_saved(name, tmp_path):
    lines, given, n_classes, classes, metrics = ACCEPTED[name]
    made = split_config(tmp_path, lines, lines, **given)
    resolved, net, data = train_one_batch(made)
    assert (resolved.data.n_classes, resolved.data.classes) == (n_classes, classes)
    assert resolved.train.metrics == metrics
    saved = RunConfig.model_validate(resolved.model_dump(mode="json"))
    again = build_data(saved, ["dev"], data.vocab)
    found = evaluate(net, again.splits["dev"], saved.train.metrics)
    assert found.keys() == set(metrics) and all(np.isfinite(v) for v in found.values())
    assert resolved.train.early_stop.metric == metrics[0]


def test_an_evaluation_needs_the_saved_config(tmp_path):
    made = split_config(tmp_path, GOOD, GOOD)
    data = build_data(made)
    with pytest.raises(ConfigError, match="model.arity is missing; the config saved with a run"):
        build_network(made, data.vocab)
    known = made.model_copy(update={"model": data.config.model})
    with pytest.raises(ConfigError, match="^data.n_classes is missing; the config saved with a"):
        build_network(known, data.vocab)
    classes = made.data.model_copy(update={"n_classes": 5, "classes": ("a", "b")})
    words = [tree("a", "b")]
    write_jsonl(tmp_path / "train", words)
    with pytest.raises(ConfigError, match=r"data.n_classes = 5, but there are 2 classes \(a, b, "):
        build_data(made.model_copy(update={"data": classes}))


def test_listops_as_a_regression():
    """The value of an expression is a number as well as a class."""
    given = config({"name": "listops", "n_train": 5, "n_dev": 2, "n_test": 2}, train=MSE)
    _, net, data = train_one_batch(given)
    assert data.splits["dev"][0].inputs["label"].values.shape[1:] == (1,)
    assert evaluate(net, data.splits["dev"], ["mse"])["mse"] > 0


def test_an_evaluation_says_when_there_is_nothing_to_count(tmp_path):
    _, net, data = train_one_batch(split_config(tmp_path, [tree(0, None)], [tree(0, None)]))
    with pytest.raises(DataError, match="dev: no root has a 'label', so root_accuracy has nothing"):
        evaluate(net, data.splits["dev"], ["accuracy", "root_accuracy"])
    with pytest.raises(DataError, match="no output 'logit' to measure; it pushes logits"):
        evaluate(net, data.splits["dev"], ["accuracy"], output="logit")


def test_where_a_file_is_looked_for(tmp_path, monkeypatch):
    """In the folder, or below it, or where a path of its own leads; packed or not."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, found in (
        ("a", tmp_path / "a"),
        ("b/a", tmp_path / "b" / "a"),
        ("~/a", tmp_path / "home" / "a"),
        (str(tmp_path / "c" / "a"), tmp_path / "c" / "a"),
    ):
        assert splits.find_file(str(tmp_path), given) == found
        found.parent.mkdir(exist_ok=True)
        packed = found.with_name("a.xz")
        packed.touch()
        assert splits.find_file(str(tmp_path), given) == packed
    assert splits.find_file("~", "x") == tmp_path / "home" / "x"


def test_a_packed_file_is_found(tmp_path):
    import lzma

    with lzma.open(tmp_path / "train.txt.xz", "wt") as file:
        file.write(TREES)
    given = config({"name": "ptb", "folder": str(tmp_path), "train": "train.txt"})
    assert len(build_data(given).splits["train"]) == 2
    (tmp_path / "train.txt").write_text(TREES * 2)  # the file of that very name comes first
    assert len(build_data(given).splits["train"]) == 4


def test_the_seed_of_the_config_decides_what_is_dropped(tmp_path):
    (tmp_path / "train.txt").write_text(TREES)
    data = {"name": "ptb", "folder": str(tmp_path), "train": "train.txt"}
    losses = []
    for seed in (1, 2, 1):
        model = {"embedding": 3, "hidden": 4, "dropout": 0.5}
        given = config(data, model=model, train={"seed": seed})
        made = build_data(given)
        net = build_network(made.config, made.vocab)
        for parameter in net.parameters().values():  # which the seed decides too
            size = parameter.data.size
            parameter.set_data(np.linspace(-1, 1, size).reshape(parameter.shape))
        with record():
            losses.append(float(build_loss(made.config)(net(made.splits["train"].graphs[0]))))
    assert losses[0] == losses[2] != losses[1]


def test_every_key_reaches_what_it_is_for(monkeypatch, tmp_path):
    """Each has a value of its own, so that none can stand in for another."""
    train = {
        "optimizer": "adam",
        "hyper": {"beta1": 0.5},
        "lr": 0.25,
        "weight_decay": 0.125,
        "clip_norm": 3.0,
        "warmup": 2,
        "loss": "softmax_cross_entropy",
        "seed": 7,
        "lr_mult": {"E": 0.75},
        "decay_mult": {"b": 0.375},
        "batch_size": 2,
        "schedule": {"name": "step", "settings": {"every": 2}},
        "vertex_budget": 90,
    }
    model = {"cell": "tree_gru", "embedding": 3, "hidden": 5, "dropout": 0.1, "arity": 4}
    data = {"name": "listops", "n_train": 9, "n_dev": 1, "n_test": 1, "label": "list_label"}
    given = config(data, train=train, model=model)
    asked, chosen = [], []
    monkeypatch.setattr(build, "Trainer", lambda *got, **named: asked.append((got, named)))
    monkeypatch.setattr(Network, "hybridize", lambda *_, **named: chosen.append(named))
    options = {"threads": 3, "precision": "bf16", "sharing": False, "records": "none"}
    for executor in (options, {"records": "some.json", "target": "llvm"}, {"name": "reference"}):
        net = build_network(
            given.model_copy(update={"executor": ExecutorConfig.model_validate(executor)}),
            LISTOPS_VOCAB,
        )
    assert chosen == [
        {"executor": "tvm", **options, "records": False},
        {"executor": "tvm", "records": "some.json", "target": "llvm"},
        {"executor": "reference"},
    ]
    cell = net.function
    assert type(cell) is CELLS["tree_gru"] and (cell.arity, cell.dropout) == (4, 0.1)
    assert {n: p.shape for n, p in net.parameters().items()} == {
        "E": (len(LISTOPS_VOCAB), 3),
        "V": (5, 10),
        "d": (10,),
        "W": (3, 25),
        "U": (20, 25),
        "b": (25,),
        "Wn": (3, 5),
        "Un": (20, 5),
        "bn": (5,),
    }
    assert net.dropout_seed == 7
    other = Network(CELLS["tree_gru"](len(LISTOPS_VOCAB), 3, 5, 10, 4))
    other.initialize(seed=7)
    for name, p in other.parameters().items():
        assert np.array_equal(p.data, net.parameters()[name].data)
    build_trainer(given, net)
    (((parameters, optimizer, lr, weight_decay, clip_norm, schedule), named),) = asked
    assert parameters == net.parameters() and named == {"beta1": 0.5}
    assert (optimizer, lr, weight_decay, clip_norm) == ("adam", 0.25, 0.125, 3.0)
    assert [schedule(n) for n in range(5)] == [0.5, 1.0, 0.5, 0.5, 0.25]
    mults = {name: (p.lr_mult, p.decay_mult) for name, p in parameters.items()}
    assert mults == dict.fromkeys(mults, (1.0, 1.0)) | {"E": (0.75, 1.0), "b": (1.0, 0.375)}
    assert build_loss(given) == SoftmaxCrossEntropy("logits", "list_label")
    loader = Loader(build_data(given, ["train"]).splits["train"], 2, 90, seed=7)
    for got, wanted in zip(
        build.first_batches(build_data(given, ["train"]), 3), loader.batches(0), strict=False
    ):
        assert got.vertex_id.tolist() == wanted.vertex_id.tolist()
