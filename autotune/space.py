"""The space of a kernel's knobs: a value for each of them, of few; it is finite and prints."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

Knobs = Any  # a frozen dataclass, see schedules/knobs.py


@dataclass(frozen=True)
class Space:
    """All combinations of values.

    default: the knobs that run without records. domains: the values of each knob, the default's
    first. shared: knobs that are the same for all numbers of rows. usable: the combination that
    stands for a given one, None where it cannot be had.
    """

    default: Knobs
    domains: Mapping[str, tuple[Any, ...]]
    usable: Callable[[Knobs], Knobs | None] = lambda knobs: knobs

    def __str__(self) -> str:
        free = {name: values for name, values in self.domains.items() if len(values) > 1}
        named = ", ".join(f"{name} {'/'.join(map(str, v))}" for name, v in free.items())
        return f"{len(self.candidates)} candidates: {named or 'nothing is free'}"

    @cached_property
    def candidates(self) -> tuple[Knobs, ...]:
        """Every candidate, the default first."""
        names, values = list(self.domains), product(*self.domains.values())
        made = (self._made(dict(zip(names, each, strict=True))) for each in values)
        return tuple(dict.fromkeys([self.default, *(knobs for knobs in made if knobs)]))

    def by_shared(self) -> Iterator[Knobs]:
        """For every combination of shared knobs the candidate nearest to the default."""
        names = [name for name in self.domains if name in self.default.SHARED]
        for values in product(*(self.domains[name] for name in names)):
            fixed = dict(zip(names, values, strict=True))
            for knobs in self.candidates:
                if all(getattr(knobs, name) == value for name, value in fixed.items()):
                    yield knobs
                    break

    def near(self, knobs: Knobs) -> dict[str, list[Knobs]]:
        """By the name of a knob, the candidates that differ from `knobs` in it alone."""
        found: dict[str, list[Knobs]] = {}
        for name, values in self.domains.items():
            made = (self._made({**vars(knobs), name: value}) for value in values)
            found[name] = [each for each in made if each is not None and each != knobs]
        return found

    def mutated(self, knobs: Knobs, generator: random.Random) -> Knobs | None:
        """`knobs` with two of them drawn anew; None if there is no such candidate."""
        names = generator.sample(sorted(self.domains), k=min(2, len(self.domains)))
        drawn = {name: generator.choice(self.domains[name]) for name in names}
        return self._made({**vars(knobs), **drawn})

    def _made(self, values: dict[str, Any]) -> Knobs | None:
        return self.usable(replace(self.default, **values))
