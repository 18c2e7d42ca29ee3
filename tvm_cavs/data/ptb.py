"""PTB brackets, `(3 (2 The) (4 toaster))` -> trees -> Dataset with a label at every vertex.

The format of the Stanford Sentiment Treebank (Socher et al., EMNLP 2013) and of treebanks like it:
a tree a line, or over several lines of which the later ones are indented; lines that begin with `#`
are comments, and an outer bracket without a label, `( (S ...) )`, is none of the tree. Tokens are
divided by ASCII space, tab and brackets only: the treebank has tokens that hold a no-break space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ..errors import DataError
from ..graph import pointers
from .columns import NO_KINDS, TOKENS, Places, check_reading, class_indices, read_column
from .dataset import Dataset, build_graphs
from .files import read_lines
from .spelling import AS_GIVEN, Spelling
from .vocab import Vocab

PIECE = re.compile(r"[()]|[^ \t\n()]+")
INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
LONGEST_LABEL = 60

Label: TypeAlias = int | float | str


class PtbTree(NamedTuple):
    """One tree, its vertices in post-order, so the root is last.

    Flat lists instead of nested tuples: a tree may be deeper than Python's recursion limit.

    Examples:
        >>> import tvm_cavs as cavs
        >>> tree = cavs.data.parse_ptb_tree("(3 (2 good) (4 tea))")
        >>> print(tree)
        PtbTree(labels=[2, 4, 3], tokens=['good', 'tea', None], children=[[], [], [0, 1]])
    """

    labels: list[Label]  # a number where it is written as one, else a word
    tokens: list[str | None]  # None at an inner vertex
    children: list[list[int]]  # [] at a leaf


def ptb_dataset(
    path: str | Path,
    vocab: Vocab | None = None,
    n_classes: int | None = None,
    min_count: int = 1,
    lower: bool = False,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    unescape: bool = False,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Dataset:
    """A Dataset with inputs `word` (int32, at the leaves) and `label` (at every vertex).

    Labels that are integers are int32; with a fraction, float32; words count `classes`.

    Args:
        vocab: of the training set, for a dev or test set; built from this file where None.
        n_classes: labels must be integers below it, where given.
        min_count: for a vocabulary built here, rarer tokens become "<unk>".
        lower: fold tokens to lower case.
        classes: of the training set, for labels that are words; those of this file, in alphabetical
            order, where None.
        kinds: of the training set, `train.kinds`: labels that are numbers there are numbers here.
        unescape: read `-LRB-` as "(" and `\\/` as "/", and so on.

    Raises:
        DataError: as `read_ptb_trees`; labels of two kinds, or not among the classes.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tvm_cavs as cavs
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "dev.txt")
        ...     _ = path.write_text("(3 (2 good) (4 tea))")
        ...     dataset = cavs.data.ptb_dataset(path, n_classes=5)
        >>> print(dataset)
        Dataset(dev.txt: 1 graphs, 3 vertices, inputs word, label, 3 tokens)
        >>> print(dataset[0].inputs["label"].values)
        [2 4 3]
    """
    check_reading(vocab, n_classes, min_count, classes, kinds)
    numbered = list(_numbered_trees(path, n_classes))
    trees = [tree for _, tree in numbered]
    tokens = [token for tree in trees for token in tree.tokens]
    spelling = Spelling(lower, unescape)
    if spelling != AS_GIVEN:
        tokens = [token and spelling(token) for token in tokens]
    if vocab is None:
        vocab = Vocab.build((token for token in tokens if token is not None), min_count)
    place = vocab.place
    lines = tuple(line for line, _ in numbered)
    first = pointers([len(tree.labels) for tree in trees]).tolist()
    labels = [label for tree in trees for label in tree.labels]
    expected = kinds.get("label") if classes is None else TOKENS
    places = Places([f"{path}, line {number}" for number in lines], first[:-1])
    column = read_column("label", labels, places, expected)
    if column.kind == TOKENS:
        classes = sorted(set(column.flat)) if classes is None else classes
    inputs = {
        "word": [None if token is None else place.get(token, 0) for token in tokens],
        "label": column.field(
            class_indices(column, classes or ()) if column.kind == TOKENS else None
        ),
    }
    graphs = build_graphs([tree.children for tree in trees], inputs)
    found = {"word": TOKENS, "label": column.kind or TOKENS}
    made = None if classes is None else tuple(classes)
    return Dataset(graphs, name or Path(path).name, vocab, made, found, lines)


def read_ptb_trees(path: str | Path, n_classes: int | None = None) -> Iterator[PtbTree]:
    """The trees of a file; blank lines and comments are skipped.

    Raises:
        DataError: an empty file, an unbalanced bracket, a leaf without exactly one token; with
            n_classes, a label that is not an integer in 0..n_classes - 1. File, line and column are
            named.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tvm_cavs as cavs
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "dev.txt")
        ...     _ = path.write_text("(3 (2 good) (4 tea))")
        ...     print([tree.labels for tree in cavs.data.read_ptb_trees(path)])
        [[2, 4, 3]]
    """
    return (tree for _, tree in _numbered_trees(path, n_classes))


def _numbered_trees(path: str | Path, n_classes: int | None) -> Iterator[tuple[int, PtbTree]]:
    """Every tree and the line on which it begins."""
    for numbers, lines in _chunks(path):

        def where(offset: int, numbers: list[int] = numbers, lines: list[str] = lines) -> str:
            at = 0
            while offset > len(lines[at]):
                offset -= len(lines[at]) + 1
                at += 1
            return f"{path}, line {numbers[at]}, column {offset + 1}"

        yield numbers[0], _parse("\n".join(lines), n_classes, where)


def _chunks(path: str | Path) -> Iterator[tuple[list[int], list[str]]]:
    """The lines of each tree with their numbers: a line that begins with "(" begins a tree, where
    none is open; later lines of a tree are indented.
    """
    numbers: list[int] = []
    lines: list[str] = []
    n_open = 0
    for number, line in read_lines(path):
        if line.startswith("#") and n_open <= 0:
            continue
        if lines and (n_open <= 0 or line.startswith("(")):
            yield numbers, lines
            numbers, lines, n_open = [], [], 0
        numbers.append(number)
        lines.append(line)
        n_open += line.count("(") - line.count(")")
    if not lines:
        raise DataError(f"{path} holds comments only; expected at least one tree.")
    yield numbers, lines


def parse_ptb_tree(text: str, n_classes: int | None = None) -> PtbTree:
    """One tree from its brackets, without recursion.

    Raises:
        DataError: as `read_ptb_trees`, naming the column only; a text without a tree.

    Examples:
        >>> import tvm_cavs as cavs
        >>> tree = cavs.data.parse_ptb_tree("(S (NP tea) (VP (V is) (A good)))")
        >>> print(tree.labels, tree.children)
        ['NP', 'V', 'A', 'VP', 'S'] [[], [], [], [1, 2], [0, 3]]
    """
    if not isinstance(text, str):
        raise DataError(f"expected the text of a tree, got {text!r:.60}.")
    return _parse(text, n_classes, lambda offset: f"column {offset + 1}")


def _parse(text: str, n_classes: int | None, where: Callable[[int], str]) -> PtbTree:
    tree = PtbTree([], [], [])
    open_: list[tuple[Label, list[int], list[str], int]] = []  # label, children, tokens, offset
    inner = _without_outer(text)
    pieces = PIECE.finditer(text, *inner)
    for match in pieces:
        piece, offset = match.group(), match.start()
        if piece == "(":
            if tree.labels and not open_:
                raise DataError(f"{where(offset)}: a second tree begins; expected one.")
            label = _label(next(pieces, None), n_classes, where, offset)
            open_.append((label, [], [], offset))
        elif piece != ")":
            if not open_:
                raise DataError(f"{where(offset)}: {piece!r} stands outside any bracket.")
            open_[-1][2].append(piece)
        elif not open_:
            raise DataError(f"{where(offset)}: unbalanced ')' without its '('.")
        else:
            label, children, tokens, offset = open_.pop()
            if len(tokens) != (not children):
                raise DataError(f"{where(offset)}: {_bad_vertex(children, tokens)}")
            if open_:
                open_[-1][1].append(len(tree.labels))
            tree.labels.append(label)
            tree.tokens.append(None if children else tokens[0])
            tree.children.append(children)
    if open_:
        raise DataError(
            f"{where(open_[-1][3])}: unbalanced '(' is never closed ({len(open_)} open at the "
            "end). The later lines of a tree over several lines begin with a space."
        )
    if not tree.labels:
        raise DataError(f"{where(0)}: no tree; expected brackets such as (3 (2 good) (4 tea)).")
    return tree


OUTER = re.compile(r"[ \t\n]*\(([ \t\n]*\(.*\)[ \t\n]*)\)[ \t\n]*", re.DOTALL)


def _without_outer(text: str) -> tuple[int, int]:
    """The part of the text inside an outer bracket that has no label; all where there is none."""
    match = OUTER.fullmatch(text)
    return match.span(1) if match else (0, len(text))


def _label(
    match: re.Match[str] | None, n_classes: int | None, where: Callable[[int], str], offset: int
) -> Label:
    text = match.group() if match else "the end of the line"
    if n_classes is not None and text.isdigit() and text.isascii() and len(text) < LONGEST_LABEL:
        label = int(text)
        if label < n_classes:
            return label
        raise DataError(
            f"{where(offset)}: label {label} is out of range; expected 0..{n_classes - 1}. "
            "Is n_classes right?"
        )
    is_word = match is not None and text not in "()" and len(text) <= LONGEST_LABEL
    if n_classes is None and is_word:
        return int(text) if INTEGER.fullmatch(text) else _number_or_word(text)
    kind = "an integer label" if n_classes is not None else "a label"
    hint = "" if n_classes is None or not is_word else " Leave n_classes out for other labels."
    raise DataError(f"{where(offset)}: expected {kind} after '(', got {text!r:.60}.{hint}")


def _number_or_word(text: str) -> float | str:
    return float(text) if NUMBER.fullmatch(text) else text


def _bad_vertex(children: list[int], tokens: list[str]) -> str:
    if children:
        return f"a vertex holds both children and the token {tokens[0]!r}."
    return f"a leaf holds {len(tokens)} tokens; expected exactly one."
