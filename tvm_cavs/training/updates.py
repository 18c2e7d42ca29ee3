"""Updates: applies an optimizer to weights in host memory, by kernels compiled for it.

A dense gradient has the weight's shape; of a row-sparse one only the named rows are touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_not
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..arguments import LARGEST
from ..arrays import aligned
from ..compiler import SQUARES, Compiler, Form, Update, squares, update
from ..errors import ShapeError
from ..language import RowSparse
from ..runtime import tensor_of, threads_in_use
from .optim import OPTIMIZERS, Hyper

Gradient: TypeAlias = "np.ndarray | RowSparse"
TINY = 1e-30  # a sum of squares below it may have lost some that are none in float32
GRAIN = 1 << 16  # elements of a weight from which threads share an update


class Kept(NamedTuple):
    """The arrays of an update as kernels take them, while they stay the same."""

    arrays: tuple[np.ndarray, ...]
    tensors: tuple[Any, ...]
    size: int


class Sums:
    """Room for n float64 sums, as NumPy and kernels take it."""

    def __init__(self, n: int) -> None:
        self.values = aligned((n,), "float64")
        self.tensor = tensor_of(self.values)


class Flat(NamedTuple):
    """A gradient's values as one vector.

    `values` are kept, so that no others have their id; the vector `follows` what changes them, if
    it is no copy.
    """

    values: np.ndarray
    size: int
    tensor: Any
    follows: bool


class Updates:
    """Applies one optimizer to weights in host memory.

    Args:
        optimizer: a name in OPTIMIZERS. cache: as of `Compiler`.
    """

    def __init__(self, optimizer: str, cache: Any = None) -> None:
        self.name, self._optimizer = optimizer, OPTIMIZERS[optimizer]
        some = Hyper(1.0, 0.0, 1, self._optimizer.extra)
        self._numbers = tuple(self._optimizer.numbers(some))
        self._compiler = Compiler("host", 1, cache)
        self._squares = self._norm(1)
        self._norms = {1: self._squares}  # by the number of tasks
        self._sums = Sums(1)
        self._functions: dict[tuple[int | None, int], Any] = {}
        self._kept: dict[tuple[int, bool], Kept] = {}  # by a weight, and whether by rows
        self._flat: dict[int, Flat] = {}  # by the values of a gradient

    def norm(self, gradients: Iterable[Gradient]) -> float:
        """The Euclidean norm of all gradients taken as one vector; inf or nan where one of them is.

        The same for any number of threads.
        """
        total, before = 0.0, self._flat
        self._flat, given = {}, [_values(gradient) for gradient in gradients]
        for values in given:
            flat = before.get(id(values)) or _flat(values)
            if flat.follows:
                self._flat[id(values)] = flat
            if flat.size > SQUARES:
                total += self._large(flat)
            elif flat.size:
                self._squares(flat.size, flat.tensor, self._sums.tensor)
                total += float(self._sums.values[0])
        if not TINY < total < math.inf:  # squares left float32, though the values need not have
            total = sum(float(np.sum(np.asarray(v, "float64") ** 2)) for v in given)
        return math.sqrt(total)

    def _large(self, flat: Flat) -> float:
        """The sum of squares of a gradient that several tasks may share."""
        tasks = threads_in_use() if flat.size >= GRAIN else 1
        if tasks not in self._norms:
            self._norms[tasks] = self._norm(tasks)
        n_sums = -(-flat.size // SQUARES)
        if n_sums > len(self._sums.values):
            self._sums = Sums(n_sums)
        self._norms[tasks](flat.size, flat.tensor, self._sums.tensor)
        return sum(self._sums.values[:n_sums].tolist())

    def _norm(self, tasks: int) -> Any:
        return self._compiled(f"squares_{tasks}", partial(_squares, tasks))

    def numbers(self, hyper: Hyper) -> tuple[float, ...]:
        """What the optimizer's rule needs of these hyper-parameters, for `apply`."""
        return tuple(self._optimizer.numbers(hyper).values())

    def prepared(
        self,
        weight: np.ndarray,
        gradient: Gradient,
        states: tuple[np.ndarray, ...],
        numbers: tuple[float, ...],
        scale: float = 1.0,
    ) -> Callable[[], object]:
        """What makes one update of `weight` and `states` in place, with the gradient times `scale`.

        It is compiled code, which no signal interrupts. Shapes: weight and each state
        float32[shape], C order; gradient the same, or RowSparse for a weight of shape
        [n_rows, width].

        Raises:
            ShapeError: the gradient has another shape.
        """
        if isinstance(gradient, RowSparse):
            return self._prepared_rows(weight, gradient, states, (scale, *numbers))
        arrays = weight, gradient, *states
        known = self._kept.get((id(weight), False))
        if known is None or any(map(is_not, known.arrays, arrays)):
            _check(weight, gradient)
            values = _writeable(gradient)
            flat = (weight, values, *states)
            known = Kept(arrays, tuple(tensor_of(a.reshape(-1)) for a in flat), values.size)
            if values is gradient:  # and no copy
                self._kept[id(weight), False] = known
        size = known.size
        function = self._function(None, threads_in_use() if size >= GRAIN else 1)
        return partial(function, size, scale, *numbers, *known.tensors)

    def stay_finite(
        self,
        weight: np.ndarray,
        gradient: Gradient,
        states: tuple[np.ndarray, ...],
        numbers: tuple[float, ...],
        scale: float,
    ) -> bool:
        """Whether the update that `prepared` would make leaves weight and states within float32.

        Far slower than the update itself, for numbers that are out of the ordinary.
        """
        rows = gradient.rows if isinstance(gradient, RowSparse) else slice(None)
        given = dict(zip(self._numbers, map(np.float32, numbers), strict=True))
        kept = tuple(state[rows] for state in states)
        with np.errstate(all="ignore"):
            scaled = np.float32(scale) * _values(gradient)
            new, changed = self._optimizer.rule(weight[rows], scaled, kept, given, np.sqrt)
            # nearly: kernels round once where a product is added
            return all((np.abs(array) <= LARGEST * (1 - 1e-6)).all() for array in (new, *changed))

    def _prepared_rows(
        self,
        weight: np.ndarray,
        gradient: RowSparse,
        states: tuple[np.ndarray, ...],
        numbers: tuple[float, ...],
    ) -> Callable[[], object]:
        """`prepared` for some rows of a weight."""
        _check(weight, gradient)
        values = _writeable(gradient.values)
        if not values.size:
            return bool  # does nothing
        key, arrays = (id(weight), True), (weight, *states)
        known = self._kept.get(key)
        if known is None or any(map(is_not, known.arrays, arrays)):
            known = self._kept[key] = Kept(arrays, tuple(map(tensor_of, arrays)), 0)
        tasks = threads_in_use() if values.size >= GRAIN else 1
        target, *kept = known.tensors
        given = tensor_of(np.ascontiguousarray(gradient.rows, "int32")), target, tensor_of(values)
        return partial(self._function(weight.shape[1], tasks), len(values), *numbers, *given, *kept)

    def _function(self, width: int | None, tasks: int) -> Any:
        if (width, tasks) not in self._functions:
            spec, row = Update(self.name, self._numbers, width), self._optimizer
            symbol = f"update_{self.name}_{width or 'dense'}_{tasks}"
            made = self._compiled(
                symbol, lambda lanes, name: update(spec, row.states, row.rule, lanes, tasks, name)
            )
            self._functions[width, tasks] = made
        return self._functions[width, tasks]

    def _compiled(self, symbol: str, make: Callable[[int, str], Any]) -> Any:
        form = Form(symbol, 1, partial(make, self._compiler.lanes, symbol))
        self._compiler.compile([form])
        return self._compiler.function(symbol)


def _squares(tasks: int, lanes: int, name: str) -> Any:
    return squares(lanes, tasks, name)


def _flat(values: np.ndarray) -> Flat:
    given = _writeable(values)
    return Flat(values, values.size, tensor_of(given.reshape(-1)), given is values)


def _writeable(values: np.ndarray) -> np.ndarray:
    """float32 in C order; what is read-only may be given to kernels as a copy that is not kept."""
    values = np.ascontiguousarray(values, "float32")
    return values if values.flags.writeable else values.copy()


def _values(gradient: Gradient) -> np.ndarray:
    return gradient.values if isinstance(gradient, RowSparse) else gradient


def _check(weight: np.ndarray, gradient: Gradient) -> None:
    if isinstance(gradient, RowSparse):
        given, expected = gradient.values.shape, (len(gradient.rows), *weight.shape[1:])
    else:
        given, expected = gradient.shape, weight.shape
    if given != expected:
        raise ShapeError(f"gradient of shape {given}: expected {expected}, as of its parameter")
