"""How far compiled functions of one number are from the truth, in units in the last place.

The functions are those that vertex functions call, traced and lowered as theirs are, compiled for
any target that this machine can run; the truth is NumPy's float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
import tvm

from ..language import OPS, Builder, Type, functions
from ..runtime import BufferId, Role
from .compiler import Compiler
from .lowering.lower import lower

WIDTH = 64  # arguments in a row of the region: whole vectors on every CPU
LARGEST = 2.0**128  # what infinity counts as: the first number that rounds to it
SMALLEST = 2.0**-126  # the smallest normal float32
EXPONENT = np.int64(0x7FF << 52)  # of a float64
Values = dict[str, np.ndarray]


def op(name: str) -> Callable[[Any], Any]:
    """What NumPy makes of an op, in the dtype that it is given."""
    numpy = OPS[name].numpy
    assert numpy is not None
    return numpy


def _gelu(x: Any) -> Any:
    return x * op("sigmoid")(np.sqrt(8 / pi) * (x + 0.044715 * x * x * x))


# name -> (what a vertex function calls, its meaning for float64)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "exp": (functions.exp, np.exp),
    "log": (functions.log, np.log),
    "sqrt": (functions.sqrt, np.sqrt),
    "tanh": (functions.tanh, np.tanh),
    "sigmoid": (functions.sigmoid, op("sigmoid")),
    "relu": (functions.relu, op("relu")),
    "abs": (functions.abs, np.abs),
    "neg": (lambda x: -x, np.negative),
    "silu": (functions.silu, lambda x: x * op("sigmoid")(x)),
    "gelu": (functions.gelu, _gelu),
}


@dataclass(frozen=True)
class Error:
    """The worst error of one function: in units in the last place of the truth, and where; relative
    to the truth, or to the smallest normal number; and how many results are NaN, or have a sign,
    where the truth is not or has not.
    """

    ulp: float = 0.0
    at: float = 0.0
    relative: float = 0.0
    wrong: int = 0

    def worse(self, other: Error) -> Error:
        """Both together."""
        ulp = max(self, other, key=lambda e: e.ulp)
        relative = max(self.relative, other.relative)
        return Error(ulp.ulp, ulp.at, relative, self.wrong + other.wrong)


def truth(x: np.ndarray) -> Values:
    """float32[n] -> every function of it, float64[n]."""
    with np.errstate(all="ignore"):
        wide = x.astype("float64")
        return {name: meaning(wide) for name, (_, meaning) in FUNCTIONS.items()}


def compiled(target: Any = "host") -> Callable[[np.ndarray], Values]:
    """float32[n] -> every function of it, float32[n], by one region compiled for `target`.

    n is a multiple of WIDTH.

    Raises:
        TargetError: there is no such target.
    """
    b = Builder("functions")
    x = b.call("pull", name="x", type=Type((WIDTH,)))
    for name, (function, _) in FUNCTIONS.items():
        b.call("push", function(x), name=name)
    (step,) = lower(b.finish(), 1).steps
    compiler = Compiler(target, 1, cache=False)
    (form,) = compiler.forms(step.kernel)
    compiler.compile([form])
    kernel, buffers = compiler.function(form.symbol), [buffer.id for buffer in step.buffers]

    def run(x: np.ndarray) -> Values:
        rows = x.reshape(-1, WIDTH)
        made = {b: rows if b.role is Role.INPUT else np.empty_like(rows) for b in buffers}
        tensors = {b: tvm.runtime.tensor(array) for b, array in made.items()}
        kernel(len(rows), *[0] * len(step.starts), *tensors.values())
        return {name: tensors[BufferId(Role.PUSHED, name)].numpy().ravel() for name in FUNCTIONS}

    return run


def error(x: np.ndarray, got: np.ndarray, want: np.ndarray) -> Error:
    """The worst of got float32[n], for arguments x float32[n], against want float64[n]."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide, nothing = got.astype("float64"), np.isnan(want)
    wrong = int(np.count_nonzero(np.isnan(wide) ^ nothing))
    signs = (wide.view("int64") ^ want.view("int64")) < 0
    wrong += int(np.count_nonzero(signs & ~nothing))
    true = np.clip(want, -LARGEST, LARGEST)
    off = np.abs(np.clip(wide, -LARGEST, LARGEST) - true)
    np.copyto(off, 0.0, where=np.isnan(off))
    power = (true.view("int64") & EXPONENT).view("float64")  # 2^k <= |true| < 2^(k+1)
    ulp = off / np.clip(power, SMALLEST, LARGEST / 2)
    worst = int(ulp.argmax())
    np.copyto(true, 1.0, where=nothing)
    relative = float((off / np.maximum(np.abs(true), SMALLEST)).max())
    return Error(float(ulp[worst]) * 2.0**23, float(x[worst]), relative, wrong)


def errors(x: np.ndarray, got: Mapping[str, np.ndarray], want: Values) -> dict[str, Error]:
    """`error` of every function."""
    return {name: error(x, got[name], want[name]) for name in FUNCTIONS}
