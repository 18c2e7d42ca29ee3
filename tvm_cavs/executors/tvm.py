"""The TVM executor: kinds of vertices compiled once, batches planned, planned batches run.

What is compiled is a `Loaded`, made aside and swapped in by one assignment. What runs is in a
`Workspace`, which a call takes from its slot and puts back at its end. So an interrupted call
leaves nothing half done, and any number of threads may run inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any, NamedTuple, overload

import numpy as np

from .. import dropout
from ..compiler import (
    SITE_KEYS,
    Compiler,
    Kinds,
    Stepping,
    Workload,
    host_kernels,
    workloads,
)
from ..errors import TraceError
from ..graph import Graph, masks
from ..language import Parameter, Program, RowSparse
from ..renewal import renewed_after_fork
from ..runtime import (
    Batch,
    BatchMemory,
    BufferId,
    Call,
    Executable,
    Passes,
    Planner,
    Role,
    Slots,
    Spaces,
    UnknownKindsError,
    Workspace,
    n_cores,
    parameter_memory,
    read_outputs,
    use_threads,
)
from ..transform import Programs, leaving_out
from .loaded import Loaded, load
from .observer import Observer
from .protocol import Result, Seeds

TRIES = 4  # of inference, while another thread changes parameters


class Last(NamedTuple):
    """A forward pass that a backward pass can follow."""

    batch: Batch
    workspace: Workspace
    loaded: Loaded


class TvmExecutor:
    """Runs programs through compiled kernels.

    Programs without an adjoint may be run by several threads at once, as many at a time as there
    are cores. A call alone uses `threads` cores; calls that meet use one each. That changes no bit.

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
            and all kernel calls. None costs nothing. While there is one, one thread calls.
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
        self.stepping = Stepping(self.compiler.machine, programs)
        pulls = pulls_of(programs.forward)
        self._none_yet = Kinds(programs, pulls, leaving_out(without))
        self.planner = Planner(host_kernels(self.compiler), programs.arity, pulls)
        self._no_ranks = self.planner.ranks({}, np.zeros(0, "int64"))
        self._parameters = parameters
        self._memory = parameter_memory({name: p.memory for name, p in parameters.items()})
        self._sites = _sites(programs.forward)
        self._pushes = pushes_of(programs.forward)
        self._trains = programs.adjoint is not None
        self._loaded: Loaded | None = None  # nothing is compiled before the first batch
        self._last: Last | None = None
        self._renew()
        renewed_after_fork(self, TvmExecutor._renew)

    def _renew(self) -> None:
        """Locks, and what they guard, as at first: other threads of a forked process are gone."""
        self._learning = RLock()
        self._memory_of_batches = BatchMemory()
        self._slots = Slots(1 if self._trains else n_cores())

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Compile at once what all kinds of vertices in these batches need.

        `forward` compiles what is new by itself; but then the order of batches decides what is
        compiled together, and so what the kernel cache holds.
        """
        arity, pulls = self.planner.arity, self.planner.pulls
        found, n_rows = set[int](), set[int]()
        for graph in batches:
            bits, _ = masks(graph, arity, pulls)
            found.update(np.unique(bits).tolist())
            n_rows.add(graph.n_vertices)
        self._learn(sorted(found))
        for n in n_rows:  # records may say of any size that weights are read where they lie
            self._passes_of(n, self.loaded, ahead=False)

    @overload
    def plan(self, graph: Graph) -> Batch: ...

    @overload
    def plan(self, graph: Graph, ahead: bool) -> Batch | None: ...

    def plan(self, graph: Graph, ahead: bool = False) -> Batch | None:
        """Plan a batch: its rows, its inputs in that order, and the slices that kernels run on.

        With `ahead` nothing is compiled: None if that is needed.
        """
        if self.observer is None:
            return self._plan(graph, ahead)
        return self.observer.part("plan", self._plan, graph, ahead)

    def _plan(self, graph: Graph, ahead: bool) -> Batch | None:
        memory = self._memory_of_batches.take()
        while True:
            loaded = self._loaded
            try:
                ranks = self._no_ranks if loaded is None else loaded.ranks
                plan = self.planner.plan(graph, memory, ranks)
                break
            except UnknownKindsError as unknown:
                if ahead:
                    return None
                self._learn(unknown.masks)
        assert loaded is not None, "no kind has a rank before kernels are compiled"
        passes = self._passes_of(plan.n_rows, loaded, ahead)
        if passes is None:
            return None
        batch = loaded.prepared.batch(plan, passes, memory)
        self._memory_of_batches.give(batch)
        return batch

    def _passes_of(self, n_rows: int, loaded: Loaded, ahead: bool) -> Passes | None:
        """With packed weights or without, by the size of the batch alone."""
        may_be_direct = self._trains and loaded.kinds.options.direct
        if not (may_be_direct and n_rows <= self.stepping.knobs(n_rows).direct_vertices):
            return loaded.prepared.passes
        if loaded.direct is None and not ahead:
            with self._learning:
                made = loaded.with_direct(self.compiler, self._parameters)
                if self._loaded is loaded:
                    self._loaded = made
                return made.direct
        return loaded.direct

    @property
    def loaded(self) -> Loaded:
        """What has been compiled so far, and what runs it."""
        assert self._loaded is not None, "nothing is compiled before the first batch"
        return self._loaded

    @property
    def kinds(self) -> Kinds:
        """The kinds of vertices that are known so far, not to be changed."""
        return self._none_yet if self._loaded is None else self._loaded.kinds

    @property
    def compiled(self) -> Executable:
        """What has been compiled so far."""
        return self.loaded.prepared.compiled

    @property
    def spaces(self) -> Spaces:
        """The spaces of what has been compiled so far."""
        return self.loaded.prepared.spaces

    @property
    def workspace(self) -> Workspace:
        """Where the last pass ran, if one thread calls and nothing interrupted it."""
        workspace = self._slots.last
        assert workspace is not None, "nothing has run, or it runs now"
        return workspace

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order: float32[n_vertices, ...]."""
        return self._slots.call(lambda found: self._pass(self.plan(graph), seeds, found))

    def run(self, batch: Batch, seeds: Seeds) -> Result:
        """The forward pass of a planned batch; planned again if kinds were compiled since."""
        return self._slots.call(lambda found: self._pass(batch, seeds, found))

    def _pass(
        self, batch: Batch, seeds: Seeds, found: Workspace | None
    ) -> tuple[Result, Workspace]:
        self._last = None
        while batch.spaces is not (loaded := self.loaded).prepared.spaces:
            batch = self.plan(batch.plan.graph)
        workspace = loaded.workspace(found)
        given = batch, loaded, workspace, seeds
        if self.observer is None:
            result = self._run(*given)
        else:
            result = self.observer.part("run", self._run, *given)
        if self._trains:
            self._last = Last(batch, workspace, loaded)
        return result, workspace

    def _run(self, batch: Batch, loaded: Loaded, workspace: Workspace, seeds: Seeds) -> Result:
        workspace.make_room(batch)
        self._use_threads(batch)
        for _ in range(TRIES):
            version = loaded.weights.version()
            packs = batch.passes.packs(batch.cut)
            if self.observer is None:
                loaded.weights.load(packs, version)
            else:
                self.observer.part("pack", loaded.weights.load, packs, version)
            self._execute(batch, workspace, "forward", seeds)
            # a backward pass asks by itself what has changed since
            if self._trains or loaded.weights.version() == version:
                return Result(read_outputs(self._pushes, batch, workspace))
        raise TraceError(
            f"in {TRIES} tries another thread changed parameters while outputs were computed from "
            "them, so they would mix old and new values. Run a copy (copy.deepcopy(net)), or let "
            "one thread do both."
        )

    def _use_threads(self, batch: Batch) -> None:
        """Let kernels run on as many threads as measuring has found, or on one beside others."""
        if self.n_threads > 1:
            alone = self._slots.n_busy < 2
            use_threads(self.stepping.knobs(batch.plan.n_rows).threads if alone else 1)

    def _execute(
        self, batch: Batch, workspace: Workspace, direction: str, seeds: Seeds | None = None
    ) -> None:
        """Make all kernel calls of one direction of a planned batch."""
        if seeds is not None and self._sites:
            keys = [dropout.site_key(seeds.seed, seeds.step, s) for s in self._sites]
            workspace.memory.write(SITE_KEYS, np.array(keys, "uint32"))
        if self.observer is None:
            workspace.run(batch, direction)
        else:
            self.observer.kernels(batch, partial(self._calls, batch, workspace, direction))

    def _calls(self, batch: Batch, workspace: Workspace, direction: str) -> list[Call]:
        """The same calls, in order, to be made one by one from Python."""
        memory = workspace.seen_by(batch)
        return batch.passes.calls(batch.parts(direction), memory, batch.replaced)

    def workloads(self, batch: Batch) -> list[list[Workload]]:
        """The kernels that a batch runs as measuring sees them, by a slice's group and step."""
        loaded, groups = self.loaded, batch.passes.groups
        stages = (*loaded.kinds.forward, *loaded.kinds.backward)
        return workloads(stages, groups, self.compiler, self._parameters)

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients for the last forward pass; the arrays are reused by the next.

        Raises:
            TraceError: there was none, or it or its backward pass was interrupted.
        """
        if self.observer is None:
            return self._slots.call(self._backward)
        return self.observer.part("backward", self._slots.call, self._backward)

    def _backward(self, _: Workspace | None) -> tuple[dict[str, np.ndarray | RowSparse], Workspace]:
        last, self._last = self._last, None
        if last is None:
            raise TraceError(
                "there is no forward pass to go back from: none was run with this loss, or it or "
                "its backward pass was interrupted. Run the network on the batch again."
            )
        batch, workspace, loaded = last
        loaded.gradients.clear(batch.replaced, workspace)
        self._use_threads(batch)
        self._execute(batch, workspace, "backward")
        gradients = loaded.gradients.collect(batch, workspace)
        self._last = last
        return gradients, workspace

    def _learn(self, masks: Sequence[int]) -> None:
        """Compile the kinds that these masks bring; interrupted, it leaves what there was."""
        with self._learning:
            kinds, loaded = self.kinds.copy(), self._loaded
            new = kinds.learn(int(m) for m in masks)
            if loaded is None or loaded.kinds.kinds != kinds.kinds:
                given = self.compiler, self._parameters, self.planner, self._memory
                self._loaded = load(kinds, *given)
            elif new:
                self._loaded = loaded.knowing(kinds)


def _compiler(
    target: Any, threads: int | None, cache: Any, precision: str, records: Any
) -> Compiler:
    """A compiler for this machine."""
    compiler = Compiler(target, threads, cache, precision, records)
    compiler.require_host()
    return compiler


def pulls_of(forward: Program) -> tuple[str, ...]:
    """The inputs that a vertex function reads, each once."""
    return tuple(dict.fromkeys(c["name"] for _, c in forward.select("pull", "present")))


def pushes_of(forward: Program) -> list[tuple[str, BufferId, tuple[int, ...]]]:
    """The outputs of a vertex function: name, buffer, shape at one vertex."""
    return [
        (c["name"], BufferId(Role.PUSHED, c["name"]), c.type.shape)
        for _, c in forward.select("push")
    ]


def _sites(forward: Program) -> range:
    """The numbers of all dropouts of a vertex function."""
    return range(1 + max((c["site"] for _, c in forward.select("dropout")), default=-1))
