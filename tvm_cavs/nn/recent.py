"""What was made for a loss, found again by what the loss is, as long as it is one of the last few.

The one idea: a key is made of everything that an object holds, not of what it calls equal. So a
loss made anew at every step is the same loss, one that was changed is another, and what was made
for losses that are not used any more goes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable
from functools import lru_cache
from itertools import count
from threading import RLock
from typing import Any, Generic, TypeVar

from ..renewal import renewed_after_fork

T = TypeVar("T")
KEPT = 16


def key_of(thing: Any) -> Hashable:
    """A key of a thing's class and of all it holds: equal for those that cannot be told apart.

    What cannot be stored, such as a lambda, counts by itself and not by what it holds.
    """
    if thing is None:
        return None
    kind = type(thing)
    if _holds_attributes_only(kind):  # type: ignore[arg-type]
        held = vars(thing)
        if all(type(value) is str for value in held.values()):  # as of most losses; much faster
            return kind, tuple(held.items())
    state = thing.__reduce_ex__(2)[2]
    try:
        return type(thing), pickle.dumps(state, 5)
    except (pickle.PicklingError, TypeError, AttributeError):
        held = [part for part in (state if isinstance(state, tuple) else (state,)) if part]
        return type(thing), tuple((k, Same.of(v)) for part in held for k, v in part.items())


@lru_cache(64)
def _holds_attributes_only(kind: type) -> bool:
    """Whether all that things of this class hold is in their attributes."""
    names = {name for c in kind.__mro__[:-1] for name in vars(c)}
    return not names & {"__slots__", "__getstate__", "__reduce__", "__reduce_ex__"}


class Same:
    """A value that equals those of the same type with the same stored form, or itself alone."""

    __slots__ = ("_form", "_value")

    def __init__(self, value: Any, form: Hashable) -> None:
        self._value, self._form = value, form

    @staticmethod
    def of(value: Any) -> Same:
        try:
            return Same(value, pickle.dumps(value, 5))
        except (pickle.PicklingError, TypeError, AttributeError):
            return Same(value, _code(value))

    def __hash__(self) -> int:
        return hash(self._form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._form == other._form


def _code(value: Any) -> Hashable:
    """Of a function that sees nothing else its code, of anything else what it is."""
    code = getattr(value, "__code__", None)
    alone = code is not None and not value.__closure__ and not value.__defaults__
    return (code, value.__module__) if alone else id(value)


class Recent(Generic[T]):
    """The things made for the last KEPT keys that were asked for, and always that of None.

    Any number of threads may ask at the same time; a thing is made once.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, T] = {}
        self._asked: dict[Hashable, int] = {}
        self._now = count()
        self._renew()
        renewed_after_fork(self, Recent._renew)

    def _renew(self) -> None:
        self._making = RLock()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for the key, or is made now."""
        self._asked[key] = next(self._now)
        if key in (made := self._made):
            return made[key]
        with self._making:
            if key not in self._made:
                self._keep(key, make())
            return self._made[key]

    def _keep(self, key: Hashable, thing: T) -> None:
        """Add a thing; the one that was not asked for longest goes, if there are too many."""
        made = {**self._made, key: thing}
        asked = {k: self._asked.get(k, -1) for k in made}
        if len(made) > KEPT:
            oldest = min((k for k in self._made if k is not None), key=asked.__getitem__)
            del made[oldest], asked[oldest]
        self._made, self._asked = made, asked
