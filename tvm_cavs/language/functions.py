"""The functions of the vertex language, under the names of NumPy and deep-learning libraries."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from math import sqrt as _root
from typing import Any

from .. import arguments
from ..errors import ShapeError, TraceError
from .program import user_line
from .value import Value
from .vertex import call


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x)).

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.sigmoid(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-2.0, 0.0, 2.0]]}))["y"].round(2))
        [[0.12 0.5  0.88]]
    """
    return call("sigmoid", x)


def tanh(x: Value) -> Value:
    """Hyperbolic tangent.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.tanh(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-1.0, 0.0, 1.0]]}))["y"].round(2))
        [[-0.76  0.    0.76]]
    """
    return call("tanh", x)


def relu(x: Value) -> Value:
    """max(x, 0).

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.relu(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-1.0, 0.0, 2.0]]}))["y"])
        [[0. 0. 2.]]
    """
    return call("relu", x)


def silu(x: Value) -> Value:
    """x * sigmoid(x) (Elfwing et al. 2017).

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.silu(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-1.0, 0.0, 1.0]]}))["y"].round(2))
        [[-0.27  0.    0.73]]
    """
    return _value("silu", x) * sigmoid(x)


def gelu(x: Value) -> Value:
    """Gaussian error linear unit in its tanh form (Hendrycks & Gimpel 2016, section 2).

    0.5 (1 + tanh(u)) is sigmoid(2 u), which does not lose its lower tail.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.gelu(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-1.0, 0.0, 1.0]]}))["y"].round(2))
        [[-0.16  0.    0.84]]
    """
    x = _value("gelu", x)
    return x * sigmoid(2 * _root(2 / pi) * (x + 0.044715 * x * x * x))


def exp(x: Value) -> Value:
    """e to the x.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.exp(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"].round(2))
        [[1.   2.72 7.39]]
    """
    return call("exp", x)


def log(x: Value) -> Value:
    """Natural logarithm.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.log(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 4.0]]}))["y"].round(2))
        [[0.   0.69 1.39]]
    """
    return call("log", x)


def sqrt(x: Value) -> Value:
    """Square root.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.sqrt(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 4.0, 9.0]]}))["y"])
        [[0. 2. 3.]]
    """
    return call("sqrt", x)


def abs(x: Value) -> Value:  # noqa: A001  (NumPy's name)
    """Absolute value; the derivative at 0 is -1.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.abs(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-2.0, 0.0, 3.0]]}))["y"])
        [[2. 0. 3.]]
    """
    return call("abs", x)


def maximum(a: Value | float, b: Value | float) -> Value:
    """Elementwise larger; where equal, the gradient is b's.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.maximum(v.pull("x", 3), 1.0))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"])
        [[1. 1. 2.]]
    """
    return call("maximum", a, b)


def minimum(a: Value | float, b: Value | float) -> Value:
    """Elementwise smaller; where equal, the gradient is b's.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.minimum(v.pull("x", 3), 1.0))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"])
        [[0. 1. 1.]]
    """
    return call("minimum", a, b)


def greater(a: Value | float, b: Value | float) -> Value:
    """1.0 where a > b, else 0.0; integers with integers, floats with floats.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.greater(v.pull("x", 3), 1.0))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"])
        [[0. 0. 1.]]
    """
    return call("greater", a, b)


def equal(a: Value, b: Value) -> Value:
    """1.0 where a == b, else 0.0; integers with integers, floats with floats.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"same": 1}
        ...     def forward(self, v):
        ...         same = cavs.equal(v.pull("word"), v.pull("target"))
        ...         v.scatter(same=cavs.reshape(same, 1))
        ...         v.push("same", same)
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(2, {"word": [3, 5], "target": [3, 4]}))["same"])
        [1. 0.]
    """
    return call("equal", a, b)


def where(condition: Value, a: Value | float, b: Value | float) -> Value:
    """a where the condition is not 0, else b.

    Examples:
        A leaky ReLU:

        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         x = v.pull("x", 3)
        ...         v.scatter(x=x)
        ...         v.push("y", cavs.where(x > 0.0, x, 0.1 * x))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[-2.0, 0.0, 3.0]]}))["y"])
        [[-0.2  0.   3. ]]
    """
    return call("where", condition, a, b)


