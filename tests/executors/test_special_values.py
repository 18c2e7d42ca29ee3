"""The law where floats are not real numbers: 0/0, log 0, inf - inf, NaN, and absent children.

One tree has one answer, outputs and gradients: in a batch of any size, in both executors, in
specialised and in masked kinds. NaN equals NaN. Every formula has a state and parameters of its
own, so that what one of them makes does not cover what another does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers import functions
from helpers.gradient_check import SEEDS
from helpers.gradient_check import dense as dense_of
from helpers.law import run
from helpers.per_vertex import PerVertex
from tvm_cavs.compiler import widening
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.language.value import Value

pytestmark = pytest.mark.compiles

N = 3
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -0.75, 0.5, 2.0, -1.5, 1.25, 0.25]


@dataclass
class Here:
    """What a formula computes with: an input, two children's states, parameters of its own."""

    v: cavs.Vertex
    x: Value
    a: Value
    b: Value
    p: Value
    U: Value
    W: Value  # float32[2 * N, N]
    E: Value  # float32[4, N]


Formula = Callable[[Here], Value]
NUMBERS: dict[str, Formula] = {
    # what TVM or an eager rewrite takes for a real number's law
    "times_zero": lambda f: f.x * 0.0 + f.p * f.p,
    "zero_over": lambda f: 0.0 / (f.x * f.p),
    "minus_itself": lambda f: (y := cavs.tanh(f.x @ f.U)) - y + f.p * y,
    "over_itself": lambda f: (y := f.x * f.p) / y,
    "zero_minus": lambda f: 1.0 / (0.0 - f.x * f.p),
    "plus_zero": lambda f: 1.0 / (f.x * f.p + f.a * 0.0),
    "overflow": lambda f: cavs.exp(f.x * 1e30 * 1e30) * f.p,
    "underflow": lambda f: f.p / cavs.exp(f.p * 0.0 - 200.0) + f.x * 1e-30 * 1e-30,
    # the edges of single ops
    "log": lambda f: cavs.log(f.x) * f.p,
    "sqrt": lambda f: cavs.sqrt(f.x * f.p + f.a),
    "reciprocals": lambda f: 1.0 / cavs.abs(f.x * f.p) - 1.0 / cavs.relu(f.x * f.p),
    "larger": lambda f: cavs.maximum(f.x, f.p * f.a) + cavs.minimum(f.x * f.p, f.b),
    "compared": lambda f: cavs.greater(f.x, f.a) * f.p - cavs.equal(f.x, f.x) * f.b,
    "where_itself": lambda f: cavs.where(f.x, f.a + f.p, f.p * 2.0),
    "where_there": lambda f: cavs.where(f.v.present("x"), f.x * f.a, f.b) + f.p,
    "softmax": lambda f: cavs.softmax(f.x * f.p) + cavs.log_softmax(f.x + f.a),
    "largest": lambda f: cavs.reduce_max(f.x * f.p) + f.p * cavs.reduce_sum(f.a),
    "chosen": lambda f: cavs.pick(f.x * f.p, cavs.argmax(f.x)) + f.a,
    "dropped": lambda f: f.v.dropout(f.x * f.p, 0.5) + f.v.dropout(f.a * f.x, 0.5),
}
CHILDREN: dict[str, Formula] = {  # of children that are not there
    "mean": lambda f: cavs.tanh((f.a + f.b) / (count(f, 0) + count(f, 1))) + f.p,
    "gates": lambda f: cavs.sigmoid(f.x * f.p) * f.a + (f.x @ f.U) * f.b,
    "gates_alone": lambda f: (f.x * f.p) * f.a * f.b - f.p,
    "stacked": lambda f: cavs.tanh(f.x @ f.U + cavs.concat(f.a, f.b) @ f.W + f.p),
    "reset": lambda f: (
        (cavs.concat(f.x * f.p, cavs.tanh(f.x @ f.U)) * cavs.concat(f.a, f.b)) @ f.W + f.p
    ),
    "squashed": lambda f: cavs.tanh(cavs.concat(f.a, f.x, f.b))[1:7] @ f.W + f.p * f.p,
    "over_absent": lambda f: f.p / f.a + f.p / (2.0 * f.b),
    "unit": lambda f: f.a / cavs.sqrt(cavs.reduce_sum(f.a * f.a)) * f.p + f.p,
    "alike": lambda f: cavs.equal(f.x, f.a) * f.p + f.x,
    "negated": lambda f: 1.0 / (-f.a) + (f.p - f.b),
    "attention": lambda f: attention(f),
    "literal": lambda f: ((f.a + f.b) / 2.0 + 0.0) @ f.U * f.x - f.x * f.p,
    "table": lambda f: cavs.embedding(f.v.pull("word"), f.E) * f.x + f.a,
}
INPUTS: dict[str, Formula] = {  # of inputs that are not there
    "weighted": lambda f: weight(f) * f.p + f.x * weight(f),
    "shared_out": lambda f: f.p / weight(f) - (f.x * weight(f)) @ f.U,
    "beside": lambda f: cavs.concat(f.x, -cavs.embedding(f.v.pull("word"), f.E)) @ f.W + f.a,
    "counted": lambda f: f.p * (f.v.present("word") + f.v.present("w")) + 1.0 / f.v.present("w"),
    "classes": lambda f: (
        cavs.equal(f.v.pull("word"), cavs.argmax(f.x)) * f.p
        + cavs.one_hot(f.v.pull("word"), 4)[:N] * f.x * f.p
    ),
    "both": lambda f: cavs.equal(f.v.pull("word"), f.v.pull("tag")) * f.p + f.x,
    "triples": lambda f: (
        cavs.equal(f.v.pull("triple", 3, "int32"), f.v.pull("word")) * f.p
        + cavs.equal(triple_of(f), f.v.pull("triple", 3, "int32")) * f.x
    ),
    "picked": lambda f: (
        cavs.pick(cavs.log_softmax(cavs.concat(f.x * f.p, f.a)), f.v.pull("word")) * f.p
    ),
    "added": lambda f: (f.x + weight(f) * f.p) + (f.b + f.x),
    "over_one": lambda f: (
        first(cavs.concat(f.a, f.p) / f.v.present("x") * cavs.concat(f.x, f.x)) + f.p
    ),
}
FORMULAS = NUMBERS | CHILDREN | INPUTS


