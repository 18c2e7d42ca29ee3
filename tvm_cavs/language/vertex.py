"""The vertex language: what a user writes, and `trace`, which turns it into a Program.

A vertex function says what ONE vertex does; there is no batch dimension anywhere. It is traced
once.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

from .. import arguments
from ..errors import ConfigError, ShapeError, TraceError
from .parameter import Parameter
from .program import Builder, Program, check_choices, user_line
from .value import Type, Value, full


class VertexFunction:
    """Base of all vertex functions: parameters in the constructor, `forward(self, v)` for one
    vertex.

    state: the fields a vertex publishes to its parents and their widths, for example
    `{"h": 150, "c": 150}`. arity: the largest number of children it can gather from.

    Examples:
        The sum of a tree: every vertex adds its own number to the sums of its children.

        >>> import tvm_cavs as cavs
        >>> class Sum(cavs.VertexFunction):
        ...     state = {"s": 1}
        ...     def forward(self, v):
        ...         s = v.pull("x", 1) + v.gather(0).s + v.gather(1).s
        ...         v.scatter(s=s)
        ...         v.push("sum", s)
        >>> net = cavs.Network(Sum())
        >>> net.hybridize("reference")
        >>> x = [[1.0], [2.0], [4.0]]
        >>> net(cavs.Graph.from_children([[], [], [0, 1]], {"x": x}))["sum"].tolist()
        [[1.0], [2.0], [7.0]]
    """

    state: dict[str, int]
    arity: int = 2

    def forward(self, v: Vertex) -> None:
        """What one vertex does."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, v)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(arity {self.arity}, state {getattr(self, 'state', None)})"

    def parameters(self) -> dict[str, Parameter]:
        """The parameters by attribute name, in the order they were made; in a list `name.0` ...

        A parameter under two names has the first.

        Raises:
            TraceError: one is where it cannot be found by name.
        """
        found: dict[Parameter, str] = {}
        for name, held in vars(self).items():
            items = held.values() if isinstance(held, dict) else held
            if isinstance(held, Parameter):
                found.setdefault(held, name)
            elif isinstance(held, (list, tuple, dict)) and _any_parameter(items):
                if isinstance(held, dict) or not all(isinstance(p, Parameter) for p in held):
                    raise TraceError(
                        f"{type(self).__name__}.{name} holds parameters among other things; "
                        "expected attributes that are parameters, or lists of them only"
                    )
                for i, p in enumerate(held):
                    found.setdefault(p, f"{name}.{i}")
        for parameter, name in found.items():
            parameter.name = name
        return {name: parameter for parameter, name in found.items()}


def _any_parameter(items: Iterable[Any]) -> bool:
    """Whether a parameter is among `items`, or in a list among them."""
    return any(
        _any_parameter(x) if isinstance(x, (list, tuple)) else isinstance(x, Parameter)
        for x in items
    )


class State:
    """A child's state: one attribute a field."""

    def __init__(self, builder: Builder, fields: dict[str, Value]) -> None:
        self.__dict__.update(fields)
        self._builder, self._fields = builder, tuple(fields)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}: {vars(self)[name].type}' for name in self._fields)})"

    def __getattr__(self, name: str) -> NoReturn:
        self._builder.refuse("gather", f"no field {name!r}; the state is {', '.join(self._fields)}")


