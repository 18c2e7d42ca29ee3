"""Network: a vertex function with its parameters, ready to run on batches of graphs.

Inference is `net(batch)["logits"]`; training is `with record(): loss = loss_fn(net(batch))`, then
`loss.backward()`, as in Gluon. What runs it is chosen by `hybridize` and can be changed at any
time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..errors import GraphError, ShapeError, TraceError
from ..executors import (
    About,
    Executor,
    Observer,
    PlanningExecutor,
    Seeds,
    check_options,
    check_parameters,
    factory,
)
from ..graph import Graph, Policy, Shared, Sharing, check_inputs, with_copies
from ..language import Parameter, VertexFunction, take_gradients, trace
from ..transform import Programs, check_names, choose_policy, counted, differentiate, only_pushes
from .ahead import Helper
from .loss import Loss, LossFunction, Recorded
from .parameter_files import load_parameters, save_parameters
from .recent import Recent, key_of
from .recording import is_recording
from .turn import Turn

LONG_FORWARD = 1e-3  # seconds; measured: planning ahead lost up to 0.1 ms below, and gains above


class Planned(NamedTuple):
    """A batch as it was given; the one to run, and how it was made; what was planned for it."""

    graph: Graph
    run: Graph
    shared: Shared | None
    executor: Any
    batch: Any  # None: the executor does it all when the batch is run


class Ready(NamedTuple):
    """What runs the programs of a loss; `planner` is the same if it plans batches ahead."""

    programs: Programs
    policy: Policy | None
    executor: Executor
    planner: PlanningExecutor | None
    trains: bool


class Network:
    """A vertex function and its parameters.

    Any number of threads may run a network at once outside of `record()`. Training is one thread's.

    A copy (`copy.deepcopy`, `pickle`) has parameters of its own and compiles for itself; a
    `copy.copy` shares the function and its parameters. The function is traced once: change its
    attributes before its network is used, or make another network.

    Args:
        function: what one vertex does. (Several functions and directions come as a list later.)

    Attributes:
        last_sharing: of the last batch, how many vertices were computed; None where all were,
            because sharing is off or would have saved too little.
        observer: sees how equal vertices are found, the part "share"; see `profiling`.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.TreeLSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> tree = cavs.Graph.from_children([[], [], [0, 1]], {"word": [7, 2, None]})
        >>> print(net(cavs.batch([tree, tree]))["logits"].shape)
        (6, 3)
    """

    def __init__(self, function: VertexFunction) -> None:
        if not isinstance(function, VertexFunction):
            remedy = "call the class to make one" if isinstance(function, type) else "see nn.CELLS"
            raise TraceError(
                f"Network: expected a VertexFunction, given {function!r:.60}; {remedy}"
            )
        self.function = function
        self._parameters = function.parameters()
        self._choice: tuple[str, dict[str, Any]] = ("tvm", {})
        self._sharing: bool | None = None
        self._seed, self.step = 0, 0
        self._forget()

    def _forget(self) -> None:
        """What is made when the network is used, and can be made again."""
        self.last_sharing: Sharing | None = None
        self.observer: Observer | None = None
        self._executors: Recent[Ready] = Recent()
        self._programs: Recent[Programs] = Recent()
        self._planned: Planned | None = None
        self._forward_seconds = 0.0  # of the last batch
        self._turn = Turn()
        self._run: object = None  # the last forward pass of training

    def __repr__(self) -> str:
        n = sum(prod(p.shape) for p in self._parameters.values())
        name, options = self._choice
        told = "".join(f", {key}={value!r}" for key, value in options.items())
        return (
            f"Network({self.function!r}, parameters {', '.join(self._parameters) or 'none'} "
            f"({n:,} numbers), executor {name}{told})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Nothing compiled, and no batch."""
        kept = "function", "_parameters", "_choice", "_sharing", "_seed", "step"
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name."""
        return dict(self._parameters)

    def initialize(self, seed: int = 0) -> None:
        """Draw every parameter by its initialiser; the same seed gives the same values.

        Raises:
            ConfigError: the seed is no whole number of 0 or more.
            ShapeError: an initialiser gave another shape, or what is no finite number.
        """
        seed = arguments.whole("initialize(seed)", seed, 0)
        for i, p in enumerate(self._parameters.values()):
            values = np.asarray(p.init(np.random.default_rng([seed, i]), p.shape))
            if tuple(values.shape) != p.shape:
                raise ShapeError(
                    f"initialiser {p.init} of parameter {p.name}: "
                    f"expected shape {p.shape}, gave {values.shape}"
                )
            p.set_data(values)

    def save_parameters(self, path: str | Path) -> None:
        """Write all parameters to a safetensors file, by name: NumPy and torch read it as it is.

        Raises:
            CheckpointError: it could not be written.
        """
        save_parameters(self._parameters, Path(path))

    def load_parameters(self, path: str | Path) -> None:
        """Read all parameters from a safetensors file, such as that of an exported model.

        Raises:
            CheckpointError: the file is damaged, or of another network; nothing has changed.
        """
        load_parameters(self._parameters, Path(path))

    def hybridize(self, executor: str = "tvm", sharing: bool | None = None, **options: Any) -> None:
        """Choose what runs the network.

        Args:
            executor: "tvm" (options `target`, `threads`, `cache`, `precision`, `records`,
                `without`), "reference" (option `dtype`), or a registered name.
            sharing: whether equal subgraphs of a batch are computed once, which changes no result
                beyond rounding. None: where no dropout makes vertices differ, and where it saves
                time (large batches of vertices that are not tiny; see sharing.py).

        Raises:
            TargetError: no such executor, or it has no such option.
        """
        check_options(executor, factory(executor), options)
        self._choice, self._sharing = (executor, options), sharing
        self._executors = Recent()

    def seed(self, seed: int) -> None:
        """Seed of dropout; with `step` it decides every mask.

        Raises:
            ConfigError: it is no whole number.
        """
        self._seed = arguments.whole("seed", seed)

    @property
    def dropout_seed(self) -> int:
        """What `seed` was given; 0 at first."""
        return self._seed

    def programs(self, loss: LossFunction | None = None) -> Programs:
        """The traced programs: F for inference, or F with `loss` and their adjoint for training."""
        return self._programs.get(key_of(loss), partial(self._trace, loss))

    def _trace(self, loss: LossFunction | None) -> Programs:
        forward = trace(self.function, loss, training=loss is not None)
        check_names(forward)
        if loss is not None:
            forward = only_pushes(forward, {"loss", "correct"})
        adjoint = differentiate(forward) if loss is not None else None
        return Programs(forward, adjoint, self.function.arity)

    def policy(self, loss: LossFunction | None = None) -> Policy | None:
        """How equal vertices are computed once; None where they are not.

        Raises:
            TraceError: sharing was asked for, but dropout makes all vertices differ.
        """
        return choose_policy(self.programs(loss).forward, self._sharing)

    def shared(self, graph: Graph, loss: LossFunction | None = None) -> tuple[Graph, Shared | None]:
        """The graph that the executor runs for a batch, and how it was made from it, if it was."""
        return _share(graph, self.policy(loss), loss is not None)

    def executor(self, loss: LossFunction | None = None) -> Executor:
        """What runs the programs; made once for each of the last few losses that differ.

        It takes what `shared` gives.
        """
        return self._ready(loss).executor

    def _ready(self, loss: LossFunction | None) -> Ready:
        return self._executors.get(key_of(loss), partial(self._make_ready, loss))

    def _make_ready(self, loss: LossFunction | None) -> Ready:
        (name, options), programs = self._choice, self.programs(loss)
        policy = self.policy(loss)
        check_parameters(programs, self._parameters)
        counts = loss is not None and policy is not None
        made = factory(name)(counted(programs) if counts else programs, self._parameters, **options)
        planner = made if isinstance(made, PlanningExecutor) else None
        return Ready(programs, policy, made, planner, loss is not None)

    def prepare(self, batches: Iterable[Graph], loss: LossFunction | None = None) -> None:
        """Compile now what these batches will need, for training with `loss` or for inference.

        Optional: a batch that brings a new kind of vertex is compiled for when it comes.

        Raises:
            GraphError: a batch does not fit the vertex function.
        """
        programs = self.programs(loss)

        def checked() -> Iterator[Graph]:
            for graph in batches:
                check_inputs(graph, programs.reads, programs.arity, programs.forward.name)
                # what is compiled for training depends on how many vertices are computed
                yield graph if loss is None else self.shared(graph, loss)[0]

        self.executor(loss).prepare(checked())

    def export(
        self,
        folder: str | Path,
        graphs: Iterable[Graph] = (),
        about: About | None = None,
        replace: bool = False,
        linker: str | None = None,
        backward: bool = False,
        **options: Any,
    ) -> None:
        """Write the network's inference to a folder that `tvm_cavs.deploy.load` answers from.

        Args:
            graphs: of the data. Needed where a vertex has so many slots and inputs that not all
                combinations can be compiled; vertices that are not like theirs are then refused.
            about: what a user of the folder is told: vocabulary, classes, an example.
            replace: whether an exported model that is there makes room.
            linker: the C compiler for another architecture, by default ARCH-linux-gnu-gcc.
            backward: whether gradients can be computed from the folder too (`Model.vjp`).
            options: `target`, `precision`, `records`; by default those of `hybridize`.

        Raises:
            DeployError: the folder is there, or cannot be written.
            TargetError: the target is unknown, or its library cannot be linked here.
        """
        from ..executors import Exportable, export  # which imports TVM

        programs = self.programs()
        check_parameters(programs, self._parameters)
        exportable = Exportable(programs, self._parameters, self.policy())
        name, own = self._choice
        kept = ("target", "precision", "records")
        usual = {key: own[key] for key in kept if key in own} if name == "tvm" else {}
        export(
            exportable, Path(folder), graphs, about, replace, linker, backward, **usual | options
        )

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
        if is_recording():
            return Recorded(graph, partial(self.run_loss, graph=graph))
        return self._forward(self._ready(None), graph)

    def run_loss(self, loss: LossFunction, graph: Graph) -> Loss:
        """Forward pass with `loss`; see `LossFunction.__call__`."""
        return self._turn.forward(partial(self._train, loss, graph))

    def _train(self, loss: LossFunction, graph: Graph) -> Loss:
        ready, parameters = self._ready(loss), self._parameters
        run = self._run = object()  # no older loss can go back, even if this is interrupted
        versions = [p.version for p in parameters.values()]
        outputs = self._forward(ready, graph)
        self.step += 1

        def go_back() -> None:
            if run is not self._run:
                raise TraceError(
                    "this loss is not the network's last: "
                    "call backward() before the next forward pass"
                )
            if versions != [p.version for p in parameters.values()]:
                raise TraceError(_describe_change(parameters, versions))
            take_gradients(parameters)
            take_gradients(parameters, ready.executor.backward())

        def backward() -> None:
            self._turn.backward(go_back)

        n_labels = (
            int(np.count_nonzero(graph.inputs[loss.label].present))
            if loss.label in graph.inputs
            else graph.n_vertices
        )
        with np.errstate(invalid="ignore"):  # inf - inf
            total = float(outputs["loss"].sum(dtype="float64"))
        return Loss(total, n_labels, outputs, backward)

    def ahead(self, batches: Iterable[Graph], loss: LossFunction | None = None) -> Iterator[Graph]:
        """The batches, each planned while the one before it runs: for a loop that runs them all.

        A thread takes the next batch from `batches`, checks it, finds its equal vertices and plans
        it, where a core is free for it and forward passes are long enough to gain from it: short
        kernels lose more to Python's lock than planning takes. Results are those of a loop over
        `batches` itself.

        Batches are read-only, as all graphs are; a changed one (`with_inputs`) is another batch,
        and is planned when it is run.

        Args:
            loss: what the batches are run with, None for inference.

        Raises:
            GraphError: a batch does not fit the vertex function; the batches before it were given.
        """
        source = iter(batches)

        def take(ahead: bool) -> Planned | None:
            graph = next(source, None)
            return None if graph is None else self._plan(graph, self._ready(loss), ahead)

        with Helper("tvm_cavs-ahead") as helper:
            comes = False
            while (planned := helper.result() if comes else take(False)) is not None:
                comes = self._can_overlap(loss)
                if comes:
                    helper.begin(partial(take, True))
                self._planned = planned
                yield planned.graph

    def _can_overlap(self, loss: LossFunction | None) -> bool:
        planner = self._ready(loss).planner
        if planner is None or self._forward_seconds < LONG_FORWARD:
            return False
        return planner.n_threads < (os.cpu_count() or 1)

    def _plan(self, graph: Graph, ready: Ready, ahead: bool) -> Planned:
        """Everything about a batch that does not need the parameters."""
        checked = self._checked(graph, ready)
        if ready.planner is None:
            return checked
        return checked._replace(batch=ready.planner.plan(checked.run, ahead))

    def _checked(self, graph: Graph, ready: Ready) -> Planned:
        """A batch that fits, with its equal vertices found, to be planned when it is run."""
        programs = ready.programs
        check_inputs(graph, programs.reads, programs.arity, programs.forward.name)
        given = graph, ready.policy, ready.trains
        observer = self.observer
        run, shared = observer.part("share", _share, *given) if observer else _share(*given)
        return Planned(graph, run, shared, ready.executor, None)

    def _forward(self, ready: Ready, graph: Graph) -> Mapping[str, np.ndarray]:
        """Outputs of every vertex of the batch, whichever were computed."""
        executor, planned = ready.executor, self._planned
        if planned is None or planned.graph is not graph or planned.executor is not executor:
            planned = self._checked(graph, ready)
        else:
            self._planned = None
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


def _share(graph: Graph, policy: Policy | None, trains: bool) -> tuple[Graph, Shared | None]:
    """As `Network.shared`, by a policy."""
    if policy is None:
        return graph, None
    made = policy.share(graph)
    run = made.graph if made is not None else graph
    if trains:
        run = with_copies(run, made.copies if made is not None else None)
    return run, made


def _describe_change(parameters: Mapping[str, Parameter], versions: list[int]) -> str:
    changed = [
        name
        for (name, p), old in zip(parameters.items(), versions, strict=True)
        if p.version != old
    ]
    return (
        f"{', '.join(changed)} changed between the forward and the backward pass of this loss, so "
        "its gradients would mix old and new values; call loss.backward() before a parameter is "
        "changed (set_data, writing, trainer.step, initialize)"
    )
