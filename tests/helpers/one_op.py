"""A vertex function that is one op, and a loss of it."""

from tvm_cavs.language.functions import reduce_sum, reshape
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.language.value import Value
from tvm_cavs.language.vertex import Vertex, VertexFunction, call
from tvm_cavs.nn.loss import LossFunction

from .op_cases import Arg, Case


class OneOp(VertexFunction):
    """y = op(args): floats are a parameter times a number of the vertex, indices are pulled."""

    arity = 1

    def __init__(self, op: str, case: Case) -> None:
        self.state = {"h": 1}
        self.op, self.case = op, case
        self.P = [Parameter(a.shape or (1,)) for a in case.args]

    def operand(self, v: Vertex, i: int, a: Arg) -> Value:
        if a.dtype == "int32":
            return v.pull(f"i{i}", a.shape, "int32")
        if a.per == "net":
            return self.P[i]  # type: ignore[return-value]
        x = self.P[i] * v.pull("factor", (1,))  # type: ignore[operator]
        return x if a.shape else reshape(x, ())

    def forward(self, v: Vertex) -> None:
        args = [self.operand(v, i, a) for i, a in enumerate(self.case.args)]
        v.scatter(h=v.pull("factor", (1,)))
        if not args:
            args = [v.pull("factor", (1,))]
            y = args[0] * v._builder.call(self.op, **self.case.attrs)
        else:
            y = call(self.op, *args, **self.case.attrs)  # the user's line
        if y.type.per == "net":
            y = y * v.pull("factor", (1,))
        v.push("y", y)


class Weighted(LossFunction):
    """The sum of y times numbers of the vertex."""

    def forward(self, v: Vertex) -> None:
        y = v.output("y")
        v.push("loss", reduce_sum(reshape(y, (y.type.size,)) * v.pull("weight", (y.type.size,))))
