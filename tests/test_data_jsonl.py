"""The user's own graphs from JSON lines, and the message of every bad line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_cavs.data import Vocab, jsonl_dataset
from tvm_cavs.errors import DataError
from tvm_cavs.graph import batch, check

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


BAD_LINES = {
    "json": ('{"children": [[}', "line 2, column 16: bad JSON: Expecting value"),
    "nan": ('{"children": [[]], "inputs": {"x": [NaN]}}', "line 2: bad JSON: NaN is not a finite"),
    "list": ("[1, 2]", "line 2: expected an object {...}, got list"),
    "key": ({"childs": [[]]}, "line 2: unknown key 'childs'; did you mean 'children'?"),
    "both": ({"children": [[]], "parents": [-1]}, "line 2: expected either 'children' or"),
    "neither": ({"inputs": {}}, "line 2: expected either 'children' or 'parents'; got ['inputs']"),
    "type": ({"children": [["0"]]}, "line 2: 'children' must be a list of lists"),
    "bool": ({"parents": [True, None]}, "line 2: 'parents' must be a list of vertex indices"),
    "parent": ({"parents": [2, None]}, "line 2: vertex 0: its parent 2 is out of range"),
    "inputs": ({"children": [[]], "inputs": [1]}, "line 2: 'inputs' must be an object of lists"),
    "length": (
        {"children": [[], [0]], "inputs": {"label": [1]}},
        "line 2: input 'label' has 1 entries; expected a list of 2, one a vertex",
    ),
    "scalar": (
        {"children": [[]], "inputs": {"label": 1}},
        "line 2: input 'label' has 1; expected a list of 1",
    ),
    "range": (
        {"children": [[]], "inputs": {"label": [3]}},
        "line 2: label 3 of vertex 0 is out of range; expected an integer in 0..2, or null",
    ),
    "cycle": ({"children": [[], [2], [1]]}, "line 2: the graph has a cycle: 1 -> 2 -> 1"),
    "self-loop": ({"parents": [0]}, "line 2: vertex 0 is its own child (self-loop in slot 0)"),
    "child": ({"children": [[], [2]]}, "line 2: vertex 1: child 2 in slot 0 is out of range"),
    "empty": ({"children": []}, "line 2: the graph is empty; expected at least one vertex"),
    "ragged": (
        {"children": [[], []], "inputs": {"x": [[1.0], [1.0, 2.0]]}},
        "line 2: input 'x': its rows differ in shape",
    ),
}


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
    with pytest.raises(DataError, match="graphs.jsonl: input 'x': its rows differ in shape"):
        jsonl_dataset(path)
    with pytest.raises(DataError, match="graphs.jsonl is empty"):
        jsonl_dataset(write(tmp_path, ""))


def test_deep_chains_load(tmp_path: Path) -> None:
    path = write(tmp_path, {"parents": [*range(1, 2000), None], "inputs": {"x": [0.5] * 2000}})
    graph = jsonl_dataset(path).graphs[0]
    assert graph.level.tolist() == list(range(2000))
    assert graph.inputs["x"].values.dtype == np.float32


def test_empty_graph_alone(tmp_path):
    with pytest.raises(DataError, match="line 1: the graph is empty"):
        jsonl_dataset(write(tmp_path, {"children": []}))
