"""The user's own graphs from JSON lines, and the message of every bad line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_cavs.data.jsonl import jsonl_dataset
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import check

GOOD = {"children": [[], [], [0, 1]], "inputs": {"label": [0, 1, 2]}}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "graphs.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_children_parents_and_inputs(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"children": [[], [None, 0], [0, 1, 0]], "inputs": {"x": [[1, 2], None, [0.5, 0]]}},
        {"parents": [2, 2, None], "inputs": {"word": ["a", "b", None], "label": [1, None, 3]}},
        {"parents": [1, -1]},
    )
    dataset = jsonl_dataset(path, n_classes=4)
    whole = batch(dataset.graphs)
    check(whole)
    assert dataset.vocab == Vocab(("<unk>", "a", "b"))
    assert [g.child.tolist() for g in dataset] == [[-1, 0, 0, 1, 0], [0, 1], [0]]
    assert whole.inputs["x"].values.tolist() == [[1, 2], [0, 0], [0.5, 0]] + [[0, 0]] * 5
    assert whole.inputs["word"].values.tolist() == [-1, -1, -1, 1, 2, -1, -1, -1]
    assert whole.inputs["label"].values.tolist() == [-1, -1, -1, 1, -1, 3, -1, -1]
    assert whole.vertex_id.tolist() == list(range(8))
    test = jsonl_dataset(path, vocab=Vocab(("<unk>", "b")))
    assert test.graphs[1].inputs["word"].values.tolist() == [0, 1, -1]


@pytest.mark.parametrize("root", [None, -1])
def test_parents_may_stand_in_any_order(root: int | None, tmp_path: Path) -> None:
    """Roots too; children come in the order of their vertices."""
    parents = [root, 3, 0, root, 3, 0]
    (graph,) = jsonl_dataset(write(tmp_path, {"parents": parents}))
    slots = np.split(graph.child, graph.child_ptr[1:-1])
    assert [each.tolist() for each in slots] == [[2, 5], [], [], [1, 4], [], []]


BAD_LINES = {
    "json": ('{"children": [[}', "line 2, column 16: bad JSON: Expecting value"),
    "infinity": (
        '{"children": [[]], "inputs": {"x": [-Infinity]}}',
        "line 2: bad JSON: -Infinity is",
    ),
    "nan": ('{"children": [[]], "inputs": {"x": [NaN]}}', "line 2: bad JSON: NaN is not a finite"),
    "list": ("[1, 2]", "line 2: expected an object {...}, got list"),
    "key": ({"childs": [[]]}, "line 2: unknown key 'childs'; did you mean 'children'?"),
    "both": (
        {"children": [[]], "parents": [-1]},
        "line 2: expected either 'children' or 'parents'; got ['children', 'parents'].",
    ),
    "neither": ({"inputs": {}}, "line 2: expected either 'children' or 'parents'; got ['inputs']"),
    "type": ({"children": [["0"]]}, "line 2: 'children' must be a list of lists"),
    "bool": ({"parents": [True, None]}, "line 2: 'parents' must be a list of vertex indices"),
    "parent": (
        {"parents": [2, None]},
        "line 2: vertex 0: its parent 2 is out of range; expected 0..1, or null for a root.",
    ),
    "parent below": (
        {"parents": [None, 0, 0, -2, 7]},
        "line 2: vertex 3: its parent -2 is out of range; expected 0..4, or null for a root.",
    ),
    "inputs": (
        {"children": [[]], "inputs": [1]},
        "line 2: 'inputs' must be an object of lists, got [1].",
    ),
    "name": (
        {"children": [[]], "inputs": {"x": [1], "\ud800y": [1]}},
        "line 2: the input '\\ud800y' is named by half of a surrogate pair.",
    ),
    "length": (
        {"children": [[], [0]], "inputs": {"label": [1]}},
        "line 2: input 'label' has 1 entries; expected a list of 2, one a vertex",
    ),
    "length of another": (
        {"children": [[], [0], []], "inputs": {"label": [0, 1, 2], "x": [1] * 5}},
        "line 2: input 'x' has 5 entries; expected a list of 3, one a vertex",
    ),
    "scalar": (
        {"children": [[]], "inputs": {"label": "seven"}},
        "line 2: input 'label' has 'seven'; expected a list of 1",
    ),
    "range": (
        {"children": [[]], "inputs": {"label": [3]}},
        "line 2, vertex 0: input 'label': label 3 is out of range; expected an integer in 0..2",
    ),
    "range below": (
        {"children": [[], [], []], "inputs": {"label": [None, 2, -4]}},
        "line 2, vertex 2: input 'label': label -4 is out of range; expected an integer in 0..2",
    ),
    "cycle": ({"children": [[], [2], [1]]}, "line 2: the graph has a cycle: 1 -> 2 -> 1"),
    "self-loop": ({"parents": [0]}, "line 2: vertex 0 is its own child (self-loop in slot 0)"),
    "child": ({"children": [[], [2]]}, "line 2: vertex 1: child 2 in slot 0 is out of range"),
    "empty": ({"children": []}, "line 2: the graph is empty; expected at least one vertex"),
    "very deep": ("[" * 100_000, "line 2: bad JSON: maximum recursion depth"),
    "far key": (
        {"children": [[]], "x": 1},
        "line 2: unknown key 'x'; expected one of children, inputs, parents.",
    ),
    "digits": ('{"children": [[' + "9" * 5000 + "]]}", "line 2: bad JSON: Exceeds the limit"),
    "child of 64 bits": ({"children": [[10**30]]}, "line 2: "),
    "ragged": (
        {"children": [[], []], "inputs": {"x": [[1.0], [1.0, 2.0]]}},
        "line 2, vertex 1: input 'x': a list of 2, where the entries before differ in shape: they "
        "are lists of 1. An input has",
    ),
}
VALUES = {  # entries of the input "x" of one graph, and what is wrong with them
    "number among tokens": (["a", 1], "1: input 'x': 1 is a number in a list of tokens"),
    "token among numbers": ([0.5, "a"], "1: input 'x': 'a' is a token in a list of numbers"),
    "null in a list": ([None, [1.0, None]], "1: input 'x': null is neither a number nor a token"),
    "true": ([1, True], "1: input 'x': true is neither a number nor a token. Write 1 or 0"),
    "true in a list": ([[0.5, True], None], "0: input 'x': true is neither"),
    "object": ([1, {}], "1: input 'x': {} is neither a number nor a token"),
    "23 digits": ([1, 10**22], f"1: input 'x': {10**22} does not fit int32"),
    "23 digits in a list": ([[1, 10**22]] * 2, f"0: input 'x': {10**22} does not fit int32"),
    "huge": ([0.5, 10**400], "1: input 'x': 100000000000000000000000... (401 characters) is not"),
    "1e39": (
        [None, 1e39],
        "1: input 'x': 1e+39 is not finite in float32 (its largest is 3.403e+38). Use",
    ),
    "1e400": ("[0.5, 1e400]", "1: input 'x': inf is not finite in float32"),
    "a list among numbers": ([1, [1]], "1: input 'x': [1] stands among entries of another shape"),
    "empty list": ([[], None], "0: input 'x': the list [] is empty"),
    "list of tokens": ([["a"], ["b"]], "0: input 'x': a list of tokens, 'a' first"),
    "surrogate": (["a", "\ud800"], "1: input 'x': '\\ud800' is half of a surrogate pair"),
    "deep": (f"[{'[' * 9}1{']' * 9}, null]", "0: input 'x': the list [1] is too deep"),
}


@pytest.mark.parametrize("name", ["cycle", "self-loop", "child", "empty"])
def test_of_several_bad_graphs_the_first_is_named(name: str, tmp_path: Path) -> None:
    bad = {"children": [[], [0, 1]]}
    with pytest.raises(DataError) as error:
        jsonl_dataset(write(tmp_path, {"children": [[]]}, BAD_LINES[name][0], bad, bad))
    assert BAD_LINES[name][1] in str(error.value)


@pytest.mark.parametrize("name", VALUES)
def test_values_of_two_meanings(name: str, tmp_path: Path) -> None:
    entries, message = VALUES[name]
    text = entries if isinstance(entries, str) else json.dumps(entries)
    line = f'{{"children": [[], [0]], "inputs": {{"x": {text}}}}}'
    with pytest.raises(DataError) as error:
        jsonl_dataset(write(tmp_path, {"children": [[]]}, line))
    assert f"graphs.jsonl, line 2, vertex {message}" in str(error.value)


def test_one_meaning_over_all_lines_and_files(tmp_path: Path) -> None:
    """JSON writers print 1.0 as 1: among numbers, or where train has numbers, it is a number."""

    def read(*columns: list[Any], **arguments: Any) -> Any:
        lines = [{"children": [[]] * len(c), "inputs": {"x": c}} for c in columns]
        return jsonl_dataset(write(tmp_path, *lines), **arguments)

    train = read([1, 2], [None, 0.5])
    assert train.kinds == {"x": "numbers"}
    assert train[0].inputs["x"].values.tolist() == [1.0, 2.0]
    assert read([1, 2]).kinds == {"x": "integers"}
    dev = read([1, 2], kinds=train.kinds)
    assert dev[0].inputs["x"].values.dtype == np.float32
    with pytest.raises(DataError, match="line 2, vertex 0: input 'x': 2.5 stands where integers"):
        read([1, 2], [2.5], kinds={"x": "integers"})
    with pytest.raises(DataError, match="line 1, vertex 1: input 'x': 'a' stands where numbers"):
        read([None, "a"], kinds=train.kinds)


def test_labels_that_are_words(tmp_path: Path) -> None:
    """They have a vocabulary of their own; an unseen one is refused, not class 0."""
    line = {"children": [[], [0]], "inputs": {"word": ["a", "b"], "label": ["NP", "S"]}}
    train = jsonl_dataset(write(tmp_path, line))
    assert train.classes == ("NP", "S") and train.vocab == Vocab(("<unk>", "a", "b"))
    assert train[0].inputs["label"].values.tolist() == [0, 1]
    other = {"children": [[]], "inputs": {"label": ["S"]}}
    path = write(tmp_path, other)
    dev = jsonl_dataset(path, train.vocab, classes=train.classes)
    assert dev[0].inputs["label"].values.tolist() == [1]
    asked = jsonl_dataset(path, classes=train.classes, kinds={"label": "integers"})
    assert asked.kinds["label"] == "tokens", "with classes, labels are words whatever kinds say"
    other["inputs"]["label"] = ["VP"]
    told = "input 'label': the label 'VP' is none of the 2 classes of the training set: NP, S.$"
    with pytest.raises(DataError, match=f"line 1, vertex 0: {told}"):
        jsonl_dataset(write(tmp_path, other), train.vocab, classes=train.classes)
    other["inputs"]["label"] = [1]
    with pytest.raises(DataError, match='1 stands where tokens such as "a" are expected'):
        jsonl_dataset(write(tmp_path, other), train.vocab, classes=train.classes)
    with pytest.raises(
        DataError,
        match=r"the label is the word 'NP'; expected an integer in 0\.\.4, or null\. .*"
        r"takes classes=train\.classes",
    ):
        jsonl_dataset(write(tmp_path, line), train.vocab, n_classes=5)


def test_a_label_that_is_a_list_is_no_class(tmp_path: Path) -> None:
    path = write(tmp_path, {"children": [[]] * 3, "inputs": {"label": [None, None, [1, 2]]}})
    with pytest.raises(DataError) as error:
        jsonl_dataset(path, n_classes=6)
    told = "the label is a list; expected an integer in 0..5, or null."
    assert str(error.value) == f"{path}, line 1, vertex 2: input 'label': {told}"


@pytest.mark.parametrize("n", [12, 13])
def test_of_many_classes_a_dozen_is_said(n: int, tmp_path: Path) -> None:
    path = write(tmp_path, {"children": [[]] * 2, "inputs": {"label": ["c3", "other"]}})
    dozen = ", ".join(f"c{i}" for i in range(12)) + (", ..." if n > 12 else "")
    with pytest.raises(DataError) as error:
        jsonl_dataset(path, classes=[f"c{i}" for i in range(n)])
    told = f"the label 'other' is none of the {n} classes of the training set: {dozen}."
    assert str(error.value) == f"{path}, line 1, vertex 1: input 'label': {told}"


def test_a_key_given_twice(tmp_path: Path) -> None:
    for line in (
        '{"children": [[]], "children": [[], []]}',
        '{"children": [[]], "inputs": {"x": [1], "x": [2]}}',
    ):
        with pytest.raises(DataError, match="line 1: bad JSON: the key '.*' stands twice"):
            jsonl_dataset(write(tmp_path, line))


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(name: str, tmp_path: Path) -> None:
    line, message = BAD_LINES[name]
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(DataError) as error:
        jsonl_dataset(path, n_classes=3)
    assert f"{path}, {message}" in str(error.value)


def test_lines_that_disagree_with_each_other(tmp_path: Path) -> None:
    line: dict[str, Any] = {"children": [[]], "inputs": {"x": [[1.0]]}}
    wider = {"children": [[]], "inputs": {"x": [[1.0, 2.0]]}}
    path = write(tmp_path, line, wider)
    with pytest.raises(
        DataError, match="line 2, vertex 0: input 'x': a list of 2, where.*differ in shape"
    ):
        jsonl_dataset(path)
    with pytest.raises(DataError, match="graphs.jsonl is empty"):
        jsonl_dataset(write(tmp_path, ""))


def test_a_fault_that_no_line_shows_alone_is_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, GOOD, GOOD)
    monkeypatch.setattr("tvm_cavs.given.MOST", 5)  # each has 3 vertices
    with pytest.raises(DataError) as error:
        jsonl_dataset(path)
    assert str(error.value).startswith(f"{path}: vertices of a data set: 6, and there may be 5")


def test_deep_chains_load(tmp_path: Path) -> None:
    path = write(tmp_path, {"parents": [*range(1, 2000), None], "inputs": {"x": [0.5] * 2000}})
    graph = jsonl_dataset(path).graphs[0]
    assert graph.level.tolist() == list(range(2000))
    assert graph.inputs["x"].values.dtype == np.float32


def test_empty_graph_alone(tmp_path):
    with pytest.raises(DataError, match="line 1: the graph is empty"):
        jsonl_dataset(write(tmp_path, {"children": []}))