def concat(*values: Value, axis: int = 0) -> Value:
    """Join along `axis`: vectors float32[m], float32[n] into float32[m + n].

    Raises:
        ShapeError: values that differ in more than the extent of `axis`, scalars, or no such axis.
        TraceError: what is no value of the vertex.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 2}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 2))
        ...         v.push("y", cavs.concat(v.pull("x", 2), v.pull("z", 1)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0]], "z": [[7.0]]}))["y"])
        [[1. 2. 7.]]
    """
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = tuple(values[0])
    axis = _whole("concat", "axis", axis)
    return call("concat", *values, axis=axis) if len(values) != 1 else _value("concat", values[0])


def split(x: Value, sections: int) -> list[Value]:
    """Cut a vector into equal parts, a matrix along its last axis.

    Raises:
        ShapeError: the length is not a multiple of `sections`, or `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 2}
        ...     def forward(self, v):
        ...         left, right = cavs.split(v.pull("x", 4), 2)
        ...         v.scatter(x=left)
        ...         v.push("right", right)
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 3.0, 4.0]]}))["right"])
        [[3. 4.]]
    """
    x = _value("split", x)
    n = x.shape[-1] if x.shape else 0
    sections = _whole("split", "sections", sections)
    if sections < 1 or n % sections or not n:
        raise ShapeError(
            f"split ({user_line()}): {x.type} does not divide into {sections} equal parts"
        )
    cuts = range(0, n, n // sections)
    return [call("slice", x, axis=-1, start=i, stop=i + n // sections) for i in cuts]


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """The same elements, in row-major order, under another shape.

    Raises:
        ShapeError: the shape has another number of elements, or an extent below 1.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 4}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 4))
        ...         v.push("y", cavs.reshape(v.pull("x", 4), (2, 2)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 3.0, 4.0]]}))["y"].tolist())
        [[[1.0, 2.0], [3.0, 4.0]]]
    """
    where = f"reshape ({user_line()}): shape"
    return call("reshape", x, shape=arguments.extents(where, shape, ShapeError, empty=True))


def reduce_sum(x: Value, keepdims: bool = False) -> Value:
    """Sum along the last axis, which goes, or with `keepdims` has extent 1.

    Raises:
        ShapeError: `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.reduce_sum(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 6.0]]}))["y"])
        [9.]
    """
    return call("sum", x, keep=_flag("reduce_sum", "keepdims", keepdims))


def reduce_mean(x: Value, keepdims: bool = False) -> Value:
    """Mean along the last axis, which goes, or with `keepdims` has extent 1.

    Raises:
        ShapeError: `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.reduce_mean(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 6.0]]}))["y"])
        [3.]
    """
    x = _value("reduce_mean", x)
    total = reduce_sum(x, _flag("reduce_mean", "keepdims", keepdims))
    return total * (1.0 / x.shape[-1])


def reduce_max(x: Value, keepdims: bool = False) -> Value:
    """Maximum along the last axis, which goes, or with `keepdims` has extent 1.

    Ties share the gradient.

    Raises:
        ShapeError: `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.reduce_max(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 6.0]]}))["y"])
        [6.]
    """
    return call("max", x, keep=_flag("reduce_max", "keepdims", keepdims))


def softmax(x: Value) -> Value:
    """exp(x) / sum(exp(x)) along the last axis.

    Raises:
        ShapeError: `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.softmax(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"].round(2))
        [[0.09 0.24 0.67]]
    """
    return call("softmax", x)


def log_softmax(x: Value) -> Value:
    """x - log(sum(exp(x))) along the last axis.

    Raises:
        ShapeError: `x` is a scalar.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.log_softmax(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[0.0, 1.0, 2.0]]}))["y"].round(2))
        [[-2.41 -1.41 -0.41]]
    """
    return call("log_softmax", x)


def argmax(x: Value) -> Value:
    """Index of the largest element of a vector, int32; the first of several.

    Raises:
        ShapeError: `x` is no vector.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.argmax(v.pull("x", 3)))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 6.0, 2.0]]}))["y"])
        [1]
    """
    return call("argmax", x)


def layer_norm(x: Value, scale: Any, shift: Any, epsilon: float = 1e-5) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift (Ba et al. 2016, eq. 3).

    Mean and variance are along the last axis.

    Raises:
        ShapeError: `x` is a scalar.
        TraceError: `epsilon` is below 0 or no finite number.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.layer_norm(v.pull("x", 3), 1.0, 0.0))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> print(net(cavs.Graph.from_sequence(1, {"x": [[1.0, 2.0, 3.0]]}))["y"].round(2))
        [[-1.22  0.    1.22]]
    """
    x = _value("layer_norm", x)
    where = f"layer_norm ({user_line()}): epsilon"
    epsilon = arguments.number(where, epsilon, 0, error=TraceError)
    centred = x - reduce_mean(x, keepdims=True)
    variance = reduce_mean(centred * centred, keepdims=True)
    return centred / sqrt(variance + epsilon) * scale + shift


def embedding(index: Value, table: Any) -> Value:
    """Row `index` of a parameter matrix; zeros where the vertex has no index.

    Raises:
        TraceError: the table is computed, not a parameter; the index is computed, not pulled.
        ShapeError: the table is no matrix.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     def __init__(self):
        ...         self.state = {"h": 2}
        ...         self.E = cavs.Parameter((2, 2), cavs.init.Array([[1.0, 2.0], [3.0, 4.0]]))
        ...     def forward(self, v):
        ...         h = cavs.embedding(v.pull("word"), self.E)
        ...         v.scatter(h=h)
        ...         v.push("h", h)
        >>> net = cavs.Network(F())
        >>> net.initialize()
        >>> net.hybridize("reference")
        >>> net(cavs.Graph.from_sequence(3, {"word": [1, 0, None]}))["h"].tolist()
        [[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]
    """
    if isinstance(table, Value) and table.builder.define(table.index)[0] != "param":
        table.builder.refuse(
            "embedding",
            f"expected a parameter, given a computed {table.type}; compute on the row instead",
        )
    if isinstance(index, Value) and index.builder.define(index.index)[0] != "pull":
        index.builder.refuse(
            "embedding",
            f"expected an integer input as v.pull gives it, given a computed {index.type}; "
            "a computed index takes a row by one_hot(index, rows) @ table",
        )
    return call("embedding", index, table)


def pick(x: Value, index: Value) -> Value:
    """Element `index` of a vector; zero where the vertex has no index.

    Raises:
        ShapeError: `x` is no vector; `index` is computed, and may be beyond it.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"x": 3}
        ...     def forward(self, v):
        ...         v.scatter(x=v.pull("x", 3))
        ...         v.push("y", cavs.pick(v.pull("x", 3), v.pull("index")))
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> inputs = {"x": [[5.0, 6.0, 7.0], [5.0, 6.0, 7.0]], "index": [2, None]}
        >>> print(net(cavs.Graph.from_sequence(2, inputs))["y"])
        [7. 0.]
    """
    return call("pick", x, index)


def one_hot(index: Value, depth: int) -> Value:
    """float32[depth], 1 at `index`; zeros where the vertex has no index.

    Raises:
        ShapeError: `depth` is below 1; `index` is computed, and may be `depth` or more.

    Examples:
        >>> import tvm_cavs as cavs
        >>> class F(cavs.VertexFunction):
        ...     state = {"h": 3}
        ...     def forward(self, v):
        ...         h = cavs.one_hot(v.pull("word"), 3)
        ...         v.scatter(h=h)
        ...         v.push("h", h)
        >>> net = cavs.Network(F())
        >>> net.hybridize("reference")
        >>> net(cavs.Graph.from_sequence(2, {"word": [2, None]}))["h"].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    depth = _whole("one_hot", "depth", depth, arguments.MOST)
    return call("one_hot", index, depth=depth)


def _whole(op: str, what: str, given: Any, most: int | None = None) -> int:
    return arguments.whole(f"{op} ({user_line()}): {what}", given, most=most, error=ShapeError)


def _flag(op: str, what: str, given: Any) -> bool:
    """True or False, not what is like one of them: keepdims=-1 is a mistake for an axis."""
    if not isinstance(given, bool):
        raise ShapeError(
            f"{op} ({user_line()}): {what}: expected True or False, given "
            f"{arguments.shown(given)}; {op} is along the last axis"
        )
    return given


def _value(op: str, given: Any) -> Value:
    if not isinstance(given, Value):
        raise TraceError(
            f"{op} ({user_line()}): expected a value of the vertex, given {arguments.shown(given)}"
        )
    return given
