"""Rewrites do what they are for, and keep shapes and meanings."""

import itertools
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.functions import FUNCTIONS, ODD, FiveGates, Score
from helpers.op_cases import CASES
from helpers.random_graphs import N_CLASSES, N_WORDS
from tvm_cavs.errors import ShapeError
from tvm_cavs.graph.kind import Kind
from tvm_cavs.language.ops import OPS
from tvm_cavs.language.program import Builder, Call, Program
from tvm_cavs.language.value import Type, full
from tvm_cavs.language.vertex import Vertex, VertexFunction, call, trace
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network
from tvm_cavs.transform.join_products import join_products
from tvm_cavs.transform.net_values import net_value
from tvm_cavs.transform.simplify import simplify
from tvm_cavs.transform.specialisation import canonical, specialise
from tvm_cavs.transform.stages import split

LOSS = SoftmaxCrossEntropy()


# ---- what the rewrites are for ----


def ops(program: Program, *names: str) -> list[str]:
    return [c.op for c in program.calls if not names or c.op in names]


def body(build: Any) -> Program:
    """A program of one expression: build(x, y) of vectors float32[3], and parameters by W(name)."""
    b = Builder("F")
    x, y = (b.call("gather", slot=k, field="h", type=Type((3,))) for k in (0, 1))

    def weight(name: str, shape: tuple[int, ...] = (3, 3)) -> Any:
        return b.call("param", name=name, type=Type(shape, per="net"))

    b.call("scatter", build(x, y, weight), field="h")
    return b.finish()


def nothing(x: Any) -> Any:
    """What an absent child gives, as wide as x."""
    return x.builder.call("absent", type=Type(x.shape, per="net"))


def gone(x: Any) -> Any:
    """An integer that is absent."""
    return x.builder.call("absent", type=Type((), "int32"))


def word(x: Any) -> Any:
    """One that is there."""
    return x.builder.call("pull", name="word", type=Type((), "int32"))


def one(x: Any) -> Any:
    return full(x.builder, 1.0)


def zero(x: Any) -> Any:
    return full(x.builder, 0.0, x.shape)


def half(x: Any) -> Any:
    """The constant that a gate of nothing is."""
    return cavs.sigmoid(nothing(x))


def wide(x: Any, w: Any) -> Any:
    """A product of which a part may be wanted."""
    return x @ w("U", (3, 6))


def repeated(op: Any, x: Any) -> Any:
    for _ in range(30):
        x = op(x)
    return x


def cut(x: Any) -> Any:
    return x[2:5]


def both(x: Any, y: Any) -> Any:
    return cavs.concat(x, y)


def lines(program: Program) -> list[str]:
    return str(program).splitlines()[1:]


def test_gates_written_separately_become_one_product() -> None:
    program = trace(FiveGates())
    assert ops(program, "matmul").count("matmul") == 16
    inner = specialise(program, None, Kind((0, 1), ("word",)))[0]
    shapes = [c.type.shape for _, c in inner.select("matmul")]
    assert sorted(shapes) == [(N_CLASSES,), (15,), (15,)]  # the classifier, the word's, the states'
    leaf = specialise(program, None, Kind((), ("word",)))[0]
    assert sorted(c.type.shape for _, c in leaf.select("matmul")) == [(N_CLASSES,), (9,)]


def test_weight_gradients_of_separate_gates_are_one_product() -> None:
    programs = Network(FiveGates()).programs(LOSS)
    _, adjoint = specialise(programs.forward, programs.adjoint, Kind((0, 1), ("label",)))
    assert adjoint is not None
    sizes = sorted(
        adjoint.calls[c.args[0]].type.shape
        for _, c in adjoint.select("total")
        if adjoint.calls[c.args[0]].op == "outer"
    )
    assert sizes == [(3, N_CLASSES), (6, 15)]


def test_a_sum_of_products_is_stacked() -> None:
    program = canonical(body(lambda x, y, w: x @ w("U") + y @ w("V") + w("b", (3,))))
    assert ops(program, "matmul", "concat", "add") == ["concat", "concat", "matmul", "add"]


def test_products_of_several_widths_are_not_stacked() -> None:
    """A sum that is broadcast in another one is a sum of its own."""
    narrow = (3, 1)
    made = body(lambda x, y, w: (x @ w("U", narrow) + y @ w("V", narrow)) + x @ w("W"))
    assert sorted(c.type.shape for _, c in canonical(made).select("matmul")) == [(1,), (3,)]


