"""The vertex language: what a user writes, and `trace`, which turns it into a Program.

A vertex function says what ONE vertex does; there is no batch dimension anywhere. It is traced once.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import init as initialisers
from .errors import ShapeError, TraceError
from .ops import Type, Value, full
from .program import Builder, Program, user_line


@dataclass(frozen=True)
class RowSparse:
    """Gradient of an embedding table: only the rows that the batch used.

    rows: int32[m], ascending, distinct. values: float32[m, width].
    """

    rows: np.ndarray
    values: np.ndarray


class Parameter:
    """A trained array, shared by all vertices.

    Shapes: `data` float32[shape], filled by `Network.initialize`; `grad` the same, or `RowSparse` for a
    table that is only read by `embedding`, or None before the first backward pass. `lr_mult` and
    `decay_mult` multiply the trainer's learning rate and weight decay.
    """

    def __init__(
        self,
        shape: Sequence[int],
        init: initialisers.Initializer | None = None,
        lr_mult: float = 1.0,
        decay_mult: float = 1.0,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        if not self.shape or min(self.shape) < 1:
            raise ShapeError(f"a parameter's shape is positive integers, given {tuple(shape)}")
        self.init = init or (initialisers.Xavier() if len(self.shape) > 1 else initialisers.Zeros())
        self.lr_mult, self.decay_mult = lr_mult, decay_mult
        self.name = ""
        self.grad: np.ndarray | RowSparse | None = None
        self._data: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """float32[shape]; written in place.

        Raises:
            TraceError: before `Network.initialize`.
        """
        if self._data is None:
            raise TraceError(
                f"parameter {self.name or '?'} {self.shape} has no data yet; call net.initialize(seed=0)"
            )
        return self._data

    def set_data(self, values: np.ndarray) -> None:
        """Copy `values` in, keeping the memory that an executor may already know.

        Raises:
            ShapeError: the shapes differ.
        """
        if tuple(values.shape) != self.shape:
            raise ShapeError(
                f"parameter {self.name}: expected shape {self.shape}, given {tuple(values.shape)}"
            )
        if self._data is None:
            self._data = aligned(self.shape)
        self._data[...] = values

    def __repr__(self) -> str:
        return f"Parameter({self.name or '?'}, {self.shape})"


def aligned(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Zeros whose first byte lies on a 64-byte boundary, so that kernels can use the memory as it is."""
    n_bytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 64, "uint8")
    start = -raw.ctypes.data % 64
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


