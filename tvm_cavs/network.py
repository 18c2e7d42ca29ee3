"""Network: a vertex function with its parameters, ready to run on batches of graphs.

Inference is `net(batch)["logits"]`; training is `with record(): loss = loss_fn(net(batch))`, then
`loss.backward()`, as in Gluon. What runs it is chosen by `hybridize` and can be changed at any
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .autodiff import differentiate
from .errors import GraphError, ShapeError, TraceError
from .execution import Executor, Programs, Seeds, check_options, check_parameters, factory
from .graph import Graph
from .loss import LossFunction, Recorded
from .ops import Type
from .program import Program, bounds, keep, without_dead
from .vertex import Parameter, VertexFunction, trace

_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextmanager
def record() -> Iterator[None]:
    """Inside, networks run in training mode and losses can be differentiated."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


@dataclass(frozen=True)
class Loss:
    """The loss of one batch. `float(loss)` is its sum over the `n_labels` vertices that have a
    label.
    """

    value: float
    n_labels: int
    outputs: Mapping[str, np.ndarray]
    _backward: Any = field(repr=False)

    def __float__(self) -> float:
        return self.value

    def backward(self) -> None:
        """Fill the `grad` of every parameter.

        Raises:
            TraceError: the network has run another batch since.
        """
        self._backward()