def test_terms_that_occur_twice_are_kept() -> None:
    program = canonical(body(lambda x, y, w: x @ w("U") + x @ w("U") + y))
    assert ops(program, "matmul", "add") == ["matmul", "add", "add"]
    twice = canonical(body(lambda x, y, w: (s := x @ w("U") + y @ w("V")) + s))
    assert ops(twice, "matmul", "add") == ["matmul", "add"]


@pytest.mark.parametrize("kind", [Kind((), ("word",)), Kind((), ("word", "label"))])
@pytest.mark.parametrize("name", CELLS)
def test_leaves_do_not_multiply_a_state(name: str, kind: Kind) -> None:
    programs = Network(CELLS[name](N_WORDS, 2, 3, N_CLASSES)).programs(LOSS)
    forward, adjoint = specialise(programs.forward, programs.adjoint, kind)
    assert adjoint is not None
    for program in (forward, adjoint):
        read = {c["name"] for _, c in program.select("param")}
        assert not read & {"U", "Un"}, "a leaf reads the recurrent weights"
        assert not ops(program, "gather", "child_state")
    assert {c["name"] for _, c in adjoint.select("gradient")} >= {"E", "W", "b"}
    assert not {c["name"] for _, c in adjoint.select("gradient")} & {"U", "Un"}


@pytest.mark.parametrize("name", CELLS)
def test_inner_vertices_do_not_multiply_a_missing_word(name: str) -> None:
    network = Network(CELLS[name](N_WORDS, 2, 3, N_CLASSES))
    programs = network.programs(LOSS)
    kind = Kind(tuple(range(network.function.arity)), ("label",))
    for program in specialise(programs.forward, programs.adjoint, kind):
        assert program is not None
        assert not {c["name"] for _, c in program.select("param", "gradient")} & {"E", "W", "Wn"}


def test_without_a_label_nothing_of_the_loss_is_left() -> None:
    programs = Network(CELLS["tree_rnn"](N_WORDS, 2, 3, N_CLASSES)).programs(LOSS)
    forward, adjoint = specialise(programs.forward, programs.adjoint, Kind((0,), ()))
    assert adjoint is not None
    assert not ops(forward, "log_softmax", "argmax")
    assert not {c["name"] for _, c in adjoint.select("gradient")} & {"V", "d"}


def test_common_subexpressions_and_dead_code() -> None:
    def build(x: Any, y: Any, w: Any) -> Any:
        _ = cavs.exp(x @ w("U"))
        return cavs.tanh(x + y) * cavs.sigmoid(x + y) + cavs.tanh(x + y)

    program = simplify(body(build))
    assert ops(program)[2:] == ["add", "tanh", "sigmoid", "mul", "add", "scatter"]
    assert canonical(program).calls == program.calls


