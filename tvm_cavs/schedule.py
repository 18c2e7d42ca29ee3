"""A step number -> the factor on the learning rate.

A row of SCHEDULES is a function of the step (0 for the first) and its settings.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from . import arguments
from .errors import ConfigError

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


RANGES: Mapping[str, Mapping[str, Any]] = {
    "every": {"least": 1},
    "n_steps": {"least": 1},
    "floor": {"least": 0, "most": 1},
    "factor": {"above": 0, "most": 1},
}


def make_schedule(*rows: tuple[str, Mapping[str, float]]) -> Schedule:
    """The product of schedules, each given as (name in SCHEDULES, settings).

    `make_schedule(("warmup", {"n_steps": 100}), ("cosine", {"n_steps": 5000}))`

    Raises:
        ConfigError: a name is unknown, or a setting is missing, unknown or not positive.
    """
    for name, settings in rows:
        check_settings(name, settings)
    return partial(_product, rows)  # which, other than a closure, can be pickled


def _product(rows: Sequence[tuple[str, Mapping[str, float]]], step: int) -> float:
    return math.prod(SCHEDULES[name](step, **settings) for name, settings in rows)


def check_settings(name: str, settings: Mapping[str, float]) -> None:
    """Check one row for `make_schedule`.

    Raises:
        ConfigError: see `make_schedule`.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule {name!r} is unknown; expected one of {', '.join(SCHEDULES)}.")
    accepted = list(inspect.signature(SCHEDULES[name]).parameters.values())[1:]
    names = [parameter.name for parameter in accepted]
    required = {parameter.name for parameter in accepted if parameter.default is parameter.empty}
    missing, unknown = sorted(required - set(settings)), sorted(set(settings) - set(names))
    if missing or unknown:
        raise ConfigError(
            f"schedule {name!r} takes {', '.join(names) or 'no settings'}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
        )
    for key, value in settings.items():
        arguments.number(f"schedule {name!r}: {key}", value, **RANGES[key])
