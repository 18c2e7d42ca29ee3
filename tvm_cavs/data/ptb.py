"""PTB brackets, `(3 (2 The) (4 toaster))` a line -> trees -> Dataset with a label at every vertex.

The format of the Stanford Sentiment Treebank (Socher et al., EMNLP 2013). Tokens are divided by
ASCII space, tab and brackets only: the treebank has tokens that hold a no-break space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tvm_cavs.data.dataset import Dataset, build_graphs
from tvm_cavs.data.files import read_lines
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError

PIECE = re.compile(r"[()]|[^ \t()]+")


class PtbTree(NamedTuple):
    """One tree, its vertices in post-order, so the root is last.

    Flat lists instead of nested tuples: a tree may be deeper than Python's recursion limit.
    """

    labels: list[int]
    tokens: list[str | None]  # None at an inner vertex
    children: list[list[int]]  # [] at a leaf


def ptb_dataset(
    path: str | Path,
    vocab: Vocab | None = None,
    n_classes: int | None = None,
    min_count: int = 1,
    lower: bool = False,
    name: str | None = None,
) -> Dataset:
    """A Dataset with inputs `word` (int32, at the leaves) and `label` (int32, at every vertex).

    Args:
        vocab: of the training set, for a dev or test set; built from this file where None.
        n_classes: labels must be below it, where given.
        min_count: for a vocabulary built here, rarer tokens become "<unk>".
        lower: fold tokens to lower case.

    Raises:
        DataError: as `read_ptb_trees`.
    """
    trees = list(read_ptb_trees(path, n_classes))
    tokens = [token for tree in trees for token in tree.tokens]
    if lower:
        tokens = [token and token.lower() for token in tokens]
    if vocab is None:
        vocab = Vocab.build((token for token in tokens if token is not None), min_count)
    place = vocab.place
    inputs = {
        "word": [None if token is None else place.get(token, 0) for token in tokens],
        "label": [label for tree in trees for label in tree.labels],
    }
    graphs = build_graphs([tree.children for tree in trees], inputs)
    return Dataset(graphs, name or Path(path).name, vocab)


def read_ptb_trees(path: str | Path, n_classes: int | None = None) -> Iterator[PtbTree]:
    """The trees of a file, one a line; blank lines are skipped.

    Raises:
        DataError: an empty file, an unbalanced bracket, a label that is not an integer in
            0..n_classes - 1, a leaf without exactly one token. File, line and column are named.
    """
    for number, line in read_lines(path):
        try:
            yield parse_ptb_tree(line, n_classes)
        except DataError as error:
            raise DataError(f"{path}, line {number}, {error}") from None


def parse_ptb_tree(text: str, n_classes: int | None = None) -> PtbTree:
    """One tree from its brackets, without recursion.

    Raises:
        DataError: as `read_ptb_trees`, naming the column only.
    """
    tree = PtbTree([], [], [])
    open_: list[tuple[int, list[int], list[str], int]] = []  # label, children, tokens, column
    pieces = PIECE.finditer(text)
    for match in pieces:
        piece = match.group()
        if piece == "(":
            _no_second_tree(tree, open_, match.start())
            column = match.start() + 1
            open_.append((_label(next(pieces, None), n_classes, column), [], [], column))
        elif piece != ")":
            if not open_:
                raise DataError(
                    f"column {match.start() + 1}: {piece!r} stands outside any bracket."
                )
            open_[-1][2].append(piece)
        elif not open_:
            raise DataError(f"column {match.start() + 1}: unbalanced ')' without its '('.")
        else:
            label, children, tokens, column = open_.pop()
            if len(tokens) != (not children):
                raise DataError(_bad_vertex(children, tokens, column))
            if open_:
                open_[-1][1].append(len(tree.labels))
            tree.labels.append(label)
            tree.tokens.append(None if children else tokens[0])
            tree.children.append(children)
    if open_:
        raise DataError(
            f"column {open_[-1][3]}: unbalanced '(' is never closed ({len(open_)} open at the end)."
        )
    return tree


def _no_second_tree(tree: PtbTree, open_: Sequence[object], column: int) -> None:
    if tree.labels and not open_:
        raise DataError(f"column {column + 1}: a second tree begins; expected one tree a line.")


def _label(match: re.Match[str] | None, n_classes: int | None, column: int) -> int:
    text = match.group() if match else "the end of the line"
    if not text.isascii() or not text.isdigit():
        raise DataError(f"column {column}: expected an integer label after '(', got {text!r}.")
    label = int(text)
    if n_classes is not None and label >= n_classes:
        raise DataError(
            f"column {column}: label {label} is out of range; expected 0..{n_classes - 1}. "
            "Is n_classes right?"
        )
    return label


def _bad_vertex(children: list[int], tokens: list[str], column: int) -> str:
    if children:
        return f"column {column}: a vertex holds both children and the token {tokens[0]!r}."
    return f"column {column}: a leaf holds {len(tokens)} tokens; expected exactly one."