@pytest.mark.parametrize(
    ("build", "want"),
    [
        (lambda x, y, w: nothing(x) * x + y, []),
        (lambda x, y, w: (x + nothing(one(y))) * y, ["mul"]),
        (lambda x, y, w: (nothing(one(y)) + x) * y, ["mul"]),
        (lambda x, y, w: x * 0.0 + y, ["mul", "add"]),  # x may be infinite, or NaN
        (lambda x, y, w: 0.0 / x + (x - x), ["div", "sub", "add"]),
        (lambda x, y, w: nothing(x) / x + y, ["div", "add"]),  # reads a zero: 0/0 is NaN
        (lambda x, y, w: nothing(x) / 2.0 + y, []),
        (lambda x, y, w: cavs.exp(full(x.builder, 100.0)) + y, ["exp", "add"]),  # not in float64
        (lambda x, y, w: one(x) * 1e8 + 1.0 - 1e8 + y, ["sub", "add"]),  # 0.0 in float32
        (lambda x, y, w: (x * 1.0 - 0.0) / 1.0 + 0.0, []),
        (lambda x, y, w: -1.0 * (-x), []),
        (lambda x, y, w: nothing(x) - x, ["neg"]),
        (lambda x, y, w: 0.0 - x, ["sub"]),  # 0.0, not -0.0, where x is
        (lambda x, y, w: x * -1.0, ["neg"]),
        (lambda x, y, w: cavs.concat(x[:1], x[1:]), []),
        (lambda x, y, w: cavs.concat(x, y)[3:], []),
        (lambda x, y, w: cavs.concat(x, y)[2:4][1:], ["slice"]),
        (lambda x, y, w: call("slice", x, axis=0, start=0, stop=3) + y, ["add"]),
        (lambda x, y, w: cavs.reshape(x, (3,)), []),
        (lambda x, y, w: cavs.reshape(cavs.reshape(x, (3, 1)), (3,)), []),
        (lambda x, y, w: x @ call("transpose", call("transpose", w("U"))), ["matmul"]),
        (lambda x, y, w: cavs.where(nothing(x), x, y), []),
        (lambda x, y, w: cavs.where(nothing(x), x, nothing(y)) * x, ["mul"]),  # reads a zero
        (lambda x, y, w: cavs.where(one(x), both(nothing(x), y), both(y, y))[:3] * x, ["mul"]),
        (lambda x, y, w: call("div", both(nothing(x), y), one(x))[:3] * x, ["mul"]),
        (lambda x, y, w: call("over", both(nothing(x), y), one(x))[:3] * x + y, []),
        (lambda x, y, w: cavs.equal(gone(x), word(x)) * y + x, ["mul", "add"]),
        (lambda x, y, w: cavs.equal(gone(x), gone(x)) * y + x, ["equal", "mul", "add"]),
        (lambda x, y, w: cavs.concat(nothing(x), y) @ w("U", (6, 3)), ["slice", "matmul"]),
        (lambda x, y, w: cavs.sigmoid(nothing(x)) * y, ["mul"]),
        (lambda x, y, w: (nothing(x) - cavs.reduce_sum(y)) * x, ["sum", "sub", "mul"]),
        (lambda x, y, w: cavs.log(nothing(x)) + y, ["log", "add"]),
        (lambda x, y, w: cavs.sigmoid(nothing(x)) @ w("U") + y, "transpose mul sum add".split()),
        (lambda x, y, w: (x @ w("U", (3, 6)))[2:5], ["slice", "matmul"]),
        (lambda x, y, w: cavs.tanh(wide(x, w))[2:5], ["slice", "matmul", "tanh"]),
        (lambda x, y, w: cut(repeated(cavs.tanh, wide(x, w))), ["slice", "matmul", *["tanh"] * 30]),
        (lambda x, y, w: (wide(x, w) * wide(y, w))[2:5], ["slice", "matmul", "matmul", "mul"]),
        (
            lambda x, y, w: cut(t := wide(x, w)) + cut(cavs.tanh(t)),
            ["slice", "matmul", "tanh", "add"],
        ),
        (
            lambda x, y, w: cut(t := wide(x, w)) + cavs.reduce_sum(t * t),
            "matmul slice mul sum add".split(),
        ),
        (lambda x, y, w: cut(t := wide(x, w)) + cavs.reduce_sum(t), "matmul slice sum add".split()),
        (lambda x, y, w: call("dropout", nothing(x), rate=0.5, site=0) + y, []),
        (lambda x, y, w: call("dropout", x, rate=0.5, site=0), ["dropout"]),
        (lambda x, y, w: cavs.reduce_sum(both(half(x), half(y))) * x, ["mul"]),  # one constant
        (lambda x, y, w: cavs.reduce_sum(both(half(x), half(y) + 1.0)), ["concat", "sum"]),
        (lambda x, y, w: cavs.reduce_sum(both(zero(x), -zero(y))), ["concat", "sum"]),  # 0.0, -0.0
    ],
)
def test_small_rewrites(build: Any, want: list[str]) -> None:
    program = simplify(body(build))
    reads = ("gather", "pull", "scatter", "param", "full", "absent")
    left = [c.op for c in program.calls if c.op not in reads]
    assert left == want, str(program)


def test_what_is_simple_does_not_become_simpler() -> None:
    """However many rounds that takes, and although one may leave as many calls as there were."""
    for start, stop in itertools.combinations(range(7), 2):
        for same in (1, 2):

            def build(x: Any, y: Any, w: Any, at: slice = slice(start, stop), n: int = same) -> Any:
                made = cavs.concat(x @ w("U"), y @ w("V"))[at]
                for _ in range(n):
                    made = cavs.reshape(made, made.shape)
                return made

            once = simplify(body(build))
            assert simplify(once).calls == once.calls


SHAPES_OF_12 = ((12,), (2, 6), (3, 4), (4, 3), (1, 12), (2, 2, 3), (2, 3, 2))


