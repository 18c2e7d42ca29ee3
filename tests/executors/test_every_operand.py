"""Every function of the language on every kind of operand of every rank, forward and backward.

An operand comes from somewhere: an input of the vertex, a child, a parameter, a constant, or a
computation on one of these. A use of a function is drawn at random with its operands; many uses
make one vertex function, which is compiled once. Each use has parameters of its own, so that a
gradient that differs names it. What the language refuses, it refuses while tracing, in its own
words. `OPERAND_FUNCTIONS=200` in the environment makes as many vertex functions instead of a few.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from tvm_cavs.language.value import full

pytestmark = pytest.mark.compiles

N_FUNCTIONS = int(os.environ.get("OPERAND_FUNCTIONS", "2"))
N_USES = 30  # of a vertex function: two of them have every function once
STATE = 6
Shape = tuple[int, ...]

# (left, right) as they broadcast, either way round
PAIRS: list[tuple[Shape, Shape]] = [
    ((), ()),
    ((3,), ()),
    ((3,), (3,)),
    ((3,), (1,)),
    ((1,), (1,)),
    ((2, 3), ()),
    ((2, 3), (3,)),
    ((2, 3), (1, 3)),
    ((2, 3), (2, 1)),
    ((2, 3), (2, 3)),
    ((2, 1), (3,)),
    ((2, 1), (1, 3)),
    ((2, 3, 2), (2, 1, 2)),
    ((2, 3, 2), (3, 1)),
    ((2, 1, 2), (1, 3, 1)),
    ((1, 1), (1, 1, 1)),
    ((2, 3, 2), (2, 3, 2)),
]
SHAPES: list[Shape] = [(), (1,), (3,), (6,), (1, 3), (2, 3), (3, 1)]
SHAPES += [(2, 3, 2), (1, 1, 1), (2, 1, 3)]


@dataclass(frozen=True)
class Use:
    """A function and its operands: shapes, and where each comes from."""

    name: str
    call: Callable[..., Any]
    shapes: tuple[Shape, ...]
    sources: tuple[str, ...]

    def __str__(self) -> str:
        given = ", ".join(f"{s} {w}" for s, w in zip(self.shapes, self.sources, strict=True))
        return f"{self.name}({given})"


UNARY: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "sigmoid": cavs.sigmoid,
    "tanh": cavs.tanh,
    "relu": cavs.relu,
    "silu": cavs.silu,
    "gelu": cavs.gelu,
    "exp": cavs.exp,
    "log": cavs.log,
    "sqrt": cavs.sqrt,
    "abs": cavs.abs,
    "softmax": cavs.softmax,
    "log_softmax": cavs.log_softmax,
    "reduce_sum": cavs.reduce_sum,
    "reduce_sum keep": lambda x: cavs.reduce_sum(x, keepdims=True),
    "reduce_mean": cavs.reduce_mean,
    "reduce_max": cavs.reduce_max,
    "reduce_max keep": lambda x: cavs.reduce_max(x, keepdims=True),
    "layer_norm": lambda x: cavs.layer_norm(x, 1.0, 0.5),
    "split": lambda x: cavs.split(x, 3)[1],
    "split all": lambda x: cavs.concat(*cavs.split(x, 2)[::-1], axis=-1),
    "slice": lambda x: x[0:1],
    "slice end": lambda x: x[1:],
    "flat": lambda x: cavs.reshape(x, (x.type.size,)),
    "tall": lambda x: cavs.reshape(x, (x.type.size, 1)),
    "cube": lambda x: cavs.reshape(x, (1, x.type.size, 1)),
    "one_hot": lambda x: cavs.one_hot(cavs.argmax(x), x.type.size),
    "pick argmax": lambda x: cavs.pick(x, cavs.argmax(x)),
}
BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "maximum": cavs.maximum,
    "minimum": cavs.minimum,
    "greater": cavs.greater,
    "less or equal": lambda a, b: a <= b,
    "equal": lambda a, b: cavs.equal(a, b) + a * b,
    "where": lambda a, b: cavs.where(a > b, a, b),
    "where one": lambda a, b: cavs.where(a > 0.9, b, 1.0),
}
SOURCES = ("input", "child", "parameter", "constant", "of input", "of child", "of parameter")


def uses(rng: np.random.Generator) -> Iterator[Use]:
    """Uses without end; each function comes in turn, with operands by chance."""

    def source(n: int) -> tuple[str, ...]:
        return tuple(str(s) for s in rng.choice(SOURCES, n))

    while True:
        for name, call in UNARY.items():
            shape = SHAPES[rng.integers(len(SHAPES))]
            yield Use(name, call, (shape,), source(1))
        for name, call in BINARY.items():
            pair = PAIRS[rng.integers(len(PAIRS))][:: rng.choice([1, -1])]
            yield Use(name, call, pair, source(2))
        n, k = (int(i) for i in rng.integers(1, 7, 2))
        yield Use("matmul", lambda a, b: a @ b, ((n,), (n, k)), (source(1)[0], "parameter"))
        yield Use("matmul of", lambda a, b: a @ b, ((n,), (n, k)), (source(1)[0], "of parameter"))
        yield Use("matmul any", lambda a, b: a @ b, ((n,), (n, k)), source(2))
        yield Use("matmul flat", flat_product(n, k), ((n,), (n * k,)), (source(1)[0], "parameter"))
        pair = PAIRS[rng.integers(len(PAIRS))]
        yield Use("concat", cavs.concat, (pair[0], pair[0]), source(2))
        last = (*pair[0][:-1], pair[0][-1] + 1) if pair[0] else (1,)
        yield Use(
            "concat last", lambda a, b: cavs.concat(a, b, axis=-1), (pair[0], last), source(2)
        )
        yield Use("concat vectors", cavs.concat, ((3,), (1,), (2,)), source(3))


def flat_product(n: int, k: int) -> Callable[..., Any]:
    return lambda a, b: a @ cavs.reshape(b, (n, k))


class Uses(cavs.VertexFunction):
    """All uses summed up, weighted by numbers of the vertex; h goes through a sigmoid."""

    arity = 2

    def __init__(self, given: Sequence[Use]) -> None:
        self.state, self.uses = {"h": STATE, "one": 1}, given
        self.W = cavs.Parameter((STATE, STATE))
        self.P: list[cavs.Parameter] = []
        self.at: dict[tuple[int, int], int] = {}
        for i, use in enumerate(given):
            for j, (shape, source) in enumerate(zip(use.shapes, use.sources, strict=True)):
                if source.endswith("parameter"):
                    self.at[i, j] = len(self.P)
                    self.P.append(cavs.Parameter(shape or (1,)))

    def operand(self, v: cavs.Vertex, i: int, j: int, shape: Shape, source: str) -> Any:
        """Positive everywhere, so that logarithms and quotients are smooth."""
        size = prod(shape)
        match source.split()[-1]:
            case "parameter":
                p = self.P[self.at[i, j]]
                value: Any = v.param(p) if isinstance(p, cavs.Parameter) else p
                value = value if shape else cavs.reshape(value, ())
            case "input":
                value = v.pull("x" + "x".join(map(str, shape)), shape, "float32")
            case "child":
                h = v.gather(j % 2).h
                value = cavs.reshape(cavs.concat(h, h)[0:size] + 0.25, shape)
            case _:
                return 0.75 if not shape else full(v._builder, 0.75, shape)
        return cavs.sqrt(value) * 1.5 if source.startswith("of") else value

    def forward(self, v: cavs.Vertex) -> None:
        total = cavs.reduce_sum(v.gather(0).h + v.gather(1).h) * 0.1
        for i, use in enumerate(self.uses):
            pairs = enumerate(zip(use.shapes, use.sources, strict=True))
            y = use.call(*(self.operand(v, i, j, *pair) for j, pair in pairs))
            size = y.type.size
            weight = v.pull("weight", (24,))[i % 3 : i % 3 + size]
            total = total + cavs.reduce_sum(cavs.reshape(y, (size,)) * weight)
        h = cavs.sigmoid(v.pull("x6", (6,)) @ self.W + total * (0.1 / len(self.uses)))
        v.scatter(h=h, one=h[0:1] * 0.5 + 1.0)
        v.push("y", total)


@dataclass(frozen=True)
class Total(cavs.loss.LossFunction):
    """The sum of what all uses gave, times a number of the vertex."""

    def forward(self, v: cavs.Vertex) -> None:
        v.push("loss", v.output("y") * v.pull("x", (), "float32"))


def graphs(rng: np.random.Generator) -> cavs.Graph:
    """Leaves, vertices with two children, and with one child twice: two kinds."""
    children: list[list[int]] = [[], [], [0, 1], [2, 2]]
    inputs = {"x" + "x".join(map(str, s)): random(rng, (4, *s)) for s in SHAPES_PULLED}
    inputs["weight"] = random(rng, (4, 24))
    return cavs.Graph.from_children(children, inputs)


LONGER = {(*pair[0][:-1], (pair[0] or (0,))[-1] + 1) for pair in PAIRS}
PRODUCTS = {(n, k) for n in range(1, 7) for k in range(1, 7)} | {(n,) for n in range(1, 37)}
SHAPES_PULLED = sorted({*SHAPES, *LONGER, *PRODUCTS, *(s for pair in PAIRS for s in pair)})


def random(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 1.5, shape).astype("float32")


def traced(use: Use) -> bool:
    """Whether the language takes a use; what it does not take, it refuses in its own words."""
    try:
        cavs.Network(Uses([use])).programs(Total())
    except cavs.CavsError as error:
        assert use.name.split()[0] in str(error) or "line" in str(error), error
        return False
    return True


def made(
    given: Sequence[Use], executor: str, rng: np.random.Generator, **options: Any
) -> cavs.Network:
    net = cavs.Network(Uses(given))
    for p in net.parameters().values():
        p.set_data(random(rng, p.shape))
    net.hybridize(executor, **options)
    return net


def run(net: cavs.Network, graph: cavs.Graph) -> tuple[float, dict[str, np.ndarray]]:
    with cavs.record():
        loss = Total()(net(graph))
    loss.backward()
    found = {name: np.array(p.grad) for name, p in net.parameters().items()}
    return float(loss), found


@pytest.fixture(scope="module", params=range(N_FUNCTIONS))
def drawn(request: pytest.FixtureRequest) -> tuple[int, list[Use]]:
    rng, found = np.random.default_rng(request.param), []
    for use in uses(rng):
        found += [use] if traced(use) else []
        if len(found) == N_USES:
            return request.param, found
    raise AssertionError


def test_both_executors_agree(drawn: tuple[int, list[Use]]) -> None:
    seed, given = drawn
    graph, found = graphs(np.random.default_rng(seed)), {}
    given_options: dict[str, dict[str, Any]] = {"reference": {}, "tvm": {"threads": 1}}
    for executor, options in given_options.items():
        net = made(given, executor, np.random.default_rng(seed), **options)
        found[executor] = run(net, graph)
    (want, wanted), (got, gradients) = found["reference"], found["tvm"]
    function = Uses(given)
    whose = {f"P.{at}": given[i] for (i, _), at in function.at.items()}
    wrong = [
        f"{whose.get(name, name)}: {gradients[name].ravel()[:4]} for {value.ravel()[:4]}"
        for name, value in wanted.items()
        if not np.allclose(gradients[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())
    ]
    assert not wrong, "\n".join(wrong)
    assert abs(got - want) <= 1e-4 * abs(want)


def test_gradients_are_those_of_differences(drawn: tuple[int, list[Use]]) -> None:
    """Along one direction of all parameters; then, if that is wrong, of each. Double precision."""
    seed, given = drawn
    rng, graph = np.random.default_rng(seed), graphs(np.random.default_rng(seed))
    net = made(given, "reference", np.random.default_rng(seed), dtype="float64")
    _, gradients = run(net, graph)
    whose = {f"P.{at}": given[i] for (i, _), at in Uses(given).at.items()}
    turned = {name: rng.choice([-1.0, 1.0], p.shape) for name, p in net.parameters().items()}
    if not follows(net, graph, gradients, turned):
        wrong = [n for n in turned if not follows(net, graph, gradients, {n: turned[n]})]
        pytest.fail(", ".join(str(whose.get(n, n)) for n in wrong) or "all of them together")


def follows(
    net: cavs.Network,
    graph: cavs.Graph,
    gradients: dict[str, np.ndarray],
    direction: dict[str, np.ndarray],
) -> bool:
    """Whether the loss changes along a direction as its gradients say."""
    data = {name: net.parameters()[name].data.copy() for name in direction}
    step, values = 2.0**-10, []
    for sign in (1, -1):
        for name, d in direction.items():
            net.parameters()[name].set_data(data[name] + np.float32(sign * step) * d)
        with cavs.record():
            values.append(float(Total()(net(graph))))
    for name, value in data.items():
        net.parameters()[name].set_data(value)
    want = (values[0] - values[1]) / (2 * step)
    got = sum(float((gradients[name] * d).sum()) for name, d in direction.items())
    scale = max(float(np.abs(gradients[name]).max()) for name in direction)
    return abs(got - want) <= 1e-3 * scale
