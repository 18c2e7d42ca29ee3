"""The operations of the vertex language: one table row per op.

A row gives an op its shape rule, its NumPy meaning for ONE vertex (of `MEANINGS`, which exported
models use too), and its derivative written in the same language, so that the adjoint of a vertex
function is again a vertex function. Nothing here batches: the row count of a kernel is the business
of `lower`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..meanings import MEANINGS
from . import shapes
from .value import Attrs, Type, Value, full, nothing

Derivative = Callable[[Value, Value, Sequence[Value], Attrs], Sequence["Value | None"]]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    `infer(types, attrs)` gives the result's type or raises ShapeError; `numpy(*arrays, **attrs)` is
    its meaning for one vertex; `derivative(g, y, args, attrs)` gives one gradient per argument
    (None: no gradient). Gradients may have the result's shape where an argument was broadcast:
    `autodiff` sums.
    """

    name: str
    infer: Callable[[Sequence[Type], Attrs], Type]
    numpy: Callable[..., Any] | None = None
    derivative: Derivative | None = None
    elementwise: bool = False


def _slice_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,), axis = args, attrs["axis"]
    before, after = attrs["start"], x.shape[axis] - attrs["stop"]

    def gap(n: int) -> list[Value]:
        shape = list(x.shape)
        shape[axis] = n
        return [nothing(g.builder, tuple(shape))] if n else []

    parts = [*gap(before), g, *gap(after)]
    return [g.builder.call("concat", *parts, axis=axis) if len(parts) > 1 else g]


def _concat_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    out, start, axis = [], 0, attrs["axis"]
    for a in args:
        stop = start + a.shape[axis]
        out.append(g.builder.call("slice", g, axis=axis, start=start, stop=stop))
        start = stop
    return out


def _last_sum(x: Value, keep: bool = True) -> Value:
    return x.builder.call("sum", x, keep=keep)


def _expanded(g: Value, x: Value, keep: bool) -> Value:
    """`g`, the gradient of a reduction over the last axis, ready to broadcast against `x`."""
    return g if keep else g.builder.call("reshape", g, shape=(*g.shape, 1))


def _max_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,) = args  # the maximum is taken again: a saved one may differ from all of x in the last bit
    hit = x.builder.call("equal", x, x.builder.call("max", x, keep=True))
    shared = _expanded(g, x, attrs["keep"]) * hit
    return [_call("over", shared, _last_sum(hit))]  # ties share the gradient


def _spread(g: Value, x: Value) -> Value:
    return g if g.shape == x.shape else g.builder.call("add", g, nothing(g.builder, x.shape))


def _elementwise(name: str, derivative: Any, infer: Any = shapes.broadcast) -> Op:
    return Op(name, infer, MEANINGS[name], derivative, elementwise=True)


def _row(name: str, infer: Any, derivative: Any = None) -> Op:
    return Op(name, infer, MEANINGS.get(name), derivative)


def _matmul_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    b = g.builder
    return [b.call("matmul", g, b.call("transpose", args[1])), b.call("outer", args[0], g)]


def _quotient_derivative(g: Value, y: Value, args: Sequence[Value]) -> Sequence[Value]:
    return _call("over", g, args[1]), -_call("over", g * y, args[1])


def _call(op: str, *args: Value, **attrs: Any) -> Value:
    return args[0].builder.call(op, *args, **attrs)