def first(x: Value) -> Value:
    """The first half of 2 * N values, which all are computed."""
    return cavs.reshape(cavs.reshape(x, (2, N))[0:1], (N,))


def triple_of(f: Here) -> Value:
    """Three integers, of which some are not there."""
    return cavs.concat(cavs.reshape(f.v.pull("tag"), (1,)), f.v.pull("triple", 3, "int32")[:2])


def weight(f: Here) -> Value:
    """A scalar input."""
    return f.v.pull("w", (), "float32")


def count(f: Here, slot: int) -> Value:
    """1 of the child in a slot."""
    return f.v.gather(slot).one


def attention(f: Here) -> Value:
    """Over two children of which one may be absent, or both."""
    both = cavs.reshape(cavs.concat(f.a, f.b), (2, N))
    weights = cavs.softmax(cavs.reduce_sum(both * f.x) + f.p[:2])
    mixed = both * cavs.reshape(weights, (2, 1))
    return cavs.reshape(mixed[0:1] + mixed[1:2], (N,)) + f.p


class Special(cavs.VertexFunction):
    """All formulas side by side."""

    def __init__(self, arity: int = 2, names: tuple[str, ...] = tuple(FORMULAS)) -> None:
        self.arity, self.names = arity, names
        self.state = {**dict.fromkeys(names, N), "one": 1}
        self.p = [cavs.Parameter((N,)) for _ in names]
        self.U = [cavs.Parameter((N, N)) for _ in names]
        self.W = [cavs.Parameter((2 * N, N)) for _ in names]
        self.E = cavs.Parameter((4, N))

    def forward(self, v: cavs.Vertex) -> None:
        x, states, score = v.pull("x", (N,)), {}, v.pull("bias", (), "float32")
        for k, name in enumerate(self.names):
            a, b = (getattr(v.gather(s), name) for s in (0, self.arity - 1))
            own: Any = (self.p[k], self.U[k], self.W[k], self.E)
            y = FORMULAS[name](Here(v, x, a, b, *own))
            states[name] = y
            score = score + cavs.reduce_sum(y)
            v.push(name, y)
        v.scatter(one=cavs.reshape(v.present("bias"), (1,)), **states)
        v.push("score", score)


def special_graphs(arity: int, n: int, seed: int, lacking: float = 0.25) -> list[cavs.Graph]:
    """Small trees with empty slots anywhere, inputs of special numbers at some vertices."""
    rng, graphs = np.random.default_rng(seed), []
    for number in range(n):
        size = int(rng.integers(1, 6))
        children: list[list[int | None]] = [[] for _ in range(size)]
        for child in range(size - 1):
            parent = int(rng.integers(child + 1, size))
            children[parent] += [None] * (arity - len(children[parent]))
            free = [s for s, held in enumerate(children[parent]) if held is None]
            if free:
                children[parent][int(rng.choice(free))] = child
        ordinary = rng.random() < 0.4
        rows = [
            rng.choice(SPECIAL[5:] if ordinary or rng.random() < 0.3 else SPECIAL, N)
            for _ in range(size)
        ]
        held, *others = rng.random((5, size)) > lacking
        inputs = {
            "x": [r.astype("float32") if h else None for r, h in zip(rows, held, strict=True)],
            "word": [int(rng.integers(4)) if there else None for there in others[0]],
            "tag": [int(rng.integers(4)) if there else None for there in others[1]],
            "triple": [rng.integers(-1, 3, 3) if there else None for there in others[3]],
            "w": [float(rng.choice(SPECIAL)) if there else None for there in others[2]],
            "bias": [0.5] * size,
        }
        ids = 100 * number + np.arange(size)  # its own, so that it drops the same in any batch
        graphs.append(cavs.Graph.from_children(children, inputs, ids))
    return graphs


