"""The TVM executor: kinds of vertices compiled once, batches planned, planned batches run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, overload

import numpy as np

from . import dropout, netlevel
from .assemble import SITE_KEYS, Compiled, assemble
from .batching import Cut, Slice, Spaces
from .buffers import HostMemory
from .compile import Compiler
from .direct import directly
from .errors import TraceError
from .execution import Programs, Result, Seeds
from .filling import Filling
from .gradients import Gradients
from .graph import Graph
from .host_kernels import host_kernels
from .kinds import Kinds
from .options import leaving_out
from .passes import Passes
from .plan import Plan, masks
from .planner import Planner
from .program import Program
from .roles import BufferId, Role
from .routine import Call
from .threads import use_threads
from .vertex import Parameter, RowSparse

DIRECT_VERTICES = 384  # of a batch of training: up to so many, packing costs more than it saves


@dataclass(frozen=True, eq=False)
class Batch:
    """A planned batch.

    spaces, passes: of what was compiled when it was planned. cut: its slices. replaced: gradients
    that are written, not added to. counts: rows of every space. memory: what kernels read of its
    graphs, and the slices. distinct: by input whose rows get gradients, its distinct values.
    """

    spaces: Spaces
    plan: Plan
    passes: Passes
    cut: Cut
    replaced: frozenset[BufferId]
    counts: np.ndarray
    memory: HostMemory
    distinct: Mapping[str, np.ndarray]

    def slices(self, direction: str) -> list[Slice]:
        """What "forward" or "backward" runs on, in order."""
        first, n = self.cut.place(direction)
        return self.spaces.slices(self.cut, self.memory)[first : first + n]

    def parts(self, direction: str) -> list[Slice]:
        """The same, in parts of as many rows as steps take at once."""
        return [part for piece in self.slices(direction) for part in piece.parts()]


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

    Raises:
        TargetError: a target that is unknown, has no schedule rules, cannot run on this machine, or
            has no instruction for the precision; an unknown optimisation.
    """

    def __init__(
        self,
        programs: Programs,
        parameters: Mapping[str, Parameter],
        target: Any = "host",
        threads: int | None = None,
        cache: Any = None,
        precision: str = "float32",
        without: Iterable[str] = (),
    ) -> None:
        self._programs, self._parameters = programs, parameters
        self.compiler = Compiler(target, threads, cache, precision)
        self.compiler.require_host()
        self.n_threads = self.compiler.n_threads
        use_threads(self.n_threads)
        self.memory = HostMemory()
        pulls = dict.fromkeys(c["name"] for _, c in programs.forward.select("pull", "present"))
        options = leaving_out(without)
        self.kinds = Kinds(programs, tuple(pulls), options)
        self._direct_pays = programs.adjoint is not None and options.direct
        self._n_sites = 1 + max(
            (c["site"] for _, c in programs.forward.select("dropout")), default=-1
        )
        self._pushes = [
            (c["name"], BufferId(Role.PUSHED, c["name"]), c.type.shape)
            for _, c in programs.forward.select("push")
        ]
        kernels = host_kernels(self.compiler)
        self.planner = Planner(kernels, programs.arity, self.kinds.pulls)
        self._compiled: Compiled | None = None
        self.spaces: Spaces | None = None
        self._filling: Filling | None = None
        self._gradients: Gradients | None = None
        self._owners: dict[HostMemory, weakref.ref[Batch]] = {}  # memory of batches
        self._passes: dict[bool, Passes] = {}  # by whether weights are read where they lie
        self._planning = Lock()
        self._batch: Batch | None = None
        self._evaluated = -1  # version of all parameters together
        self._packed: dict[BufferId, int] = {}  # the same for every packed weight
        for name, p in parameters.items():
            self.memory.bind(BufferId(Role.PARAMETER, name), p.memory)
            self.memory.bind(BufferId(Role.FLAT_PARAMETER, name), p.memory.reshape(-1))

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Compile at once what all kinds of vertices in these batches need.

        `forward` compiles what is new by itself; but then the order of batches decides what is
        compiled together, and so what the kernel cache holds.
        """
        arity, pulls = self._programs.arity, self.kinds.pulls
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
                return self._plan(graph, _refuse if ahead else self._learn)
            except NewKindError:
                return None

    def _plan(self, graph: Graph, learn: Callable[[Sequence[int]], None]) -> Batch:
        memory = self._unused()
        plan = self.planner.plan(graph, memory, learn)
        spaces, filling, passes = self.spaces, self._filling, self._passes_for(plan, learn)
        assert spaces is not None and filling is not None
        counts = spaces.counts(plan)
        distinct = filling.fill(plan, counts, memory)
        cut = spaces.cut(plan, self.planner, memory)
        replaced = spaces.replaced(cut)
        batch = Batch(spaces, plan, passes, cut, replaced, counts, memory, distinct)
        self._owners[memory] = weakref.ref(batch)
        return batch

    def _unused(self) -> HostMemory:
        """Memory of a batch that nobody holds any more, or new."""
        for memory, owner in self._owners.items():
            if owner() is None:
                return memory
        return HostMemory(self.memory)

    @property
    def compiled(self) -> Compiled:
        """What has been compiled so far."""
        assert self._compiled is not None, "nothing is compiled before the first batch"
        return self._compiled

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order: float32[n_vertices, ...]."""
        return self.run(self.plan(graph), seeds)

    def run(self, batch: Batch, seeds: Seeds) -> Result:
        """The forward pass of a planned batch; planned again if kinds were compiled since."""
        if batch.spaces is not self.spaces:
            batch = self.plan(batch.plan.graph)
        assert self._filling is not None
        self._batch = batch
        self._filling.make_room(batch.counts, batch.cut.most_rows, self.memory)
        self.load_parameters(batch)
        if self._n_sites:
            keys = [dropout.site_key(seeds.seed, seeds.step, s) for s in range(self._n_sites)]
            self.memory.write(SITE_KEYS, np.array(keys, "uint32"))
        self.execute(batch, "forward")
        outputs = {}
        for name, buffer, shape in self._pushes:
            rows = self.memory.read(buffer)[batch.plan.row]
            outputs[name] = rows.reshape(len(rows), *shape)
        return Result(outputs)

    def _passes_for(self, plan: Plan, learn: Callable[[Sequence[int]], None]) -> Passes:
        """With packed weights or without, by the size of the batch alone."""
        few = self._direct_pays and plan.n_rows <= DIRECT_VERTICES
        if few not in self._passes:
            learn(())  # something will be compiled
            assert self.spaces is not None
            groups = (*self.kinds.forward, *self.kinds.backward)
            made = directly(groups, self.spaces.groups, self.compiler, self._parameters)
            self._passes[few] = Passes(made, self.spaces, self.planner.kernels["routine"])
        return self._passes[few]

    def execute(self, batch: Batch, direction: str) -> None:
        """Make all kernel calls of one direction of a planned batch."""
        batch.passes.run(direction, batch.cut, batch.memory, batch.replaced)

    def calls(self, batch: Batch, direction: str) -> list[Call]:
        """The same calls, in order, to be made one by one from Python."""
        return batch.passes.calls(batch.parts(direction), batch.memory, batch.replaced)

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients for the last forward pass; the arrays are reused by the next.

        Raises:
            TraceError: kinds of vertices were compiled since.
        """
        batch = self._batch
        assert batch is not None and self._gradients is not None, "a forward pass comes first"
        if batch.spaces is not self.spaces:
            raise TraceError(
                "the network was prepared for more kinds of vertices between the forward and the "
                "backward pass of a batch; call backward() first"
            )
        self._gradients.clear(batch.replaced)
        self.execute(batch, "backward")
        return self._gradients.collect(batch.distinct, batch.memory)

    def _learn(self, masks: Sequence[int]) -> None:
        """Compile the kinds that these masks bring."""
        if self.kinds.learn(int(m) for m in masks) or self._compiled is None:
            self._compiled = None  # stays so if compiling is interrupted
            self._evaluated, self._packed = -1, {}
            compiled = assemble(self.kinds, self.compiler, self._parameters)
            self.spaces = spaces = Spaces(compiled)
            self._passes = {False: Passes(spaces.groups, spaces, self.planner.kernels["routine"])}
            self._filling = Filling(compiled, spaces, self.planner)
            for buffer, (shape, dtype) in compiled.fixed.items():
                self.memory.fixed(buffer, shape, dtype)
            self._gradients = Gradients(self._programs, self._parameters, compiled, self.memory)
            self._compiled = compiled
        self.planner.know(self.kinds.number, self.kinds.rank)

    def load_parameters(self, batch: Batch) -> None:
        """Pack the weights that the batch reads, as far as they changed since they were packed."""
        version = sum(p.version for p in self._parameters.values())
        tensor, compiled = self.memory.tensor, self.compiled
        if version != self._evaluated:
            for v in compiled.net_values:
                value = netlevel.evaluate(v.program, v.index, self._parameter_of(v.program))
                target = self.memory.read(v.buffer)
                shape = v.program.calls[v.index].type.shape
                target[...] = np.broadcast_to(value, shape).reshape(target.shape)
            self._evaluated = version
        for packed in batch.passes.packs(batch.cut):
            if self._packed.get(packed) != version:
                p = compiled.packs[packed]
                p.function(*map(tensor, p.sources), tensor(packed))
                self._packed[packed] = version

    def _parameter_of(self, program: Program) -> Callable[[int], np.ndarray]:
        return lambda i: self._parameters[program.calls[i]["name"]].data
