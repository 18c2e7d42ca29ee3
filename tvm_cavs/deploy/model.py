"""Model: what was exported, ready to answer.

It runs what training ran, on the same runtime: plans, slices, routines. So answers are the same to
the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeployError, GraphError
from ..graph import Graph, Policy, Read, batch, check_inputs
from ..renewal import renewed_after_fork
from ..runtime import (
    Arena,
    Batch,
    BatchMemory,
    BufferId,
    Filling,
    HostMemory,
    Joined,
    Layout,
    Part,
    Passes,
    Planner,
    Role,
    Slots,
    Spaces,
    UnknownKindsError,
    Workspace,
    n_cores,
)
from .cpu import require_cpu
from .library import load_library
from .manifest import LIBRARY, PARAMETERS, PROGRAM, VALUES, VOCABULARY, Manifest, read_folder
from .program import Deployed, from_data
from .reading import Reader
from .tensors import buffer_name, read_tensors


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
    try:
        deployed = from_data(json.loads(files[PROGRAM]), lambda symbol: library[symbol])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DeployError(f"{folder / PROGRAM} is no program of tvm_cavs: {error!r}.") from None
    memory = HostMemory()
    for name, array in read_tensors(files[PARAMETERS], PARAMETERS).items():
        memory.bind(BufferId(Role.PARAMETER, name), array)
        memory.bind(BufferId(Role.FLAT_PARAMETER, name), array.reshape(-1))
    values = read_tensors(files[VALUES], VALUES) if VALUES in files else {}
    for buffer in deployed.values:
        memory.bind(buffer, values[buffer_name(buffer)])
    vocabulary = json.loads(files[VOCABULARY]) if VOCABULARY in files else None
    return Model(manifest, deployed, memory, vocabulary)


class Model:
    """An exported network.

    Any number of threads may call it at once: as many as there are cores run, each on one core, and
    the others wait. `TVM_CAVS_MEMORY` bounds the memory of each, as in training.

    Attributes:
        manifest: what was exported, by the manifest's keys. reader: makes graphs of JSON.

    Examples:
        >>> model = tvm_cavs.deploy.load("exported")  # doctest: +SKIP
        >>> graphs = model.read('{"children": [[], [], [0, 1]], "inputs": {"word": [7, 2, null]}}')
        ... # doctest: +SKIP
        >>> model(graphs)["logits"].shape  # doctest: +SKIP
        (3, 5)
    """

    def __init__(
        self,
        manifest: Manifest,
        deployed: Deployed,
        memory: HostMemory,
        vocabulary: list[str] | None = None,
    ) -> None:
        self.manifest, self.name = manifest, str(manifest["name"])
        self._arity, self._outputs = deployed.arity, deployed.outputs
        self._reads = tuple(_read(each) for each in manifest["inputs"])
        sharing = manifest.get("sharing")
        self._policy = None if sharing is None else _policy(sharing)
        self._executable = deployed.executable
        self._planner = Planner(deployed.host, deployed.arity, deployed.pulls)
        self._ranks = self._planner.ranks(deployed.number, deployed.rank, deployed.maybe)
        self._spaces = Spaces(deployed.executable)
        self._layout = Layout(deployed.executable, self._spaces)
        self._filling = Filling(deployed.executable, self._spaces, self._planner)
        routine = self._planner.kernels["routine"]
        self._passes = Passes(self._spaces.groups, self._spaces, routine)
        self._weights = memory
        self._pack(deployed)
        self.reader = Reader(manifest, vocabulary)
        self._renew()
        renewed_after_fork(self, Model._renew)

    def _renew(self) -> None:
        """Locks, and what they guard: other threads of a forked process are gone."""
        self._memory_of_batches = BatchMemory()
        self._slots = Slots(n_cores())

    def _pack(self, deployed: Deployed) -> None:
        """Bring weights into the form in which products read them."""
        memory = self._weights
        for buffer, pack in deployed.executable.packs.items():
            shape, dtype = deployed.executable.fixed[buffer]
            made = memory.fixed(buffer, shape, dtype)
            pack.function(*map(memory.tensor, pack.sources), made)

    def __call__(self, graphs: Graph | Iterable[Graph]) -> dict[str, np.ndarray]:
        """Outputs by name, vertex after vertex in the graphs' order: float32[n_vertices, ...].

        Raises:
            GraphError: the graphs do not fit the model, or have vertices that it was not exported
                for.
            OutOfMemoryError: they take more memory than may be taken; later calls are not touched.
        """
        graph = graphs if isinstance(graphs, Graph) else batch(list(graphs))
        check_inputs(graph, self._reads, self._arity, self.name)
        shared = None if self._policy is None else self._policy.share(graph)
        run = graph if shared is None else shared.graph
        outputs = self._slots.call(lambda found: self._run(self._plan(run), found))
        if shared is None:
            return outputs
        return {name: rows.take(shared.of, axis=0) for name, rows in outputs.items()}

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
        check_inputs(graph, self._reads, self._arity, self.name)
        if not self.manifest["complete"]:
            self._plan(graph)  # looks at the kinds

    def arena(self, n_vertices: int) -> Arena:
        """Where batches run side by side, of at most so many vertices."""
        return Arena(
            self._executable,
            self._spaces,
            self._planner,
            self._ranks,
            self._layout,
            self._passes,
            self._weights,
            [output.buffer for output in self._outputs],
            n_vertices,
        )

    def part(self, graph: Graph, arena: Arena) -> tuple[Part, np.ndarray]:
        """A batch as an arena takes it, and the row of each of its vertices there.

        Raises:
            GraphError: as a call.
        """
        check_inputs(graph, self._reads, self._arity, self.name)
        shared = None if self._policy is None else self._policy.share(graph)
        try:
            part = arena.part(graph if shared is None else shared.graph)
        except UnknownKindsError as unknown:
            raise GraphError(self._describe(unknown.masks)) from None
        return part, part.row if shared is None else part.row.take(shared.of)

    def outputs_of(self, arena: Arena, joined: Joined, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name at some rows of a part that joined, which have been run."""
        found = {o.name: (arena.read(joined, o.buffer, rows), o.shape) for o in self._outputs}
        return {name: values.reshape(len(rows), *shape) for name, (values, shape) in found.items()}

    def read(self, text: str) -> list[Graph]:
        """The graphs of JSON lines; see `Reader.lines`."""
        return self.reader.lines(text)

    def _plan(self, graph: Graph) -> Batch:
        memory, spaces = self._memory_of_batches.take(), self._spaces
        try:
            plan = self._planner.plan(graph, memory, self._ranks)
        except UnknownKindsError as unknown:
            raise GraphError(self._describe(unknown.masks)) from None
        counts = spaces.counts(plan)
        distinct = self._filling.fill(plan, counts, memory)
        cut = spaces.cut(plan, self._planner, memory)
        made = Batch(spaces, plan, self._passes, cut, frozenset(), counts, memory, distinct)
        self._memory_of_batches.give(made)
        return made

    def _run(
        self, batch: Batch, found: Workspace | None
    ) -> tuple[dict[str, np.ndarray], Workspace]:
        workspace = found or Workspace(self._layout, self._weights)
        workspace.make_room(batch)
        workspace.run(batch, "forward")
        outputs = {}
        for output in self._outputs:
            rows = workspace.memory.read(output.buffer).take(batch.plan.row, axis=0)
            outputs[output.name] = rows.reshape(len(rows), *output.shape)
        return outputs, workspace

    def _describe(self, masks: Iterable[int]) -> str:
        """Which vertices have no kernels."""
        known = self._ranks.number
        mask = next(m for m in masks if m | self._ranks.maybe not in known)
        slots = [str(k) for k in range(self._arity) if mask >> k & 1]
        has = [p for i, p in enumerate(self._planner.pulls) if mask >> (self._arity + i) & 1]
        return (
            f"{self.name} was exported for the vertices of its data, among which none has children "
            f"in slots {', '.join(slots) or 'none'} and the inputs {', '.join(has) or 'none'}. "
            "Export it with data that have such vertices."
        )

    def __repr__(self) -> str:
        inputs = ", ".join(r.name for r in self._reads)
        outputs = ", ".join(o.name for o in self._outputs)
        return f"<Model {self.name}: {inputs} -> {outputs}>"


def _read(data: Mapping[str, Any]) -> Read:
    shape = data["shape"]
    return Read(data["name"], None if shape is None else tuple(shape), data["dtype"], data["limit"])


def _policy(data: Mapping[str, Any]) -> Policy:
    return Policy(tuple(data["names"]), data["least"], data["per_level"])
