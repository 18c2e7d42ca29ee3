"""The operations of the vertex language: one table row per op.

A row gives an op its shape rule, its NumPy meaning for ONE vertex, and its derivative written in
the same language, so that the adjoint of a vertex function is again a vertex function. Nothing here
batches: the row count of a kernel is the business of `lower`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import shapes
from .value import ABSENT, Attrs, Type, Value, full, nothing

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


def _slice_numpy(x: Any, axis: int, start: int, stop: int) -> Any:
    return np.take(x, np.arange(start, stop), axis=axis)


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


def _one_hot_numpy(index: Any, depth: int) -> Any:
    return (np.arange(depth) == index).astype("float64")


def _softmax_numpy(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _log_softmax_numpy(x: Any) -> Any:
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _sigmoid_numpy(x: Any) -> Any:
    e = np.exp(-np.abs(x))  # the small one of exp(x) and exp(-x): neither tail is lost
    return np.where(x >= 0, 1, e) / (1 + e)


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


def _elementwise(name: str, numpy: Any, derivative: Any, infer: Any = shapes.broadcast) -> Op:
    return Op(name, infer, numpy, derivative, elementwise=True)


def _where_numpy(c: Any, a: Any, b: Any) -> Any:
    return np.where(c != 0, a, b)


def _matmul_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    b = g.builder
    return [b.call("matmul", g, b.call("transpose", args[1])), b.call("outer", args[0], g)]


def _quotient_derivative(g: Value, y: Value, args: Sequence[Value]) -> Sequence[Value]:
    return _call("over", g, args[1]), -_call("over", g * y, args[1])


def _call(op: str, *args: Value, **attrs: Any) -> Value:
    return args[0].builder.call(op, *args, **attrs)


_ROWS = [
    # elementwise: forward | gradient
    _elementwise("add", np.add, lambda g, y, a, _: (g, g)),
    _elementwise("sub", np.subtract, lambda g, y, a, _: (g, -g)),
    _elementwise("mul", np.multiply, lambda g, y, a, _: (g * a[1], g * a[0])),
    _elementwise("div", np.divide, lambda g, y, a, _: _quotient_derivative(g, y, a)),
    # a quotient that is nothing where its numerator is: of a gradient, or by a number that is not 0
    _elementwise("over", np.divide, lambda g, y, a, _: _quotient_derivative(g, y, a)),
    _elementwise("neg", np.negative, lambda g, y, a, _: (-g,)),
    _elementwise("sigmoid", _sigmoid_numpy, lambda g, y, a, _: (g * y * (1.0 - y),)),
    _elementwise("tanh", np.tanh, lambda g, y, a, _: (g * (1.0 - y * y),)),
    _elementwise(
        "relu",
        lambda x: np.maximum(x, 0),
        lambda g, y, a, _: (g * _call("greater", y, full(g.builder, 0.0)),),
    ),
    _elementwise("exp", np.exp, lambda g, y, a, _: (g * y,)),
    _elementwise("log", np.log, lambda g, y, a, _: (_call("over", g, a[0]),)),
    _elementwise("sqrt", np.sqrt, lambda g, y, a, _: (_call("over", g * 0.5, y),)),
    _elementwise(
        "abs",
        np.abs,
        lambda g, y, a, _: (_call("where", _call("greater", a[0], full(g.builder, 0.0)), g, -g),),
    ),
    _elementwise(
        "maximum",
        np.maximum,
        lambda g, y, a, _: (
            g * _call("greater", a[0], a[1]),
            g * (1.0 - _call("greater", a[0], a[1])),
        ),
    ),
    _elementwise(
        "minimum",
        np.minimum,
        lambda g, y, a, _: (
            g * _call("greater", a[1], a[0]),
            g * (1.0 - _call("greater", a[1], a[0])),
        ),
    ),
    _elementwise(
        "greater", lambda a, b: (a > b) * 1.0, lambda g, y, a, _: (None, None), shapes.compare
    ),
    _elementwise(
        "equal", lambda a, b: (a == b) * 1.0, lambda g, y, a, _: (None, None), shapes.compare
    ),
    _elementwise(
        "where",
        _where_numpy,
        lambda g, y, a, _: (
            None,
            _call("where", a[0], g, nothing(g.builder)),
            _call("where", a[0], nothing(g.builder), g),
        ),
    ),
    # products
    Op("matmul", shapes.matmul, np.matmul, _matmul_derivative),
    Op("outer", shapes.outer, np.multiply.outer),
    Op("transpose", shapes.transpose, np.transpose, lambda g, y, a, _: (_call("transpose", g),)),
    # moving elements
    Op("concat", shapes.concat, lambda *x, axis: np.concatenate(x, axis), _concat_derivative),
    Op("slice", shapes.cut, _slice_numpy, _slice_derivative),
    Op(
        "reshape",
        shapes.reshape,
        lambda x, shape: np.reshape(x, shape),
        lambda g, y, a, _: (_call("reshape", g, shape=a[0].shape),),
    ),
    # along the last axis
    Op(
        "sum",
        shapes.reduce,
        lambda x, keep: x.sum(-1, keepdims=keep),
        lambda g, y, a, at: (_spread(_expanded(g, a[0], at["keep"]), a[0]),),
    ),
    Op("max", shapes.reduce, lambda x, keep: x.max(-1, keepdims=keep), _max_derivative),
    Op(
        "softmax",
        shapes.along_last,
        _softmax_numpy,
        lambda g, y, a, _: (y * (g - _last_sum(g * y)),),
    ),
    Op(
        "log_softmax",
        shapes.along_last,
        _log_softmax_numpy,
        lambda g, y, a, _: (g - _call("exp", y) * _last_sum(g),),
    ),
    Op("argmax", shapes.argmax, lambda x: np.argmax(x), lambda g, y, a, _: (None,)),
    # integers choose: an absent index (-1) chooses nothing and gives zeros
    Op(
        "embedding",
        shapes.embedding,
        lambda i, table: table[i] if i != ABSENT else np.zeros_like(table[0]),
        lambda g, y, a, _: (None, _call("total_rows", a[0], g, rows=a[1].shape[0])),
    ),
    Op(
        "pick",
        shapes.pick,
        lambda x, i: x[i] if i != ABSENT else x[0].dtype.type(0),
        lambda g, y, a, _: (g * _call("one_hot", a[1], depth=a[0].shape[0]), None),
    ),
    Op("one_hot", shapes.one_hot, _one_hot_numpy, lambda g, y, a, _: (None,)),
    # drops each element with probability `rate`, scales the others by 1/(1-rate): see `dropout`
    Op("dropout", shapes.dropout, None, lambda g, y, a, at: (_call("dropout", g, **at),)),
    # constants and sums over all vertices
    Op(
        "full",
        shapes.full,
        lambda value, shape: np.full(shape, value),
    ),
    Op("total", shapes.total),
    Op("total_rows", shapes.total_rows),
    # what a vertex reads
    Op("param", shapes.given),
    Op("absent", shapes.given),  # what this kind of vertex lacks: no index, or nothing to add
    Op("pull", shapes.given),
    Op("present", shapes.given),  # 1.0 where the vertex has input `name`, else 0.0
    Op(
        "gather", shapes.given
    ),  # state `field` of the child in slot `slot`; zeros where the slot is empty
    Op("gather_sum", shapes.given),  # adjoint: sum of what the parents scattered to this vertex
    Op("saved", shapes.given),  # adjoint: a forward value of this vertex
    Op("child_present", shapes.given),  # 1.0 where slot `slot` holds a child, else 0.0
    Op("own_state", shapes.given),  # adjoint: this vertex's own forward state
    Op("child_state", shapes.given),  # adjoint: the forward state of the child in slot `slot`
    # what a vertex writes
    Op("scatter", shapes.same),  # to its parents; in an adjoint to the child in slot `slot`
    Op("push", shapes.same),
    Op("save", shapes.same),
    Op("gradient", shapes.same),
]

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
EFFECTS = frozenset({"scatter", "push", "save", "gradient"})
READS = frozenset(
    {
        *("param", "pull", "present", "saved", "own_state"),
        *("gather", "gather_sum", "child_state", "child_present"),
    }
)
