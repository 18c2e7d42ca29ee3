"""What a user gives as a number, a list or an array -> arrays of our own, or a refusal in words.

The one idea: everything is copied once, at the door, into one dtype and C order. What comes back
is never the memory of the one who gave it, so it stays what it was when it was checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np

from .arguments import MOST, whole
from .errors import CavsError, GraphError, ShapeError

INT, FLOAT = np.dtype(np.int32), np.dtype(np.float32)
Refusal = type[CavsError]


def count(what: str, given: Any, least: int = 0, error: Refusal = GraphError) -> int:
    """A whole number from `least` to 2^31 - 1; True is no number.

    Raises:
        error: otherwise.
    """
    return whole(what, given, least, MOST, error)


def check_numbered(what: str, n: int, remedy: str) -> None:
    """Whether `n` things can be told apart by numbers of 32 bits, as kernels do.

    Raises:
        GraphError: there are more than 2^31 - 1.
    """
    if n > MOST:
        raise GraphError(f"{what}: {n:,}, and there may be {MOST:,} (numbers of 32 bits). {remedy}")


def as_list(what: str, given: Any, of: str, error: Refusal = GraphError) -> list[Any]:
    """The items of anything that has them in an order: a list, a tuple, an array, a generator.

    Raises:
        error: it has none (text, dicts and sets included), or it is a masked array.
    """
    refuse_masked(what, given, error)
    ordered = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set)
    if not ordered or getattr(given, "ndim", 1) == 0:
        raise error(
            f"{what}: expected a list or an array of {of}, "
            f"given {type(given).__name__} {given!r:.60}."
        )
    return list(given)


def refuse_masked(what: str, given: Any, error: Refusal = GraphError) -> None:
    """A masked array is refused: what its mask hides would be read as values.

    Raises:
        error: it is one.
    """
    if isinstance(given, np.ma.MaskedArray):
        raise error(
            f"{what}: expected a list or an array, given a masked array, whose mask would be "
            "lost. Give a list with None where a vertex has nothing."
        )


def indices(what: str, given: Any) -> np.ndarray:
    """int64[n] of our own, from a list or an array of integers.

    Raises:
        GraphError: it holds anything else (bools, floats, text, nested lists), or does not fit.
    """
    if not isinstance(given, np.ndarray):
        given = as_list(what, given, "integers")
        _only_integers(what, given)
    return _to_int64(what, given, 1)


def pairs(what: str, given: Any) -> np.ndarray:
    """int64[n, 2] of our own, from a list of pairs of integers or an array of that shape.

    Raises:
        GraphError: it is something else; two rows instead of two columns are named.
    """
    if not isinstance(given, np.ndarray):
        given = as_list(what, given, "pairs")
        if not all(isinstance(p, Iterable) and getattr(p, "ndim", 1) for p in given):
            raise GraphError(f"{what}: expected pairs (parent, child), given {given!r:.60}.")
        given = [list(pair) for pair in given]
        _only_integers(what, chain.from_iterable(given))
    array = _to_int64(what, given, 2)
    if array.size and array.shape[1] != 2:
        remedy = " It has two rows: give edges.T." if len(array) == 2 else ""
        raise GraphError(
            f"{what}: expected (parent, child) pairs, shape [n_edges, 2], given shape "
            f"{list(array.shape)}.{remedy}"
        )
    return array.reshape(-1, 2)


def _only_integers(what: str, items: Iterable[Any]) -> None:
    """Raises GraphError where NumPy would turn something else into integers, such as True."""
    for kind in set(map(type, items)):
        if not issubclass(kind, Integral) or issubclass(kind, bool):
            raise GraphError(f"{what}: expected vertex indices (integers), got {kind.__name__}.")


def _to_int64(what: str, given: Any, ndim: int) -> np.ndarray:
    refuse_masked(what, given)
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, OverflowError) as error:
        raise GraphError(f"{what}: expected a list of vertex indices ({error}).") from error
    if array.shape[:1] == (0,):  # of an empty list NumPy makes floats
        array = np.zeros((0,) * ndim, np.int64)
    if array.dtype.kind not in "iu":
        kind = "integers beyond 64 bits" if array.dtype == object else f"{array.dtype}"
        raise GraphError(f"{what}: expected vertex indices (integers), got {kind}.")
    if array.ndim != ndim:
        raise GraphError(
            f"{what}: expected {ndim} axes, given an array of shape {list(array.shape)}."
        )
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise GraphError(f"{what}: {array.max()} does not fit a signed integer of 64 bits.")
    return np.array(array, np.int64, order="C")


def numbers(what: str, given: Any, error: Refusal = GraphError) -> np.ndarray:
    """float32[...] or int32[...] of our own in C order, from floats or from integers and bools.

    Raises:
        error: other things, rows of several shapes, a list of bools among numbers, a value that is
            finite and does not fit.
    """
    refuse_masked(what, given, error)
    try:
        values = np.asarray(given)
    except Exception as problem:  # whatever the objects in a list do when they are asked
        raise error(
            f"{what}: its rows differ in shape or are no numbers ({problem}). "
            "Every present row needs the same shape."
        ) from problem
    if isinstance(given, list):
        _one_meaning(what, given, values, error)
    if values.dtype.kind not in "fiub":
        such = f" such as {values.reshape(-1)[:1].tolist()[0]!r:.60}" if values.size else ""
        raise error(
            f"{what}: expected integers or floats, got {values.dtype}{such}. "
            "Turn strings into indices with a Vocab first; None stands for a whole row."
        )
    if values.dtype.kind == "f":
        return _to_float32(what, values, error)
    info = np.iinfo(np.int32)
    if values.size and (values.max() > info.max or values.min() < info.min):
        raise error(f"{what}: a value does not fit int32 ({info.min} to {info.max}).")
    return np.array(values, INT, order="C")


def floats(what: str, given: Any, error: Refusal) -> np.ndarray:
    """float32[...] of our own in C order, all finite, from any numbers.

    Raises:
        error: other things, or a number that is not finite.
    """
    values = np.asarray(numbers(what, given, error), FLOAT)
    check_finite(what, values, error)
    return values


def parameter_values(what: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32[shape], all finite: what a parameter is set to. Not copied if it is that already.

    Raises:
        ShapeError: they are none, the shapes differ, or a value is no finite number: a product with
            rows of zeros, which an absent child gives, would not be zero.
    """
    held = type(given) is np.ndarray and given.dtype == FLOAT  # spares large ones a copy
    values = given if held else np.asarray(numbers(what, given, ShapeError), FLOAT)
    if values.shape != shape:
        raise ShapeError(f"{what}: expected shape {shape}, given {values.shape}")
    check_finite(what, values, ShapeError)
    return values


