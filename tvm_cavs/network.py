"""Network: a vertex function with its parameters, ready to run on batches of graphs.

Inference is `net(batch)["logits"]`; training is `with record(): loss = loss_fn(net(batch))`, then
`loss.backward()`, as in Gluon. What runs it is chosen by `hybridize` and can be changed at any
time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .autodiff import differentiate
from .errors import GraphError, ShapeError, TraceError
from .execution import (
    Executor,
    PlanningExecutor,
    Programs,
    Seeds,
    check_options,
    check_parameters,
    factory,
)
from .graph import Graph
from .inputs import check_fit
from .loss import LossFunction, Recorded
from .ops import Type
from .program import Call, Program, keep, without_dead
from .sharing import COPIES, Policy, Shared, Sharing, choose_policy, with_copies
from .vertex import Parameter, VertexFunction, trace

LONG_FORWARD = 1e-3  # seconds; measured: planning ahead lost up to 0.1 ms below, and gains above
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


class Planned(NamedTuple):
    """A batch as it was given; the one to run, and how it was made; what was planned for it."""

    graph: Graph
    run: Graph
    shared: Shared | None
    executor: Any
    batch: Any  # None: the executor does it all when the batch is run


class Ready(NamedTuple):
    """What runs the programs of a loss; `planner` is the same if it plans batches ahead."""

    executor: Executor
    planner: PlanningExecutor | None


class Network:
    """A vertex function and its parameters.

    Args:
        function: what one vertex does. (Several functions and directions come as a list later.)

    Attributes:
        last_sharing: of the last batch, how many vertices were computed; None where all were,
            because sharing is off or would have saved too little.
    """

    def __init__(self, function: VertexFunction) -> None:
        self.function = function
        self._parameters = function.parameters()
        self._choice: tuple[str, dict[str, Any]] = ("tvm", {})
        self._sharing: bool | None = None
        self._policies: dict[LossFunction | None, Policy | None] = {}
        self.last_sharing: Sharing | None = None
        self._executors: dict[LossFunction | None, Ready] = {}
        self._programs: dict[LossFunction | None, Programs] = {}
        self._planned: Planned | None = None
        self._forward_seconds = 0.0  # of the last batch
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

    def hybridize(self, executor: str = "tvm", sharing: bool | None = None, **options: Any) -> None:
        """Choose what runs the network.

        Args:
            executor: "tvm" (options `target`, `threads`, `cache`, `precision`, `without`),
                "reference" (option `dtype`), or a registered name.
            sharing: whether equal subgraphs of a batch are computed once, which changes no result
                beyond rounding. None: where no dropout makes vertices differ, and where it saves
                time (large batches of vertices that are not tiny; see sharing.py).

        Raises:
            TargetError: no such executor, or it has no such option.
        """
        check_options(executor, factory(executor), options)
        self._choice, self._sharing = (executor, options), sharing
        self._executors.clear()
        self._policies.clear()

    def seed(self, seed: int) -> None:
        """Seed of dropout; with `step` it decides every mask."""
        self._seed = seed

    @property
    def dropout_seed(self) -> int:
        """What `seed` was given; 0 at first."""
        return self._seed

    def programs(self, loss: LossFunction | None = None) -> Programs:
        """The traced programs: F for inference, or F with `loss` and their adjoint for training."""
        if loss not in self._programs:
            forward = trace(self.function, loss, training=loss is not None)
            _check_names(forward)
            if loss is not None:
                forward = _only_pushes(forward, {"loss", "correct"})
            adjoint = differentiate(forward) if loss is not None else None
            self._programs[loss] = Programs(forward, adjoint, self.function.arity)
        return self._programs[loss]

    def policy(self, loss: LossFunction | None = None) -> Policy | None:
        """How equal vertices are computed once; None where they are not.

        Raises:
            TraceError: sharing was asked for, but dropout makes all vertices differ.
        """
        if loss not in self._policies:
            self._policies[loss] = choose_policy(self.programs(loss).forward, self._sharing)
        return self._policies[loss]

    def shared(self, graph: Graph, loss: LossFunction | None = None) -> tuple[Graph, Shared | None]:
        """The graph that the executor runs for a batch, and how it was made from it, if it was."""
        policy = self.policy(loss)
        if policy is None:
            return graph, None
        made = policy.share(graph)
        run = made.graph if made is not None else graph
        if loss is not None:
            run = with_copies(run, made.copies if made is not None else None)
        return run, made

    def executor(self, loss: LossFunction | None = None) -> Executor:
        """What runs the programs; made once for each loss. It takes what `shared` gives."""
        return self._ready(loss).executor

    def _ready(self, loss: LossFunction | None) -> Ready:
        if loss not in self._executors:
            name, options = self._choice
            programs = self.programs(loss)
            check_parameters(programs, self._parameters)
            if loss is not None and self.policy(loss) is not None:
                programs = _counted(programs)
            made = factory(name)(programs, self._parameters, **options)
            planner = made if isinstance(made, PlanningExecutor) else None
            self._executors[loss] = Ready(made, planner)
        return self._executors[loss]

    def prepare(self, batches: Iterable[Graph], loss: LossFunction | None = None) -> None:
        """Compile now what these batches will need, for training with `loss` or for inference.

        Optional: a batch that brings a new kind of vertex is compiled for when it comes.

        Raises:
            GraphError: a batch does not fit the vertex function.
        """
        programs = self.programs(loss)
        counts = loss is not None and self.policy(loss) is not None

        def checked() -> Iterator[Graph]:
            for graph in batches:
                check_fit(graph, programs)
                yield with_copies(graph) if counts else graph

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
        return self._forward(None, graph)

    def run_loss(self, loss: LossFunction, graph: Graph) -> Loss:
        """Forward pass with `loss`; see `LossFunction.__call__`."""
        outputs = self._forward(loss, graph)
        executor = self.executor(loss)
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
            int(np.count_nonzero(graph.inputs[loss.label].present))
            if loss.label in graph.inputs
            else graph.n_vertices
        )
        return Loss(float(outputs["loss"].sum(dtype="float64")), n_labels, outputs, backward)

    def ahead(self, batches: Iterable[Graph], loss: LossFunction | None = None) -> Iterator[Graph]:
        """The batches, each planned while the one before it runs: for a loop that runs them all.

        A thread takes the next batch from `batches`, checks it, finds its equal vertices and plans
        it, where a core is free for it and forward passes are long enough to gain from it: short
        kernels lose more to Python's lock than planning takes. Results are those of a loop over
        `batches` itself.

        Args:
            loss: what the batches are run with, None for inference.

        Raises:
            GraphError: a batch does not fit the vertex function; the batches before it were given.
        """
        source = iter(batches)

        def take(ahead: bool) -> Planned | None:
            graph = next(source, None)
            return None if graph is None else self._plan(graph, loss, ahead)

        with ThreadPoolExecutor(1, "tvm_cavs-ahead") as pool:
            coming: Future[Planned | None] | None = None
            while (planned := take(False) if coming is None else coming.result()) is not None:
                coming = pool.submit(take, True) if self._can_overlap(loss) else None
                self._planned = planned
                yield planned.graph

    def _can_overlap(self, loss: LossFunction | None) -> bool:
        planner = self._ready(loss).planner
        if planner is None or self._forward_seconds < LONG_FORWARD:
            return False
        return planner.n_threads < (os.cpu_count() or 1)

    def _plan(self, graph: Graph, loss: LossFunction | None, ahead: bool = False) -> Planned:
        """Everything about a batch that does not need the parameters."""
        check_fit(graph, self.programs(loss))
        run, shared = self.shared(graph, loss)
        executor, planner = self._ready(loss)
        batch = None if planner is None else planner.plan(run, ahead)
        return Planned(graph, run, shared, executor, batch)

    def _forward(self, loss: LossFunction | None, graph: Graph) -> Mapping[str, np.ndarray]:
        """Outputs of every vertex of the batch, whichever were computed."""
        executor, planned = self.executor(loss), self._planned
        self._planned = None
        if planned is None or planned.graph is not graph or planned.executor is not executor:
            planned = self._plan(graph, loss)
        shared, seeds = planned.shared, Seeds(self._seed, self.step)
        start = time.perf_counter()
        if planned.batch is not None:
            outputs = planned.executor.run(planned.batch, seeds).outputs
        else:
            outputs = executor.forward(planned.run, seeds).outputs
        self._forward_seconds = time.perf_counter() - start
        self.last_sharing = None if shared is None else shared.sharing
        if shared is None:
            return outputs
        return {name: rows.take(shared.of, axis=0) for name, rows in outputs.items()}


def _check_names(forward: Program) -> None:
    for _, c in forward.select("pull", "present"):
        if c["name"] == COPIES:
            raise TraceError(f"{forward.name}: the input name {COPIES!r} is reserved; use another")


def _counted(programs: Programs) -> Programs:
    """The programs of training when the loss of a vertex counts as often as its COPIES say."""
    forward = programs.forward
    read = Call("pull", (), (("name", COPIES), ("type", Type(()))), Type(()))
    return Programs(
        Program(forward.name, (*forward.calls, read)),
        differentiate(forward, weight=COPIES),
        programs.arity,
    )


def _only_pushes(program: Program, names: set[str]) -> Program:
    """The program without the other pushes, and without what only they needed."""
    live = {i for i, c in enumerate(program.calls) if c.op != "push" or c["name"] in names}
    return without_dead(keep(program, live))