def assert_same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """NaN and infinities in the same places; what is finite is near (large terms may cancel)."""
    finite = np.isfinite(want)
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0)))
    np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, want), what)
    np.testing.assert_allclose(
        got[finite], want[finite], rtol=1e-3, atol=1e-3 * scale, err_msg=what
    )


@dataclass
class Case:
    """A network, graphs, and what the reference says of each graph alone."""

    net: cavs.Network
    graphs: list[cavs.Graph]
    alone: list[tuple[dict[str, np.ndarray], ...]]

    def check(self, chosen: list[int]) -> None:
        """A batch of these graphs gives what each of them gives alone."""
        got = run(self.net, functions.Score(), cavs.batch([self.graphs[i] for i in chosen]))
        for name in got[0]:
            want = np.concatenate([self.alone[i][0][name] for i in chosen])
            assert_same(got[0][name], want, f"{name} of {len(chosen)} graphs")
        with np.errstate(all="ignore"):
            for name in got[2]:
                want = np.sum([self.alone[i][2][name] for i in chosen], axis=0)
                assert_same(got[2][name], want, f"gradient of {name}, {len(chosen)} graphs")


def make(function: cavs.VertexFunction, graphs: list[cavs.Graph], cache: Path) -> Case:
    net = cavs.Network(function)
    net.initialize(seed=0)
    rng = np.random.default_rng(1)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 0.5, p.shape))
    net.seed(7)
    net.hybridize("reference")
    alone = [run(net, functions.Score(), g) for g in graphs]
    net.hybridize("tvm", threads=1, cache=cache)
    return Case(net, graphs, alone)


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("name", FORMULAS)
def test_kinds_mean_what_the_reference_says(name: str, arity: int) -> None:
    """Without kernels: specialised and masked programs, each vertex by those of its kind."""
    slots, pulls = range(arity), ("x", "word", "tag", "triple", "w")
    net = cavs.Network(Special(arity, (name,)))
    net.initialize(seed=0)
    rng = np.random.default_rng(1)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 0.5, p.shape))
    programs = net.programs(functions.Score())
    graph = cavs.batch(special_graphs(arity, 20, arity))
    plain = ReferenceExecutor(programs, net.parameters(), "float64")
    want, exact = plain.forward(graph, SEEDS).outputs, plain.backward()
    for maybe in ((), slots, pulls, (*slots, *pulls)):
        runner = PerVertex(programs, net.parameters(), True, {}, maybe)
        outputs, gradients = runner.forward(graph, SEEDS), None
        for output, values in want.items():
            assert_same(np.array(outputs[output]), values, f"{output}, maybe {maybe}")
        gradients = runner.backward()
        for parameter, p in net.parameters().items():
            given, wanted = (dense_of(g[parameter], p.shape) for g in (gradients, exact))
            assert_same(given, wanted, f"gradient of {parameter}, maybe {maybe}")


COMPILED = {
    1: "times_zero zero_over zero_minus log sqrt reciprocals compared where_itself dropped",
    2: "mean gates negated",
}


@pytest.mark.parametrize("arity", COMPILED)
def test_one_tree_has_one_answer(arity: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of 1 to 8 and more; of two children, one set of slots is specialised."""
    monkeypatch.setattr(widening, "MAX_SLOT_SETS", 1)
    graphs = special_graphs(arity, 24, 3, lacking=0.0)
    case = make(Special(arity, tuple(COMPILED[arity].split())), graphs, cache)
    rng = np.random.default_rng(2)
    for size in (*range(1, 9), 24):
        case.check(rng.permutation(24)[:size].tolist())
    for i in range(24):
        case.check([i])


class Broadcast(cavs.VertexFunction):
    """A number and a child's state, to which it is broadcast."""

    arity = 1
    state = {"h": N}

    def forward(self, v: cavs.Vertex) -> None:
        y = v.pull("x", (1,)) + v.gather(0).h
        v.scatter(h=y)
        v.push("inverse", 1.0 / y)


@pytest.mark.parametrize("executor", ["reference", "tvm"])
def test_what_is_absent_changes_no_sign(executor: str, cache: Path) -> None:
    """-0.0 and an absent child's state are -0.0 together, in as many elements as the state has."""
    net = cavs.Network(Broadcast())
    net.hybridize(executor, **({"threads": 1, "cache": cache} if executor == "tvm" else {}))
    graph = cavs.Graph.from_sequence(1, {"x": [[-0.0]]})
    np.testing.assert_array_equal(net(graph)["inverse"], np.full((1, N), -np.inf))


def test_one_tree_has_one_answer_in_wide_kinds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first vertices are specialised; soon inputs and children are read and masked."""
    monkeypatch.setattr(widening, "MAX_SLOT_SETS", 1)
    monkeypatch.setattr(widening, "MAX_KINDS", 2)
    graphs = special_graphs(2, 24, 3, lacking=0.4)
    names = ("gates", "table", "weighted", "beside", "both", "picked")
    case = make(Special(2, names), graphs, cache)
    rng = np.random.default_rng(2)
    for size in (1, 24, *range(2, 9)):
        case.check(rng.permutation(24)[:size].tolist())
    for i in range(24):
        case.check([i])