class Vertex:
    """What `forward` sees: one vertex, its children's states, its inputs and its outputs.

    Examples:
        The height of every vertex. `v` is the vertex; the last one has two children.

        >>> import tvm_cavs as cavs
        >>> class Height(cavs.VertexFunction):
        ...     state = {"h": 1}
        ...     def forward(self, v):
        ...         h = cavs.maximum(v.gather(0).h, v.gather(1).h) + 1.0
        ...         v.scatter(h=h)
        ...         v.push("height", h)
        >>> net = cavs.Network(Height())
        >>> net.hybridize("reference")
        >>> net(cavs.Graph.from_children([[], [0], [], [1, 2]]))["height"].tolist()
        [[1.0], [2.0], [1.0], [3.0]]
    """

    def __init__(self, function: VertexFunction, builder: Builder, training: bool) -> None:
        self._function, self._builder, self._training = function, builder, training
        self._pushed: dict[str, Value] = {}
        self._n_dropouts = 0

    def __repr__(self) -> str:
        return f"Vertex(of {self._function!r})"

    def gather(self, slot: int) -> Any:
        """State of the child in `slot`: an attribute for each field, zeros where it is absent.

        Raises:
            TraceError: `slot` is not in 0..arity-1.
        """
        b, arity = self._builder, self._function.arity
        whole = isinstance(slot, Integral) and not isinstance(slot, bool)
        if not whole or not 0 <= slot < arity:
            b.refuse(
                f"gather({slot!r})",
                f"expected a slot in 0..{arity - 1}; "
                "set the class attribute `arity` to the largest number of children",
            )
        types = {name: Type((int(n),)) for name, n in self._function.state.items()}
        calls = {f: b.call("gather", slot=int(slot), field=f, type=t) for f, t in types.items()}
        return State(b, calls)

    def pull(self, name: str, shape: Sequence[int] | int = (), dtype: str | None = None) -> Value:
        """This vertex's external input: float32[shape], or one int32 when no shape is given.

        A vertex without the input reads zeros, and an absent integer chooses nothing (see
        `embedding`).

        Raises:
            TraceError: the dtype is not float32 or int32, or the input was pulled as another type.
        """
        b = self._builder
        try:
            wide = arguments.extents("shape", shape, empty=True)
            name = arguments.name("name", name)
        except ConfigError as error:
            b.refuse("pull", str(error))
        kind = Type(wide, dtype or ("float32" if wide else "int32"))
        if not isinstance(kind.dtype, str) or kind.dtype not in ("float32", "int32"):
            given = f"dtype {dtype!r}, shape {kind.shape}"
            b.refuse(f"pull({name!r})", f"expected float32 or int32, given {given}")
        for c in b.calls:
            if c.op == "pull" and c["name"] == name and c.type != kind:
                b.refuse(
                    f"pull({name!r})", f"expected {c.type} as it was pulled before, now {kind}"
                )
        return b.call("pull", name=name, type=kind)

    def present(self, name: str) -> Value:
        """1.0 at a vertex that has input `name`, else 0.0."""
        return self._builder.call("present", name=self._name("present", name), type=Type(()))

    def scatter(self, **state: Value) -> None:
        """Publish this vertex's state to its parents: every field of `state`, once.

        Raises:
            TraceError: a field is missing or unknown. ShapeError: a field has another width.
        """
        b, want = self._builder, self._function.state
        if set(state) != set(want):
            b.refuse(f"scatter({', '.join(state)})", f"the fields of `state` are {', '.join(want)}")
        if any(c.op == "scatter" for c in b.calls):
            b.refuse("scatter", "it was called before; a vertex publishes its state once")
        for name, value in state.items():
            value = self._vertex_value(value, f"scatter({name}=...)")
            if value.shape != (int(want[name]),):
                raise ShapeError(
                    f"in {b.name}, scatter ({user_line()}): "
                    f"field {name!r} is float32[{want[name]}] in `state`, given {value.type}"
                )
            b.call("scatter", value, field=name)

    def push(self, name: str, value: Value) -> None:
        """Give this vertex's external output `name`."""
        name = self._name("push", name)
        if name in self._pushed:
            self._builder.refuse("push", f"output {name!r} was pushed before; use another name")
        self._pushed[name] = self._vertex_value(value, f"push({name!r}, ...)")
        self._builder.call("push", self._pushed[name], name=name)

    def output(self, name: str) -> Value:
        """What was pushed under `name`, for losses.

        Raises:
            TraceError: nothing was.
        """
        if self._name("output", name) not in self._pushed:
            pushed = ", ".join(self._pushed) or "nothing"
            self._builder.refuse(
                "output", f"no output {name!r}; the vertex function pushes {pushed}"
            )
        return self._pushed[name]

    def param(self, parameter: Parameter) -> Value:
        """The parameter as a value. `x @ self.W` does this by itself."""
        return self._builder.call(
            "param", name=parameter.name, type=Type(parameter.shape, per="net")
        )

    def dropout(self, x: Value, rate: float) -> Value:
        """In training, zero each element with probability `rate` and scale the others by
        1/(1-rate).
        """
        try:
            rate = arguments.number("rate", rate, 0, below=1)
        except ConfigError as error:
            self._builder.refuse("dropout", str(error))
        if not isinstance(x, Value):
            given = arguments.shown(x)
            self._builder.refuse("dropout", f"expected a value of the vertex, given {given}")
        self._n_dropouts += 1
        if not self._training or rate == 0.0:
            return x
        return self._builder.call("dropout", x, rate=float(rate), site=self._n_dropouts - 1)

    def _name(self, op: str, given: Any) -> str:
        try:
            return arguments.name("name", given)
        except ConfigError as error:
            self._builder.refuse(op, str(error))

    def _vertex_value(self, value: Any, where: str) -> Value:
        if not isinstance(value, Value):
            self._builder.refuse(where, f"expected a value, given {type(value).__name__}")
        if value.type.per == "net":
            problem = f"the value is the same for every vertex ({value.type})"
            self._builder.refuse(where, f"{problem}; add something that the vertex reads")
        return value