_ROWS = [
    # elementwise: forward | gradient
    _elementwise("add", lambda g, y, a, _: (g, g)),
    _elementwise("sub", lambda g, y, a, _: (g, -g)),
    _elementwise("mul", lambda g, y, a, _: (g * a[1], g * a[0])),
    _elementwise("div", lambda g, y, a, _: _quotient_derivative(g, y, a)),
    # a quotient that is nothing where its numerator is: of a gradient, or by a number that is not 0
    _elementwise("over", lambda g, y, a, _: _quotient_derivative(g, y, a)),
    _elementwise("neg", lambda g, y, a, _: (-g,)),
    _elementwise("sigmoid", lambda g, y, a, _: (g * y * (1.0 - y),)),
    _elementwise("tanh", lambda g, y, a, _: (g * (1.0 - y * y),)),
    _elementwise(
        "relu",
        lambda g, y, a, _: (g * _call("greater", y, full(g.builder, 0.0)),),
    ),
    _elementwise("exp", lambda g, y, a, _: (g * y,)),
    _elementwise("log", lambda g, y, a, _: (_call("over", g, a[0]),)),
    _elementwise("sqrt", lambda g, y, a, _: (_call("over", g * 0.5, y),)),
    _elementwise(
        "abs",
        lambda g, y, a, _: (_call("where", _call("greater", a[0], full(g.builder, 0.0)), g, -g),),
    ),
    _elementwise(
        "maximum",
        lambda g, y, a, _: (
            g * _call("greater", a[0], a[1]),
            g * (1.0 - _call("greater", a[0], a[1])),
        ),
    ),
    _elementwise(
        "minimum",
        lambda g, y, a, _: (
            g * _call("greater", a[1], a[0]),
            g * (1.0 - _call("greater", a[1], a[0])),
        ),
    ),
    _elementwise("greater", lambda g, y, a, _: (None, None), shapes.compare),
    _elementwise("equal", lambda g, y, a, _: (None, None), shapes.compare),
    _elementwise(
        "where",
        lambda g, y, a, _: (
            None,
            _call("where", a[0], g, nothing(g.builder)),
            _call("where", a[0], nothing(g.builder), g),
        ),
    ),
    # products
    _row("matmul", shapes.matmul, _matmul_derivative),
    _row("outer", shapes.outer),
    _row("transpose", shapes.transpose, lambda g, y, a, _: (_call("transpose", g),)),
    # moving elements
    _row("concat", shapes.concat, _concat_derivative),
    _row("slice", shapes.cut, _slice_derivative),
    _row(
        "reshape",
        shapes.reshape,
        lambda g, y, a, _: (_call("reshape", g, shape=a[0].shape),),
    ),
    # along the last axis
    _row(
        "sum",
        shapes.reduce,
        lambda g, y, a, at: (_spread(_expanded(g, a[0], at["keep"]), a[0]),),
    ),
    _row("max", shapes.reduce, _max_derivative),
    _row(
        "softmax",
        shapes.along_last,
        lambda g, y, a, _: (y * (g - _last_sum(g * y)),),
    ),
    _row(
        "log_softmax",
        shapes.along_last,
        lambda g, y, a, _: (g - _call("exp", y) * _last_sum(g),),
    ),
    _row("argmax", shapes.argmax, lambda g, y, a, _: (None,)),
    # integers choose: an absent index (-1) chooses nothing and gives zeros
    _row(
        "embedding",
        shapes.embedding,
        lambda g, y, a, _: (None, _call("total_rows", a[0], g, rows=a[1].shape[0])),
    ),
    _row(
        "pick",
        shapes.pick,
        lambda g, y, a, _: (g * _call("one_hot", a[1], depth=a[0].shape[0]), None),
    ),
    _row("one_hot", shapes.one_hot, lambda g, y, a, _: (None,)),
    # drops each element with probability `rate`, scales the others by 1/(1-rate): see `dropout`
    _row("dropout", shapes.dropout, lambda g, y, a, at: (_call("dropout", g, **at),)),
    # constants and sums over all vertices
    _row(
        "full",
        shapes.full,
    ),
    _row("total", shapes.total),
    _row("total_rows", shapes.total_rows),
    # what a vertex reads
    _row("param", shapes.given),
    _row("absent", shapes.given),  # what this kind of vertex lacks: no index, or nothing to add
    _row("pull", shapes.given),
    _row("present", shapes.given),  # 1.0 where the vertex has input `name`, else 0.0
    _row(
        "gather", shapes.given
    ),  # state `field` of the child in slot `slot`; zeros where the slot is empty
    _row("gather_sum", shapes.given),  # adjoint: sum of what the parents scattered to this vertex
    _row("saved", shapes.given),  # adjoint: a forward value of this vertex
    _row("child_present", shapes.given),  # 1.0 where slot `slot` holds a child, else 0.0
    _row("own_state", shapes.given),  # adjoint: this vertex's own forward state
    _row("child_state", shapes.given),  # adjoint: the forward state of the child in slot `slot`
    # what a vertex writes
    _row("scatter", shapes.same),  # to its parents; in an adjoint to the child in slot `slot`
    _row("push", shapes.same),
    _row("save", shapes.same),
    _row("gradient", shapes.same),
]

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
EFFECTS = frozenset({"scatter", "push", "save", "gradient"})
READS = frozenset(
    {
        *("param", "pull", "present", "saved", "own_state"),
        *("gather", "gather_sum", "child_state", "child_present"),
    }
)
