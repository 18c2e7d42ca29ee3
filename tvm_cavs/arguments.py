"""Arguments as users give them -> plain numbers, names and shapes, or an error that says which.

Python is lenient: True is 1, "3" multiplies a list, NaN passes every comparison that is meant to
refuse it. What comes through here is what its name says.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from .errors import CavsError, ConfigError

LARGEST = float(np.finfo("float32").max)
MOST = 2**31 - 1  # of what is counted: kernels number rows by int32


def shown(given: Any) -> str:
    """What was given, in a few words: its text, cut short, and its type where that tells more."""
    try:
        text = repr(given)
    except Exception:  # a stranger's own repr
        return f"a {type(given).__name__}"
    text = text if len(text) <= 60 else f"{text[:57]}..."
    text = text.encode("utf-8", "backslashreplace").decode()
    plain = given is None or isinstance(given, (bool, int, float, str))
    return text if plain else f"{text} ({type(given).__name__})"


def whole(
    what: str,
    given: Any,
    least: int | None = None,
    most: int | None = None,
    error: type[CavsError] = ConfigError,
) -> int:
    """A whole number from `least` to `most`; NumPy's integers are some, True and 3.0 are not.

    Raises:
        CavsError: it is none; of the class `error`.
    """
    try:
        number = None if isinstance(given, (bool, np.bool_)) else operator.index(given)
    except TypeError:
        number = None
    low = number is not None and least is not None and number < least
    high = number is not None and most is not None and number > most
    if number is None or low or high:
        raise error(f"{what}: expected a whole number{_range(least, most)}, given {shown(given)}")
    return number


def number(
    what: str,
    given: Any,
    least: float | None = None,
    most: float = LARGEST,
    above: float | None = None,
    below: float | None = None,
    error: type[CavsError] = ConfigError,
) -> float:
    """A finite number from `least` to `most`, or beyond `above` and before `below`.

    Raises:
        CavsError: it is none; of the class `error`. True and "3" are no numbers.
    """
    value = math.nan
    if isinstance(given, Real) and not isinstance(given, (bool, np.bool_)):
        try:
            value = float(given)
        except OverflowError:
            value = math.inf
    fits = abs(value) <= LARGEST and value <= most and (least is None or value >= least)
    if not fits or (above is not None and value <= above) or (below is not None and value >= below):
        bounds = _range(least, most if most < LARGEST else None)
        if above is not None:
            bounds += f" above {above:g}"
        if below is not None:
            bounds += f" and below {below:g}" if bounds else f" below {below:g}"
        raise error(f"{what}: expected a finite number{bounds}, given {shown(given)}")
    return value


def extents(
    what: str, given: Any, error: type[CavsError] = ConfigError, empty: bool = False
) -> tuple[int, ...]:
    """A shape: a whole number, or a sequence of them, each 1 or more; `empty`: () is one too.

    Raises:
        CavsError: it is none; of the class `error`.
    """
    if isinstance(given, (str, bytes, dict, set)) or not isinstance(given, Iterable):
        return (whole(what, given, 1, MOST, error),)
    try:
        found = list(given)
    except TypeError:  # a NumPy array of no dimension
        return (whole(what, given, 1, MOST, error),)
    if not found and not empty:
        raise error(f"{what}: expected a shape, one or more positive whole numbers, given ()")
    shape = tuple(whole(f"{what}, extent {i}", n, 1, MOST, error) for i, n in enumerate(found))
    if math.prod(shape) > MOST:
        raise error(f"{what}: {shape} has {math.prod(shape)} elements, expected at most {MOST}")
    return shape


def name(what: str, given: Any, error: type[CavsError] = ConfigError) -> str:
    """A text that is not empty and can be written.

    Raises:
        CavsError: it is none; of the class `error`.
    """
    try:
        if isinstance(given, str) and given and "\x00" not in given:
            given.encode()
            return str(given)
    except UnicodeEncodeError:
        pass
    raise error(f"{what}: expected a name, a text that is not empty, given {shown(given)}")


def _range(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f" of {least:g} or more"
    most_text = f"{most:g}" if most < 1e6 else f"{int(most)}"
    return f" of at most {most_text}" if least is None else f" from {least:g} to {most_text}"
