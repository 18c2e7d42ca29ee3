"""ListOps expressions -> Dataset, as binary trees (the official bracketing) or n-ary trees.

Binary: `[MAX 3 9 ]` is `( ( ( [MAX 3 ) 9 ) ] )`. Every token is a leaf; an inner vertex applies
what stands on its left to what stands on its right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..graph import Field
from .dataset import Dataset, build_graphs_flat
from .files import nearest
from .listops import CLOSE, DIGITS, OPERATORS, Expression, parse
from .vocab import UNKNOWN, Vocab

LISTOPS_VOCAB = Vocab((UNKNOWN, *DIGITS, *OPERATORS, CLOSE))
N_CLASSES = 10


class Columns(NamedTuple):
    """Flat lists over the vertices of all trees, -1 where absent."""

    n_slots: list[int]
    child: list[int]  # over slots, numbered within the tree
    word: list[int]
    label: list[int]
    list_label: list[int]


def listops_dataset(
    expressions: Iterable[str], form: str = "binary", name: str = "listops"
) -> Dataset:
    """A Dataset with inputs `word`, `label` and `list_label`, all int32; labels are 0..9.

    `label` stands wherever a value is defined. In the binary form that is a digit, a finished list,
    and also every partial application, whose value is the operator's on the arguments so far:
    `( ( [SM 8 ) 9 )` has label 7. A bare operator and a closing bracket have no value and no label.
    Training on partial applications shows the model its intermediate steps, so its accuracy is not
    comparable with that of published models trained on the root alone.
    `list_label` is the same value at finished lists only (never at a digit or a partial
    application), for a measure that digits, which are trivial, cannot flatter.

    Args:
        expressions: from `generate` or `read_listops_tsv`.
        form: "binary" (arity 2, `word` at the leaves: every token) or "nary" (arity 5 when
            generated, `word` at every vertex: operators and digits; no closing brackets).

    Raises:
        DataError: an unknown form, no expressions, or one that does not parse; its number is named.

    Examples:
        A leaf for each of four tokens, three inner vertices:

        >>> import tvm_cavs as cavs
        >>> dataset = cavs.data.listops_dataset(["[SM 8 9 ]"])
        >>> print(dataset)
        Dataset(listops: 1 graphs, 7 vertices, inputs word, label, list_label, 16 tokens)
        >>> print(dataset[0].inputs["list_label"].values)  # 8 + 9 modulo 10 at the root
        [-1 -1 -1 -1 -1 -1  7]
    """
    if form not in list(FORMS):
        raise DataError(f"listops: unknown form {form!r}; {nearest(str(form), FORMS)}")
    if isinstance(expressions, str) or not isinstance(expressions, Iterable):
        raise DataError(f"listops: expected a list of expressions, got {expressions!r:.60}.")
    append = FORMS[form]
    columns = Columns([], [], [], [], [])
    n_vertices = []
    for number, text in enumerate(expressions):
        try:
            expression = parse(text)
        except DataError as error:
            raise DataError(f"listops: expression {number}, {text!r:.60}: {error}") from None
        n_vertices.append(append(columns, expression))
    if not n_vertices:
        raise DataError("listops: no expressions; expected at least one.")
    inputs = {
        "word": _field(columns.word),
        "label": _field(columns.label),
        "list_label": _field(columns.list_label),
    }
    graphs = build_graphs_flat(n_vertices, columns.n_slots, columns.child, inputs)
    return Dataset(graphs, name, LISTOPS_VOCAB)


def _append_nary(columns: Columns, expression: Expression) -> int:
    """One vertex a digit or operator; the children of an operator are its arguments."""
    place = LISTOPS_VOCAB.place
    for word, arguments, value in zip(*expression, strict=True):
        columns.n_slots.append(len(arguments))
        columns.child.extend(arguments)
        columns.word.append(place[word])
        columns.label.append(value)
        columns.list_label.append(value if arguments else -1)
    return len(expression.words)


def _append_binary(columns: Columns, expression: Expression) -> int:
    """One leaf a token, then the inner vertices of a list from left to right; the root is last."""
    n_slots, child, words, labels, list_labels = columns
    place, close = LISTOPS_VOCAB.place, LISTOPS_VOCAB.place[CLOSE]
    values = expression.values
    top: list[int] = []  # the binary vertex that stands for a vertex of the expression
    n = 0
    for word, arguments, value in zip(*expression, strict=True):
        n_slots.append(0)
        words.append(place[word])
        labels.append(-1 if arguments else value)
        list_labels.append(-1)
        left = n
        n += 1
        if arguments:
            operator = OPERATORS[word]
            so_far = [values[v] for v in arguments]
            for count, argument in enumerate(arguments, start=1):
                n_slots.append(2)
                child += (left, top[argument])
                words.append(-1)
                labels.append(operator(so_far[:count]))
                left = n
                n += 1
            k = len(arguments)
            n_slots += (0, 2)
            child += (left, n)
            words += (close, -1)
            labels += (-1, value)
            list_labels += [-1] * (k + 1) + [value]
            left = n + 1
            n += 2
        top.append(left)
    return n


FORMS: dict[str, Callable[[Columns, Expression], int]] = {
    "binary": _append_binary,
    "nary": _append_nary,
}


def _field(values: list[int]) -> Field:
    array = np.array(values, np.int32)
    return Field(array, array >= 0)
