"""Configs: defaults, overrides, and every problem of a file in one message."""

import json
import re
from pathlib import Path

import pytest
import yaml

from helpers.any_config import leaves
from helpers.paths import ROOT
from tvm_cavs.errors import ConfigError
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.runs.config import dump_config, load_config
from tvm_cavs.runs.schema import RunConfig

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def problems(path, *overrides):
    """The problem lines of a config that must be refused."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_an_empty_file_is_all_defaults(write):
    assert load_config(write("")) == RunConfig()


def test_values_and_overrides(write):
    path = write("data: {name: ptb, train: a.txt}\ntrain: {lr: 1e-4, seed: 3}\n")
    overrides = [
        "train.lr=0.5",
        "train.lr_mult={E: 0.1}",
        "executor.name=reference",
        "model.arity=3",
    ]
    config = load_config(path, overrides)
    assert config.data.train == "a.txt"
    assert (config.train.lr, config.train.seed) == (0.5, 3)
    assert config.train.lr_mult == {"E": 0.1}
    assert config.executor.name == "reference"
    assert config.model.arity == 3
    assert load_config(path).train.lr == 1e-4  # which YAML alone reads as text


@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        ("softmax_cross_entropy", ("accuracy", "root_accuracy")),
        ("squared_error", ("mse", "root_mse")),
        ("logistic", ("answer_accuracy", "root_answer_accuracy")),
    ],
)
def test_metrics_follow_the_loss(write, loss, metrics):
    given = load_config(write(f"train: {{loss: {loss}, early_stop: {{patience: 2}}}}")).train
    assert (given.metrics, given.early_stop.metric) == (metrics, metrics[0])
    given = load_config(write(f"train: {{loss: {loss}, metrics: [{metrics[1]}]}}")).train
    assert given.early_stop.metric == metrics[1]


def test_the_dump_reads_back(write):
    config = load_config(write("train: {epochs: 3, metrics: [root_accuracy, accuracy]}"))
    assert load_config(write(dump_config(config))) == config


def test_all_problems_at_once(write):
    path = write(
        "data: {name: listop}\n"
        "model: {cell: treelstm, hidden: -3, hiden: 4}\n"
        "train: {optimizer: adagrd, lrr: 0.1, epochs: ten, batch_size: null}\n"
        "executor: tvm\n"
        "clip_norm: 5\n"
    )
    found = problems(path, "train.dropout=0.5", "speed")
    assert found == [
        "'speed': expected an override such as train.lr=0.1",
        "data.name = 'listop': expected one of listops, ptb, jsonl; did you mean 'listops'?",
        f"model.cell = 'treelstm': expected one of {', '.join(CELLS)}; did you mean 'tree_lstm'?",
        "model.hidden = -3: expected greater than 0",
        "model.hiden = 4: unknown key; did you mean model.hidden?",
        "train.optimizer = 'adagrd': expected one of sgd, momentum, adagrad, adam, adamw; "
        "did you mean 'adagrad'?",
        "train.vertex_budget = None: expected train.batch_size, train.vertex_budget or both",
        "train.epochs = 'ten': expected a valid integer, unable to parse string as an integer",
        "train.lrr = 0.1: unknown key; did you mean train.lr?",
        "train.dropout = 0.5: unknown key; did you mean model.dropout?",
        "executor = 'tvm': expected a section with keys of its own",
        "clip_norm = 5: unknown key; did you mean train.clip_norm?",
    ]


def test_one_wrong_value_is_one_problem_whatever_else_looks_at_it(write):
    path = write("")
    for key in leaves(RunConfig):
        (problem,) = problems(path, f"{key}=[[]]")
        assert problem.startswith(key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "data: {name: ptb, trian: x}",
            "data.train: missing; set it in the file, or add data.train=VALUE to the command",
        ),
        ("data: {name: ptb, trian: x}", "data.trian = 'x': unknown key; did you mean data.train?"),
        ("data: {n_train: 5}", "data.name: missing; expected one of listops, ptb, jsonl"),
        ("model: {dropout: 1.5}", "model.dropout = 1.5: expected less than 1"),
        ("train: {hyper: {eps: 1, momentum: 2}}", "'adagrad' does not take momentum; it takes eps"),
        ("train: {schedule: {name: cosine}}", "'cosine' takes n_steps, floor; missing: n_steps;"),
        ("train: {early_stop: {metric: mse}}", "expected a metric in train.metrics: accuracy"),
        (
            "train: {metrics: [mse]}",
            "mse does not fit the loss softmax_cross_entropy; expected some of accuracy, root_acc",
        ),
        (
            "train: {metrics: [root_mse, accuracy, mse]}",
            "root_mse, mse does not fit the loss softmax_cross_entropy; expected some of accuracy",
        ),
        (
            "train: {loss: squared_error, early_stop: {metric: accuracy}}",
            "expected a metric in train.metrics: mse, root_mse",
        ),
        ("train: {metrics: [acuracy]}", "train.metrics.0 = 'acuracy': expected one of accuracy"),
        (
            "{data: {name: ptb, train: x}, train: {early_stop: {patience: 2}}}",
            "early_stop.patience needs a dev set; expected data.dev as well",
        ),
        ("train: {lr: .nan}", "train.lr = nan: expected a finite number"),
        ("executor: {name: tmv}", "executor.name = 'tmv': expected one of reference, tvm"),
    ],
)
def test_one_problem(write, text, expected):
    assert any(expected in line for line in problems(write(text)))


@pytest.mark.parametrize(
    "text", ["qqxx: 1", "train: {qqxx: 1}", "data: {name: qqxx}", "data: {name: ptb, qqxx: 1}"]
)
def test_what_is_like_nothing_has_no_hint(write, text):
    (line, *_) = [line for line in problems(write(text)) if "qqxx" in line]
    assert "did you mean" not in line and "None" not in line


def test_an_override_into_a_value(write):
    found = problems(write("train: {lr: 0.1}"), "train.lr.x=3", "train.seed=[1")
    assert found[0] == "train.lr.x = 3: lr is 0.1, not a section"
    assert found[1].startswith("train.seed = [1: line 1, column 3: no valid YAML: expected")
    assert found[1].endswith("; put quotes around it")


LONG = "9" * 5000  # also more digits than Python makes a number of


@pytest.mark.parametrize(
    "overrides",
    [
        [LONG],
        [f"{LONG}=1"],
        [f"train.seed={LONG}"],
        [f"train.lr.{LONG}={LONG}"],
        [f"data.name=x{LONG}"],
        [f"train.seed.x{LONG}=1", "train.seed=1"],
        ["train.seed=1", f"train.seed.x{LONG}=1"],
        [f"x{LONG}=1", f"x{LONG}=2"],
    ],
)
def test_no_more_is_shown_of_what_was_given_than_one_reads(write, overrides):
    found = problems(write("train: {lr: 0.1}"), *overrides)
    assert found and max(map(len, found)) < 400
    assert any("..." in line for line in found)


def test_files_that_cannot_be_read(write, tmp_path):
    path = write("train:\n  lr: [1,\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: line 3, column 1: no valid YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"run\.yaml: expected keys such as 'data:'.*got list"):
        load_config(write("- 1\n"))
    with pytest.raises(ConfigError, match=r"rum\.yaml does not exist\. Did you mean .*run\.yaml\?"):
        load_config(tmp_path / "rum.yaml")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} cannot be read as a config: ")
    assert "Is a directory" in str(error.value)


@pytest.mark.parametrize(
    ("given", "near"),
    [("rum", "run"), ("rn.yaml", "run"), ("mine.yml", "mine"), ("train.yaml", None), ("a", None)],
)
def test_a_file_of_a_name_like_it_is_shown(given, near, tmp_path, monkeypatch):
    """Whatever folder both are in, and however long its name is."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "mine"):
        (tmp_path / f"{name}.yaml").write_text("")
    for folder in (Path(), tmp_path):
        hint = "" if near is None else f" Did you mean {folder / near}.yaml?"
        with pytest.raises(ConfigError) as error:
            load_config(folder / given)
        assert str(error.value) == f"{folder / given} does not exist.{hint}"