def test_a_reshape_goes_only_where_nothing_changes() -> None:
    for first, last in itertools.product(SHAPES_OF_12, repeat=2):
        b = Builder("F")
        x = b.call("pull", name="x", type=Type(first))
        b.call("push", cavs.reshape(cavs.reshape(x, (12, 1)), last), name="y")
        made = simplify(b.finish())
        ((_, push),) = made.select("push")
        assert push.type.shape == last and ("reshape" in ops(made)) == (first != last)


def test_what_a_user_wrote_says_where_to_the_end() -> None:
    """Through all rewrites and stages: a mistake that a kernel shows is told with the line."""
    program = trace(FiveGates())
    made, _ = specialise(program, None, Kind((0, 1), ("word",)))
    calls = [
        c
        for some in (program, simplify(program), made, *split(made))
        for _, c in some.select("tanh", "sigmoid", "embedding", "gather", "scatter")
    ]
    assert len(calls) > 20 and all(c.where.startswith("functions.py, line") for c in calls)


def test_only_products_of_one_stage_are_joined() -> None:
    class Mixed(VertexFunction):
        state = {"h": 3}

        def __init__(self) -> None:
            self.A, self.B, self.C = (cavs.Parameter((3, 3)) for _ in range(3))

        def forward(self, v: Vertex) -> None:
            x, h = v.pull("x", (3,)), v.gather(0).h
            new = cavs.tanh(x @ self.A + h @ self.B)
            v.scatter(h=new)
            v.push("out", h @ self.C)

    program = canonical(trace(Mixed()))
    assert len(ops(program, "matmul")) == 3
    stages = split(program)
    assert [len(ops(part, "matmul")) for part in stages] == [1, 1, 1]


def test_only_sums_of_one_stage_are_joined() -> None:
    """The gradient of what feeds outputs only is not put off until all levels are done."""

    class Two(VertexFunction):
        arity, state = 1, {"h": 3}

        def __init__(self) -> None:
            self.A, self.B = (cavs.Parameter((3, 3)) for _ in range(2))

        def forward(self, v: Vertex) -> None:
            x = v.pull("x", (3,))
            v.scatter(h=cavs.tanh(x @ self.A + v.gather(0).h))
            v.push("score", cavs.reduce_sum(cavs.exp(x @ self.B)))

    programs = Network(Two()).programs(Score())
    _, adjoint = specialise(programs.forward, programs.adjoint, Kind((0,), ("x",)))
    assert adjoint is not None
    assert [len(ops(part, "total")) for part in split(adjoint)] == [1, 0, 1]


def test_simplify_and_canonical_settle() -> None:
    for name in ("tree_lstm", "tree_gru", "gru", *ODD, "five_gates", "random_1"):
        make, loss = FUNCTIONS[name]
        programs = Network(make()).programs(loss)
        for program in (programs.forward, programs.adjoint):
            assert program is not None
            once = simplify(program)
            assert simplify(once).calls == once.calls, name
            joined = join_products(once)
            assert join_products(joined).calls == joined.calls, name


def test_equal_keys_mean_equal_programs() -> None:
    a, b = (body(lambda x, y, w, c=c: x * c) for c in (0.12345678, 0.12345679))
    assert a.key != b.key
    assert a.key == body(lambda x, y, w: x * 0.12345678).key


# ---- every rule, with its guard and without ----

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (3,), (2, 1), (1, 3), (2, 3))


def pushed(program: Program, values: dict[str, np.ndarray]) -> np.ndarray:
    """The one value that a program of parameters pushes."""
    ((_, push),) = program.select("push")
    return np.asarray(net_value(program, push.args[0], lambda i: values[program.calls[i]["name"]]))


@pytest.mark.parametrize("op", [name for name, row in OPS.items() if row.elementwise])
def test_rules_keep_shape_and_meaning(op: str) -> None:
    """One operand a constant that rules look for; any shapes that broadcast, of three two alike."""
    n_args, rng = len(CASES[op][0].args), np.random.default_rng(0)
    constants = (0.0, 1.0, -1.0, 2.0) if n_args < 3 else (0.0, 1.0)  # a condition is 0, or is not
    all_shapes = [s for s in itertools.product(SHAPES, repeat=n_args) if len(set(s)) < 3]
    for constant, at, shapes in itertools.product(constants, range(n_args), all_shapes):
        b = Builder("F")
        args = [
            b.call("param", name=f"p{i}", type=Type(s, per="net")) for i, s in enumerate(shapes)
        ]
        values = {f"p{i}": rng.uniform(0.5, 2.0, s) for i, s in enumerate(shapes)}
        args[at] = full(b, constant, shapes[at])
        try:
            b.call("push", b.call(op, *args), name="y")
        except ShapeError:
            continue
        made = b.finish()
        with np.errstate(all="ignore"):
            before, after = (pushed(program, values) for program in (made, simplify(made)))
        what = f"{op} of {shapes}, number {at} is {constant}"
        assert before.shape == after.shape, what
        np.testing.assert_allclose(after, before, rtol=1e-6, err_msg=what)


