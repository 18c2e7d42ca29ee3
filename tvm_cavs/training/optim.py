"""Optimizers: a weight, its gradient and its state -> the updated weight and state.

An optimizer is one row of OPTIMIZERS. Its rule is written once, for one element, with operators
only; `updates` traces it into one kernel that passes over the weight once.

A row-sparse gradient updates the touched rows only, state and weight decay included: a row that no
example used keeps its momentum and its norm ("lazy" updates, as in TensorFlow's LazyAdam and
MXNet). For SGD without decay and for Adagrad without decay this equals the dense update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..arguments import LARGEST, number
from ..errors import ConfigError


@dataclass(frozen=True)
class Hyper:
    """The numbers of one update: learning rate, weight decay, update count from 1, and the rest."""

    lr: float
    decay: float
    t: int
    extra: Mapping[str, float]


USUAL = 1e12  # see `is_usual`

Number: TypeAlias = Any  # a float, or what stands for one in a kernel
State: TypeAlias = tuple[Number, ...]
Numbers: TypeAlias = Mapping[str, Number]
Root: TypeAlias = Callable[[Number], Number]
Rule: TypeAlias = Callable[[Number, Number, State, Numbers, Root], tuple[Number, State]]


@dataclass(frozen=True)
class Optimizer:
    """One row of OPTIMIZERS.

    Attributes:
        states: names of the arrays kept per weight, each of the weight's shape, zero at first.
        extra: hyper-parameters beyond lr and weight decay, with their defaults.
        numbers: what the rule needs of them, by name; worked out once for an update.
        rule: (weight, gradient, states, numbers, square root) -> (new weight, new states).
        largest: norm of gradients up to which states stay in float32, over very many steps.
    """

    states: tuple[str, ...]
    extra: Mapping[str, float]
    numbers: Callable[[Hyper], dict[str, float]]
    rule: Rule
    largest: float = 1e15  # of which states keep squares


def _plain(h: Hyper) -> dict[str, float]:
    return {"lr": h.lr, "decay": h.decay, **h.extra}


def _sgd(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    """w - lr g."""
    return w - c["lr"] * _with_l2(w, g, c), ()


def _momentum(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    """v = momentum v + g;  w - lr v  (Polyak 1964)."""
    v = c["momentum"] * state[0] + _with_l2(w, g, c)
    return w - c["lr"] * v, (v,)


def _adagrad(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    """a = a + g^2;  w - lr g / (sqrt(a) + eps)  (Duchi et al. 2011)."""
    g = _with_l2(w, g, c)
    a = state[0] + g * g
    return w - c["lr"] * g / (root(a) + c["eps"]), (a,)


def _moments(h: Hyper) -> dict[str, float]:
    beta1, beta2 = h.extra["beta1"], h.extra["beta2"]
    return {
        "lr": h.lr / (1 - beta1**h.t),
        "decay": h.decay,
        "keep": 1 - h.lr * h.decay,
        "beta1": beta1,
        "beta2": beta2,
        "rest1": 1 - beta1,
        "rest2": 1 - beta2,
        "unbias": (1 - beta2**h.t) ** -0.5,
        "eps": h.extra["eps"],
    }


def _adam(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    """Moments m and v of g;  w - lr m' / (sqrt(v') + eps)  (Kingma and Ba 2015, algorithm 1)."""
    return _adam_step(w, _with_l2(w, g, c), state, c, root)


def _adamw(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    """Adam, with w shrunk by lr decay w outside the moments (Loshchilov and Hutter 2019)."""
    return _adam_step(c["keep"] * w, g, state, c, root)


def _adam_step(w: Number, g: Number, state: State, c: Numbers, root: Root) -> tuple[Number, State]:
    m = c["beta1"] * state[0] + c["rest1"] * g
    v = c["beta2"] * state[1] + c["rest2"] * (g * g)
    return w - c["lr"] * m / (root(v) * c["unbias"] + c["eps"]), (m, v)


def _with_l2(w: Number, g: Number, c: Numbers) -> Number:
    """The gradient of loss + decay / 2 * |w|^2."""
    return g + c["decay"] * w


def is_usual(h: Hyper) -> bool:
    """Whether a step by these numbers cannot leave float32 where no weight and no gradient is
    beyond USUAL: it does not have to be tried before it is taken.
    """
    return (
        h.lr <= 1e3
        and h.decay <= 1e3
        and h.lr * h.decay <= 1  # weights do not grow by their decay
        and h.extra.get("eps", 1.0) >= 1e-12
    )


def check_hyper(name: str, extra: Mapping[str, float]) -> None:
    """The numbers of an optimizer beyond lr and weight decay are known and can work in float32.

    Raises:
        ConfigError: one is unknown, no number, or outside of what the optimizer is defined for.
    """
    known = OPTIMIZERS[name].extra
    unknown = sorted(set(extra) - set(known))
    if unknown:
        raise ConfigError(
            f"optimizer {name!r} does not take {', '.join(unknown)}; "
            f"it takes {', '.join(known) or 'nothing beyond lr'}."
        )
    for key, value in extra.items():
        given = number(f"{name}: {key}", value, least=0)
        if key == "eps" and not given >= np.finfo("float32").tiny:
            raise ConfigError(
                f"{name}: eps = {value}; expected above 1.2e-38, as float32 holds it: with 0 an "
                f"element without a gradient is 0/0. Its default is {known[key]}."
            )
        if key != "eps" and not np.float32(given) < 1:
            raise ConfigError(
                f"{name}: {key} = {value}; expected at least 0 and below 1 (as float32). "
                f"Its default is {known[key]}."
            )


ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer((), {}, _plain, _sgd, largest=LARGEST),
    "momentum": Optimizer(("velocity",), {"momentum": 0.9}, _plain, _momentum, largest=1e30),
    "adagrad": Optimizer(("sum",), {"eps": 1e-10}, _plain, _adagrad),
    "adam": Optimizer(("m", "v"), ADAM, _moments, _adam),
    "adamw": Optimizer(("m", "v"), ADAM, _moments, _adamw),
}
