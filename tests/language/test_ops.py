"""Every row of OPS: its shape rule, meaning, derivative, and what it says about wrong operands."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import one_op
from helpers.gradient_check import GRID, SEEDS, check_gradients
from helpers.one_op import OneOp, Weighted
from helpers.op_cases import CASES, INDEX, STRUCTURAL, Case
from helpers.told import beside_the_line
from tvm_cavs.errors import ShapeError
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.functions import reduce_sum, reshape
from tvm_cavs.language.ops import EFFECTS, OPS, READS
from tvm_cavs.language.program import Builder
from tvm_cavs.language.value import Type
from tvm_cavs.language.vertex import Vertex, VertexFunction, call, trace
from tvm_cavs.nn.loss import LossFunction
from tvm_cavs.nn.network import Network
from tvm_cavs.transform.programs import Programs

N_VERTICES = 4
ALL = [pytest.param(op, case, id=f"{op}-{case}") for op, cases in CASES.items() for case in cases]
SMOOTH = [p for p in ALL if p.values[1].smooth and p.values[1].args]  # type: ignore[attr-defined]
WRONG = [
    pytest.param(op, case, args, id=f"{op}-{','.join(map(str, args))}-{case}")
    for op, cases in CASES.items()
    for case in cases
    for args in case.wrong
]


class Plain(LossFunction):
    """The sum of y: its gradient is the same at every vertex."""

    def forward(self, v: Vertex) -> None:
        y = v.output("y")
        v.push("loss", reduce_sum(reshape(y, (y.type.size,))))


def prepared(op: str, case: Case) -> tuple[Network, Graph]:
    """The network with parameters inside the operands' ranges, and four vertices."""
    rng = np.random.default_rng(sum(map(ord, op)))
    network = Network(OneOp(op, case))
    for p, a in zip(network.parameters().values(), case.args, strict=True):
        p.set_data(np.round(rng.uniform(a.low, a.high, p.shape) / GRID) * GRID)
    size = int(np.prod(case.shape, dtype=int))
    inputs: dict[str, Any] = {
        "factor": np.array([1.0, 1.25, 0.75, 0.5], "float32")[:, None]
        if case.smooth
        else np.ones((4, 1), "float32"),
        "weight": rng.normal(size=(N_VERTICES, size)).astype("float32"),
    }
    for i, a in enumerate(case.args):
        if a.dtype == "int32":
            inputs[f"i{i}"] = [0, int(a.high) - 1, None, 2]
    return network, Graph.from_children([[]] * N_VERTICES, inputs)


def operands(network: Network, graph: Graph, case: Case, vertex: int) -> list[Any]:
    out: list[Any] = []
    for i, (p, a) in enumerate(zip(network.parameters().values(), case.args, strict=True)):
        x = p.data.astype("float64").reshape(a.shape)
        if a.dtype == "int32":
            out.append(graph.inputs[f"i{i}"].values[vertex])
        else:
            out.append(x if a.per == "net" else x * graph.inputs["factor"].values[vertex, 0])
    return out


def test_no_op_enters_untested() -> None:
    assert set(CASES).isdisjoint(STRUCTURAL)
    assert set(CASES) | set(STRUCTURAL) == set(OPS)
    assert all(CASES.values())


def test_the_table_says_what_differentiate_and_the_executors_rely_on() -> None:
    for name, op in OPS.items():
        assert op.name == name
        computed = name not in READS | EFFECTS | {"absent", "dropout", "total", "total_rows"}
        assert (op.numpy is not None) == computed, name
        assert op.derivative is not None or name in STRUCTURAL or name == "full", name
        assert not op.elementwise or op.derivative is not None, name


@pytest.mark.parametrize(("op", "case"), ALL)
def test_shape_and_meaning(op: str, case: Case) -> None:
    network, graph = prepared(op, case)
    forward = trace(network.function)
    *_, (_, made) = forward.select(op)
    result = next(c for _, c in forward.select("push"))
    executor = ReferenceExecutor(Programs(forward, None, 1), network.parameters(), "float64")
    y = executor.forward(graph, SEEDS).outputs["y"]
    for vertex in range(N_VERTICES):
        want = case.value(*operands(network, graph, case, vertex))
        if result.type != made.type and made.type.per == "net":
            want = want * graph.inputs["factor"].values[vertex, 0]
        assert np.shape(y[vertex]) == result.type.shape
        np.testing.assert_allclose(y[vertex], want, rtol=1e-12, atol=1e-14)
    if op != "full":
        assert result.type.shape == case.shape