def trace(function: VertexFunction, loss: Any = None, training: bool = False) -> Program:
    """Run `forward` once, on symbols, and `loss.forward` after it if given.

    Raises:
        TraceError: forward is not traceable. ShapeError: operands that do not fit. Both name the
            user's line.
    """
    cls = type(function)
    _check_state(function)
    builder = Builder(cls.__name__)
    vertex = Vertex(function, builder, training)
    parameters = function.parameters()
    _with_values(function, {p: vertex.param(p) for p in parameters.values()}).forward(vertex)
    missing = set(function.state) - {c["field"] for c in builder.calls if c.op == "scatter"}
    if missing:
        line = inspect.getsourcelines(cls.forward)[1]
        raise TraceError(
            f"{cls.__name__}.forward (line {line}) never scatters {', '.join(sorted(missing))}; "
            "call v.scatter(...)"
        )
    if loss is not None:
        builder.name = f"{builder.name} + {type(loss).__name__}"
        loss.forward(vertex)
    program = builder.finish()
    check_choices(program)
    return program


def _check_state(function: VertexFunction) -> None:
    name, state = type(function).__name__, getattr(function, "state", None)
    if not isinstance(state, dict) or not state:
        raise TraceError(f'{name} needs `self.state = {{"h": width, ...}}`, the fields it scatters')
    for field, width in state.items():
        if not isinstance(field, str) or not field.isidentifier():
            raise TraceError(
                f"{name}.state: a field is an attribute of what gather gives, so a name such as "
                f"'h', given {arguments.shown(field)}"
            )
        arguments.whole(f"{name}.state[{field!r}], a width", width, 1, arguments.MOST, TraceError)
    most = "arity, the largest number of children"
    arguments.whole(f"{name}.{most}", function.arity, 0, arguments.MOST, TraceError)


def _with_values(function: VertexFunction, values: dict[Parameter, Value]) -> VertexFunction:
    """A copy of the function whose parameters are values of the trace in progress."""
    view = copy.copy(function)
    for name, held in vars(function).items():
        if isinstance(held, Parameter):
            setattr(view, name, values[held])
        elif isinstance(held, (list, tuple)) and any(isinstance(p, Parameter) for p in held):
            setattr(view, name, [values[p] for p in held])
    return view


def call(op: str, *args: Value | float, **attrs: Any) -> Value:
    """Apply an op of the table; numbers become constants."""
    builder = next((a.builder for a in args if isinstance(a, Value)), None)
    if builder is None:
        given = ", ".join(type(a).__name__ for a in args) or "nothing"
        raise TraceError(f"{op} ({user_line()}): expected a value of the vertex, given {given}")
    values: list[Any] = [full(builder, float(a)) if isinstance(a, Real) else a for a in args]
    return builder.call(op, *values, **attrs)
