"""Calls of one kernel as a step made them, and places where they can be made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...arrays import aligned
from ...runtime import tensor_of
from ..compiler import Compiler
from ..forms import Form
from ..lowering.specs import Product
from ..machine import Machine
from ..workload import Workload
from .weights import plain


@dataclass(frozen=True)
class Slot:
    """An argument that is array number `number`; all others are whole numbers."""

    number: int


Arguments = tuple[int | Slot, ...]  # of a call; the first is the count of rows
Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Recorded:
    """Calls of one kernel, in order, as a step made them.

    arrays: as the step left them; weights that a product reads packed are plain here, as every
    target and candidate packs them in its own way (`weights.py`).
    """

    workload: Workload
    calls: tuple[Arguments, ...]
    arrays: tuple[np.ndarray, ...]

    @property
    def packed(self) -> frozenset[int]:
        """The arrays that are packed before they are read: a kernel may be called with several."""
        if not self.workload.packs:
            return frozenset()
        slots = (call[-2] for call in self.calls)
        return frozenset(slot.number for slot in slots if isinstance(slot, Slot))


def recorded_of(workload: Workload, calls: Sequence[tuple[Any, ...]], machine: Machine) -> Recorded:
    """Calls with the tensors they were made with; these are copied.

    Args:
        machine: what the step was compiled for, which decides how its weights are packed.
    """
    tensors: list[Any] = []
    number: dict[int, int] = {}

    def slot(argument: Any) -> int | Slot:
        if isinstance(argument, int):
            return argument
        if id(argument) not in number:
            number[id(argument)] = len(tensors)
            tensors.append(argument)
        return Slot(number[id(argument)])

    slotted = tuple(tuple(map(slot, call)) for call in calls)
    arrays = [np.array(np.from_dlpack(tensor)) for tensor in tensors]
    made = Recorded(workload, slotted, tuple(arrays))
    spec = workload.kernel.spec
    for each in made.packed:
        assert isinstance(spec, Product)
        arrays[each] = plain(machine, spec, arrays[each])
    return Recorded(workload, slotted, tuple(arrays))


class Place(Protocol):
    """Where calls are made: this process, or a server on another device."""

    def functions(self, compiler: Compiler, forms: Sequence[Form]) -> list[Callable[..., Any]]:
        """Forms of a kernel, compiled, as they are called there."""

    def put(self, array: np.ndarray) -> Any:
        """A tensor there with a copy of an array."""

    def get(self, tensor: Any) -> np.ndarray:
        """What a tensor holds now; where possible its memory, not a copy."""

    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        """Of all calls in order, the mean of `repeats`."""


class Here:
    """This process."""

    def functions(self, compiler: Compiler, forms: Sequence[Form]) -> list[Callable[..., Any]]:
        compiler.compile(forms)
        return [compiler.function(form.symbol) for form in forms]

    def put(self, array: np.ndarray) -> Any:
        made = aligned(array.shape, str(array.dtype))
        made[...] = array
        return tensor_of(made)

    def get(self, tensor: Any) -> np.ndarray:
        return np.from_dlpack(tensor)

    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            for function, arguments in calls:
                function(*arguments)
        return (time.perf_counter() - start) / repeats


HERE = Here()


@dataclass(frozen=True)
class Runnable:
    """Calls that are ready to be made at a place, and the tensors that they read and write."""

    calls: tuple[Call, ...]
    tensors: tuple[Any, ...]
    place: Place = HERE

    def run(self) -> None:
        for function, arguments in self.calls:
            function(*arguments)

    def seconds(self, repeats: int) -> float:
        """Of one run, the mean of `repeats`."""
        return self.place.seconds(self.calls, repeats)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the tensors hold now."""
        return tuple(self.place.get(tensor) for tensor in self.tensors)
