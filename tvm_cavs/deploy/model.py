"""Model: what was exported, ready to answer.

It runs what training ran, on the same runtime: plans, slices, routines. So answers are the same to
the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from ..errors import DeployError
from ..graph import Graph, Policy, Read, batch, check_inputs
from ..renewal import renewed_after_fork
from ..runtime import (
    Arena,
    Batch,
    Joined,
    Part,
    Slots,
    UnknownKindsError,
    Workspace,
    n_cores,
    read_outputs,
)
from .backward import Backward, Gradient
from .cpu import require_cpu
from .library import load_library
from .manifest import (
    BACKWARD,
    LIBRARY,
    PARAMETERS,
    PROGRAM,
    VALUES,
    VOCABULARY,
    Manifest,
    read_folder,
)
from .program import Deployed
from .reading import Reader
from .restoring import from_data
from .runner import Runner
from .tensors import read_tensors
from .weights import Weights


def load(folder: str | Path) -> Model:
    """Check an exported model and make it ready.

    Raises:
        DeployError: a file is absent, damaged or not the one that was exported; the model was made
            by a newer version, or for another CPU. Nothing of it has run.

    Examples:
        >>> import tvm_cavs
        >>> try:
        ...     model = tvm_cavs.deploy.load("here")
        ... except tvm_cavs.DeployError as error:
        ...     print(str(error).partition(".")[0])
        here is no exported model: it has no manifest
    """
    folder = Path(folder)
    manifest, files = read_folder(folder)
    target = manifest["target"]
    require_cpu(target["architecture"], target["instructions"])
    library = load_library(files[LIBRARY])
    names = [name for name in (PROGRAM, BACKWARD) if name in files]
    programs = [_program(folder / name, files[name], library) for name in names]
    parameters = read_tensors(files[PARAMETERS], PARAMETERS)
    stored = read_tensors(files[VALUES], VALUES) if VALUES in files else {}
    vocabulary = json.loads(files[VOCABULARY]) if VOCABULARY in files else None
    return Model(manifest, programs, parameters, stored, vocabulary)


def _program(path: Path, content: bytes, library: Any) -> Deployed:
    try:
        return from_data(json.loads(content), lambda symbol: library[symbol])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DeployError(f"{path} is no program of tvm_cavs: {error!r}.") from None


class Model:
    """An exported network.

    Any number of threads may call it at once: as many as there are cores run, each on one core, and
    the others wait. `TVM_CAVS_MEMORY` bounds the memory of each, as in training.

    Attributes:
        manifest: what was exported, by the manifest's keys. reader: makes graphs of JSON.

    Examples:
        >>> import tempfile
        >>> import tvm_cavs as cavs
        >>> class Sum(cavs.VertexFunction):
        ...     state = {"sum": 1}
        ...     def __init__(self):
        ...         self.w = cavs.Parameter((1,), cavs.init.Constant(2.0))
        ...     def forward(self, v):
        ...         sum = v.gather(0).sum + v.gather(1).sum + v.pull("x", 1) * self.w
        ...         v.scatter(sum=sum)
        ...         v.push("sum", sum)
        >>> net = cavs.Network(Sum())
        >>> net.initialize()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net.export(folder)
        ...     model = cavs.deploy.load(folder)
        >>> text = '{"children": [[], [], [0, 1]], "inputs": {"x": [[3.0], [4.0], null]}}'
        >>> tree = model.read(text)
        >>> print(model(tree)["sum"].ravel())
        [ 6.  8. 14.]
        >>> model.set_parameters({"w": [10.0]})
        >>> print(model(tree)["sum"].ravel(), model.parameters)
        [30. 40. 70.] {'w': array([10.], dtype=float32)}
    """

    def __init__(
        self,
        manifest: Manifest,
        programs: Sequence[Deployed],
        parameters: Mapping[str, np.ndarray],
        stored: Mapping[str, np.ndarray],
        vocabulary: list[str] | None = None,
    ) -> None:
        self.manifest, self.name = manifest, str(manifest["name"])
        self._reads = tuple(_read(each) for each in manifest["inputs"])
        sharing = manifest.get("sharing")
        self._policy = None if sharing is None else _policy(sharing)
        self._program, *others = programs
        self._with_backward = others[0] if others else None
        self._runner = Runner(self._program, self.name)
        self._weights = Weights.of(parameters, stored, self._program)
        self.reader = Reader(manifest, vocabulary)
        self._slots = Slots(n_cores())
        self._renew()
        renewed_after_fork(self, Model._renew)

    def _renew(self) -> None:
        """The lock that is held while parameters change."""
        self._changing = RLock()

    @cached_property
    def _backward(self) -> Backward:
        """What runs the backward pass, made when it is wanted.

        Raises:
            DeployError: it was not exported.
        """
        if self._with_backward is None:
            raise DeployError(
                f"{self.name} was exported without its backward pass. Export it again with it: "
                "tvm-cavs export RUN --out DIR --backward, or net.export(DIR, backward=True)."
            )
        return Backward(self._with_backward, self.name, list(self._weights.arrays), self._slots)

    def __call__(self, graphs: Graph | Iterable[Graph]) -> dict[str, np.ndarray]:
        """Outputs by name, vertex after vertex in the graphs' order: float32[n_vertices, ...].

        Raises:
            GraphError: the graphs do not fit the model, or have vertices that it was not exported
                for.
            OutOfMemoryError: they take more memory than may be taken; later calls are not touched.
        """
        graph = self._checked(graphs)
        shared = None if self._policy is None else self._policy.share(graph)
        run = graph if shared is None else shared.graph
        outputs = self._slots.call(lambda found: self._run(self._runner.plan(run), found))
        if shared is None:
            return outputs
        return {name: rows.take(shared.of, axis=0) for name, rows in outputs.items()}

    def _checked(self, graphs: Graph | Iterable[Graph]) -> Graph:
        """One graph, which fits."""
        graph = graphs if isinstance(graphs, Graph) else batch(list(graphs))
        check_inputs(graph, self._reads, self._program.arity, self.name)
        return graph

    def vjp(
        self, graphs: Graph | Iterable[Graph]
    ) -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, Any]], dict[str, Gradient]]]:
        """Outputs as a call gives them, and their vector-Jacobian product, the *pullback*.

        The pullback turns gradients of outputs by name, float32[n_vertices, ...], into the gradient
        of every parameter: float32 in its shape, or `RowSparse` for a table that is only looked up.
        They are the caller's own. An output that is left out counts as zeros.

        It may be called several times, by one thread at a time. It goes back with the parameters
        that it went forward with, whatever was set since. Who holds it holds the memory of its
        batch.

        It is inference that is differentiated: no unit is dropped. Every vertex is computed, equal
        ones too. Outputs are those of a call within rounding, to the last bit those of training's
        executor: small batches read their weights unpacked.

        Raises:
            DeployError: the model was exported without its backward pass.
            GraphError, OutOfMemoryError: as a call.

        Examples:
            What w does to the sum at the root, and to all three sums:

            >>> import tempfile
            >>> import tvm_cavs as cavs
            >>> class Sum(cavs.VertexFunction):
            ...     state = {"sum": 1}
            ...     def __init__(self):
            ...         self.w = cavs.Parameter((1,), cavs.init.Constant(2.0))
            ...     def forward(self, v):
            ...         sum = v.gather(0).sum + v.gather(1).sum + v.pull("x", 1) * self.w
            ...         v.scatter(sum=sum)
            ...         v.push("sum", sum)
            >>> net = cavs.Network(Sum())
            >>> net.initialize()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     net.export(folder, backward=True)
            ...     model = cavs.deploy.load(folder)
            >>> tree = cavs.Graph.from_children([[], [], [0, 1]], {"x": [[3.0], [4.0], None]})
            >>> outputs, pullback = model.vjp(tree)
            >>> print(outputs["sum"].ravel())
            [ 6.  8. 14.]
            >>> print(pullback({"sum": [[0.0], [0.0], [1.0]]})["w"])
            [7.]
            >>> print(pullback({"sum": [[1.0], [1.0], [1.0]]})["w"])
            [14.]
        """
        backward, graph = self._backward, self._checked(graphs)
        weights = self._weights
        if weights.backward is None:
            weights = self._packed_for(backward)
        assert weights.backward is not None
        return backward.forward(graph, weights.backward.memory)

    def _packed_for(self, backward: Backward) -> Weights:
        with self._changing:
            self._weights = self._weights.for_backward(backward.program)
            return self._weights

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters of now by name: float32, read-only. What is set later are other arrays."""
        found = {name: array.view() for name, array in self._weights.arrays.items()}
        for view in found.values():
            view.setflags(write=False)
        return found

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Give parameters other values, by name; those that are left out keep theirs.

        Values are copied. Calls that run meanwhile answer from the old values, all of them.

        Raises:
            ShapeError: a name or a shape does not fit, or a value is no finite number; all such are
                listed, and nothing has changed.
            DeployError: the model was exported by a version that could not do this.
        """
        with self._changing:
            self._weights = self._weights.changed(values, self._program, self._with_backward)

    def answers(self, graphs: Iterable[Graph]) -> list[dict[str, np.ndarray]]:
        """The outputs of each graph on its own, all of them run together."""
        given = list(graphs)
        if not given:
            return []
        found = self(given)
        ends = np.cumsum([graph.n_vertices for graph in given])[:-1]
        parts = {name: np.split(rows, ends) for name, rows in found.items()}
        return [{name: parts[name][i] for name in parts} for i in range(len(given))]

    def check(self, graph: Graph) -> None:
        """Whether the model answers this.

        Raises:
            GraphError: as a call.
        """
        check_inputs(graph, self._reads, self._program.arity, self.name)
        if not self.manifest["complete"]:
            self._runner.plan(graph)  # looks at the kinds

    def arena(self, n_vertices: int) -> Arena:
        """Where batches of so many vertices run side by side, with the parameters of now."""
        prepared = self._runner.prepared
        return Arena(
            prepared.compiled,
            prepared.spaces,
            prepared.planner,
            self._runner.ranks,
            prepared.layout,
            prepared.passes,
            self._weights.forward.memory,
            [output.buffer for output in self._program.outputs],
            n_vertices,
        )

    def part(self, graph: Graph, arena: Arena) -> tuple[Part, np.ndarray]:
        """A batch as an arena takes it, and the row of each of its vertices there.

        Raises:
            GraphError: as a call.
        """
        check_inputs(graph, self._reads, self._program.arity, self.name)
        shared = None if self._policy is None else self._policy.share(graph)
        try:
            part = arena.part(graph if shared is None else shared.graph)
        except UnknownKindsError as unknown:
            raise self._runner.refusal(unknown.masks) from None
        return part, part.row if shared is None else part.row.take(shared.of)

    def outputs_of(self, arena: Arena, joined: Joined, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name at some rows of a part that joined, which have been run."""
        found = {
            o.name: (arena.read(joined, o.buffer, rows), o.shape) for o in self._program.outputs
        }
        return {name: values.reshape(len(rows), *shape) for name, (values, shape) in found.items()}

    def read(self, text: str) -> list[Graph]:
        """The graphs of JSON lines; see `Reader.lines`."""
        return self.reader.lines(text)

    def _run(
        self, batch: Batch, found: Workspace | None
    ) -> tuple[dict[str, np.ndarray], Workspace]:
        runner = self._runner
        workspace = runner.prepared.workspace(found, self._weights.forward.memory)
        workspace.make_room(batch)
        workspace.run(batch, "forward")
        return read_outputs(runner.outputs, batch, workspace), workspace

    def __repr__(self) -> str:
        inputs = ", ".join(r.name for r in self._reads)
        outputs = ", ".join(o.name for o in self._program.outputs)
        return f"<Model {self.name}: {inputs} -> {outputs}>"


def _read(data: Mapping[str, Any]) -> Read:
    shape = data["shape"]
    return Read(data["name"], None if shape is None else tuple(shape), data["dtype"], data["limit"])


def _policy(data: Mapping[str, Any]) -> Policy:
    return Policy(tuple(data["names"]), data["least"], data["per_level"])