def with_zeros(program: Program, values: dict[str, Any]) -> Program:
    """What an absent child gives is zeros: of a parameter, which is put among the values."""
    calls = []
    for c in program.calls:
        if c.op == "absent":
            name = f"zeros {c.type.shape}"
            values[name] = np.zeros(c.type.shape)
            c = Call("param", (), (("name", name), ("type", c.type)), c.type)
        calls.append(c)
    return Program(program.name, tuple(calls))


@pytest.mark.parametrize("op", [name for name, row in OPS.items() if row.elementwise])
@pytest.mark.parametrize("tail", [(), (3,)])
def test_rules_keep_meaning_where_a_part_is_absent(op: str, tail: tuple[int, ...]) -> None:
    """One operand is nothing, and then something; the others have any shapes that broadcast."""
    n_args, rng = len(CASES[op][0].args), np.random.default_rng(1)
    others = [(4, *tail), (1, *tail), tail[:1], (1,), ()]
    all_shapes = [s for s in itertools.product(others, repeat=n_args) if len(set(s)) < 3]
    for at, shapes in itertools.product(range(n_args), all_shapes):
        b = Builder("F")
        args = [
            b.call("param", name=f"p{i}", type=Type(s, per="net")) for i, s in enumerate(shapes)
        ]
        values = {f"p{i}": rng.uniform(0.5, 2.0, s) for i, s in enumerate(shapes)}
        some = b.call("param", name="some", type=Type((2, *tail), per="net"))
        values["some"] = rng.uniform(0.5, 2.0, (2, *tail))
        gap = b.call("absent", type=Type((2, *tail), per="net"))
        args[at] = b.call("concat", *((gap, some) if at % 2 else (some, gap)), axis=0)
        b.call("push", b.call(op, *args), name="y")
        made = b.finish()
        programs = [with_zeros(program, values) for program in (made, simplify(made))]
        with np.errstate(all="ignore"):
            before, after = (pushed(program, values) for program in programs)
        what = f"{op} of {shapes}, number {at} is absent in part"
        assert before.shape == after.shape, what
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6, err_msg=what)


def test_a_product_that_no_vertex_takes_part_in_is_a_sum() -> None:
    """It is the net's: one vector, computed once."""
    program = canonical(body(lambda x, y, W: x + W("b", (2,)) @ W("W", (2, 3))))
    assert ops(program, "matmul") == []
    ((i, c),) = program.select("sum")
    given = {"b": np.array([2.0, 3.0]), "W": np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])}
    found = net_value(program, i, lambda leaf: given[program.calls[leaf]["name"]])
    assert c.type == Type((3,), per="net") and found.tolist() == [32.0, 64.0, 128.0]


# ---- golden text ----

TREE_LSTM = "tree_lstm_hidden_4"


def tree_lstm() -> Network:
    return Network(CELLS["tree_lstm"](10, 3, 4, 5, dropout=0.5))


def test_golden_programs(golden: Any) -> None:
    network = tree_lstm()
    programs = network.programs(LOSS)
    golden(f"{TREE_LSTM}_inference", network.programs().forward)
    golden(f"{TREE_LSTM}_forward", programs.forward)
    golden(f"{TREE_LSTM}_adjoint", programs.adjoint)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("leaf", Kind((), ("word", "label"))),
        ("inner", Kind((0, 1), ("label",))),
        ("right_child_only", Kind((1,), ())),
    ],
)
def test_golden_kinds_and_stages(golden: Any, name: str, kind: Kind) -> None:
    programs = tree_lstm().programs(LOSS)
    forward, adjoint = specialise(programs.forward, programs.adjoint, kind)
    assert adjoint is not None
    golden(f"{TREE_LSTM}_{name}", f"{forward}\n\n{adjoint}")
    golden(f"{TREE_LSTM}_{name}_stages", f"{split(forward)}\n\n{split(adjoint)}")
