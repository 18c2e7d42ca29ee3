"""Pretrained word vectors in GloVe's text format -> rows for a vocabulary.

One word a line, `the 0.418 0.24968 ...`, divided by one space (Pennington et al., EMNLP 2014).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from .columns import is_integer
from .files import read_lines
from .spelling import TREEBANK_ESCAPES
from .vocab import UNKNOWN, Vocab

WIDEST = 2**20


def load_glove(
    path: str | Path, vocab: Vocab, width: int, fill: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """float32[len(vocab), width], and how many tokens of the vocabulary the file holds.

    A token takes the vector of itself, else of its unescaped form (`-LRB-` is "(", `\\/` is "/"),
    else of that in lower case. Rows that are not found keep `fill`, or are 0. Words that hold
    spaces, as large files have them, serve no token.

    Args:
        fill: float32[len(vocab), width], such as the initial embedding. It is not changed.

    Raises:
        DataError: a line of another width than `width`, a value that is no finite number in
            float32; file and line are named. A width below 1, or a `fill` of another shape.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tvm_cavs as cavs
        >>> vocab = cavs.data.Vocab.build(["tea", "toaster"])
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "glove.2d.txt")
        ...     _ = path.write_text("tea 0.5 -1.5")
        ...     vectors, n_found = cavs.data.load_glove(path, vocab, width=2)
        >>> print(vocab.tokens, vectors.tolist(), n_found)
        ('<unk>', 'tea', 'toaster') [[0.0, 0.0], [0.5, -1.5], [0.0, 0.0]] 1
    """
    if not is_integer(width) or not 1 <= width <= WIDEST:
        raise DataError(f"load_glove: width must be an integer in 1..{WIDEST}, got {width!r:.60}.")
    rows = np.zeros((len(vocab), width), np.float32)
    if fill is not None:
        if np.shape(fill) != rows.shape:
            raise DataError(
                f"load_glove: fill has shape {np.shape(fill)}; expected {rows.shape}, a row a "
                "token of the vocabulary."
            )
        rows[:] = fill
    wanted = _wanted(vocab)
    best = np.full(len(vocab), 3)  # 0 itself, 1 unescaped, 2 lower case, 3 not found
    is_first = True
    for number, line in read_lines(path):
        word, _, numbers = line.rstrip(" ").partition(" ")
        places = [(row, rank) for row, rank in wanted.get(word, ()) if rank < best[row]]
        if places or is_first:
            vector = _vector(f"{path}, line {number}", numbers.split(" "), width, is_first)
            is_first = False
            if vector is None:
                continue
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


def _vector(where: str, pieces: list[str], width: int, is_first: bool) -> np.ndarray | None:
    """The numbers of a line; None where its word holds spaces, so that what follows is text."""
    if len(pieces) > width and not is_first and not all(map(_is_number, pieces[:-width])):
        return None
    if len(pieces) != width:
        raise DataError(
            f"{where}: {len(pieces)} values after the word; expected {width}. Is it the file "
            "of the embedding's width? A word2vec header line must be removed."
        )
    try:
        values = np.array([float(piece) for piece in pieces])
    except ValueError as error:
        raise DataError(f"{where}: a value is not a number ({error}).") from error
    with np.errstate(over="ignore"):
        vector = values.astype(np.float32)
    if not np.isfinite(vector).all():
        wrong = pieces[int(np.argmin(np.isfinite(vector)))]
        raise DataError(
            f"{where}: the value {wrong!r:.60} is not a finite number in float32. Remove the line."
        )
    return vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
