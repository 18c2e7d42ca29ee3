"""JSON lines, one graph a line -> Dataset: the way in for a user's own graphs.

{"children": [[], [], [0, 1]], "inputs": {"word": ["a", "b", null], "label": [0, 1, 1]}}
{"parents": [2, 2, null], "inputs": {"x": [[0.5, 1.0], [0.0, 2.0], null]}}
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, GraphError
from ..graph import Field, Graph, pointers
from .columns import (
    NO_KINDS,
    TOKENS,
    Column,
    Places,
    check_reading,
    class_indices,
    is_text,
    read_column,
    vocabulary,
)
from .dataset import Dataset, build_graphs
from .files import nearest, read_lines
from .spelling import AS_GIVEN, Spelling
from .vocab import UNKNOWN, Vocab

KEYS = ("children", "parents", "inputs")
INDEX = {int, type(None)}  # types of an index, which may be absent


class Line(NamedTuple):
    """One line: where it stands, in words, and what it holds."""

    number: int
    where: str
    children: list[list[int | None]]
    inputs: dict[str, list[Any]]


def jsonl_dataset(
    path: str | Path,
    vocab: Vocab | None = None,
    n_classes: int | None = None,
    label: str = "label",
    min_count: int = 1,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Dataset:
    """A Dataset of the graphs of a file, one a line.

    `children` lists the children of every vertex in slot order (null or -1: an empty slot), or
    `parents` the parent of every vertex (null or -1: a root). `inputs` has one list a name, an
    entry a vertex: a number, a list of numbers, a token, or null where absent. One input is of one
    kind in the whole file; integers among numbers with a fraction are numbers.

    Tokens of the input `label` are names of classes: their indices count `classes`.

    Args:
        vocab: for inputs that hold tokens; built from all tokens of this file where None.
        n_classes: values of the input `label` must be in 0..n_classes - 1, where given.
        classes: of the training set, for a dev or test set; those of this file, in alphabetical
            order, where None.
        kinds: of the training set, `train.kinds`: what is integers there is integers here.

    Raises:
        DataError: bad JSON, a wrong key (the nearest one is offered), a graph that is not a DAG,
            an input of two kinds or shapes, a number that is not finite in float32, a label out of
            range or not among the classes; file, line and vertex are named.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tvm_cavs as cavs
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "plans.jsonl")
        ...     _ = path.write_text('{"parents": [1, null], "inputs": {"word": ["scan", "sort"]}}')
        ...     dataset = cavs.data.jsonl_dataset(path)
        >>> print(dataset)
        Dataset(plans.jsonl: 1 graphs, 2 vertices, inputs word, 3 tokens)
        >>> print(dataset.vocab.words(dataset[0].inputs["word"].values))
        ['scan', 'sort']
    """
    check_reading(vocab, n_classes, min_count, classes, kinds)
    lines = [_parse(path, number, text) for number, text in read_lines(path)]
    if classes is not None:
        kinds = {**kinds, label: TOKENS}
    names = dict.fromkeys(key for line in lines for key in line.inputs)
    columns = _columns(lines, names, kinds)
    words = [column for column in columns if column.name != label]
    if vocab is None:
        vocab = vocabulary(words, min_count)
    for column in columns:
        if column.name == label and n_classes is not None and column.kind != TOKENS:
            _check_labels(column, n_classes)
        if column.name == label and column.kind == TOKENS:
            classes = _classes(column, classes, n_classes)
    inputs = {column.name: _field(column, vocab, classes, label) for column in columns}
    return Dataset(
        _graphs(path, lines, inputs),
        name or Path(path).name,
        vocab,
        None if classes is None else tuple(classes),
        {column.name: column.kind for column in columns if column.kind is not None},
        tuple(line.number for line in lines),
    )


def read_graphs(
    source: str,
    texts: Iterable[tuple[int, str]],
    kinds: Mapping[str, str],
    vocab: Vocab | None = None,
    spelling: Spelling = AS_GIVEN,
) -> tuple[Graph, ...]:
    """Graphs of JSON lines, with some of their inputs.

    Args:
        source: what errors call it. texts: the lines, numbered.
        kinds: the inputs that are read, and as what; others may be there.
        vocab: of the inputs that are tokens. spelling: how it spells them.

    Raises:
        DataError: as `jsonl_dataset`.
    """
    lines = [_parse(source, number, text) for number, text in texts]
    return _read(source, lines, kinds, vocab, spelling)


def read_objects(
    source: str,
    objects: Iterable[tuple[int, Any]],
    kinds: Mapping[str, str],
    vocab: Vocab | None = None,
    spelling: Spelling = AS_GIVEN,
) -> tuple[Graph, ...]:
    """The same of what `parse_json` made of texts; errors call each a graph of the source."""
    lines = [_line(number, f"{source}, graph {number}", given) for number, given in objects]
    return _read(source, lines, kinds, vocab, spelling)


def parse_json(where: str, text: str) -> Any:
    """What a text says in JSON, without numbers that are not finite and keys that stand twice.

    Raises:
        DataError: it is no such JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, column {error.colno}: bad JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: bad JSON: {error}.") from None


def _read(
    source: str,
    lines: list[Line],
    kinds: Mapping[str, str],
    vocab: Vocab | None,
    spelling: Spelling,
) -> tuple[Graph, ...]:
    columns = _columns(lines, kinds, kinds)
    inputs = {c.name: _field(c, vocab, None, "", spelling) for c in columns}
    return _graphs(source, lines, inputs)


