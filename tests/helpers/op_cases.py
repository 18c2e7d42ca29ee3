"""The uses of every op that test_ops.py tests: operands, attributes, meaning, operands that do not
fit.

An op that is not here, or in STRUCTURAL with its reason, fails the suite.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Arg:
    """One operand: float values in [low, high] of a vertex or the net, or indices below `high`."""

    shape: tuple[int, ...] = ()
    low: float = -2.0
    high: float = 2.0
    per: str = "vertex"
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]" if self.shape else self.dtype


@dataclass(frozen=True)
class Case:
    """One use of an op: operands, shape and value of the result, operands that do not fit,
    attributes.

    smooth: the derivative exists at every value that the operands can have.
    """

    args: tuple[Arg, ...]
    shape: tuple[int, ...]
    value: Callable[..., Any]
    wrong: tuple[tuple[Arg, ...], ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    smooth: bool = True

    def __str__(self) -> str:
        return ",".join(map(str, self.args))


VECTOR, LONGER, SCALAR = Arg((4,)), Arg((5,)), Arg(())
ROWS, COLUMN, ONES = Arg((2, 4)), Arg((2, 1)), Arg((4,), 1.0, 1.0)
POSITIVE, TWO_INTS = Arg((4,), 0.5, 2.0), Arg((2,), 0, 4, dtype="int32")
MATRIX, NET = Arg((4, 3), per="net"), Arg((4,), per="net")
INDEX = Arg((), 0, 4, dtype="int32")


def one(value: Callable[..., Any], arg: Arg = VECTOR) -> list[Case]:
    return [Case((arg,), arg.shape, value, ((TWO_INTS,),))]


def two(value: Callable[..., Any], low: float = -2.0) -> list[Case]:
    """All ways to broadcast, the second operand in [low, 2]."""
    pairs = [((4,), (4,)), ((), (4,)), ((4,), ()), ((2, 4), (2, 1)), ((2, 1), (2, 4))]
    pairs += [((2, 4), (4,)), ((4,), (2, 4)), ((4,), (1, 4)), ((2, 1), (4,)), ((3, 2, 4), (2, 1))]
    pairs += [((), (2, 4)), ((2, 4), ()), ((3, 2, 4), ()), ((3, 2, 4), (4,)), ((3, 1, 4), (2, 1))]
    wrong = ((VECTOR, LONGER), (ROWS, Arg((3, 4))), (VECTOR, TWO_INTS))
    cases = [Case((Arg(a), Arg(b, low)), np.broadcast_shapes(a, b), value, wrong) for a, b in pairs]
    return [
        *cases,
        Case((NET, Arg((4,), low)), (4,), value),
        Case((VECTOR, Arg((4,), low, per="net")), (4,), value),
    ]


def along(value: Callable[[Any, bool], Any]) -> list[Case]:
    """A reduction over the last axis, with and without `keep`."""
    return [
        Case((arg,), shape, lambda x, k=keep: value(x, k), ((SCALAR,),), {"keep": keep})
        for arg, keep, shape in (
            (VECTOR, False, ()),
            (VECTOR, True, (1,)),
            (ROWS, False, (2,)),
            (ROWS, True, (2, 1)),
        )
    ]


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def row(index: Any, table: Any) -> Any:
    return table[index] if index >= 0 else 0 * table[0]


CASES: dict[str, list[Case]] = {
    "add": two(lambda a, b: a + b),
    "sub": two(lambda a, b: a - b),
    "mul": two(lambda a, b: a * b),
    "div": two(lambda a, b: a / b, low=0.5),
    "over": two(lambda a, b: a / b, low=0.5),
    "neg": one(lambda a: -a),
    "sigmoid": one(lambda a: 1 / (1 + np.exp(-a))),
    "tanh": one(lambda a: 1 - 2 / (np.exp(2 * a) + 1)),
    "relu": one(lambda a: a * (a > 0)),
    "exp": one(np.exp),
    "log": one(np.log, POSITIVE),
    "sqrt": one(lambda a: a**0.5, POSITIVE),
    "abs": one(lambda a: np.where(a > 0, a, -a)),
    "maximum": two(lambda a, b: np.where(a > b, a, b)),
    "minimum": two(lambda a, b: np.where(a > b, b, a)),
    "greater": [
        *two(lambda a, b: (a > b) * 1.0),
        Case((ONES, ONES), (4,), lambda a, b: 0 * a, smooth=False),
    ],
    "equal": [
        *two(lambda a, b: (a == b) * 1.0),
        Case((ONES, ONES), (4,), lambda a, b: a, smooth=False),
        Case((INDEX, INDEX), (), lambda a, b: (a == b) * 1.0, ((INDEX, VECTOR),)),
    ],
    "where": [
        Case((c, a, b), shape, lambda c, a, b: np.where(c != 0, a, b), ((VECTOR, VECTOR, LONGER),))
        for c, a, b, shape in (
            (VECTOR, VECTOR, VECTOR, (4,)),
            (SCALAR, ROWS, VECTOR, (2, 4)),
            (VECTOR, SCALAR, SCALAR, (4,)),
        )
    ],
    "matmul": [
        Case(
            (VECTOR, MATRIX),
            (3,),
            lambda x, w: x @ w,
            (
                (LONGER, MATRIX),
                (VECTOR, VECTOR),
                (ROWS, MATRIX),
                (VECTOR, Arg((4, 3))),
                (Arg((4,), 0, 4, dtype="int32"), MATRIX),
            ),
        ),
        Case((NET, MATRIX), (3,), lambda x, w: x @ w),
    ],
    "concat": [
        Case(
            (VECTOR, LONGER),
            (9,),
            lambda *x: np.concatenate(x),
            ((VECTOR, SCALAR), (VECTOR, ROWS), (VECTOR, TWO_INTS)),
            {"axis": 0},
        ),
        Case(
            (ROWS, COLUMN, ROWS),
            (2, 9),
            lambda *x: np.concatenate(x, 1),
            ((VECTOR, VECTOR), (ROWS, MATRIX)),
            {"axis": 1},
        ),
        Case((ROWS, ROWS), (4, 4), lambda *x: np.concatenate(x), (), {"axis": -2}),
        Case((MATRIX, MATRIX), (4, 6), lambda *x: np.concatenate(x, 1), (), {"axis": -1}),
    ],
    "slice": [
        Case(
            (arg,),
            shape,
            lambda x, axis=axis, start=start, stop=stop: np.moveaxis(
                np.moveaxis(x, axis, 0)[start:stop], 0, axis
            ),
            ((Arg((1,)),), (SCALAR,)),
            {"axis": axis, "start": start, "stop": stop},
        )
        for arg, shape, axis, start, stop in (
            (VECTOR, (2,), 0, 1, 3),
            (VECTOR, (2,), -1, 2, 4),
            (VECTOR, (4,), 0, 0, 4),
            (ROWS, (1, 4), 0, 1, 2),
            (ROWS, (2, 3), 1, 0, 3),
        )
    ],
    "reshape": [
        Case((VECTOR,), (2, 2), lambda x: x.reshape(2, 2), ((LONGER,),), {"shape": (2, 2)}),
        Case((ROWS,), (8,), lambda x: x.reshape(8), ((VECTOR,),), {"shape": (8,)}),
        Case((Arg((1,)),), (), lambda x: x[0], ((VECTOR,),), {"shape": ()}),
    ],
    "transpose": [Case((ROWS,), (4, 2), lambda x: x.T), Case((MATRIX,), (3, 4), lambda x: x.T)],
    "sum": along(lambda x, keep: x.sum(-1, keepdims=keep)),
    "max": along(lambda x, keep: x.max(-1, keepdims=keep)),
    "softmax": [
        Case((arg,), arg.shape, softmax, ((SCALAR,), (TWO_INTS,))) for arg in (VECTOR, ROWS)
    ],
    "log_softmax": [
        Case((arg,), arg.shape, lambda x: np.log(softmax(x)), ((SCALAR,), (TWO_INTS,)))
        for arg in (VECTOR, ROWS)
    ],
    "argmax": [Case((VECTOR,), (), lambda x: np.argmax(x), ((SCALAR,), (ROWS,)))],
    "embedding": [
        Case((INDEX, MATRIX), (3,), row, ((VECTOR, MATRIX), (TWO_INTS, MATRIX), (INDEX, VECTOR)))
    ],
    "pick": [
        Case(
            (VECTOR, INDEX),
            (),
            lambda x, i: x[i] if i >= 0 else 0.0,
            ((VECTOR, VECTOR), (ROWS, INDEX), (Arg((4,), 0, 4, dtype="int32"), INDEX)),
        )
    ],
    "one_hot": [
        Case((INDEX,), (4,), lambda i: np.arange(4) == i, ((VECTOR,), (SCALAR,)), {"depth": 4})
    ],
    "full": [Case((), (4,), lambda: np.full(4, 0.5), (), {"value": 0.5, "shape": (4,)})],
}

# Without operands, or made by `differentiate` and `specialise` only, and what each is.
STRUCTURAL = {
    "outer": "gradient of matmul, before the sum over vertices",
    "total": "sum over vertices",
    "total_rows": "sum over vertices into rows of a table",
    "dropout": "tested by statistics in test_dropout.py",
    "absent": "what a kind of vertex lacks",
    "param": "read",
    "pull": "read",
    "present": "read",
    "gather": "read",
    "gather_sum": "read",
    "saved": "read",
    "own_state": "read",
    "child_state": "read",
    "child_present": "read",
    "scatter": "write",
    "push": "write",
    "save": "write",
    "gradient": "write",
}
