"""The TVM executor: kinds of vertices compiled once, batches planned, planned batches run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, overload

import numpy as np

from .. import dropout
from ..compiler import (
    SITE_KEYS,
    Compiled,
    Compiler,
    Kinds,
    Workload,
    assemble,
    host_kernels,
    workloads,
)
from ..errors import TraceError
from ..graph import Graph, masks
from ..language import Parameter, Program, RowSparse
from ..runtime import (
    Batch,
    BatchMemory,
    BufferId,
    Call,
    HostMemory,
    Passes,
    Plan,
    Planner,
    Role,
    Spaces,
    use_threads,
)
from ..transform import Programs, leaving_out
from .loaded import Loaded, load
from .observer import Observer
from .protocol import Result, Seeds


class NewKindError(Exception):
    """A batch needs something for which nothing is compiled yet."""


def _refuse(_masks: Sequence[int]) -> None:
    raise NewKindError


class TvmExecutor:
    """Runs programs through compiled kernels.

    Args:
        target: "host" or a TVM target. threads: cores to use (default: all).
        cache: folder of compiled libraries (default: the user's cache folder), False for none.
        precision: "float32", or "bf16": operands of products are rounded to bfloat16, while all
            sums and everything else stay float32. CPUs with AVX512_BF16.
        without: optimisations of `options.SWITCHES` to leave out, to measure what they are worth.
        records: a file of what `tvm-cavs tune` measured (default: beside the cache, and shipped
            ones), False to use none.

    Raises:
        TargetError: a target that is unknown, has no schedule rules, cannot run on this machine, or
            has no instruction for the precision; an unknown optimisation.

    Attributes:
        observer: sees what is done and when: the parts "plan", "run", "pack" (in "run"), "backward"
            and all kernel calls. None costs nothing.
    """

    observer: Observer | None = None

    def __init__(
        self,
        programs: Programs,
        parameters: Mapping[str, Parameter],
        target: Any = "host",
        threads: int | None = None,
        cache: Any = None,
        precision: str = "float32",
        without: Iterable[str] = (),
        records: Any = None,
    ) -> None:
        self.compiler = _compiler(target, threads, cache, precision, records)
        self.n_threads = self.compiler.n_threads
        self.kinds = Kinds(programs, _pulls(programs.forward), leaving_out(without))
        self.planner = Planner(host_kernels(self.compiler), programs.arity, self.kinds.pulls)
        self.memory = _memory_of(parameters)
        self._parameters = parameters
        self._sites = _sites(programs.forward)
        self._pushes = _pushes(programs.forward)
        self._loaded: Loaded | None = None  # nothing is compiled before the first batch
        self._memory_of_batches = BatchMemory(self.memory)
        self._planning = Lock()
        self._batch: Batch | None = None

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Compile at once what all kinds of vertices in these batches need.

        `forward` compiles what is new by itself; but then the order of batches decides what is
        compiled together, and so what the kernel cache holds.
        """
        arity, pulls = self.kinds.programs.arity, self.kinds.pulls
        found: set[int] = set()
        for graph in batches:
            bits, _ = masks(graph, arity, pulls)
            found.update(np.unique(bits).tolist())
        with self._planning:
            self._learn(sorted(found))

    @overload
    def plan(self, graph: Graph) -> Batch: ...

    @overload
    def plan(self, graph: Graph, ahead: bool) -> Batch | None: ...

    def plan(self, graph: Graph, ahead: bool = False) -> Batch | None:
        """Plan a batch: its rows, its inputs in that order, and the slices that kernels run on.

        With `ahead` nothing is compiled: None if that is needed.
        """
        with self._planning:
            try:
                if self.observer is None:
                    return self._plan(graph, ahead)
                return self.observer.part("plan", self._plan, graph, ahead)
            except NewKindError:
                return None

    def _plan(self, graph: Graph, ahead: bool) -> Batch:
        memory = self._memory_of_batches.take()
        plan = self.planner.plan(graph, memory, _refuse if ahead else self._learn)
        loaded = self.loaded
        passes = self._passes_for(plan, loaded, ahead)
        batch = loaded.batch(plan, passes, self.planner, memory)
        self._memory_of_batches.give(batch)
        return batch

    def _passes_for(self, plan: Plan, loaded: Loaded, ahead: bool) -> Passes:
        """With packed weights or without, by the size of the batch alone."""
        trains = self.kinds.programs.adjoint is not None
        most = self.compiler.step.direct_vertices
        if not (trains and self.kinds.options.direct and plan.n_rows <= most):
            return loaded.packed
        if loaded.direct is None:
            if ahead:
                raise NewKindError
            loaded = loaded.with_direct(self.compiler, self._parameters, self.planner)
            self._loaded = loaded
        assert loaded.direct is not None
        return loaded.direct

    @property
    def loaded(self) -> Loaded:
        """What has been compiled so far, and what runs it."""
        assert self._loaded is not None, "nothing is compiled before the first batch"
        return self._loaded

    @property
    def compiled(self) -> Compiled:
        """What has been compiled so far."""
        return self.loaded.compiled

    @property
    def spaces(self) -> Spaces:
        """The spaces of what has been compiled so far."""
        return self.loaded.spaces

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order: float32[n_vertices, ...]."""
        return self.run(self.plan(graph), seeds)

    def run(self, batch: Batch, seeds: Seeds) -> Result:
        """The forward pass of a planned batch; planned again if kinds were compiled since."""
        if self.observer is None:
            return self._run(batch, seeds)
        return self.observer.part("run", self._run, batch, seeds)

    def _run(self, batch: Batch, seeds: Seeds) -> Result:
        loaded = self.loaded
        if batch.spaces is not loaded.spaces:
            batch = self.plan(batch.plan.graph)
            loaded = self.loaded
        self._batch = batch
        loaded.filling.make_room(batch.counts, batch.cut.most_rows, self.memory)
        packs = batch.passes.packs(batch.cut)
        if self.observer is None:
            loaded.weights.load(packs)
        else:
            self.observer.part("pack", loaded.weights.load, packs)
        if self._sites:
            keys = [dropout.site_key(seeds.seed, seeds.step, s) for s in self._sites]
            self.memory.write(SITE_KEYS, np.array(keys, "uint32"))
        self.execute(batch, "forward")
        outputs = {}
        for name, buffer, shape in self._pushes:
            rows = self.memory.read(buffer)[batch.plan.row]
            outputs[name] = rows.reshape(len(rows), *shape)
        return Result(outputs)

    def execute(self, batch: Batch, direction: str) -> None:
        """Make all kernel calls of one direction of a planned batch."""
        if self.observer is None:
            batch.passes.run(direction, batch.cut, batch.memory, batch.replaced)
        else:
            self.observer.kernels(batch, partial(self.calls, batch, direction))

    def calls(self, batch: Batch, direction: str) -> list[Call]:
        """The same calls, in order, to be made one by one from Python."""
        return batch.passes.calls(batch.parts(direction), batch.memory, batch.replaced)

    def workloads(self, batch: Batch) -> list[list[Workload]]:
        """The kernels that a batch runs as measuring sees them, by a slice's group and step."""
        groups = batch.passes.groups
        return workloads(self.loaded.stages, groups, self.compiler, self._parameters)

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients for the last forward pass; the arrays are reused by the next.

        Raises:
            TraceError: kinds of vertices were compiled since.
        """
        if self.observer is None:
            return self._backward()
        return self.observer.part("backward", self._backward)

    def _backward(self) -> dict[str, np.ndarray | RowSparse]:
        batch, loaded = self._batch, self.loaded
        assert batch is not None, "a forward pass comes first"
        if batch.spaces is not loaded.spaces:
            raise TraceError(
                "the network was prepared for more kinds of vertices between the forward and the "
                "backward pass of a batch; call backward() first"
            )
        loaded.gradients.clear(batch.replaced)
        self.execute(batch, "backward")
        return loaded.gradients.collect(batch.distinct, batch.memory)

    def _learn(self, masks: Sequence[int]) -> None:
        """Compile the kinds that these masks bring; interrupted, it leaves what there was."""
        self.kinds.learn(int(m) for m in masks)
        if self._loaded is None or self._loaded.n_masks != len(self.kinds.number):
            compiled = assemble(self.kinds, self.compiler, self._parameters)
            given = self.kinds, self._parameters, self.planner, self.memory
            self._loaded = load(compiled, *given)
        self.planner.know(self.kinds.number, self.kinds.rank)


def _compiler(
    target: Any, threads: int | None, cache: Any, precision: str, records: Any
) -> Compiler:
    """A compiler for this machine, whose threads are those of TVM from now on."""
    compiler = Compiler(target, threads, cache, precision, records)
    compiler.require_host()
    use_threads(compiler.n_threads)
    return compiler


def _memory_of(parameters: Mapping[str, Parameter]) -> HostMemory:
    """A network's memory, where the values of its parameters are those of the parameters."""
    memory = HostMemory()
    for name, p in parameters.items():
        memory.bind(BufferId(Role.PARAMETER, name), p.memory)
        memory.bind(BufferId(Role.FLAT_PARAMETER, name), p.memory.reshape(-1))
    return memory


def _pulls(forward: Program) -> tuple[str, ...]:
    """The inputs that a vertex function reads, each once."""
    return tuple(dict.fromkeys(c["name"] for _, c in forward.select("pull", "present")))


def _pushes(forward: Program) -> list[tuple[str, BufferId, tuple[int, ...]]]:
    """The outputs of a vertex function: name, buffer, shape at one vertex."""
    return [
        (c["name"], BufferId(Role.PUSHED, c["name"]), c.type.shape)
        for _, c in forward.select("push")
    ]


def _sites(forward: Program) -> range:
    """The numbers of all dropouts of a vertex function."""
    return range(1 + max((c["site"] for _, c in forward.select("dropout")), default=-1))
