"""Pretrained word vectors in GloVe's text format -> rows for a vocabulary.

One word a line, `the 0.418 0.24968 ...`, divided by one space (Pennington et al., EMNLP 2014).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tvm_cavs.data.files import read_lines
from tvm_cavs.data.vocab import UNKNOWN, Vocab
from tvm_cavs.errors import DataError

TREEBANK_ESCAPES = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LCB-": "{",
    "-RCB-": "}",
    "-LSB-": "[",
    "-RSB-": "]",
}


def load_glove(
    path: str | Path, vocab: Vocab, width: int, fill: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """float32[len(vocab), width], and how many tokens of the vocabulary the file holds.

    A token takes the vector of itself, else of its unescaped form (`-LRB-` is "(", `\\/` is "/"),
    else of that in lower case. Rows that are not found keep `fill`, or are 0.

    Args:
        fill: float32[len(vocab), width], such as the initial embedding. It is not changed.

    Raises:
        DataError: a line without `width` numbers; file and line are named.
    """
    rows = np.zeros((len(vocab), width), np.float32)
    if fill is not None:
        rows[:] = fill
    wanted = _wanted(vocab)
    best = np.full(len(vocab), 3)  # 0 itself, 1 unescaped, 2 lower case, 3 not found
    is_first = True
    for number, line in read_lines(path):
        word, _, numbers = line.partition(" ")
        places = [(row, rank) for row, rank in wanted.get(word, ()) if rank < best[row]]
        if places or is_first:
            vector = _vector(f"{path}, line {number}", numbers, width)
            is_first = False
        for row, rank in places:
            rows[row], best[row] = vector, rank
    return rows, int(np.count_nonzero(best < 3))


def _wanted(vocab: Vocab) -> dict[str, list[tuple[int, int]]]:
    """Word of the file -> (row, rank) of the tokens that it can serve."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for row, token in enumerate(vocab.tokens):
        if token == UNKNOWN:
            continue
        plain = TREEBANK_ESCAPES.get(token, token.replace("\\/", "/"))
        for rank, form in enumerate(dict.fromkeys((token, plain, plain.lower()))):
            wanted.setdefault(form, []).append((row, rank))
    return wanted


def _vector(where: str, numbers: str, width: int) -> np.ndarray:
    pieces = numbers.split(" ")
    if len(pieces) != width:
        raise DataError(
            f"{where}: {len(pieces)} values after the word; expected {width}. Is it the file "
            "of the embedding's width? A word2vec header line must be removed."
        )
    try:
        return np.array(pieces, np.float32)
    except ValueError as error:
        raise DataError(f"{where}: a value is not a number ({error}).") from error
