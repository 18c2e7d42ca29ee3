"""Kernels of a training step's end: the norm of gradients, and an optimizer's update.

Either passes over its arrays once; an update is the optimizer's rule, traced on elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from .loopnest import (
    Buffer,
    Expr,
    arrays,
    hold,
    int64,
    kernel,
    loop,
    part,
    scalars,
    scratch,
    tile,
    vectors,
    zero,
)

CHAINS = 8  # vectors that are added up side by side: one addition does not wait for the one before
TURNS = 64  # times they are added to before all of them are added to the float64 sum
SQUARES = 1 << 14  # elements that are summed up by one task, whatever the number of tasks

# (weight, gradient, states, numbers, square root) -> (new weight, new states), on one element
Rule = Callable[[Expr, Expr, tuple[Expr, ...], Any, Callable[[Expr], Expr]], Any]


@dataclass(frozen=True)
class Update:
    """The update of whole arrays, or of rows of `width` elements of a table."""

    optimizer: str
    numbers: tuple[str, ...]
    width: int | None = None


def update(
    spec: Update, states: Sequence[str], rule: Rule, lanes: int, tasks: int, name: str
) -> tirx.PrimFunc:
    """f(n, scale, numbers..., [rows,] weight, gradient, states...): n elements, or rows.

    Changes weight and states by the optimizer's rule; the gradient is multiplied by `scale` first.
    `states` are the names of what the rule keeps.
    """
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


def squares(lanes: int, tasks: int, name: str) -> tirx.PrimFunc:
    """f(n, x, out): out[i] = the sum of squares of the i-th SQUARES of n float32, in float64.

    Runs of CHAINS * TURNS vectors are summed in float32 first. However many tasks share them, the
    sums are the same.
    """

    def emit() -> None:
        (n,) = scalars(["n"])
        x, out = arrays([("x", (None,), "float32"), ("out", (None,), "float64")])
        n_sums = hold(tirx.ceildiv(n, int64(SQUARES)))
        with loop(tasks, "task") as task:
            begin, mine = part(task, tasks, n_sums)
            with loop(mine) as i:
                first = hold((begin + i) * SQUARES)
                count = hold(tirx.min(n - first, int64(SQUARES)))
                T.buffer_store(out, sum_squares(x, first, count, lanes), [begin + i])

    return kernel(name, "update", emit)


def sum_squares(x: Buffer, first: Expr, count: Expr, lanes: int) -> Expr:
    """The float64 sum of the squares of `count` elements of x, from `first` on."""
    width = CHAINS * lanes
    total = scratch([1], "local", "float64")
    T.buffer_store(total, tirx.FloatImm("float64", 0.0), [int64(0)])

    def add(value: Expr) -> None:
        T.buffer_store(total, total[int64(0)] + value.astype("float64"), [int64(0)])

    runs = hold(count // (width * TURNS))
    with loop(runs) as i:
        sums = sum_run(x, hold(first + i * width * TURNS), lanes)
        with loop(lanes) as j:
            add(sums[int64(0), j])
    done = hold(runs * width * TURNS)
    with loop(count - done) as i:
        element = x[first + done + i]
        add(element * element)
    return total[int64(0)]


def sum_run(x: Buffer, first: Expr, lanes: int) -> Buffer:
    """CHAINS * TURNS vectors' squares, added up in row 0 of a register tile."""
    sums = scratch([CHAINS, lanes], "local")

    def put(at: list[Expr], value: Expr) -> None:
        T.buffer_store(sums, value, at)

    tile(CHAINS, lanes, lanes, lambda r, j: put([r, j], zero()))
    with loop(TURNS) as t:

        def add(r: Expr, j: Expr) -> None:
            element = x[first + (t * CHAINS + r) * lanes + j]
            put([r, j], sums[r, j] + element * element)

        tile(CHAINS, lanes, lanes, add)

    def fold(half: int, r: Expr, j: Expr) -> None:
        put([r, j], sums[r, j] + sums[r + half, j])

    half = CHAINS // 2
    while half:
        tile(half, lanes, lanes, partial(fold, half))
        half //= 2
    return sums
