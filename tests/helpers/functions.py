"""Vertex functions that exercise what cells do not: many ops, odd uses of state, random calls."""

from typing import Any

import numpy as np

import tvm_cavs as cavs
from helpers.random_graphs import N_CLASSES, N_WORDS, WIDTH
from tvm_cavs.language.value import Value
from tvm_cavs.language.vertex import Vertex, VertexFunction, call
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import LossFunction, SoftmaxCrossEntropy, SquaredError


class Score(LossFunction):
    """Whatever was pushed as `score`."""

    def forward(self, v: Vertex) -> None:
        v.push("loss", v.output("score"))


class Attention(VertexFunction):
    """Softmax attention over two children, layer norm, a gate on an input that may be absent."""

    arity = 2

    def __init__(self, width: int = 4) -> None:
        self.state = {"h": width, "m": 1}
        self.width = width
        self.Q = cavs.Parameter((WIDTH, width))
        self.K = cavs.Parameter((width, width))
        self.O = cavs.Parameter((width, width))
        self.scale, self.shift = cavs.Parameter((width,)), cavs.Parameter((width,))
        self.s = cavs.Parameter((1,))

    def forward(self, v: Vertex) -> None:
        left, right = v.gather(0), v.gather(1)
        q = v.pull("x", (WIDTH,)) @ self.Q + self.shift
        keys = cavs.reshape(cavs.concat(left.h @ self.K, right.h @ self.K), (2, self.width))
        weights = cavs.softmax(cavs.reduce_sum(keys * q))  # [2]
        states = cavs.reshape(cavs.concat(left.h, right.h), (2, self.width))
        mixed = states * cavs.reshape(weights, (2, 1))  # [2, width]
        below = mixed[0:1] + mixed[1:2]
        h = cavs.gelu(cavs.reshape(below, (self.width,)) @ self.O + q)
        h = cavs.layer_norm(h + 0.5 * cavs.silu(q), self.scale, self.shift)
        big = cavs.reduce_max(h, keepdims=True)
        h = cavs.where(v.present("x"), h, cavs.minimum(h, big * 0.5)) / (1.0 + cavs.abs(self.s))
        m = cavs.maximum(left.m, right.m) + cavs.sqrt(cavs.exp(big)) - cavs.log(1.0 + big * big)
        v.scatter(h=v.dropout(h, 0.2), m=0.1 * m)
        v.push("prediction", cavs.reduce_mean(h) + 0.1 * cavs.reshape(m, ()))
        v.push("score", cavs.reduce_sum(h * self.scale))


class OneSlot(VertexFunction):
    """Two children allowed, only slot 1 read, and only one of two fields."""

    arity = 2
    state = {"a": 2, "b": 2}

    def __init__(self) -> None:
        self.W, self.v = cavs.Parameter((2, 2)), cavs.Parameter((2,))

    def forward(self, v: Vertex) -> None:
        h = cavs.tanh(v.gather(1).a @ self.W + self.v)
        v.scatter(a=h, b=h)
        v.push("score", cavs.reduce_sum(h))


class Beside(VertexFunction):
    """What goes back through one product goes to both children, side by side, and to a table."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.E, self.W = cavs.Parameter((N_WORDS, 6)), cavs.Parameter((6, 3))

    def forward(self, v: Vertex) -> None:
        below = cavs.concat(v.gather(0).h, v.gather(1).h)
        h = cavs.tanh((below + cavs.embedding(v.pull("word"), self.E)) @ self.W)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


class Linear(VertexFunction):
    """Its gradients are the same at every vertex; parameters meet before any vertex does."""

    arity = 2
    state = {"h": 2}

    def __init__(self) -> None:
        self.U, self.W, self.b = (cavs.Parameter(s) for s in ((2, 2), (2, 2), (2,)))

    def forward(self, v: Vertex) -> None:
        h = v.gather(0).h * 0.5 + v.gather(1).h * 0.25 + self.b * self.b
        y = h @ (self.U * self.W) + self.b @ self.U
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(y + y))


class Passed(VertexFunction):
    """A child's state and an input are scattered as they are; one value is scattered twice."""

    arity = 2
    state = {"a": 3, "b": 3, "c": 3}

    def __init__(self) -> None:
        self.W = cavs.Parameter((3, 3))

    def forward(self, v: Vertex) -> None:
        x = v.pull("x", (WIDTH,)) @ self.W
        v.scatter(a=x, b=x, c=v.gather(0).a)
        v.push("score", cavs.reduce_sum(cavs.tanh(v.gather(1).c * v.gather(0).b + x)))


