"""Elementwise ops on all pairs of zeros, infinities, NaN, subnormal and huge numbers.

A compiler that takes floats for real numbers is found out here: it folds x - x, 0 * x, x == x.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.lowering.region import (
    Array,
    Constant,
    Line,
    Load,
    Operand,
    Ref,
    Region,
    Store,
)
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.language.ops import OPS

pytestmark = pytest.mark.compiles

INF, NAN = float("inf"), float("nan")
VALUES = np.array(
    [0.0, -0.0, 1.0, -1.0, 2.5, -0.5, 1e-45, -1e-45, 1.2e-38, 3.4e38, -3.4e38, INF, -INF, NAN]
    + [1e-20, 17.0],
    "float32",
)
N = len(VALUES)
A, B = np.repeat(VALUES, N).reshape(N, N), np.tile(VALUES, N).reshape(N, N)
TWO = ("add", "sub", "mul", "div", "maximum", "minimum", "greater", "equal")
ONE = ("neg", "abs", "relu", "sqrt", "exp", "log", "sigmoid", "tanh")
ROUNDED = ("exp", "log", "sigmoid", "tanh")  # others are exact, or rounded as IEEE 754 says
UNITS = 6  # in the last place


@dataclass
class Lines:
    """A region under construction, and what each of its lines should give."""

    arrays: list[Array] = field(
        default_factory=lambda: [Array(name, "float32", N, True) for name in "ab"]
    )
    lines: list[Line] = field(default_factory=list)
    wanted: list[np.ndarray] = field(default_factory=list)

    def add(self, op: str, *args: Operand) -> Ref:
        """Append a line that means what NumPy says."""
        numpy = OPS[op].numpy
        assert numpy is not None
        with np.errstate(all="ignore"):
            want = np.asarray(numpy(*map(self.value, args)), "float32")
        self.wanted.append(np.broadcast_to(want, A.shape))
        shapes = tuple(() if isinstance(a, Constant) else (N,) for a in args)
        self.arrays.append(Array(f"o{len(self.lines)}", "float32", N, True))
        store = Store(len(self.arrays) - 1)
        self.lines.append(Line(op, args, shapes, (N,), stores=(store,)))
        return Ref(len(self.lines) - 1)

    def value(self, operand: Operand) -> np.ndarray:
        if isinstance(operand, Constant):
            return np.array(operand.value, "float32")
        return self.wanted[operand.line] if isinstance(operand, Ref) else (A, B)[operand.array]

    def run(self) -> list[np.ndarray]:
        """What the compiled region gives, line by line."""
        compiler = Compiler("host", 1, cache=False)
        kernel = Kernel("region", Region(tuple(self.arrays), tuple(self.lines)))
        (form,) = compiler.forms(kernel)
        compiler.compile([form])
        results = [np.full_like(A, 7.0) for _ in self.lines]
        tensors = [tvm.runtime.tensor(x) for x in (A, B, *results)]
        compiler.function(form.symbol)(N, *[0] * len(tensors), *tensors)
        return [t.numpy() for t in tensors[2:]]


def all_lines() -> Lines:
    """Every op on two vectors, on one twice, on a vector and a constant, on a computed value."""
    made, a, b = Lines(), Load(0), Load(1)
    for op in TWO:
        made.add(op, a, b)
        made.add(op, a, a)
    for op in TWO[:4]:
        for c in (0.0, -0.0, 1.0, INF):
            made.add(op, a, Constant(c))
            made.add(op, Constant(c), a)
    for op in ONE:
        made.add(op, a)
    made.add("where", a, b, Constant(0.0))
    made.add("where", a, Constant(1.0), b)
    total, half = made.add("add", a, b), made.add("mul", a, Constant(0.5))
    for op in ("sub", "div", "equal"):
        made.add(op, total, total)
    made.add("sub", total, b)
    made.add("sub", made.add("add", half, half), a)
    made.add("mul", made.add("sub", a, a), b)
    return made


def test_every_op_on_special_values() -> None:
    lines = all_lines()
    for line, got, want in zip(lines.lines, lines.run(), lines.wanted, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(got - want) <= UNITS * np.spacing(np.abs(want))
        exact = (got == want) & (np.signbit(got) == np.signbit(want))
        right = (np.isnan(got) & np.isnan(want)) | exact | (near & (line.op in ROUNDED))
        told = [(A[i], B[i], got[i], want[i]) for i in map(tuple, np.argwhere(~right)[:3])]
        assert right.all(), f"{line.op} of {line.args}: a, b, got, expected {told}"
