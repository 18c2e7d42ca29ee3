"""Every function of the vertex language means what its NumPy namesake does, vertex by vertex."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from tvm_cavs.language import functions

RNG = np.random.default_rng(3)
X, Z = RNG.normal(size=(5, 6)), RNG.normal(size=(5, 6))
X[0, :2] = Z[0, :2] = 0.5  # some are equal
P = np.abs(X) + 0.25
INDEX = np.array([3, 0, 5, -1, 2], np.int32)  # one is absent
OTHER = np.array([3, 1, 5, 4, -1], np.int32)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(x: Any, epsilon: float = 1e-5) -> Any:
    return (x - x.mean()) / math.sqrt(x.var() + epsilon)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def one(i: int, n: int) -> Any:
    return (np.arange(n) == i).astype(float)


Case = tuple[Callable[..., Any], Callable[..., Any]]  # of x, z, p, i, j: values, and numbers
CASES: dict[str, list[Case]] = {
    "sigmoid": [(lambda x, *_: cavs.sigmoid(x), lambda x, *_: 1 / (1 + np.exp(-x)))],
    "tanh": [(lambda x, *_: cavs.tanh(x), lambda x, *_: np.tanh(x))],
    "relu": [(lambda x, *_: cavs.relu(x), lambda x, *_: np.maximum(x, 0))],
    "silu": [(lambda x, *_: cavs.silu(x), lambda x, *_: x / (1 + np.exp(-x)))],
    "gelu": [(lambda x, *_: cavs.gelu(x), lambda x, *_: gelu(x))],
    "exp": [(lambda x, *_: cavs.exp(x), lambda x, *_: np.exp(x))],
    "log": [(lambda x, z, p, *_: cavs.log(p), lambda x, z, p, *_: np.log(p))],
    "sqrt": [(lambda x, z, p, *_: cavs.sqrt(p), lambda x, z, p, *_: np.sqrt(p))],
    "abs": [(lambda x, *_: cavs.abs(x), lambda x, *_: np.abs(x))],
    "maximum": [(lambda x, z, *_: cavs.maximum(x, z), lambda x, z, *_: np.maximum(x, z))],
    "minimum": [(lambda x, z, *_: cavs.minimum(x, z), lambda x, z, *_: np.minimum(x, z))],
    "greater": [
        (lambda x, z, *_: cavs.greater(x, z), lambda x, z, *_: x > z),
        (lambda x, z, *_: x <= z, lambda x, z, *_: x <= z),
        (lambda x, z, *_: x >= z, lambda x, z, *_: x >= z),
    ],
    "equal": [
        (lambda x, z, *_: cavs.equal(x, z), lambda x, z, *_: x == z),
        (lambda x, z, p, i, j, _: cavs.equal(i, j), lambda x, z, p, i, j, _: i == j),
    ],
    "where": [
        (lambda x, z, *_: cavs.where(x > 0, x, z), lambda x, z, *_: np.where(x > 0, x, z)),
        (lambda x, z, *_: cavs.where(x - z, 2.0, x), lambda x, z, *_: np.where(x != z, 2.0, x)),
    ],
    "concat": [
        (lambda x, z, *_: cavs.concat(x, z, x), lambda x, z, *_: np.concatenate([x, z, x])),
        (
            lambda x, z, *_: cavs.concat(
                cavs.reshape(x, (2, 3)), cavs.reshape(z[:4], (2, 2)), axis=1
            ),
            lambda x, z, *_: np.concatenate([x.reshape(2, 3), z[:4].reshape(2, 2)], axis=1),
        ),
        (lambda x, *_: cavs.concat(x), lambda x, *_: x),
        (lambda x, z, *_: cavs.concat([z, x]), lambda x, z, *_: np.concatenate([z, x])),
        (lambda x, z, *_: cavs.concat((z, x)), lambda x, z, *_: np.concatenate([z, x])),
    ],
    "split": [
        (lambda x, *_: cavs.split(x, 3)[1], lambda x, *_: np.split(x, 3)[1]),
        (
            lambda x, *_: cavs.split(cavs.reshape(x, (3, 2)), 2)[1],
            lambda x, *_: np.split(x.reshape(3, 2), 2, axis=1)[1],
        ),
    ],
    "reshape": [(lambda x, *_: cavs.reshape(x, (3, 2)), lambda x, *_: x.reshape(3, 2))],
    "reduce_sum": [(lambda x, *_: cavs.reduce_sum(x), lambda x, *_: x.sum())],
    "reduce_mean": [(lambda x, *_: cavs.reduce_mean(x), lambda x, *_: x.mean())],
    "reduce_max": [(lambda x, *_: cavs.reduce_max(x), lambda x, *_: x.max())],
    "argmax": [(lambda x, *_: cavs.argmax(x), lambda x, *_: x.argmax())],
    "softmax": [(lambda x, *_: cavs.softmax(x), lambda x, *_: softmax(x))],
    "log_softmax": [(lambda x, *_: cavs.log_softmax(x), lambda x, *_: np.log(softmax(x)))],
    "layer_norm": [
        (lambda x, *_: cavs.layer_norm(x, 1.0, 0.0), lambda x, *_: layer_norm(x)),
        (
            lambda x, z, *_: cavs.layer_norm(x, z, 0.5, epsilon=2.0),
            lambda x, z, *_: layer_norm(x, 2.0) * z + 0.5,
        ),
    ],
    "embedding": [
        (
            lambda x, z, p, i, j, table: cavs.embedding(i, table),
            lambda x, z, p, i, j, table: table[i] * (i >= 0),
        )
    ],
    "pick": [(lambda x, z, p, i, *_: cavs.pick(x, i), lambda x, z, p, i, *_: x[i] * (i >= 0))],
    "one_hot": [(lambda x, z, p, i, *_: cavs.one_hot(i, 7), lambda x, z, p, i, *_: one(i, 7))],
}
REDUCTIONS: dict[str, tuple[Any, Any]] = {
    "reduce_sum": (cavs.reduce_sum, np.sum),
    "reduce_mean": (cavs.reduce_mean, np.mean),
    "reduce_max": (cavs.reduce_max, np.max),
}
for reduction, (ours, theirs) in REDUCTIONS.items():  # of a matrix, and with the axis kept
    for kept in (False, True):
        CASES[reduction].append(
            (
                lambda x, *_, f=ours, keep=kept: f(cavs.reshape(x, (2, 3)), keep),
                lambda x, *_, f=theirs, keep=kept: f(x.reshape(2, 3), -1, keepdims=keep),
            )
        )
ALONG_ROWS: dict[str, tuple[Any, Any]] = {
    "softmax": (cavs.softmax, softmax),
    "log_softmax": (cavs.log_softmax, lambda x: np.log(softmax(x))),
    "layer_norm": (lambda x: cavs.layer_norm(x, 1.0, 0.0), layer_norm),
}
for along, (ours, theirs) in ALONG_ROWS.items():  # of a matrix: each row by itself
    CASES[along].append(
        (
            lambda x, *_, f=ours: f(cavs.reshape(x, (2, 3))),
            lambda x, *_, f=theirs: np.stack([f(row) for row in x.reshape(2, 3)]),
        )
    )

OPERATORS = (
    "x + z; x - z; x * z; x / p; -x; x > z; x < z; x >= z; x <= z; "
    "x + 0; 0 + x; x - 0; 0 - x; x * 0; 0 * x; 0 / p; x + 1; 1 + x; x - 1; 1 - x; x * 1; x / 1; "
    "x + 2; 2 + x; x - 2; 2 - x; x * 2; 2 * x; x / 2; 2 / p; x / -0.5; x + np.float32(2); "
    "x > 0.5; x < 0.5; x >= 0.5; x <= 0.5; 0.5 > x; 0.5 < x; 0.5 >= x; 0.5 <= x; "
    "x @ table; x[:]; x[2:]; x[:-1]; x[1:4]; x[np.int64(3):5:1]; table[2:4] * x[:2]"
).split("; ")


def operator(text: str) -> Case:
    """The same text, of values and of numbers."""
    code = compile(text, text, "eval")

    def apply(x: Any, z: Any, p: Any, _i: Any, _j: Any, table: Any) -> Any:
        return eval(code, {"np": np, "x": x, "z": z, "p": p, "table": table})

    return apply, apply


CASES |= {text: [operator(text)] for text in OPERATORS}


def test_no_function_is_left_out() -> None:
    public = {
        name
        for name, f in vars(functions).items()
        if getattr(f, "__module__", None) == functions.__name__ and not name.startswith("_")
    }
    assert public == CASES.keys() - {*OPERATORS}


@pytest.mark.parametrize(
    ("name", "number"), [(name, k) for name, cases in CASES.items() for k in range(len(cases))]
)
def test_a_function_means_what_numpy_says(name: str, number: int) -> None:
    build, meaning = CASES[name][number]
    table = np.arange(12.0).reshape(6, 2) + 1

    class F(cavs.VertexFunction):
        state = {"x": 6}

        def __init__(self) -> None:
            self.E = cavs.Parameter((6, 2), cavs.init.Array(table))

        def forward(self, v: Any) -> None:
            x, z, p = v.pull("x", 6), v.pull("z", 6), v.pull("p", 6)
            v.scatter(x=x)
            y = build(x, z, p, v.pull("i"), v.pull("j"), self.E)
            v.push("y", y)

    net = cavs.Network(F())
    net.initialize()
    net.hybridize("reference", dtype="float64")
    indices = {k: [None if n < 0 else int(n) for n in a] for k, a in (("i", INDEX), ("j", OTHER))}
    inputs = {"x": X.astype("float32"), "z": Z.astype("float32"), "p": P.astype("float32")}
    found = np.asarray(net(cavs.Graph.from_sequence(5, {**inputs, **indices}))["y"])
    for v in range(5):
        given = [inputs[k][v].astype("float64") for k in "xzp"]
        want = np.asarray(meaning(*given, INDEX[v], OTHER[v], table), dtype="float64")
        assert found[v].shape == want.shape
        np.testing.assert_allclose(found[v], want, rtol=1e-6, atol=1e-7)
