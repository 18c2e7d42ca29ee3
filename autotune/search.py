"""Search: what has been measured of a space -> the next candidate, or that it is enough.

Exhaustive where a space is small: then nothing is missed, and the order does not matter. Else from
the best known to what differs in one knob, and to random pairs of knobs, so that a valley is left.
TVM's MetaSchedule was left out on purpose: its candidates are traces of a Schedule over static
shapes, while a kernel here is written from its knobs and has a symbolic number of rows; and a
space of some hundred candidates needs no learned cost model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from math import inf

from .space import Knobs, Space

EXHAUSTIVE = 24  # candidates of a space that is measured whole
PATIENCE = 24  # candidates without a better one, after which a space has been searched
DRAWS = 50  # attempts at a random candidate not measured before; then the first such one

Measured = Mapping[Knobs, float]  # ratio to the default's time, infinite where it failed
Search = Callable[[Space, Measured, random.Random], "Knobs | None"]


def method(space: Space) -> tuple[str, Search]:
    """The search that suits a space, and its name."""
    if len(space.candidates) <= EXHAUSTIVE:
        return "exhaustive", exhaustive
    return "evolutionary", evolutionary


def exhaustive(space: Space, measured: Measured, _generator: random.Random) -> Knobs | None:
    """The first candidate that has not been measured."""
    return next((knobs for knobs in space.candidates if knobs not in measured), None)


def evolutionary(space: Space, measured: Measured, generator: random.Random) -> Knobs | None:
    """First every value of the shared knobs, then what lies near the best, then random pairs."""
    for knobs in space.by_shared():
        if knobs not in measured:
            return knobs
    if _stale(measured):
        return None
    ranked = sorted(measured, key=lambda k: (measured[k], repr(k)))
    for parent in ranked[:2]:
        new = [[k for k in near if k not in measured] for near in space.near(parent).values()]
        by_knob = [near for near in new if near]
        if by_knob and measured[parent] < inf:
            return generator.choice(generator.choice(by_knob))
    for _ in range(DRAWS):
        made = space.mutated(generator.choice(ranked[:4]), generator)
        if made is not None and made not in measured:
            return made
    return exhaustive(space, measured, generator)


def _stale(measured: Measured) -> bool:
    """Whether the last candidates, in the order in which they were measured, brought nothing."""
    ratios = list(measured.values())
    if len(ratios) <= PATIENCE:
        return False
    return min(ratios[:-PATIENCE]) <= min(ratios[-PATIENCE:])