class Deep(VertexFunction):
    """Two layers on an input that may be absent: its first layer is then a constant, not zero."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.A, self.B = cavs.Parameter((WIDTH, 4)), cavs.Parameter((4, 3))
        self.U = cavs.Parameter((6, 3))

    def forward(self, v: Vertex) -> None:
        x = cavs.sigmoid(v.pull("x", (WIDTH,)) @ self.A) @ self.B
        h = cavs.tanh(x + cavs.concat(v.gather(0).h, v.gather(1).h) @ self.U)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h * x))


class Doubled(VertexFunction):
    """The same product and the same sum twice in one sum."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.U, self.V, self.b = (cavs.Parameter(s) for s in ((3, 3), (3, 3), (3,)))

    def forward(self, v: Vertex) -> None:
        left, right = v.gather(0).h, v.gather(1).h
        both = left @ self.U + right @ self.V
        h = cavs.tanh(both + both + (left @ self.U + left @ self.U) + self.b)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


class TwoLooks(VertexFunction):
    """One table is looked up twice by one input, before a gather and after it."""

    arity = 2
    state = {"h": 2}

    def __init__(self) -> None:
        self.E = cavs.Parameter((N_WORDS, 2))

    def forward(self, v: Vertex) -> None:
        first = cavs.embedding(v.pull("word"), self.E)
        second = cavs.embedding(v.pull("word"), self.E)
        h = cavs.tanh(first + v.gather(0).h + v.gather(1).h)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h * second))


class TwoOrOne(VertexFunction):
    """Some kinds of vertices add the same gradient twice, others once; biases are alike."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.a, self.b, self.c, self.d = (cavs.Parameter((3,)) for _ in range(4))

    def forward(self, v: Vertex) -> None:
        h = v.gather(0).h + v.gather(1).h + v.present("x") * self.b + self.b + self.d
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(cavs.tanh(h + self.a + self.c) + h))


class EachStage(VertexFunction):
    """Gradients of one parameter are sums over vertices of the eager and of the lazy stage."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.W, self.V, self.b = (cavs.Parameter(s) for s in ((3, 3), (3, 3), (3,)))

    def forward(self, v: Vertex) -> None:
        x, left, twice = v.pull("x", (WIDTH,)), v.gather(0).h, self.W * 2.0  # type: ignore[operator]
        h = cavs.tanh(x @ self.V + left @ twice + v.gather(1).h + self.b)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(cavs.exp(x) @ twice + h * self.b))


class Sometimes(VertexFunction):
    """A table that gets a gradient from some of the vertices that look it up."""

    arity = 1
    state = {"h": 2}

    def __init__(self) -> None:
        self.E = cavs.Parameter((N_WORDS, 2))

    def forward(self, v: Vertex) -> None:
        seen = v.present("x") * cavs.embedding(v.pull("word"), self.E)
        h = cavs.tanh(seen + v.gather(0).h)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