@pytest.mark.parametrize(("op", "case"), SMOOTH)
@pytest.mark.parametrize("loss", [Weighted(), Plain()], ids=["weighted", "plain"])
def test_derivative_agrees_with_central_differences(
    op: str, case: Case, loss: LossFunction
) -> None:
    if op == "argmax":
        pytest.skip("an index has no derivative")
    network, graph = prepared(op, case)
    check_gradients(network, loss, graph)


@pytest.mark.parametrize(("op", "case", "args"), WRONG)
def test_wrong_operands_name_op_line_and_both_types(op: str, case: Case, args: Any) -> None:
    wrong = OneOp(op, Case(args, (), case.value, (), case.attrs))
    with pytest.raises(ShapeError) as caught:
        trace(wrong)
    message = str(caught.value)
    lines = Path(one_op.__file__).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "# the user's line" in text)
    assert f"in OneOp, {op} (one_op.py, line {line}: y = call(" in message
    for a in args:
        assert str(a) in message


def test_reads_and_writes_have_the_type_they_are_given() -> None:
    t = Type((3,))
    for op in READS | {"absent"}:
        assert OPS[op].infer([], {"type": t}) is t
    for op in EFFECTS:
        assert OPS[op].infer([t], {}) is t


def test_sums_over_vertices_are_of_the_net() -> None:
    x, g = Type((3,)), Type((4,))
    outer = OPS["outer"].infer([x, g], {})
    assert outer == Type((3, 4))
    assert OPS["total"].infer([outer], {}) == Type((3, 4), per="net")
    assert OPS["total_rows"].infer([Type((), "int32"), g], {"rows": 7}) == Type((7, 4), per="net")
    net = Type((3,), per="net")
    assert OPS["outer"].infer([net, net], {}).per == "net"


def test_operators_and_numbers() -> None:
    b = Builder("F")
    x = b.call("pull", name="x", type=Type((3,)))
    for y in (1 + x, x - 1, 2 - x, 3 * x, x / 2, 1 / x, -x, np.float32(2) * x, x * np.float64(2)):
        assert y.type == Type((3,))
    assert x[-2:].shape == (2,) and x[:1].shape == (1,)
    assert x[0:2:1].shape == (2,)
    assert (x > 0).type == Type((3,)) and (x < 1.0).type == Type((3,))
    for number in (1, 1.0, np.int64(1), np.float32(1)):
        assert call("maximum", x, number).type == Type((3,))
    for number, op in ((2, "over"), (-0.5, "over"), (0, "div"), (float("nan"), "div")):
        assert b.define((x / number).index)[0] == op, "only by a number that is not 0"


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda x: x[5], "takes slices like x[10:20], given x[5]"),
        (lambda x: x[::2], "takes slices like"),
        (lambda x: bool(x), "where(condition, a, b)"),
        (lambda x: 1 if x > 0 else 2, "where(condition, a, b)"),
        (lambda x: x == 0, "in Misuse, == ("),
        (lambda x: x == 0, "use equal(a, b)"),
        (lambda x: x != 0, "in Misuse, != ("),
        (lambda x: x != 0, "use 1.0 - equal(a, b)"),
        (lambda x: x + None, "expected a value or a number, given NoneType"),
        (lambda x: x * np.ones(3), "expected a value or a number, given ndarray"),
        (lambda x: np.ones(3) * x, "expected a value or a number, given ndarray"),
        (lambda x: x @ np.ones((3, 3)), "operand ndarray"),
        (lambda x: reshape(x, (-1,)), "shape, extent 0: expected a whole number"),
        (lambda x: x[3:], "empty or out of range"),
        (lambda x: x[True:], "expected whole numbers, given slice(True"),
        (lambda x: reduce_sum(x)[0:], "slice [0:0] of float32 along axis 0 is empty"),
    ],
)
def test_misused_values_are_errors_with_the_line(use: Any, text: str) -> None:
    class Misuse(VertexFunction):
        state = {"h": 3}

        def forward(self, v: Vertex) -> None:
            use(v.pull("x", (3,)))

    with pytest.raises((ShapeError, ValueError)) as caught:
        trace(Misuse())
    message = beside_the_line(caught.value, use)
    assert text in message and "test_ops.py, line" in message


def test_an_absent_index_chooses_nothing() -> None:
    assert INDEX.dtype == "int32"
    table = np.ones((4, 3))
    assert OPS["embedding"].numpy is not None and OPS["pick"].numpy is not None
    assert not OPS["embedding"].numpy(np.int32(-1), table).any()
    assert OPS["pick"].numpy(np.ones(4), np.int32(-1)) == 0