class Network:
    """A vertex function and its parameters.

    Args:
        function: what one vertex does. (Several functions and directions come as a list later.)
    """

    def __init__(self, function: VertexFunction) -> None:
        self.function = function
        self._parameters = function.parameters()
        self._choice: tuple[str, dict[str, Any]] = ("tvm", {})
        self._executors: dict[LossFunction | None, Executor] = {}
        self._programs: dict[LossFunction | None, Programs] = {}
        self._seed, self.step, self._runs = 0, 0, 0

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name."""
        return dict(self._parameters)

    def initialize(self, seed: int = 0) -> None:
        """Draw every parameter by its initialiser; the same seed gives the same values."""
        for i, p in enumerate(self._parameters.values()):
            values = np.asarray(p.init(np.random.default_rng([seed, i]), p.shape))
            if tuple(values.shape) != p.shape:
                raise ShapeError(
                    f"initialiser {p.init} of parameter {p.name}: "
                    f"expected shape {p.shape}, gave {values.shape}"
                )
            p.set_data(values)

    def hybridize(self, executor: str = "tvm", **options: Any) -> None:
        """Choose what runs the network.

        Args:
            executor: "tvm" (options `target`, `threads`, `cache`, `without`), "reference" (option
                `dtype`), or a registered name.

        Raises:
            TargetError: no such executor, or it has no such option.
        """
        check_options(executor, factory(executor), options)
        self._choice = (executor, options)
        self._executors.clear()

    def seed(self, seed: int) -> None:
        """Seed of dropout; with `step` it decides every mask."""
        self._seed = seed

    @property
    def dropout_seed(self) -> int:
        return self._seed

    def programs(self, loss: LossFunction | None = None) -> Programs:
        """The traced programs: F for inference, or F with `loss` and their adjoint for training."""
        if loss not in self._programs:
            forward = trace(self.function, loss, training=loss is not None)
            if loss is not None:
                forward = _only_pushes(forward, {"loss", "correct"})
            adjoint = differentiate(forward) if loss is not None else None
            self._programs[loss] = Programs(forward, adjoint, self.function.arity)
        return self._programs[loss]

    def executor(self, loss: LossFunction | None = None) -> Executor:
        """What runs the programs; made once for each loss."""
        if loss not in self._executors:
            name, options = self._choice
            programs = self.programs(loss)
            check_parameters(programs, self._parameters)
            self._executors[loss] = factory(name)(programs, self._parameters, **options)
        return self._executors[loss]

    def prepare(self, batches: Iterable[Graph], loss: LossFunction | None = None) -> None:
        """Compile now what these batches will need, for training with `loss` or for inference.

        Optional: a batch that brings a new kind of vertex is compiled for when it comes.

        Raises:
            GraphError: a batch does not fit the vertex function.
        """
        programs = self.programs(loss)

        def checked() -> Iterator[Graph]:
            for graph in batches:
                check_fit(graph, programs)
                yield graph

        self.executor(loss).prepare(checked())

    def __call__(self, graph: Graph) -> Any:
        """Outputs by name, in the batch's vertex order: float32[n_vertices, ...].

        While recording, the answer is for a loss: `loss_fn(net(batch))`.

        Raises:
            GraphError: the batch does not fit the vertex function.
        """
        if not isinstance(graph, Graph):
            raise GraphError(
                f"a network takes a Graph, given {type(graph).__name__}; "
                "join a list of graphs by cavs.batch(graphs)"
            )
        if _recording.get():
            return Recorded(self, graph)
        programs = self.programs(None)
        check_fit(graph, programs)
        return self.executor(None).forward(graph, Seeds(self._seed, self.step)).outputs

    def run_loss(self, loss: LossFunction, graph: Graph) -> Loss:
        """Forward pass with `loss`; see `LossFunction.__call__`."""
        check_fit(graph, self.programs(loss))
        executor = self.executor(loss)
        result = executor.forward(graph, Seeds(self._seed, self.step))
        self.step += 1
        self._runs += 1
        run = self._runs

        def backward() -> None:
            if run != self._runs:
                raise TraceError(
                    "this loss is not the network's last: "
                    "call backward() before the next forward pass"
                )
            for name, grad in executor.backward().items():
                self._parameters[name].grad = grad

        n_labels = (
            int(graph.inputs[loss.label].present.sum())
            if loss.label in graph.inputs
            else graph.n_vertices
        )
        return Loss(
            float(result.outputs["loss"].sum(dtype="float64")), n_labels, result.outputs, backward
        )


def _only_pushes(program: Program, names: set[str]) -> Program:
    """The program without the other pushes, and without what only they needed."""
    live = {i for i, c in enumerate(program.calls) if c.op != "push" or c["name"] in names}
    return without_dead(keep(program, live))


def check_fit(graph: Graph, programs: Programs) -> None:
    """The batch has the inputs that F reads, of the right type and range, and fits its arity.

    Raises:
        GraphError: otherwise, naming the input or the vertex.
    """
    forward = programs.forward
    if graph.arity > programs.arity:
        widths = np.diff(graph.child_ptr)
        v = int(widths.argmax())
        raise GraphError(
            f"{_where(graph, v)} has {widths[v]} children, but {forward.name} gathers from "
            f"{programs.arity}; set `arity` to the most children, or binarise the graphs"
        )
    limits = bounds(forward)
    for _, c in forward.select("pull", "present"):
        name = c["name"]
        if name not in graph.inputs:
            raise GraphError(
                f"{forward.name} pulls {name!r}, which the graph does not have; "
                f"it has {', '.join(graph.inputs) or 'no inputs'}"
            )
        if c.op == "pull" and graph.inputs[name].present.any():
            _check_input(graph, name, c.type, forward.name, limits.get(name))


def _check_input(graph: Graph, name: str, want: Type, function: str, limit: int | None) -> None:
    values, present = graph.inputs[name].values, graph.inputs[name].present
    if values.shape[1:] != want.shape or str(values.dtype) != want.dtype:
        given = Type(values.shape[1:], str(values.dtype))
        raise GraphError(f"{function} pulls {name!r} as {want}; the graph gives {given} per vertex")
    if want.dtype != "int32":
        return
    high = np.iinfo("int32").max if limit is None else limit - 1
    wrong = present & ((values < 0) | (values > high)) if not want.shape else np.zeros(1, bool)
    if wrong.any():
        v = int(wrong.argmax())
        expected = "0 or more" if limit is None else f"0..{high}"
        raise GraphError(
            f"{_where(graph, v)}: input {name!r} is {values[v]}; {function} takes {expected}"
        )


def _where(graph: Graph, v: int) -> str:
    g = int(np.searchsorted(graph.graph_ptr, v, side="right")) - 1
    return f"graph {g}, vertex {v - int(graph.graph_ptr[g])}"
