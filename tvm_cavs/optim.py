"""A weight, its gradient and its state -> the updated weight and state, in place.

An optimizer is one row of OPTIMIZERS. Its rule is written once, for a whole array, with operators
only: `a += b` is in place in NumPy and means `a = a + b` where values are traced, so that a rule
can become one fused kernel. Here it runs in NumPy on blocks that stay in the processor's cache.

A row-sparse gradient updates the touched rows only, state and weight decay included: a row that no
example used keeps its momentum and its norm ("lazy" updates, as in TensorFlow's LazyAdam and
MXNet). For SGD without decay and for Adagrad without decay this equals the dense update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .vertex import RowSparse

Gradient: TypeAlias = "np.ndarray | RowSparse"
BLOCK = 32768  # float32 values a pass: 128 KiB, so that a block and its temporaries stay in L2


@dataclass(frozen=True)
class Hyper:
    """The numbers of one update: learning rate, weight decay, update count from 1, and the rest."""

    lr: float
    decay: float
    t: int
    extra: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.extra[name]


State: TypeAlias = tuple[Any, ...]
Rule: TypeAlias = Callable[[Any, Any, State, Hyper], tuple[Any, State]]


@dataclass(frozen=True)
class Optimizer:
    """One row of OPTIMIZERS.

    Attributes:
        states: names of the arrays kept per weight, each of the weight's shape, zero at first.
        extra: hyper-parameters beyond lr and weight decay, with their defaults.
        rule: (weight, gradient, states, hyper) -> (new weight, new states); works in place, and
            may overwrite the gradient too.
    """

    states: tuple[str, ...]
    extra: Mapping[str, float]
    rule: Rule


def _sgd(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    """w - lr g."""
    g = _add_l2(w, g, h)
    g *= h.lr
    w -= g
    return w, ()


def _momentum(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    """v = momentum v + g;  w - lr v  (Polyak 1964)."""
    (v,) = state
    v *= h["momentum"]
    v += _add_l2(w, g, h)
    w -= h.lr * v
    return w, (v,)


def _adagrad(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    """a = a + g^2;  w - lr g / (sqrt(a) + eps)  (Duchi et al. 2011)."""
    (a,) = state
    g = _add_l2(w, g, h)
    a += g * g
    root = a**0.5
    root += h["eps"]
    g *= h.lr
    g /= root
    w -= g
    return w, (a,)


def _adam(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    """Moments m and v of g;  w - lr m' / (sqrt(v') + eps)  (Kingma and Ba 2015, algorithm 1)."""
    return _adam_step(w, _add_l2(w, g, h), state, h)


def _adamw(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    """Adam, with w shrunk by lr decay w outside the moments (Loshchilov and Hutter 2019)."""
    if h.decay:
        w *= 1 - h.lr * h.decay
    return _adam_step(w, g, state, h)


def _adam_step(w: Any, g: Any, state: State, h: Hyper) -> tuple[Any, State]:
    (m, v), beta1, beta2 = state, h["beta1"], h["beta2"]
    m *= beta1
    m += (1 - beta1) * g
    g *= g
    g *= 1 - beta2
    v *= beta2
    v += g
    root = v**0.5
    root *= (1 - beta2**h.t) ** -0.5
    root += h["eps"]
    w -= h.lr / (1 - beta1**h.t) * m / root
    return w, (m, v)


def _add_l2(w: Any, g: Any, h: Hyper) -> Any:
    """The gradient of loss + decay / 2 * |w|^2."""
    if h.decay:
        g += h.decay * w
    return g


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer((), {}, _sgd),
    "momentum": Optimizer(("velocity",), {"momentum": 0.9}, _momentum),
    "adagrad": Optimizer(("sum",), {"eps": 1e-10}, _adagrad),
    "adam": Optimizer(("m", "v"), {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, _adam),
    "adamw": Optimizer(("m", "v"), {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, _adamw),
}


def update(
    optimizer: Optimizer,
    weight: np.ndarray,
    gradient: Gradient,
    states: State,
    hyper: Hyper,
    scale: float = 1.0,
) -> None:
    """Apply one update to `weight` and `states` in place; the gradient is multiplied by `scale`.

    `weight` and each state: float32 of one shape, C-contiguous. A row-sparse gradient needs a
    weight of shape [n_rows, width].
    """
    if isinstance(gradient, RowSparse):
        n_rows = max(1, BLOCK // gradient.values.shape[1])
        for start in range(0, len(gradient.rows), n_rows):
            rows = gradient.rows[start : start + n_rows]
            g = gradient.values[start : start + n_rows] * scale
            new_w, new = optimizer.rule(weight[rows], g, tuple(s[rows] for s in states), hyper)
            for array, values in zip((weight, *states), (new_w, *new), strict=True):
                array[rows] = values
        return
    assert all(array.flags.c_contiguous for array in (weight, *states)), "reshape must be a view"
    w, g, flat = weight.reshape(-1), gradient.reshape(-1), [s.reshape(-1) for s in states]
    for start in range(0, w.size, BLOCK):
        block = slice(start, start + BLOCK)
        optimizer.rule(w[block], g[block] * scale, tuple(s[block] for s in flat), hyper)


def global_norm(gradients: Iterable[Gradient]) -> float:
    """The Euclidean norm of all gradients taken as one vector; inf or nan where one of them is."""
    total = 0.0
    for gradient in gradients:
        values = gradient.values if isinstance(gradient, RowSparse) else gradient
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK // 2):  # short enough that no BLAS splits it
            part = flat[start : start + BLOCK // 2]
            total += float(np.vdot(part, part))
    return math.sqrt(total)
