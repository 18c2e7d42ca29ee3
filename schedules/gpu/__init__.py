"""Rules for GPUs: none yet, so every kernel of a GPU target is reported as unclaimed."""

from collections.abc import Callable

RULES: tuple[Callable[..., object], ...] = ()
