"""Updates: an optimizer's rule -> one kernel that passes once over a weight and its states.

A dense gradient has the weight's shape; of a row-sparse one only the named rows are touched. The
rule is traced on elements, so what an update computes is written once, in `optim`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from .buffers import tensor_of
from .compile import Compiler, Form
from .errors import ShapeError
from .loopnest import Buffer, Expr, arrays, hold, int64, kernel, loop, scalars, vectors
from .optim import OPTIMIZERS, Gradient, Hyper
from .vertex import RowSparse

GRAIN = 1 << 16  # elements of a weight from which threads share an update


@dataclass(frozen=True)
class Update:
    """The update of whole arrays, or of rows of `width` elements of a table."""

    optimizer: str
    numbers: tuple[str, ...]
    width: int | None = None


def update(spec: Update, lanes: int, tasks: int, name: str) -> tirx.PrimFunc:
    """f(n, scale, numbers..., [rows,] weight, gradient, states...): n elements, or rows.

    Changes weight and states; the gradient is multiplied by `scale` first.
    """
    states = OPTIMIZERS[spec.optimizer].states
    shape = (None,) if spec.width is None else (None, spec.width)

    def emit() -> None:
        (n,) = scalars(["n"])
        scale, *given = (T.arg(what, T.float32()) for what in ("scale", *spec.numbers))
        numbers = dict(zip(spec.numbers, given, strict=True))
        rows = [] if spec.width is None else arrays([("rows", (None,), "int32")])
        weight, gradient, *kept = arrays(
            [(what, shape, "float32") for what in ("weight", "gradient", *states)]
        )

        def element(source: list[Expr], target: list[Expr]) -> None:
            rule = OPTIMIZERS[spec.optimizer].rule
            old = [T.bind(array[tuple(target)]) for array in (weight, *kept)]  # before any store
            g = T.bind(gradient[tuple(source)] * scale)
            w, new = rule(old[0], g, tuple(old[1:]), numbers, tirx.sqrt)
            for array, value in zip((weight, *kept), (w, *new), strict=True):
                T.buffer_store(array, value, target)

        with loop(tasks, "task") as task:
            first = hold(task * n // tasks)
            count = hold((task + 1) * n // tasks - first)
            if spec.width is None:
                each_element(first, count, lanes, lambda i: element([i], [i]))
            else:
                each_row(rows[0], first, count, spec.width, lanes, element)

    return kernel(name, "update", emit)


def each_element(first: Expr, count: Expr, lanes: int, emit: Any) -> None:
    """`emit(i)` for `count` elements from `first` on: whole vectors, then what is left over."""
    full = hold(count // lanes)
    with loop(full) as v, loop(lanes, "lane") as lane:
        emit(first + v * lanes + lane)
    done = hold(first + full * lanes)
    with loop(count - full * lanes) as i:
        emit(done + i)


def each_row(rows: Buffer, first: Expr, count: Expr, width: int, lanes: int, emit: Any) -> None:
    """`emit([i, j], [rows[i], j])` for `count` rows from `first` on."""
    with loop(count) as i:
        source = hold(first + i)
        target = hold(rows[source].astype("int64"))
        vectors(width, lanes, lambda j: emit([source, int64(j)], [target, int64(j)]))


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
        self._functions: dict[tuple[int | None, int], Any] = {}

    def apply(
        self,
        weight: np.ndarray,
        gradient: Gradient,
        states: tuple[np.ndarray, ...],
        hyper: Hyper,
        scale: float = 1.0,
    ) -> None:
        """One update of `weight` and `states` in place, with the gradient times `scale`.

        Shapes: weight and each state float32[shape], C order; gradient the same, or RowSparse for
        a weight of shape [n_rows, width].

        Raises:
            ShapeError: the gradient has another shape.
        """
        numbers = self._optimizer.numbers(hyper).values()
        values = gradient.values if isinstance(gradient, RowSparse) else gradient
        _check(weight, gradient)
        if not values.size:
            return
        values = np.ascontiguousarray(values, "float32")
        tasks = _threads() if values.size >= GRAIN else 1
        if isinstance(gradient, RowSparse):
            rows = tensor_of(np.ascontiguousarray(gradient.rows, "int32"))
            tensors = (tensor_of(a) for a in (weight, values, *states))
            function = self._function(weight.shape[1], tasks)
            function(len(values), scale, *numbers, rows, *tensors)
            return
        flat = (tensor_of(a.reshape(-1)) for a in (weight, values, *states))
        self._function(None, tasks)(values.size, scale, *numbers, *flat)

    def _function(self, width: int | None, tasks: int) -> Any:
        if (width, tasks) not in self._functions:
            spec, lanes = Update(self.name, self._numbers, width), self._compiler.lanes
            symbol = f"update_{self.name}_{width or 'dense'}_{tasks}"
            form = Form(symbol, 1, partial(update, spec, lanes, tasks, symbol))
            self._compiler.compile([form])
            self._functions[width, tasks] = self._compiler.function(symbol)
        return self._functions[width, tasks]


def _threads() -> int:
    """How many threads TVM's pool has."""
    return int(tvm.get_global_func("runtime.NumThreads")())


def _check(weight: np.ndarray, gradient: Gradient) -> None:
    if isinstance(gradient, RowSparse):
        given, expected = gradient.values.shape, (len(gradient.rows), *weight.shape[1:])
    else:
        given, expected = gradient.shape, weight.shape
    if given != expected:
        raise ShapeError(f"gradient of shape {given}: expected {expected}, as of its parameter")
