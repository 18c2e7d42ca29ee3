"""The kernel of an optimizer's update: its rule traced on elements, in one pass over the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from .loopnest import Buffer, Expr, arrays, hold, int64, kernel, loop, scalars, vectors
from .optim import OPTIMIZERS


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
