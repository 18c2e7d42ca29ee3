"""The operations of the vertex language: one table row per op.

A row gives an op its shape rule, its NumPy meaning for ONE vertex, and its derivative written in the same
language, so that the adjoint of a vertex function is again a vertex function. Nothing here batches: the
row count of a kernel is the business of `lower`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .errors import ShapeError

Attrs = Mapping[str, Any]
ABSENT = -1  # what an integer input reads at a vertex that does not have it


@dataclass(frozen=True)
class Type:
    """Type of a value: its shape at one vertex, its dtype, and what there is one of it for.

    `per` is "vertex" (one per vertex), "net" (one for the whole network: parameters, constants,
    sums over all vertices) or "edge" (one per child, reserved for variable fan-in).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    per: str = "vertex"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape)) or "1"
        return f"{self.dtype}[{size}]" + ("" if self.per == "vertex" else f" per {self.per}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=int))


class Builder(Protocol):
    """Whatever can append a call to a program; see `program.Builder`."""

    def call(self, op: str, *args: Value, **attrs: Any) -> Value: ...
    def define(self, index: int) -> tuple[str, tuple[Value, ...], Attrs]: ...


@dataclass(frozen=True, eq=False)
class Value:
    """A value while a vertex function is traced. Supports `+ - * / @`, comparison by `greater`."""

    builder: Any
    index: int
    type: Type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def _with(self, op: str, other: Any, swap: bool = False) -> Value:
        b = self.builder
        if not isinstance(other, Value):
            other = full(b, other)
        return b.call(op, other, self) if swap else b.call(op, self, other)  # type: ignore[no-any-return]

    def __add__(self, other: Any) -> Value:
        return self._with("add", other)

    def __radd__(self, other: float) -> Value:
        return self._with("add", other, swap=True)

    def __sub__(self, other: Any) -> Value:
        return self._with("sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._with("sub", other, swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._with("mul", other)

    def __rmul__(self, other: float) -> Value:
        return self._with("mul", other, swap=True)

    def __truediv__(self, other: Any) -> Value:
        return self._with("div", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._with("div", other, swap=True)

    def __matmul__(self, other: Any) -> Value:
        return self.builder.call("matmul", self, other)  # type: ignore[no-any-return]

    def __neg__(self) -> Value:
        return self.builder.call("neg", self)  # type: ignore[no-any-return]

    def __getitem__(self, key: slice) -> Value:
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise ShapeError(f"a value takes slices like x[10:20], given x[{key!r}]")
        start, stop, _ = key.indices(self.type.shape[-1] if self.type.shape else 0)
        return self.builder.call("slice", self, start=start, stop=stop, axis=-1)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        raise ShapeError(
            f"a {self.type} has no truth value: a vertex function is traced once, so it cannot branch on "
            "values; use where(condition, a, b)"
        )


def full(builder: Any, value: float, shape: tuple[int, ...] = ()) -> Value:
    """A constant, the same for every vertex."""
    return builder.call("full", value=float(value), shape=tuple(shape))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    `infer(types, attrs)` gives the result's type or raises ShapeError; `numpy(*arrays, **attrs)` is its
    meaning for one vertex; `derivative(g, y, args, attrs)` gives one gradient per argument (None: no
    gradient). Gradients may have the result's shape where an argument was broadcast: `autodiff` sums.
    """

    name: str
    infer: Callable[[Sequence[Type], Attrs], Type]
    numpy: Callable[..., Any] | None = None
    derivative: Callable[[Value, Value, Sequence[Value], Attrs], Sequence[Value | None]] | None = (
        None
    )
    elementwise: bool = False


def _broadcast(types: Sequence[Type], attrs: Attrs) -> Type:
    try:
        shape = tuple(np.broadcast_shapes(*(t.shape for t in types)))
    except ValueError:
        raise ShapeError(f"{' and '.join(map(str, types))} do not broadcast") from None
    if any(t.dtype != "float32" for t in types):
        raise ShapeError(f"expected float32 operands, given {' and '.join(map(str, types))}")
    per = "vertex" if any(t.per == "vertex" for t in types) else "net"
    return Type(shape, "float32", per)


def _compare(types: Sequence[Type], attrs: Attrs) -> Type:
    floats = [replace(t, dtype="float32") for t in types]
    if len({t.dtype for t in types}) != 1:
        raise ShapeError(f"cannot compare {' with '.join(map(str, types))}: the dtypes differ")
    return _broadcast(floats, attrs)


def _matmul(types: Sequence[Type], attrs: Attrs) -> Type:
    x, w = types
    if len(x.shape) != 1 or len(w.shape) != 2 or x.per != "vertex" or w.per != "net":
        raise ShapeError(
            f"x @ W takes a vertex's vector and a parameter matrix, given {x} and {w}; "
            "a product of two vertex vectors is reduce_sum(a * b)"
        )
    if x.shape[0] != w.shape[0]:
        raise ShapeError(f"left {x} and right {w} disagree: {x.shape[0]} != {w.shape[0]}")
    return Type((w.shape[1],), "float32", "vertex")


def _outer(types: Sequence[Type], attrs: Attrs) -> Type:
    return Type((types[0].shape[0], types[1].shape[0]))


def _transpose(types: Sequence[Type], attrs: Attrs) -> Type:
    return replace(types[0], shape=types[0].shape[::-1])


def _concat(types: Sequence[Type], attrs: Attrs) -> Type:
    axis, first = attrs["axis"], types[0]
    if any(not t.shape for t in types):
        raise ShapeError(
            f"cannot concatenate scalars: {', '.join(map(str, types))}; reshape them to (1,)"
        )
    rests = {t.shape[:axis] + t.shape[axis:][1:] for t in types}
    if len(rests) != 1 or len({t.dtype for t in types}) != 1:
        raise ShapeError(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in types)
    per = "vertex" if any(t.per == "vertex" for t in types) else "net"
    return Type(tuple(shape), first.dtype, per)


def _slice(types: Sequence[Type], attrs: Attrs) -> Type:
    (x,), axis, start, stop = types, attrs["axis"], attrs["start"], attrs["stop"]
    if not x.shape or not 0 <= start < stop <= x.shape[axis]:
        raise ShapeError(
            f"slice [{start}:{stop}] of {x} along axis {axis} is empty or out of range"
        )
    shape = list(x.shape)
    shape[axis] = stop - start
    return replace(x, shape=tuple(shape))


def _slice_numpy(x: Any, axis: int, start: int, stop: int) -> Any:
    return np.take(x, np.arange(start, stop), axis=axis)


def _slice_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,), axis = args, attrs["axis"]
    before, after = attrs["start"], x.shape[axis] - attrs["stop"]

    def zeros(n: int) -> list[Value]:
        shape = list(x.shape)
        shape[axis] = n
        return [full(g.builder, 0.0, tuple(shape))] if n else []

    parts = [*zeros(before), g, *zeros(after)]
    return [g.builder.call("concat", *parts, axis=axis) if len(parts) > 1 else g]


def _concat_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    out, start, axis = [], 0, attrs["axis"]
    for a in args:
        stop = start + a.shape[axis]
        out.append(g.builder.call("slice", g, axis=axis, start=start, stop=stop))
        start = stop
    return out


def _reshape(types: Sequence[Type], attrs: Attrs) -> Type:
    if int(np.prod(attrs["shape"], dtype=int)) != types[0].size:
        raise ShapeError(f"cannot reshape {types[0]} to {attrs['shape']}: the sizes differ")
    return replace(types[0], shape=tuple(attrs["shape"]))


def _reduce(types: Sequence[Type], attrs: Attrs) -> Type:
    (x,) = types
    if not x.shape:
        raise ShapeError(f"nothing to reduce in the scalar {x}")
    return replace(x, shape=x.shape[:-1] + ((1,) if attrs["keep"] else ()))


def _same(types: Sequence[Type], attrs: Attrs) -> Type:
    if not types[0].shape:
        raise ShapeError(f"expected a vector, given the scalar {types[0]}")
    return types[0]


def _index(t: Type, what: str) -> None:
    if t.dtype != "int32" or t.shape != ():
        raise ShapeError(f"the index of {what} is one int32, given {t}")


def _embedding(types: Sequence[Type], attrs: Attrs) -> Type:
    index, table = types
    _index(index, "embedding")
    if len(table.shape) != 2 or table.per != "net":
        raise ShapeError(f"embedding takes rows from a parameter matrix, given {table}")
    return Type((table.shape[1],))


def _pick(types: Sequence[Type], attrs: Attrs) -> Type:
    x, index = types
    _index(index, "pick")
    if len(x.shape) != 1:
        raise ShapeError(f"pick takes one element of a vector, given {x}")
    return Type((), "float32", "vertex")


def _one_hot(types: Sequence[Type], attrs: Attrs) -> Type:
    _index(types[0], "one_hot")
    return Type((attrs["depth"],))


def _argmax(types: Sequence[Type], attrs: Attrs) -> Type:
    if len(types[0].shape) != 1:
        raise ShapeError(f"argmax takes a vector, given {types[0]}")
    return Type((), "int32", types[0].per)


def _one_hot_numpy(index: Any, depth: int) -> Any:
    return (np.arange(depth) == index).astype("float64")


def _softmax_numpy(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _log_softmax_numpy(x: Any) -> Any:
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _sigmoid_numpy(x: Any) -> Any:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _last_sum(x: Value, keep: bool = True) -> Value:
    return x.builder.call("sum", x, keep=keep)  # type: ignore[no-any-return]


def _expanded(g: Value, x: Value, keep: bool) -> Value:
    """`g`, the gradient of a reduction over the last axis, ready to broadcast against `x`."""
    return g if keep else g.builder.call("reshape", g, shape=(*g.shape, 1))


def _max_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    (x,) = args
    hit = x.builder.call("equal", x, _expanded(y, x, attrs["keep"]))
    return [_expanded(g, x, attrs["keep"]) * hit / _last_sum(hit)]  # ties share the gradient


def _spread(g: Value, x: Value) -> Value:
    return g if g.shape == x.shape else g.builder.call("add", g, full(g.builder, 0.0, x.shape))


def _nothing(types: Sequence[Type], attrs: Attrs) -> Type:
    return types[0]


def _given(types: Sequence[Type], attrs: Attrs) -> Type:
    t = attrs["type"]
    assert isinstance(t, Type)
    return t


def _total(types: Sequence[Type], attrs: Attrs) -> Type:
    return replace(types[0], per="net")


def _total_rows(types: Sequence[Type], attrs: Attrs) -> Type:
    return Type((attrs["rows"], types[1].shape[0]), "float32", "net")


def _elementwise(name: str, numpy: Any, derivative: Any, infer: Any = _broadcast) -> Op:
    return Op(name, infer, numpy, derivative, elementwise=True)


def _where_numpy(c: Any, a: Any, b: Any) -> Any:
    return np.where(c != 0, a, b)


def _matmul_derivative(g: Value, y: Value, args: Sequence[Value], attrs: Attrs) -> Sequence[Value]:
    b = g.builder
    return [b.call("matmul", g, b.call("transpose", args[1])), b.call("outer", args[0], g)]


def _call(op: str, *args: Value, **attrs: Any) -> Value:
    return args[0].builder.call(op, *args, **attrs)  # type: ignore[no-any-return]


_ROWS = [
    # elementwise: forward | gradient
    _elementwise("add", np.add, lambda g, y, a, _: (g, g)),
    _elementwise("sub", np.subtract, lambda g, y, a, _: (g, -g)),
    _elementwise("mul", np.multiply, lambda g, y, a, _: (g * a[1], g * a[0])),
    _elementwise("div", np.divide, lambda g, y, a, _: (g / a[1], -(g * y / a[1]))),
    _elementwise("neg", np.negative, lambda g, y, a, _: (-g,)),
    _elementwise("sigmoid", _sigmoid_numpy, lambda g, y, a, _: (g * y * (1.0 - y),)),
    _elementwise("tanh", np.tanh, lambda g, y, a, _: (g * (1.0 - y * y),)),
    _elementwise(
        "relu",
        lambda x: np.maximum(x, 0),
        lambda g, y, a, _: (g * _call("greater", y, full(g.builder, 0.0)),),
    ),
    _elementwise("exp", np.exp, lambda g, y, a, _: (g * y,)),
    _elementwise("log", np.log, lambda g, y, a, _: (g / a[0],)),
    _elementwise("sqrt", np.sqrt, lambda g, y, a, _: (g * 0.5 / y,)),
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
    _elementwise("greater", lambda a, b: (a > b) * 1.0, lambda g, y, a, _: (None, None), _compare),
    _elementwise("equal", lambda a, b: (a == b) * 1.0, lambda g, y, a, _: (None, None), _compare),
    _elementwise(
        "where",
        _where_numpy,
        lambda g, y, a, _: (
            None,
            _call("where", a[0], g, full(g.builder, 0.0)),
            _call("where", a[0], full(g.builder, 0.0), g),
        ),
    ),
    # products
    Op("matmul", _matmul, np.matmul, _matmul_derivative),
    Op("outer", _outer, np.multiply.outer),
    Op("transpose", _transpose, np.transpose, lambda g, y, a, _: (_call("transpose", g),)),
    # moving elements
    Op("concat", _concat, lambda *x, axis: np.concatenate(x, axis), _concat_derivative),
    Op("slice", _slice, _slice_numpy, _slice_derivative),
    Op(
        "reshape",
        _reshape,
        lambda x, shape: np.reshape(x, shape),
        lambda g, y, a, _: (_call("reshape", g, shape=a[0].shape),),
    ),
    # along the last axis
    Op(
        "sum",
        _reduce,
        lambda x, keep: x.sum(-1, keepdims=keep),
        lambda g, y, a, at: (_spread(_expanded(g, a[0], at["keep"]), a[0]),),
    ),
    Op("max", _reduce, lambda x, keep: x.max(-1, keepdims=keep), _max_derivative),
    Op("softmax", _same, _softmax_numpy, lambda g, y, a, _: (y * (g - _last_sum(g * y)),)),
    Op(
        "log_softmax",
        _same,
        _log_softmax_numpy,
        lambda g, y, a, _: (g - _call("exp", y) * _last_sum(g),),
    ),
    Op("argmax", _argmax, lambda x: np.argmax(x), lambda g, y, a, _: (None,)),
    # integers choose: an absent index (-1) chooses nothing and gives zeros
    Op(
        "embedding",
        _embedding,
        lambda i, table: table[i] if i != ABSENT else np.zeros_like(table[0]),
        lambda g, y, a, _: (None, _call("total_rows", a[0], g, rows=a[1].shape[0])),
    ),
    Op(
        "pick",
        _pick,
        lambda x, i: x[i] if i != ABSENT else x[0] * 0,
        lambda g, y, a, _: (g * _call("one_hot", a[1], depth=a[0].shape[0]), None),
    ),
    Op("one_hot", _one_hot, _one_hot_numpy, lambda g, y, a, _: (None,)),
    # drops each element with probability `rate`, keeps 1/(1-rate) times the others; `dropout.py` has the rule
    Op("dropout", _same, None, lambda g, y, a, at: (_call("dropout", g, **at),)),
    # constants and sums over all vertices
    Op(
        "full",
        lambda t, at: Type(at["shape"], "float32", "net"),
        lambda value, shape: np.full(shape, value),
    ),
    Op("total", _total),
    Op("total_rows", _total_rows),
    # what a vertex reads
    Op("param", _given),
    Op("absent", _given, lambda: np.int32(ABSENT)),  # an integer input that this kind of vertex lacks
    Op("pull", _given),
    Op("present", _given),  # 1.0 where the vertex has input `name`, else 0.0
    Op(
        "gather", _given
    ),  # state `field` of the child in slot `slot`; zeros where the slot is empty
    Op("gather_sum", _given),  # adjoint: sum of what the parents scattered to this vertex
    Op("saved", _given),  # adjoint: a forward value of this vertex
    Op("own_state", _given),  # adjoint: this vertex's own forward state
    Op("child_state", _given),  # adjoint: the forward state of the child in slot `slot`
    # what a vertex writes
    Op("scatter", _nothing),  # to its parents; in an adjoint to the child in slot `slot`
    Op("push", _nothing),
    Op("save", _nothing),
    Op("gradient", _nothing),
]

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
EFFECTS = frozenset({"scatter", "push", "save", "gradient"})
READS = frozenset(
    {"param", "pull", "present", "gather", "gather_sum", "saved", "own_state", "child_state"}
)
GATHERS = frozenset({"gather", "gather_sum"})
