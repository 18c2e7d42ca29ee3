"""The memory on which the results of candidates are compared with the default's.

A step leaves its results in memory. A candidate that leaves something out would find them there, so
what calls replace is filled with values that no result has. What they add to starts as one run of
the default leaves it, and rows that products read hold random numbers: a row of zeros may be
forgotten unseen. Everything else is as the step left it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .calls import Recorded
from .touched import Masks, places, sources, touched

Arrays = Sequence[np.ndarray]
Run = Callable[[Arrays], Arrays]  # what arrays hold after all calls with the default knobs
QUIET_NAN = {2: 0x7E5A, 4: 0x7FC5A5A5, 8: 0x7FF85A5A5A5A5A5A}  # by bytes, with a payload


def poison(dtype: np.dtype, other: bool = False) -> Any:
    """A value that no result has: NaN with a payload, or the largest number; and an `other` one."""
    if dtype.kind == "f":
        nan = np.array(QUIET_NAN[dtype.itemsize], f"uint{8 * dtype.itemsize}").view(dtype)
        return np.finfo(dtype).min if other else nan
    if dtype.kind == "b":
        return other
    limits = np.iinfo(dtype)
    return limits.max // 3 if other else limits.max


def poisoned(arrays: Arrays, masks: Masks, other: bool = False) -> list[np.ndarray]:
    """Copies, with poison where a mask says so."""
    made = [array.copy() for array in arrays]
    for number, mask in masks.items():
        made[number][mask] = poison(made[number].dtype, other)
    return made


def start(recorded: Recorded, run: Run) -> list[np.ndarray]:
    """Arrays on which a candidate has to do all that the default does to come to its results."""
    arrays = [array.copy() for array in recorded.arrays]
    generator = np.random.default_rng(0)
    for number in sorted(sources(recorded)):
        shape = arrays[number].shape
        arrays[number] = generator.standard_normal(shape, "float32").astype(arrays[number].dtype)
    replaced, added = touched(recorded)
    for number in places(recorded):
        replaced.pop(number, None)
    for number, mask in added.items():
        arrays[number][mask] = 0
    once = run(arrays)
    for number, mask in added.items():
        arrays[number][mask] = once[number][mask]
    return poisoned(arrays, _unread(arrays, replaced, run))


def _unread(arrays: Arrays, replaced: Masks, run: Run) -> Masks:
    """What is replaced and not read before: no result depends on the poison in it.

    An array of which that is not so keeps its values: a kernel reads there what it then replaces.
    """
    if _same(arrays, replaced, run):
        return replaced
    return {number: mask for number, mask in replaced.items() if _same(arrays, {number: mask}, run)}


def _same(arrays: Arrays, masks: Masks, run: Run) -> bool:
    one, two = (run(poisoned(arrays, masks, other)) for other in (False, True))
    return all(bits(a).tobytes() == bits(b).tobytes() for a, b in zip(one, two, strict=True))


def bits(array: np.ndarray) -> np.ndarray:
    """The same memory as whole numbers."""
    return array.view(f"uint{8 * array.dtype.itemsize}")