@pytest.mark.parametrize("value", ["[1]", "3.5", "2020-01-01", "true"])
def test_a_target_of_another_type(value, write):
    """No key is named that there is not."""
    (line,) = problems(write(f"executor: {{target: {value}}}"))
    assert line.startswith("executor.target = ") and " expected a text such as host, or a " in line


def test_sections_and_mappings_are_told_apart(write):
    assert problems(write("train: {hyper: 3, early_stop: 4}")) == [
        "train.hyper = 3: expected a mapping",
        "train.early_stop = 4: expected a section with keys of its own",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {lr: 0.1}\nmodel: {}\ntrain: {epochs: 3}", "line 3: 'train' .*first in line 1"),
        ("train:\n  lr: 1\n  seed: 2\n  lr: 3\n", "line 4: 'lr' is given a second time .*line 2"),
        (
            "model: {hidden: 4, hidden: 5}\ntrain: {lr: 1, lr: 2}",
            "'hidden' is.*; line 2: 'lr' is.*line 2",
        ),
        ("executor:\n  target: &t {kind: llvm, x: *t}", "line 2: a value that holds itself"),
        ("train: {metrics: [{a: 1, b: 2, a: 3}]}", "line 1: 'a' is given a second time"),
        ("? {a: 1, a: 2}\n: 3", "line 1: 'a' is given a second time"),
        ("model: &m {a: 1, a: 2}\ntrain: *m", "^((?!second).)*second((?!second).)*$"),
        ("[" * 1100, "nested too deeply"),
        ("folder: 2026-13-01", "month must be in 1..12.*needs quotes"),
        ("a: \x00", "^no valid YAML: unacceptable character #x0000"),
        ("a: 1\n  b: [2,\nc", "^line 2, column 4: no valid YAML: mapping values are not allowed"),
    ],
)
def test_yaml_that_would_lose_something(write, text, expected):
    with pytest.raises(ConfigError) as error:
        load_config(write(text))
    _, _, said = str(error.value).partition("run.yaml: ")
    assert re.search(expected, said)