class Parts(VertexFunction):
    """Parameters used in parts, side by side, stacked, square ones plain and transposed; a bias of
    all parts; biases that some kinds of vertices leave out.
    """

    arity = 2
    state = {"h": 4}

    def __init__(self) -> None:
        self.A, self.B, self.S, self.T = (cavs.Parameter((4, 4)) for _ in range(4))
        self.C, self.D = cavs.Parameter((WIDTH, 3)), cavs.Parameter((WIDTH, 1))
        self.W = cavs.Parameter((8, 4))
        self.b, self.c, self.d, self.e, self.f = (cavs.Parameter((4,)) for _ in range(5))

    def forward(self, v: Vertex) -> None:
        left, right, x = v.gather(0).h, v.gather(1).h, v.pull("x", (WIDTH,))
        stacked = left @ self.A + right @ self.B + self.b
        beside = x @ cavs.concat(self.C, self.D, axis=1) + self.c  # type: ignore[arg-type]
        square = left @ self.S + right @ call("transpose", self.S)
        turned = right @ call("transpose", self.T)
        some = stacked @ self.W[:4] + v.present("x") * (square @ self.W[4:])  # type: ignore[index]
        gate = self.d + self.e + v.present("x") * self.f
        h = cavs.tanh(stacked + cavs.tanh(beside) + square + turned + cavs.tanh(some + gate))
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h * x[0:1] + some))


class Halves(VertexFunction):
    """One parameter of two parts, of which the second is used only where there is an input."""

    arity = 1
    state = {"h": 4}

    def __init__(self) -> None:
        self.W = cavs.Parameter((8, 4))

    def forward(self, v: Vertex) -> None:
        below = v.gather(0).h @ self.W[:4]  # type: ignore[index]
        h = cavs.tanh(1.0 + below + v.pull("x", (4,)) @ self.W[4:])  # type: ignore[index]
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


class FiveGates(VertexFunction):
    """A binary Tree-LSTM as a textbook writes it: every gate its own products and bias."""

    arity = 2

    def __init__(self, hidden: int = 3) -> None:
        self.state = {"h": hidden, "c": hidden}
        self.E = cavs.Parameter((N_WORDS, 2))
        self.W = [cavs.Parameter((2, hidden)) for _ in range(5)]
        self.L = [cavs.Parameter((hidden, hidden)) for _ in range(5)]
        self.R = [cavs.Parameter((hidden, hidden)) for _ in range(5)]
        self.b = [cavs.Parameter((hidden,)) for _ in range(5)]
        self.V = cavs.Parameter((hidden, N_CLASSES))

    def forward(self, v: Vertex) -> None:
        left, right = v.gather(0), v.gather(1)
        x = cavs.embedding(v.pull("word"), self.E)

        def gate(k: int) -> Value:
            return x @ self.W[k] + left.h @ self.L[k] + right.h @ self.R[k] + self.b[k]  # type: ignore[operator,no-any-return]

        c = cavs.sigmoid(gate(0)) * cavs.tanh(gate(1))
        c = c + cavs.sigmoid(gate(2)) * left.c + cavs.sigmoid(gate(3)) * right.c
        h = cavs.sigmoid(gate(4)) * cavs.tanh(c)
        v.scatter(h=h, c=c)
        v.push("logits", h @ self.V)