def check_finite(what: str, values: np.ndarray, error: Refusal) -> None:
    """All numbers of an array are finite.

    Raises:
        error: one is not; it is named.
    """
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise error(f"{what}: expected finite numbers, given {values[where]} at {where}")


def _to_float32(what: str, values: np.ndarray, error: Refusal) -> np.ndarray:
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return np.array(values, FLOAT, order="C")
    except FloatingPointError as problem:
        largest = np.abs(values[np.isfinite(values)]).max()
        raise error(
            f"{what}: {largest:g} does not fit float32 (up to {np.finfo(FLOAT).max:g}). "
            "Scale the values, or give inf if that is meant."
        ) from problem


def _one_meaning(what: str, given: list[Any], values: np.ndarray, error: Refusal) -> None:
    """A list in which NumPy would change the meaning of some items is refused."""
    kinds = set(map(type, given))
    n_bools = len(kinds & {bool, np.bool_})
    if n_bools and n_bools < len(kinds):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise error(f"{what}: bools and other things in one list ({names}); give one of them.")
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        raise error(f"{what}: a masked value in a list; give None where a row is absent.")
    if values.dtype.kind == "f" and all(issubclass(kind, Integral) for kind in kinds) and kinds:
        raise error(f"{what}: integers beyond 64 bits; a value does not fit int32.")
