"""What every op means, by NumPy, for ONE vertex: the truth that kernels are compared with.

It lies beneath the vertex language, so that an exported model evaluates what parameters alone make
in a process without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

ABSENT = -1  # what an integer input reads at a vertex that does not have it


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))  # the small one of exp(x) and exp(-x): neither tail is lost
    return np.where(x >= 0, 1, e) / (1 + e)


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _log_softmax(x: Any) -> Any:
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _slice(x: Any, axis: int, start: int, stop: int) -> Any:
    return np.take(x, np.arange(start, stop), axis=axis)


def _one_hot(index: Any, depth: int) -> Any:
    return (np.arange(depth) == index).astype("float64")


MEANINGS: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "over": np.divide,
    "neg": np.negative,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": lambda a, b: (a > b) * 1.0,
    "equal": lambda a, b: (a == b) * 1.0,
    "where": lambda c, a, b: np.where(c != 0, a, b),
    "matmul": np.matmul,
    "outer": np.multiply.outer,
    "transpose": np.transpose,
    "concat": lambda *x, axis: np.concatenate(x, axis),
    "slice": _slice,
    "reshape": lambda x, shape: np.reshape(x, shape),
    "sum": lambda x, keep: x.sum(-1, keepdims=keep),
    "max": lambda x, keep: x.max(-1, keepdims=keep),
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "argmax": lambda x: np.argmax(x),
    "embedding": lambda i, table: table[i] if i != ABSENT else np.zeros_like(table[0]),
    "pick": lambda x, i: x[i] if i != ABSENT else x[0].dtype.type(0),
    "one_hot": _one_hot,
    "full": lambda value, shape: np.full(shape, value),
}
