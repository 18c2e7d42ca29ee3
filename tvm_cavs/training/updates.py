"""Updates: applies an optimizer to weights in host memory, by kernels compiled for it.

A dense gradient has the weight's shape; of a row-sparse one only the named rows are touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_not
from typing import Any, TypeAlias

import numpy as np

from ..compiler import Compiler, Form, Update, squares, update
from ..errors import ShapeError
from ..language import RowSparse
from ..runtime import tensor_of, threads_in_use
from .optim import OPTIMIZERS, Hyper

Gradient: TypeAlias = "np.ndarray | RowSparse"
TINY = 1e-30  # a sum of squares below it may have lost some that are none in float32
GRAIN = 1 << 16  # elements of a weight from which threads share an update


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
        self._squares = self._compiled("squares", squares)
        self._sum = np.zeros(1, "float64")
        self._sum_tensor = tensor_of(self._sum)
        self._functions: dict[tuple[int | None, int], Any] = {}
        self._kept: dict[tuple[int, bool], tuple[tuple[np.ndarray, ...], tuple[Any, ...]]] = {}

    def norm(self, gradients: Iterable[Gradient]) -> float:
        """The Euclidean norm of all gradients taken as one vector; inf or nan where one of them is.

        The same for any number of threads.
        """
        total, given_all = 0.0, list(gradients)
        for gradient in given_all:
            values = _values(gradient)
            if values.size:
                given = tensor_of(np.ascontiguousarray(values, "float32").reshape(-1))
                self._squares(values.size, given, self._sum_tensor)
                total += float(self._sum[0])
        if not TINY < total < math.inf:  # squares left float32, though the values need not have
            total = sum(float(np.sum(np.asarray(_values(g), "float64") ** 2)) for g in given_all)
        return math.sqrt(total)

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
        sparse = isinstance(gradient, RowSparse)
        values = gradient.values if isinstance(gradient, RowSparse) else gradient
        _check(weight, gradient)
        size = values.size
        if not size:
            return bool  # does nothing
        values = np.ascontiguousarray(values, "float32")
        if not values.flags.writeable:  # may be given to kernels as a copy, which must not be kept
            values = values.copy()
        function = self._function(
            weight.shape[1] if sparse else None, threads_in_use() if size >= GRAIN else 1
        )
        if isinstance(gradient, RowSparse):
            rows = tensor_of(np.ascontiguousarray(gradient.rows, "int32"))
            target, *kept = self._tensors((weight, *states), flat=False)
            given = rows, target, tensor_of(values), *kept
            return partial(function, len(values), scale, *numbers, *given)
        tensors = self._tensors((weight, values, *states), flat=True)
        return partial(function, size, scale, *numbers, *tensors)

    def _tensors(self, arrays: tuple[np.ndarray, ...], flat: bool) -> tuple[Any, ...]:
        """Arrays as kernels take them; kept with the first, while the others stay the same."""
        key = id(arrays[0]), flat
        known = self._kept.get(key)
        if known is None or any(map(is_not, known[0], arrays)):
            made = tuple(tensor_of(a.reshape(-1) if flat else a) for a in arrays)
            known = self._kept[key] = arrays, made
        return known[1]

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


def _values(gradient: Gradient) -> np.ndarray:
    return gradient.values if isinstance(gradient, RowSparse) else gradient


def _check(weight: np.ndarray, gradient: Gradient) -> None:
    if isinstance(gradient, RowSparse):
        given, expected = gradient.values.shape, (len(gradient.rows), *weight.shape[1:])
    else:
        given, expected = gradient.shape, weight.shape
    if given != expected:
        raise ShapeError(f"gradient of shape {given}: expected {expected}, as of its parameter")
