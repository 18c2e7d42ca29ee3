"""The entries of one input over a whole file -> a Column of one meaning, or a DataError that names
file, line and vertex.

The one idea: an input means one thing. Its entries are all tokens, all integers or all numbers of
one shape; what would only fit by converting one into another is refused where it stands.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..errors import DataError
from ..graph import Field, empty_field, made_field
from .vocab import Vocab

TOKENS, INTEGERS, NUMBERS = "tokens", "integers", "numbers"
KINDS = {
    TOKENS: 'tokens such as "a"',
    INTEGERS: "integers such as 3",
    NUMBERS: "numbers such as 0.5",
}
NO_KINDS: Mapping[str, str] = {}
MOST_AXES = 8
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Places:
    """Where the vertices of a file stand: those from `first[g]` on in the line `names[g]`."""

    names: Sequence[str]
    first: Sequence[int]

    def name(self, vertex: int) -> str:
        """FILE, line 3, vertex 1: the vertex numbered within its line."""
        line = bisect_right(self.first, vertex) - 1
        return f"{self.names[line]}, vertex {vertex - self.first[line]}"


@dataclass(frozen=True)
class Column:
    """One input of all vertices of a file.

    Attributes:
        kind: TOKENS, INTEGERS, NUMBERS, or None where no vertex has it.
        flat: the elements of all entries in a row. shape: of one entry.
        vertices: those that have an entry.
    """

    name: str
    kind: str | None
    flat: list[Any]
    shape: tuple[int, ...]
    vertices: Sequence[int]
    n_vertices: int
    places: Places

    def refuse(self, element: int, text: str) -> NoReturn:
        """A DataError about one element of `flat`."""
        vertex = self.vertices[element // (math.prod(self.shape) or 1)]
        raise DataError(f"{self.places.name(vertex)}: input {self.name!r}: {text}")

    def find(self, is_wrong: Callable[[Any], bool]) -> int:
        """The first element that is wrong."""
        return next(i for i, element in enumerate(self.flat) if is_wrong(element))

    def field(self, tokens: Sequence[int] | None = None) -> Field:
        """What a graph holds of it. `tokens`: their indices, for a column of tokens.

        Raises:
            DataError: an integer that is not of 32 bits, a number that is not finite in float32.
        """
        if self.kind is None:
            return empty_field(self.n_vertices)
        values = self._numbers() if self.kind == NUMBERS else self._integers(tokens or self.flat)
        filler = -1 if values.dtype == np.int32 else 0
        whole = np.full((self.n_vertices, *self.shape), filler, values.dtype)
        whole[self.vertices] = values.reshape(-1, *self.shape)
        present = np.zeros(self.n_vertices, bool)
        present[self.vertices] = True
        return made_field(whole, present)

    def _integers(self, given: Sequence[int]) -> np.ndarray:
        if min(given) < INT32.min or max(given) > INT32.max:
            wrong = self.find(lambda value: not INT32.min <= value <= INT32.max)
            self.refuse(
                wrong,
                f"{_short(self.flat[wrong])} does not fit int32 ({INT32.min} to {INT32.max}). "
                "Write a token in quotes if it is a name, a number with a fraction if it is a "
                "quantity.",
            )
        return np.array(given, np.int32)

    def _numbers(self) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):
                values = np.array(self.flat, np.float64).astype(np.float32)
        except OverflowError:  # an integer beyond float64
            values = np.array([np.inf])
        if not np.isfinite(values).all():
            largest = float(np.finfo(np.float32).max)
            wrong = self.find(lambda value: not -largest <= _rounded(value) <= largest)
            self.refuse(
                wrong,
                f"{_short(self.flat[wrong])} is not finite in float32 (its largest is "
                f"{largest:.4g}). Use null where a value is absent, or scale the input.",
            )
        return values


def _rounded(value: float) -> float:
    """A number as float32 holds it; an integer beyond float64 as it is."""
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(float(value)))
    except OverflowError:
        return value


def is_integer(given: object) -> bool:
    """An integer of Python's or NumPy's; True and False are none."""
    return isinstance(given, int | np.integer) and not isinstance(given, bool)


def check_reading(
    vocab: Vocab | None,
    n_classes: int | None,
    min_count: int,
    classes: Sequence[str] | None,
    kinds: Mapping[str, str],
) -> None:
    """The arguments that readers share.

    Raises:
        DataError: one is not what its reader takes.
    """
    if vocab is not None and not isinstance(vocab, Vocab):
        raise DataError(f"vocab must be a Vocab, such as train.vocab; got {vocab!r:.60}.")
    for name, number in (("n_classes", n_classes), ("min_count", min_count)):
        if number is not None and (not is_integer(number) or number < 1):
            raise DataError(f"{name} must be an integer of 1 or more, got {number!r:.60}.")
    if classes is not None:
        is_list = isinstance(classes, Iterable) and not isinstance(classes, str)
        names = list(classes) if is_list else []
        if not names or not all(isinstance(c, str) for c in names) or len(set(names)) < len(names):
            raise DataError(
                f"classes must be distinct names, such as train.classes; got {classes!r:.60}."
            )
    wrong = [kind for kind in dict(kinds).values() if kind not in list(KINDS)]
    if wrong:
        raise DataError(f"kinds are {', '.join(KINDS)}, as in train.kinds; got {wrong[0]!r:.60}.")


def read_column(
    name: str, entries: Sequence[Any], places: Places, expected: str | None = None
) -> Column:
    """The entries of all vertices (None where absent) as one Column.

    Integers among numbers are numbers, as JSON writers print 1.0 as 1.

    Args:
        expected: the kind that the input must have, such as that of the training set.

    Raises:
        DataError: entries of two kinds or shapes, or of another kind than `expected`.
    """
    vertices = [v for v, entry in enumerate(entries) if entry is not None]
    rows = entries if len(vertices) == len(entries) else [entries[v] for v in vertices]
    flat, shape = _flatten(name, rows, vertices, places)
    column = Column(name, None, flat, shape, vertices, len(entries), places)
    if not flat:
        return column
    return Column(name, _kind(column, expected), flat, shape, vertices, len(entries), places)


def _flatten(
    name: str, rows: Sequence[Any], vertices: Sequence[int], places: Places
) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of nested lists, and the shape of each row."""
    flat: list[Any] = list(rows)
    shape: tuple[int, ...] = ()
    while list in (types := set(map(type, flat))):
        column = Column(name, None, flat, shape, vertices, 0, places)
        if len(types) > 1:
            is_list = [type(e) is list for e in flat]
            wrong = is_list.index(not is_list[0])
            column.refuse(wrong, f"{_short(flat[wrong])} stands among entries of another shape.")
        width = len(flat[0])
        widths = list(map(len, flat))
        if widths.count(width) != len(widths):
            wrong = next(i for i, w in enumerate(widths) if w != width)
            column.refuse(
                wrong,
                f"a list of {widths[wrong]}, where the entries before differ in shape: they "
                f"are lists of {width}. An input has one shape at every vertex.",
            )
        if not width or len(shape) == MOST_AXES:
            what = "is empty; use null where a value is absent" if not width else "is too deep"
            column.refuse(0, f"the list {_short(flat[0])} {what}.")
        shape += (width,)
        flat = list(itertools.chain.from_iterable(flat))
    return flat, shape


