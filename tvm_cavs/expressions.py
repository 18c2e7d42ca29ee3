"""Expressions: values that a network has once, made of parameters and sums, evaluated by NumPy.

Plain data, without a Program: so an exported model evaluates them too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """One call: `compute(*args, **attrs)` of the results of earlier lines, float32[shape].

    leaf: what is read there instead, if `compute` is None.
    """

    op: str
    args: tuple[int, ...]
    attrs: Mapping[str, Any]
    shape: tuple[int, ...]
    compute: Callable[..., Any] | None = None
    leaf: Hashable = None


@dataclass(frozen=True)
class Expression:
    """Lines in which arguments come before their uses. The last one is the value."""

    lines: tuple[Line, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's."""
        return self.lines[-1].shape

    def value(self, read: Callable[[Any], Any]) -> Any:
        """The value, or what broadcasts to it: float32.

        Args:
            read: gives what a leaf holds, in its shape or flat.
        """
        done: list[Any] = []
        for line in self.lines:
            if line.compute is None:
                done.append(np.reshape(read(line.leaf), line.shape))
                continue
            with np.errstate(all="ignore"):  # infinities and NaN are values like others
                made = line.compute(*(done[a] for a in line.args), **line.attrs)
                done.append(np.asarray(made, "float32"))
        return done[-1]
