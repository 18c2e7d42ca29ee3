"""Observer: what an executor and its network can be given, to see what they do and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

Made = TypeVar("Made")


class Observer(Protocol):
    """Runs the parts of a step in its own way; a part's result has to be what it returns."""

    def part(self, name: str, function: Callable[..., Made], *given: Any) -> Made:
        """Return `function(*given)`, which does the part of this name."""
        ...

    def kernels(self, batch: Any, calls: Callable[[], Sequence[Any]]) -> None:
        """Make the kernel calls of one direction of a planned batch, which `calls` lists.

        They are `runtime.Call`s.
        """
        ...