def _kind(column: Column, expected: str | None) -> str:
    types = set(map(type, column.flat))
    if not types <= {str, int, float}:
        wrong = column.find(lambda e: type(e) not in (str, int, float))
        value = column.flat[wrong]
        column.refuse(wrong, f"{_short(value)} is neither a number nor a token. {_remedy(value)}")
    if str in types:
        _only_tokens(column, types)
    kind = TOKENS if str in types else INTEGERS if types == {int} else NUMBERS
    if expected is None or kind == expected or (kind, expected) == (INTEGERS, NUMBERS):
        return expected or kind
    wrong = column.find(lambda e: type(e) is float or kind != NUMBERS)
    column.refuse(
        wrong,
        f"{_short(column.flat[wrong])} stands where {KINDS[expected]} are expected, as in the "
        "training set or for what reads them.",
    )


def _only_tokens(column: Column, types: set[type]) -> None:
    if types != {str}:
        first = type(column.flat[0]) is str
        wrong = column.find(lambda e: (type(e) is str) != first)
        what = ("a number", "tokens") if first else ("a token", "numbers")
        column.refuse(
            wrong,
            f"{_short(column.flat[wrong])} is {what[0]} in a list of {what[1]}. One input holds "
            'one kind: write "1" where 1 is a token, or give the numbers an input of their own.',
        )
    if column.shape:
        column.refuse(0, f"a list of tokens, {_short(column.flat[0])} first; a vertex has one.")
    if not all(map(is_text, set(column.flat))):
        wrong = column.find(lambda token: not is_text(token))
        column.refuse(
            wrong,
            f"{column.flat[wrong]!a} is half of a surrogate pair, which is no character.",
        )


def is_text(token: str) -> bool:
    """Whether it can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True


def class_indices(column: Column, classes: Sequence[str]) -> list[int]:
    """The place of every label that is a word.

    Raises:
        DataError: a word that is none of the classes.
    """
    place = {name: index for index, name in enumerate(classes)}
    if set(column.flat) - place.keys():
        wrong = column.find(lambda name: name not in place)
        few = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
        column.refuse(
            wrong,
            f"the label {column.flat[wrong]!r} is none of the {len(classes)} classes of the "
            f"training set: {few}.",
        )
    return [place[name] for name in column.flat]


def vocabulary(columns: Iterable[Column], min_count: int) -> Vocab | None:
    """That of all tokens of some columns; None where there are none."""
    tokens = [token for column in columns if column.kind == TOKENS for token in column.flat]
    return Vocab.build(tokens, min_count) if tokens else None


def _short(value: Any) -> str:
    """A value as it stands in JSON, cut to some 40 characters."""
    text = "null" if value is None else repr(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 40 else f"{text[:24]}... ({len(text)} characters)"


def _remedy(value: Any) -> str:
    if value is None:
        return "Give every element of a list, or null for the whole vertex."
    if isinstance(value, bool):
        return "Write 1 or 0."
    return "Use null where a value is absent."