class VertexFunction:
    """Base of all vertex functions: parameters in the constructor, `forward(self, v)` for one vertex.

    state: the fields a vertex publishes to its parents and their widths, for example
    `{"h": 150, "c": 150}`. arity: the largest number of children it can gather from.
    """

    state: dict[str, int]
    arity: int = 2

    def forward(self, v: Vertex) -> None:
        """What one vertex does."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, v)")

    def parameters(self) -> dict[str, Parameter]:
        """The parameters by attribute name, in the order they were made; those in a list are `name.0` ..."""
        found: dict[str, Parameter] = {}
        for name, held in vars(self).items():
            if isinstance(held, Parameter):
                found[name] = held
            elif isinstance(held, (list, tuple)) and all(isinstance(p, Parameter) for p in held):
                found.update({f"{name}.{i}": p for i, p in enumerate(held)})
        for name, parameter in found.items():
            parameter.name = name
        return found


class Vertex:
    """What `forward` sees: one vertex, its children's states, its inputs and its outputs."""

    def __init__(self, function: VertexFunction, builder: Builder, training: bool) -> None:
        self._function, self._builder, self._training = function, builder, training
        self._pushed: dict[str, Value] = {}
        self._n_dropouts = 0

    def gather(self, slot: int) -> Any:
        """State of the child in `slot`, as an object with one attribute per field; zeros where absent.

        Raises:
            TraceError: `slot` is not in 0..arity-1.
        """
        arity = self._function.arity
        if not isinstance(slot, int) or not 0 <= slot < arity:
            raise TraceError(
                f"in {self._builder.name}: gather({slot!r}) ({user_line()}): expected a slot in 0..{arity - 1}; "
                "set the class attribute `arity` to the largest number of children"
            )
        fields = self._function.state.items()
        call = self._builder.call
        return SimpleNamespace(
            **{f: call("gather", slot=slot, field=f, type=Type((int(n),))) for f, n in fields}
        )

    def pull(self, name: str, shape: Sequence[int] = (), dtype: str | None = None) -> Value:
        """This vertex's external input: float32[shape], or one int32 when no shape is given.

        A vertex without the input reads zeros, and an absent integer chooses nothing (see `embedding`).
        """
        kind = Type(tuple(shape), dtype or ("float32" if shape else "int32"))
        for call in self._builder.calls:
            if call.op == "pull" and call["name"] == name and call.type != kind:
                raise TraceError(
                    f"in {self._builder.name}: input {name!r} is pulled as {call.type} and as {kind} ({user_line()})"
                )
        return self._builder.call("pull", name=name, type=kind)

    def present(self, name: str) -> Value:
        """1.0 at a vertex that has input `name`, else 0.0."""
        return self._builder.call("present", name=name, type=Type(()))

    def scatter(self, **state: Value) -> None:
        """Publish this vertex's state to its parents: every field of `state`, once.

        Raises:
            TraceError: a field is missing or unknown. ShapeError: a field has another width.
        """
        want = self._function.state
        if set(state) != set(want):
            raise TraceError(
                f"in {self._builder.name}: scatter({', '.join(state)}) ({user_line()}): the fields of `state` are {', '.join(want)}"
            )
        for name, value in state.items():
            value = self._vertex_value(value, f"scatter({name}=...)")
            if value.shape != (int(want[name]),):
                raise ShapeError(
                    f"in {self._builder.name}: scatter {name} ({user_line()}): state says {want[name]}, given {value.type}"
                )
            self._builder.call("scatter", value, field=name)

    def push(self, name: str, value: Value) -> None:
        """Give this vertex's external output `name`."""
        self._pushed[name] = self._vertex_value(value, f"push({name!r}, ...)")
        self._builder.call("push", self._pushed[name], name=name)

    def output(self, name: str) -> Value:
        """What was pushed under `name`, for losses.

        Raises:
            TraceError: nothing was.
        """
        if name not in self._pushed:
            raise TraceError(
                f"{self._builder.name}: no output {name!r}; the vertex function pushes {', '.join(self._pushed) or 'nothing'}"
            )
        return self._pushed[name]

    def param(self, parameter: Parameter) -> Value:
        """The parameter as a value. `x @ self.W` does this by itself."""
        return self._builder.call(
            "param", name=parameter.name, type=Type(parameter.shape, per="net")
        )

    def dropout(self, x: Value, rate: float) -> Value:
        """In training, zero each element with probability `rate` and scale the others by 1/(1-rate)."""
        if not 0.0 <= rate < 1.0:
            raise TraceError(
                f"in {self._builder.name}: dropout ({user_line()}): expected a rate in [0, 1), given {rate}"
            )
        self._n_dropouts += 1
        if not self._training or rate == 0.0:
            return x
        return self._builder.call("dropout", x, rate=float(rate), site=self._n_dropouts - 1)

    def _vertex_value(self, value: Any, where: str) -> Value:
        if not isinstance(value, Value):
            raise TraceError(
                f"in {self._builder.name}: {where} ({user_line()}): expected a value, given {type(value).__name__}"
            )
        if value.type.per == "net":
            raise TraceError(
                f"in {self._builder.name}: {where} ({user_line()}): the value is the same for every vertex ({value.type})"
            )
        return value


def trace(function: VertexFunction, loss: Any = None, training: bool = False) -> Program:
    """Run `forward` once, on symbols, and `loss.forward` after it if given.

    Raises:
        TraceError: forward is not traceable. ShapeError: operands that do not fit, with the user's line.
    """
    cls = type(function)
    if not isinstance(getattr(function, "state", None), dict) or not function.state:
        raise TraceError(
            f'{cls.__name__} needs `self.state = {{"h": width, ...}}`, the fields it scatters'
        )
    builder = Builder(cls.__name__)
    vertex = Vertex(function, builder, training)
    parameters = function.parameters()
    _with_values(function, {n: vertex.param(p) for n, p in parameters.items()}).forward(vertex)
    missing = set(function.state) - {c["field"] for c in builder.calls if c.op == "scatter"}
    if missing:
        line = inspect.getsourcelines(cls.forward)[1]
        raise TraceError(
            f"{cls.__name__}.forward (line {line}) never scatters {', '.join(sorted(missing))}; call v.scatter(...)"
        )
    if loss is not None:
        builder.name = f"{builder.name} + {type(loss).__name__}"
        loss.forward(vertex)
    return builder.finish()


def _with_values(function: VertexFunction, values: dict[str, Value]) -> VertexFunction:
    """A copy of the function whose parameters are values of the trace in progress."""
    view = copy.copy(function)
    for name, value in values.items():
        owner, _, i = name.partition(".")
        if i:
            held = list(getattr(view, owner))
            held[int(i)] = value
            setattr(view, owner, held)
        else:
            setattr(view, name, value)
    return view


def call(op: str, *args: Value | float, **attrs: Any) -> Value:
    """Apply an op of the table; numbers become constants."""
    builder = next((a.builder for a in args if isinstance(a, Value)), None)
    if builder is None:
        raise TraceError(
            f"{op} ({user_line()}): expected a value of the vertex, given {', '.join(type(a).__name__ for a in args)}"
        )
    values: list[Any] = [full(builder, float(a)) if isinstance(a, Real) else a for a in args]
    return builder.call(op, *values, **attrs)
