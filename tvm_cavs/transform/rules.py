"""Local rewrites: one call, given how its operands were made -> a cheaper equal value, or None.

Every rule keeps the meaning for every vertex and every float, NaN, infinities and -0.0 included: a
zero that a user writes is a number like any other. They follow three aims: what is nothing vanishes
(`absence`: a kind of vertex without children must not multiply a state), slices move towards the
products (so that dead gates die), and concatenations with parts that are not there come apart.
`simplify` applies them until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..language import OPS, Attrs, Recorder, Value, full, nothing
from .absence import ALWAYS, NEVER, reach
from .blocks import Args, constant, is_absent, is_op, join, live, padded, part, read


class Rewriter(Recorder, Protocol):
    """A builder that rewrites; `sliced_only` are the values of which only slices are used."""

    sliced_only: set[int]


Rule = Callable[[Rewriter, Args, Attrs], Value | None]

_FOLDABLE = frozenset({"sum", "max", "softmax", "log_softmax", "reshape", "transpose", "slice"})


def apply(b: Any, op: str, args: Args, attrs: Attrs) -> Value | None:
    """The first rule's answer for this call."""
    answer = _vanish(b, op, args, attrs)
    if answer is None:
        answer = fold(b, op, args, attrs)
    if answer is None and op in RULES:
        answer = RULES[op](b, args, attrs)
    return distribute(b, op, args, attrs) if answer is None else answer


def _vanish(b: Rewriter, op: str, args: Args, attrs: Attrs) -> Value | None:
    """What is made of nothing is nothing."""
    absent = [is_absent(a) for a in args]
    if not any(absent) or reach(op, [NEVER if gone else ALWAYS for gone in absent]) != NEVER:
        return None
    kind = OPS[op].infer([a.type for a in args], attrs)
    return nothing(b, kind.shape) if kind.dtype == "float32" else b.call("absent", type=kind)


def fold(b: Rewriter, op: str, args: Args, attrs: Attrs) -> Value | None:
    """An op on constants is a constant, if it is one finite number everywhere, in float32 too."""
    row = OPS[op]
    known = [0.0 if is_op(a, "absent") and a.type.dtype == "float32" else constant(a) for a in args]
    if not (row.elementwise or op in _FOLDABLE) or not args or any(k is None for k in known):
        return None
    assert row.numpy is not None
    both = []
    for dtype in ("float64", "float32"):
        arrays = [np.full(a.shape, k, dtype) for a, k in zip(args, known, strict=True)]
        with np.errstate(all="ignore"):
            both.append(np.asarray(row.numpy(*arrays, **attrs)))
    exact, short = both
    first = float(exact.flat[0])
    one_number = bool((exact == first).all() and np.isfinite(short).all())
    same = one_number and np.allclose(short, exact, rtol=1e-5, atol=0.0)
    return full(b, first, exact.shape) if same else None


def distribute(b: Rewriter, op: str, args: Args, attrs: Attrs) -> Value | None:
    """op(concat(a, b), y) -> concat(op(a, y1), op(b, y2))."""
    if not OPS[op].elementwise:
        return None
    cut = next((a for a in args if is_op(a, "concat") and len(a.shape) == 1), None)
    if cut is None or any(a.shape not in ((), cut.shape) for a in args):
        return None
    out, start = [], 0
    for piece in b.define(cut.index)[1]:
        stop = start + piece.shape[0]
        operands = [a if a.shape == () else part(b, a, start, stop) for a in args]
        out.append(b.call(op, *operands, **attrs))
        start = stop
    return b.call("concat", *out, axis=0)


def _grown(b: Rewriter, x: Value, shape: tuple[int, ...]) -> Value | None:
    return x if x.shape == shape else None