@pytest.mark.parametrize("length", [1, 58, 59, 200])
def test_values_are_shown_up_to_sixty_letters(write, length):
    """Of texts, lists and lists of texts."""
    for value in ("x" * length, list(range(length)), ["x" * length] * length):
        (line,) = problems(write(f"train: {{lr: {json.dumps(value)}}}"))
        shown = line.removeprefix("train.lr = ").rpartition(": ")[0]
        assert len(shown) <= 60 and (shown == repr(value) or "..." in shown)


def test_overrides_that_undo_each_other(write):
    path = write("train: {lr: 0.1, lr_mult: &m {E: 0.5}, decay_mult: *m}")
    found = problems(path, "train.lr=1", "train.lr=2", "train={seed: 1}", "train.lrs=1")
    assert "train.lr: given twice on the command line; keep one of the two" in found
    assert "train: given besides train.lr on the command line; keep one of the two" in found
    train = load_config(path, ["train.lr_mult.E=0"]).train
    assert (train.lr_mult, train.decay_mult) == ({"E": 0.0}, {"E": 0.5})


@pytest.mark.parametrize("turn", [1, -1])
def test_a_section_and_a_key_of_it_undo_each_other_in_either_order(write, turn):
    found = problems(write(""), *["train.lr_mult={E: 1}", "train.lr_mult.W=2"][::turn])
    last, first = ["train.lr_mult", "train.lr_mult.W"][::-turn]
    assert found == [f"{last}: given besides {first} on the command line; keep one of the two"]
    assert load_config(write(""), ["train.lr=0.5", "train.lr_mult={E: 1}"]).train.lr == 0.5


def test_numbers_as_people_write_them(write):
    for text in ("1e-3", "+1E-3", ".1e-2", "1.e-3", "0.001"):
        assert load_config(write(f"train: {{lr: {text}}}")).train.lr == 0.001
        assert load_config(write(""), [f"train.lr={text}"]).train.lr == 0.001
    assert load_config(write("train: {batch_size: 1e2}")).train.batch_size == 100


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs(path):
    text = path.read_text(encoding="utf-8")
    command = re.match(r"# python scripts/train\.py (\S+)", text)
    assert command, "the first line is the command that runs it"
    assert command.group(1) == f"configs/{path.name}"
    assert isinstance(load_config(path), RunConfig)
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_problems_are_counted_and_none_follows_from_another(write, n):
    """A loss that is none says nothing of metrics and of early stopping."""
    wrong = ["loss: huber", "epochs: few", "lr: fast"][:n]
    path = write(f"train: {{{', '.join(wrong)}, early_stop: {{patience: 2}}}}")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    first, *others = str(error.value).splitlines()
    assert first == f"{path}: {n} problem{'s' if n > 1 else ''}" and len(others) == n
    assert sorted(line.split()[0] for line in others) == sorted(
        f"train.{w.split(':')[0]}" for w in wrong
    )
