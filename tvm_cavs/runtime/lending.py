"""Lending: a thing belongs to its owner for as long as that is held, and then to the next one."""

from __future__ import annotations

import weakref
from threading import RLock
from typing import Any, Generic, TypeVar

Thing = TypeVar("Thing")


class Lending(Generic[Thing]):
    """Gives things out again whose owners are gone."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._owned: list[tuple[Thing, weakref.ref[Any]]] = []

    def take(self) -> Thing | None:
        """A thing whose owner nobody holds any more; None if there is none."""
        with self._lock:
            for entry in list(self._owned):
                thing, owner = entry
                if owner() is None and entry in self._owned:
                    self._owned.remove(entry)
                    return thing
        return None

    def give(self, thing: Thing, owner: Any) -> None:
        """From now on it is the owner's. What was taken and is not given again is nobody's."""
        self._owned.append((thing, weakref.ref(owner)))

    def withdraw(self, owner: Any) -> None:
        """Nobody gets what is the owner's, until it is given again."""
        with self._lock:
            for entry in list(self._owned):
                if entry[1]() is owner:
                    self._owned.remove(entry)
