"""A step number -> the factor on the learning rate.

A row of SCHEDULES is a function of the step (0 for the first) and its settings.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from ..arguments import name as text
from ..arguments import number, shown
from ..errors import ConfigError

Schedule: TypeAlias = Callable[[int], float]


def constant(step: int) -> float:
    """1."""
    return 1.0


def step_decay(step: int, every: int, factor: float = 0.5) -> float:
    """factor ** (step // every): multiply by `factor` once in `every` steps."""
    return factor ** (step // every)


def cosine(step: int, n_steps: int, floor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 to `floor` at `n_steps`, constant after that."""
    done = min(step / n_steps, 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def warmup(step: int, n_steps: int) -> float:
    """(step + 1) / n_steps, at most 1: linear warm-up whose first step is not zero."""
    return min((step + 1) / n_steps, 1.0)


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "warmup": warmup,
}


def make_schedule(*rows: tuple[str, Mapping[str, float]]) -> Schedule:
    """The product of schedules, each given as (name in SCHEDULES, settings).

    `make_schedule(("warmup", {"n_steps": 100}), ("cosine", {"n_steps": 5000}))`

    Raises:
        ConfigError: a name is unknown, or a setting is missing, unknown or not positive.
    """
    for row in rows:
        if not isinstance(row, (tuple, list)) or len(row) != 2:
            raise ConfigError(
                'make_schedule: expected pairs such as ("warmup", {"n_steps": 100}), given '
                f"{shown(row)}"
            )
        check_settings(*row)
    return partial(_product, rows)  # which, other than a closure, can be pickled


def _product(rows: Sequence[tuple[str, Mapping[str, float]]], step: int) -> float:
    return math.prod(SCHEDULES[name](step, **settings) for name, settings in rows)


def check_settings(name: str, settings: Mapping[str, float]) -> None:
    """Check one row for `make_schedule`.

    Raises:
        ConfigError: see `make_schedule`.
    """
    if text("schedule", name) not in SCHEDULES:
        raise ConfigError(f"schedule {name!r} is unknown; expected one of {', '.join(SCHEDULES)}.")
    if not isinstance(settings, Mapping):
        raise ConfigError(f"schedule {name!r}: expected settings by name, given {shown(settings)}")
    accepted = list(inspect.signature(SCHEDULES[name]).parameters.values())[1:]
    names = [parameter.name for parameter in accepted]
    required = {parameter.name for parameter in accepted if parameter.default is parameter.empty}
    missing, unknown = sorted(required - set(settings)), sorted(set(settings) - set(names))
    if missing or unknown:
        raise ConfigError(
            f"schedule {name!r} takes {', '.join(names) or 'no settings'}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
        )
    for key in settings.keys() & {"every", "n_steps"}:
        number(f"schedule {name!r}: {key}", settings[key], least=1)
    if "floor" in settings:
        number(f"schedule {name!r}: floor", settings["floor"], least=0, most=1)
    if "factor" in settings:
        number(f"schedule {name!r}: factor", settings["factor"], most=1, above=0)
