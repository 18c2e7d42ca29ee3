"""JSON lines, one graph a line -> Dataset: the way in for a user's own graphs.

{"children": [[], [], [0, 1]], "inputs": {"word": ["a", "b", null], "label": [0, 1, 1]}}
{"parents": [2, 2, null], "inputs": {"x": [[0.5, 1.0], [0.0, 2.0], null]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tvm_cavs.data.dataset import Dataset, build_graphs
from tvm_cavs.data.files import nearest, read_lines
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError, GraphError
from tvm_cavs.graph import Graph

KEYS = ("children", "parents", "inputs")


class Line(NamedTuple):
    """One line: where it stands and what it holds."""

    number: int
    children: list[list[int | None]]
    inputs: dict[str, list[Any]]


def jsonl_dataset(
    path: str | Path,
    vocab: Vocab | None = None,
    n_classes: int | None = None,
    label: str = "label",
    min_count: int = 1,
    name: str | None = None,
) -> Dataset:
    """A Dataset of the graphs of a file, one a line.

    `children` lists the children of every vertex in slot order (null or -1: an empty slot), or
    `parents` the parent of every vertex (null or -1: a root). `inputs` has one list a name, an
    entry a vertex: a number, a list of numbers, a token, or null where absent.

    Args:
        vocab: for inputs that hold tokens; built from all tokens of this file where None.
        n_classes: values of the input `label` must be in 0..n_classes - 1, where given.

    Raises:
        DataError: bad JSON, a wrong key (the nearest one is offered), a graph that is not a DAG,
            a label out of range; file and line are named.
    """
    lines = [_parse(path, number, text) for number, text in read_lines(path)]
    names = list(dict.fromkeys(key for line in lines for key in line.inputs))
    tokens = [e for line in lines for entries in line.inputs.values() for e in _tokens(entries)]
    if tokens and vocab is None:
        vocab = Vocab.build(tokens, min_count)
    if n_classes is not None:
        _check_labels(path, lines, label, n_classes)
    if tokens and vocab is not None:
        lines = [_with_indices(line, vocab) for line in lines]
    inputs = {
        key: [e for line in lines for e in line.inputs.get(key, [None] * len(line.children))]
        for key in names
    }
    try:
        graphs = build_graphs([line.children for line in lines], inputs)
    except GraphError as error:
        raise _with_line(path, lines, error) from error
    return Dataset(graphs, name or Path(path).name, vocab)


def _parse(path: str | Path, number: int, text: str) -> Line:
    where = f"{path}, line {number}"
    try:
        given = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, column {error.colno}: bad JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: bad JSON: {error}.") from None
    if not isinstance(given, dict):
        raise DataError(f"{where}: expected an object {{...}}, got {type(given).__name__}.")
    for key in given:
        if key not in KEYS:
            raise DataError(f"{where}: unknown key {key!r}; {nearest(key, KEYS)}")
    if ("children" in given) == ("parents" in given):
        raise DataError(f"{where}: expected either 'children' or 'parents'; got {sorted(given)}.")
    children = _children(where, given)
    inputs = given.get("inputs", {})
    if not isinstance(inputs, dict):
        raise DataError(f"{where}: 'inputs' must be an object of lists, got {inputs!r:.60}.")
    for name, entries in inputs.items():
        if not isinstance(entries, list) or len(entries) != len(children):
            got = f"{len(entries)} entries" if isinstance(entries, list) else f"{entries!r:.60}"
            raise DataError(
                f"{where}: input {name!r} has {got}; expected a list of {len(children)}, one a "
                "vertex. Put null where a vertex has no such input."
            )
    return Line(number, children, inputs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number; use null where a value is absent")


def _children(where: str, given: dict[str, Any]) -> list[list[int | None]]:
    if "children" in given:
        children = given["children"]
        if not isinstance(children, list) or not all(_is_indices(slots) for slots in children):
            raise DataError(
                f"{where}: 'children' must be a list of lists of vertex indices or null."
            )
        return children
    parents = given["parents"]
    if not _is_indices(parents):
        raise DataError(f"{where}: 'parents' must be a list of vertex indices or null.")
    children = [[] for _ in parents]
    for vertex, parent in enumerate(parents):
        if parent is None or parent == -1:
            continue
        if not 0 <= parent < len(parents):
            raise DataError(
                f"{where}: vertex {vertex}: its parent {parent} is out of range; expected "
                f"0..{len(parents) - 1}, or null for a root."
            )
        children[parent].append(vertex)
    return children


def _is_indices(given: Any) -> bool:
    return isinstance(given, list) and all(c is None or type(c) is int for c in given)


def _tokens(entries: Iterable[Any]) -> Iterable[str]:
    return (entry for entry in entries if isinstance(entry, str))


def _check_labels(path: str | Path, lines: list[Line], label: str, n_classes: int) -> None:
    for line in lines:
        for vertex, value in enumerate(line.inputs.get(label, ())):
            if value is None or type(value) is int and 0 <= value < n_classes:
                continue
            raise DataError(
                f"{path}, line {line.number}: {label} {value!r} of vertex {vertex} is out of "
                f"range; expected an integer in 0..{n_classes - 1}, or null."
            )


def _with_indices(line: Line, vocab: Vocab) -> Line:
    place = vocab.place
    inputs = {
        name: [place.get(e, 0) if isinstance(e, str) else e for e in entries]
        for name, entries in line.inputs.items()
    }
    return line._replace(inputs=inputs)


def _with_line(path: str | Path, lines: list[Line], error: GraphError) -> DataError:
    """The same error for the first line that shows it alone; else for the file."""
    for line in lines:
        try:
            Graph.from_children(line.children, line.inputs)
        except GraphError as own:
            return DataError(f"{path}, line {line.number}: {own}")
    return DataError(f"{path}: {error}")