def to_json(
    graph: Graph, kinds: Mapping[str, str] | None = None, vocab: Vocab | None = None
) -> str:
    """One graph as the line that `read_graphs` takes.

    Args:
        kinds: the inputs that are written, and as what; by default all, as the numbers they are.
        vocab: of the inputs that are tokens.

    Examples:
        >>> import tvm_cavs as cavs
        >>> print(cavs.data.to_json(cavs.Graph.from_sequence(2, {"x": [0.5, None]})))
        {"children": [[], [0]], "inputs": {"x": [0.5, null]}}
    """
    slots = [None if c < 0 else c for c in graph.child.tolist()]
    children = [slots[a:b] for a, b in itertools.pairwise(graph.child_ptr.tolist())]
    inputs = {}
    for name in graph.inputs if kinds is None else kinds:
        field = graph.inputs[name]
        values, there = field.values.tolist(), field.present.tolist()
        if kinds is not None and kinds[name] == TOKENS and vocab is not None:
            values = [vocab.tokens[value] for value in values]
        inputs[name] = [v if has else None for v, has in zip(values, there, strict=True)]
    return json.dumps({"children": children, "inputs": inputs}, ensure_ascii=False)


def _graphs(path: str | Path, lines: list[Line], inputs: Mapping[str, Field]) -> tuple[Graph, ...]:
    try:
        return build_graphs([line.children for line in lines], inputs)
    except GraphError as error:
        raise _with_line(path, lines, error) from error


def _columns(lines: list[Line], names: Iterable[str], kinds: Mapping[str, str]) -> list[Column]:
    """Inputs over all lines; a line that lacks one has it at no vertex."""
    first = pointers([len(line.children) for line in lines]).tolist()
    places = Places([line.where for line in lines], first[:-1])
    columns = []
    for name in names:
        entries: list[Any] = []
        for line in lines:
            entries += line.inputs.get(name) or [None] * len(line.children)
        columns.append(read_column(name, entries, places, kinds.get(name)))
    return columns


def _field(
    column: Column,
    vocab: Vocab | None,
    classes: Sequence[str] | None,
    label: str,
    spelling: Spelling = AS_GIVEN,
) -> Field:
    if column.kind != TOKENS:
        return column.field()
    if column.name == label:
        return column.field(class_indices(column, classes or ()))
    place = (vocab or Vocab((UNKNOWN,))).place
    tokens = column.flat if spelling == AS_GIVEN else map(spelling, column.flat)
    return column.field([place.get(token, 0) for token in tokens])


def _classes(column: Column, classes: Sequence[str] | None, n_classes: int | None) -> Sequence[str]:
    """The classes that labels which are words count in."""
    if classes is None and n_classes is not None:
        column.refuse(
            0,
            f"the label is the word {column.flat[0]!r}; expected an integer in 0..{n_classes - 1}, "
            "or null. For labels that are words leave n_classes out; a dev or test set takes "
            "classes=train.classes.",
        )
    return sorted(set(column.flat)) if classes is None else classes


def _parse(path: str | Path, number: int, text: str) -> Line:
    where = f"{path}, line {number}"
    return _line(number, where, parse_json(where, text))


def _line(number: int, where: str, given: Any) -> Line:
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
        if not is_text(name):
            raise DataError(f"{where}: the input {name!a} is named by half of a surrogate pair.")
        if not isinstance(entries, list) or len(entries) != len(children):
            got = f"{len(entries)} entries" if isinstance(entries, list) else f"{entries!r:.60}"
            raise DataError(
                f"{where}: input {name!r} has {got}; expected a list of {len(children)}, one a "
                "vertex. Put null where a vertex has no such input."
            )
    return Line(number, where, children, inputs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number; use null where a value is absent")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; Python's own reader drops all but the last of equal keys."""
    made = dict(pairs)
    if len(made) != len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = next(key for key, n in times.items() if n > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _children(where: str, given: dict[str, Any]) -> list[list[int | None]]:
    if "children" in given:
        children = given["children"]
        if (
            not isinstance(children, list)
            or not all(isinstance(slots, list) for slots in children)
            or not _are_indices(itertools.chain.from_iterable(children))
        ):
            raise DataError(
                f"{where}: 'children' must be a list of lists of vertex indices or null."
            )
        return children
    parents = given["parents"]
    if not isinstance(parents, list) or not _are_indices(parents):
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


def _are_indices(given: Iterable[Any]) -> bool:
    return {*map(type, given)} <= INDEX


def _check_labels(column: Column, n_classes: int) -> None:
    expected = f"expected an integer in 0..{n_classes - 1}, or null."
    for element, value in enumerate(column.flat):
        if column.shape:
            column.refuse(element, f"the label is a list; {expected}")
        if type(value) is not int or not 0 <= value < n_classes:
            column.refuse(element, f"label {value!r:.60} is out of range; {expected}")


def _with_line(path: str | Path, lines: list[Line], error: GraphError) -> DataError:
    """The same error for the first line that shows it alone; else for the file."""
    for line in lines:
        try:
            Graph.from_children(line.children)
        except GraphError as own:
            return DataError(f"{line.where}: {own}")
    return DataError(f"{path}: {error}")