def _add(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    x, y = args
    shape = np.broadcast_shapes(x.shape, y.shape)
    if is_absent(x):
        return _grown(b, y, shape)
    if is_absent(y):
        return _grown(b, x, shape)
    if x.shape != y.shape or len(shape) != 1:
        return None
    return _add_padded(b, x, y)


def _add_padded(b: Rewriter, x: Value, y: Value) -> Value | None:
    """concat(p, nothing) + concat(nothing, q) -> concat(p, q)."""
    pieces = [b.define(v.index)[1] if is_op(v, "concat") else (v,) for v in (x, y)]
    if not any(is_absent(p) for p in (*pieces[0], *pieces[1])):
        return None
    edges = sorted({0, *(int(e) for side in pieces for e in np.cumsum([p.shape[0] for p in side]))})
    out = []
    for start, stop in zip(edges, edges[1:], strict=False):
        terms = [t for t in (part(b, v, start, stop) for v in (x, y)) if not is_absent(t)]
        out.append(sum(terms[1:], terms[0]) if terms else nothing(b, (stop - start,)))
    return join(b, out, 0)


def _sub(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    x, y = args
    if is_absent(y):
        return _grown(b, x, np.broadcast_shapes(x.shape, y.shape))
    return -y if is_absent(x) and x.shape in ((), y.shape) else None


def _mul(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    shape = np.broadcast_shapes(*(a.shape for a in args))
    for x, y in (args, args[::-1]):
        if constant(x) == 1.0:
            return _grown(b, y, shape)
        if constant(x) == -1.0 and y.shape == shape:
            return -y
    return None


def _over(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    x, y = args
    return _grown(b, x, np.broadcast_shapes(x.shape, y.shape)) if constant(y) == 1.0 else None


def _div(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    """As `over`, but what is absent counts as 0.0 here: its quotient is a number, or NaN."""
    x, y = args
    return _over(b, (read(b, x), y), attrs)


def _neg(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    return b.define(args[0].index)[1][0] if is_op(args[0], "neg") else None


def _where(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    c, x, y = args
    known = 0.0 if is_absent(c) else constant(c)
    if known is None:
        return None
    chosen = x if known != 0.0 else y
    return _grown(b, read(b, chosen), np.broadcast_shapes(*(a.shape for a in args)))


def _equal(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    """A class is never equal to an absent one. (`distribute` takes concatenations apart.)"""
    if args[0].type.dtype != "int32" or any(is_op(a, "concat") for a in args):
        return None
    absent = [is_absent(a) for a in args]
    return full(b, 0.0, args[0].shape) if any(absent) and not all(absent) else None


def _matmul(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    x, w = args
    if x.type.per == "net":  # no vertex takes part: not a product over rows
        return b.call("sum", b.call("transpose", w) * x, keep=False)
    ranges = live(b, x)
    if ranges is None:
        return None
    kept = [part(b, x, start, stop) for start, stop in ranges]
    rows = [part(b, w, start, stop, axis=0) for start, stop in ranges]
    return b.call("matmul", join(b, kept, 0), join(b, rows, 0))


def _total(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    (x,) = args
    if is_op(x, "concat") and len(x.shape) == 1 and (ranges := live(b, x)):
        compact = b.call("total", join(b, [part(b, x, *r) for r in ranges], 0))
        return padded(b, compact, ranges, x.shape[0], 0)
    if is_op(x, "outer"):
        left, right = b.define(x.index)[1]
        rows, columns = live(b, left), live(b, right)
        if rows is None and columns is None:
            return None
        for ranges, side in ((rows, 0), (columns, 1)):
            if ranges is not None:
                compact = join(b, [part(b, (left, right)[side], *r) for r in ranges], 0)
                left, right = (compact, right) if side == 0 else (left, compact)
        result = b.call("total", b.call("outer", left, right))
        if columns is not None:
            result = padded(b, result, columns, x.shape[1], 1)
        return result if rows is None else padded(b, result, rows, x.shape[0], 0)
    return None


def _concat(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    axis = attrs["axis"]
    flat: list[Value] = []
    for a in args:
        nested = is_op(a, "concat") and b.calls[a.index]["axis"] == axis
        for piece in b.define(a.index)[1] if nested else (a,):
            merged = _merge(b, flat[-1], piece, axis) if flat else None
            if merged is not None:
                flat[-1] = merged
            else:
                flat.append(piece)
    changed = [x.index for x in flat] != [x.index for x in args]
    return join(b, flat, axis) if changed else None


def _merge(b: Rewriter, x: Value, y: Value, axis: int) -> Value | None:
    """Two neighbours that are one value: adjacent slices, equal constants, or nothing."""
    shape = list(x.shape)
    shape[axis] += y.shape[axis]
    if is_absent(x) and is_absent(y):
        return nothing(b, tuple(shape))
    if constant(x) is not None and repr(constant(x)) == repr(constant(y)):  # 0.0 is not -0.0
        return full(b, b.calls[x.index]["value"], tuple(shape))
    if not (is_op(x, "slice") and is_op(y, "slice")):
        return None
    cx, cy = b.calls[x.index], b.calls[y.index]
    if cx.args != cy.args or cx["axis"] != axis or cy["axis"] != axis or cx["stop"] != cy["start"]:
        return None
    return part(b, b.value(cx.args[0]), cx["start"], cy["stop"], axis)


def _slice(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    (x,), axis, start, stop = args, attrs["axis"], attrs["start"], attrs["stop"]
    if (start, stop) == (0, x.shape[axis]):
        return x
    op, inner, inner_attrs = b.define(x.index)
    if op == "slice" and inner_attrs["axis"] == axis:
        return part(b, inner[0], inner_attrs["start"] + start, inner_attrs["start"] + stop, axis)
    if op == "transpose" and len(x.shape) == 2:
        return b.call("transpose", part(b, inner[0], start, stop, 1 - axis))
    if op == "concat" and inner_attrs["axis"] == axis:
        return _slice_concat(b, inner, axis, start, stop)
    if op == "concat":
        return join(b, [part(b, p, start, stop, axis) for p in inner], inner_attrs["axis"])
    if x.index not in b.sliced_only:
        return None
    if op == "matmul":
        return b.call("matmul", inner[0], part(b, inner[1], start, stop, 1))
    if OPS[op].elementwise and all(a.shape in ((), x.shape) for a in inner):
        operands = [part(b, a, start, stop, axis) if a.shape else a for a in inner]
        return b.call(op, *operands, **inner_attrs)
    return None


def _slice_concat(b: Rewriter, pieces: Args, axis: int, start: int, stop: int) -> Value:
    out, at = [], 0
    for p in pieces:
        first, last = max(start - at, 0), min(stop - at, p.shape[axis])
        if first < last:
            out.append(part(b, p, first, last, axis))
        at += p.shape[axis]
    return join(b, out, axis)


def _transpose(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    return b.define(args[0].index)[1][0] if is_op(args[0], "transpose") else None


def _reshape(b: Rewriter, args: Args, attrs: Attrs) -> Value | None:
    x, shape = args[0], tuple(attrs["shape"])
    if is_op(x, "reshape"):
        return b.call("reshape", b.define(x.index)[1][0], shape=shape)
    return x if x.shape == shape else None


RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "over": _over,
    "neg": _neg,
    "where": _where,
    "equal": _equal,
    "matmul": _matmul,
    "total": _total,
    "concat": _concat,
    "slice": _slice,
    "transpose": _transpose,
    "reshape": _reshape,
}