class Random(VertexFunction):
    """Random calls on vectors, matrices and scalars; what is not finite does not arise."""

    arity = 2
    WIDTHS = (1, 3, 4, 6)

    def __init__(self, seed: int, n_calls: int = 25) -> None:
        self.state = {"h": 3, "g": 4}
        self.seed, self.n_calls = seed, n_calls
        self.M = [cavs.Parameter((m, n)) for m in self.WIDTHS for n in self.WIDTHS]
        self.v = [cavs.Parameter((n,)) for n in self.WIDTHS]

    def forward(self, v: Vertex) -> None:
        self.rng = np.random.default_rng(self.seed)
        left, right = v.gather(0), v.gather(1)
        self.pool: list[Value] = [left.h, left.g, right.h, right.g, v.pull("x", (WIDTH,))]
        self.pool += [*self.v, v.pull("target", (), "float32"), v.present("x")]  # type: ignore[list-item]
        self.pool += [cavs.one_hot(v.pull("word"), N_WORDS)[:4], cavs.concat(left.h, right.h)]
        for _ in range(self.n_calls):
            self.pool.append(self.made(v))
        for want in (3, 4):
            ends = [x for x in self.pool[-12:] if x.shape == (want,) and x.type.per == "vertex"]
            ends.append((left.h if want == 3 else left.g) * 0.5)
            setattr(self, f"end{want}", cavs.tanh(sum(ends[1:], ends[0])))
        v.scatter(h=self.end3, g=self.end4)  # type: ignore[attr-defined]
        score = v.pull("target", (), "float32")
        for x in self.pool[-8:]:
            score = score + cavs.reduce_sum(cavs.reshape(x, (x.type.size,)))
        v.push("score", score + cavs.reduce_sum(self.end3 * left.h))  # type: ignore[attr-defined]

    def pick(self, *shapes: tuple[int, ...]) -> Value:
        fitting = [x for x in self.pool if not shapes or x.shape in shapes]
        return fitting[self.rng.integers(len(fitting))]

    def made(self, v: Vertex) -> Value:
        """One more value, from values of the pool."""
        rng, x = self.rng, self.pick()
        n = x.shape[-1] if x.shape else 0
        match int(rng.integers(16)):
            case 0 | 1 if len(x.shape) == 1 and n in self.WIDTHS and x.type.per == "vertex":
                k = 4 * self.WIDTHS.index(n) + int(rng.integers(4))
                return x @ self.M[k]  # type: ignore[operator]
            case 2:
                return x + self.pick(x.shape)
            case 3:
                return cavs.tanh(x) * self.pick(x.shape, ())
            case 4 | 5 if len(x.shape) == 1:
                return cavs.concat(cavs.tanh(x), *(self.pick((1,), (3,), (4,)) for _ in range(2)))[
                    :6
                ]
            case 6 if n > 1:
                start = int(rng.integers(n))
                return (
                    x[start : int(rng.integers(start + 1, n + 1))] if len(x.shape) == 1 else x[:1]
                )
            case 7:
                return [cavs.sigmoid, cavs.relu, cavs.abs, cavs.silu, lambda x: -x][
                    rng.integers(5)
                ](x)  # type: ignore[no-any-return]
            case 8 if n:
                return [cavs.softmax, cavs.log_softmax][rng.integers(2)](x)
            case 9 if n > 1:
                return [cavs.reduce_sum, cavs.reduce_max, cavs.reduce_mean][rng.integers(3)](
                    x, keepdims=True
                )
            case 10:
                return cavs.where(v.present("x"), x, self.pick(x.shape, ()))
            case 11 if n and x.type.per == "vertex":
                return v.dropout(x, 0.3)
            case 12 if x.type.size in (4, 6):
                return cavs.reshape(x, (2, x.type.size // 2))
            case 13:
                return cavs.maximum(x, self.pick(x.shape, ())) - 0.5
            case 14 if x.shape:
                return cavs.reshape(x, (x.type.size,))
        return x / (1.0 + cavs.abs(self.pick(x.shape, ())))


ODD: dict[str, Any] = {
    "attention": Attention,
    "one_slot": OneSlot,
    "linear": Linear,
    "passed": Passed,
    "deep": Deep,
    "doubled": Doubled,
    "each_stage": EachStage,
    "parts": Parts,
}


# Vertex functions of all kinds, with a loss for each.
FUNCTIONS: dict[str, tuple[Any, LossFunction]] = {
    **{
        f"{n}": (lambda c=c: c(N_WORDS, 2, 3, N_CLASSES, dropout=0.3), SoftmaxCrossEntropy())
        for n, c in CELLS.items()
    },
    "tree_lstm_of_3": (
        lambda: CELLS["tree_lstm"](N_WORDS, 2, 3, N_CLASSES, arity=3),
        SoftmaxCrossEntropy(),
    ),
    **{name: (function, Score()) for name, function in ODD.items() if name != "attention"},
    "attention": (Attention, SquaredError()),
    "five_gates": (FiveGates, SoftmaxCrossEntropy()),
    **{f"random_{seed}": (lambda s=seed: Random(s), Score()) for seed in range(8)},
}
