"""The TVM executor: stages compiled once, run level by level over the rows of a plan.

A batch becomes a flat list of kernel calls with integer offsets, made by vectorised planning; running it is one
loop. Eager stages run once over all rows, recurrent ones level by level (the adjoint's from the roots down),
lazy ones once at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import dropout, netlevel
from .buffers import HostMemory
from .compile import Compiler, Form
from .execution import Programs, Result, Seeds
from .graph import Graph
from .kinds import Group, Kinds
from .lower import SCRATCH, Buffer, Gradient, Lowered, RowGradient, Step, Weights
from .packing import Pack, Placement, SegmentSum
from .plan import Plan, Space, parent_edges, plan, rows_by_value, segments
from .vertex import Parameter, RowSparse

Call = tuple[Any, tuple[Any, ...]]


@dataclass(frozen=True)
class Batch:
    """A planned batch: kernel calls in order, forward and backward."""

    plan: Plan
    forward: list[Call]
    backward: list[Call]
    rows: Mapping[str, tuple[np.ndarray, int]]  # pull -> distinct values, and their number


class TvmExecutor:
    """Runs programs through compiled kernels.

    Args:
        target: "host" or a TVM target; threads: cores to use (default all); cache: folder of compiled
        libraries (default: the user's cache folder), False for none.

    Raises:
        TargetError: no rules for the target.
    """

    def __init__(
        self,
        programs: Programs,
        parameters: Mapping[str, Parameter],
        target: Any = "host",
        threads: int | None = None,
        cache: Any = None,
    ) -> None:
        self._programs, self._parameters = programs, parameters
        self.compiler = Compiler(target, threads, cache)
        self.memory = HostMemory()
        pulls = dict.fromkeys(c["name"] for _, c in programs.forward.select("pull", "present"))
        self.kinds = Kinds(programs, tuple(pulls))
        self._forms: dict[tuple[str, Step], list[Form]] = {}
        self._packs: list[tuple[Form, tuple[str, ...], str]] = []
        self._batch: Batch | None = None
        for name, p in parameters.items():
            self.memory.bind(f"param.{name}", p.data)
            self.memory.bind(f"flat.{name}", p.data.reshape(-1))

    # -- compiling

    def prepare(self, graph: Graph) -> None:
        """Compile whatever the kinds of vertices in `graph` need; `forward` does this by itself."""
        self._learn(graph)

    def _learn(self, graph: Graph) -> Plan:
        def kinds(masks: np.ndarray) -> Mapping[int, int]:
            if self.kinds.learn(int(m) for m in masks):
                self._compile()
            return self.kinds.number

        return plan(graph, self._programs.arity, self.kinds.pulls, kinds, lambda: self.kinds.rank)

    def _stages(self) -> list[Lowered]:
        return [g.lowered for g in (*self.kinds.forward, *self.kinds.backward)]

    def _compile(self) -> None:
        stages = self._stages()
        groups = (*self.kinds.forward, *self.kinds.backward)
        self._forms = {
            (g.stage, s): self.compiler.forms(s.kernel, g.stage == "recurrent")
            for g in groups
            for s in g.lowered.steps
        }
        weights = {w.name: w for low in stages for w in low.weights}
        self._packs = [self._pack(w) for w in weights.values()]
        self._segment_sums = {
            r: self.compiler.segment_form(SegmentSum(r.width, r.width)) for r in self._row_gradients()
        }
        forms = [f for fs in self._forms.values() for f in fs]
        forms += [f for f, _, _ in self._packs] + list(self._segment_sums.values())
        self.compiler.compile(forms)

    def _row_gradients(self) -> list[RowGradient]:
        return list(dict.fromkeys(r for low in self._stages() for r in low.row_gradients))

    def _gradients(self) -> list[Gradient]:
        return list({g.key: g for low in self._stages() for g in low.gradients}.values())

    def _pack(self, w: Weights) -> tuple[Form, tuple[str, ...], str]:
        """The kernel that packs a weight operand, the parameters it reads, and the buffer it fills."""
        rectangles = netlevel.flatten(w.program, w.index, "param")
        if rectangles is None:
            name = f"net.{w.name}"
            self.memory.fixed(name, (w.k, w.n_columns))
            names, places = [name], [Placement(0, 0, 0, (0, w.k), (0, w.n_columns))]
            shapes = [(w.k, w.n_columns)]
        else:
            used = dict.fromkeys(w.program.calls[r.leaf]["name"] for r in rectangles)
            names = [f"param.{p}" for p in used]
            shapes = [self._parameters[p].shape for p in used]
            position = {p: i for i, p in enumerate(used)}
            places = [
                Placement(position[w.program.calls[r.leaf]["name"]], r.row, r.column, r.rows, r.columns, r.transposed)
                for r in rectangles
            ]
        tile = self.compiler.tile(w.k, w.n_columns)
        self.memory.fixed(w.name, (-(-w.n_columns // tile.columns), w.k, tile.columns))
        spec = Pack(tuple(shapes), tuple(places), w.k, w.n_columns)
        return self.compiler.pack_form(spec), tuple(names), w.name

    # -- running

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order: float32[n_vertices, ...]."""
        batch = self._batch = self._plan(graph)
        self._net_values()
        for form, sources, packed in self._packs:
            self.compiler.function(form.symbol)(*(self.memory.tensor(s) for s in sources), self.memory.tensor(packed))
        sites = [c["site"] for _, c in self._programs.forward.select("dropout")]
        if sites:
            keys = [dropout.site_key(seeds.seed, seeds.step, s) for s in range(max(sites) + 1)]
            self.memory.write("dropout.keys", np.array(keys, "uint32"))
        for function, args in batch.forward:
            function(*args)
        outputs = {}
        for _, c in self._programs.forward.select("push"):
            rows = self.memory.read(f"push.{c['name']}")[batch.plan.row]
            outputs[c["name"]] = rows.reshape(len(rows), *c.type.shape)
        return Result(outputs)

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradients for the last forward pass; the arrays are reused by the next."""
        batch = self._batch
        assert batch is not None and self._programs.adjoint is not None, "forward with a loss comes before backward"
        gradients = self._gradients()
        for name in {n for g in gradients for _, n in g.totals}:
            self.memory.fill(name, 0.0)
        for function, args in batch.backward:
            function(*args)
        return self._collect(gradients, batch)

    def _collect(self, gradients: Sequence[Gradient], batch: Batch) -> dict[str, np.ndarray | RowSparse]:
        found: dict[str, np.ndarray | RowSparse] = {}
        for name, p in self._parameters.items():
            mine = [g for g in gradients if g.parameter == name]
            rows = [r for r in self._row_gradients() if r.parameter == name]
            if rows and name in self._programs.row_sparse:
                found[name] = _merge([self._rows(r, batch) for r in rows])
                continue
            found[name] = self._dense(name, p.shape, mine)
            for r in rows:
                sparse = self._rows(r, batch)
                found[name][sparse.rows] += sparse.values  # type: ignore[index]
        return found

    def _dense(self, name: str, shape: tuple[int, ...], gradients: Sequence[Gradient]) -> np.ndarray:
        """A parameter's gradient: the one total it is, or the sum of rectangles of several."""
        direct = [g for g in gradients if g.program.calls[g.index].op == "total"]
        if len(gradients) == 1 and direct and direct[0].count == 1:
            return self.memory.read(direct[0].totals[0][1]).reshape(shape)
        self.memory.fixed(f"grad.{name}", shape)
        grad = self.memory.read(f"grad.{name}")
        grad.fill(0.0)
        view = grad.reshape(netlevel.extent(shape))
        for g in gradients:
            totals = {i: self.memory.read(b).reshape(g.program.calls[i].type.shape) for i, b in g.totals}
            rectangles = netlevel.flatten(g.program, g.index, "total", sums=True)
            if rectangles is None:
                grad += g.count * netlevel.evaluate(g.program, g.index, lambda i, t=totals, p=g.program: t[i] if i in t else self._parameter(p.calls[i]["name"]))
                continue
            for r in rectangles:
                source = totals[r.leaf].reshape(netlevel.extent(totals[r.leaf].shape))
                part = source[r.rows[0] : r.rows[1], r.columns[0] : r.columns[1]]
                n_rows, n_columns = r.shape
                view[r.row : r.row + n_rows, r.column : r.column + n_columns] += g.count * (part.T if r.transposed else part)
        return grad

    def _parameter(self, name: str) -> np.ndarray:
        return self._parameters[name].data

    def _rows(self, r: RowGradient, batch: Batch) -> RowSparse:
        values, n = batch.rows[r.pull]
        out = f"sum.{r.buffer}"
        tensor = self.memory.rows(out, n, r.width, "float32")
        function = self.compiler.function(self._segment_sums[r].symbol)
        names = (r.buffer, f"edges.{r.pull}", f"pointers.{r.pull}")
        function(n, *(self.memory.tensor(x) for x in names), tensor)
        return RowSparse(values, self.memory.read(out)[:n])

    def _net_values(self) -> None:
        """Net-level values that kernels read and that are more than rectangles of parameters."""
        for low in self._stages():
            for name, i in low.net_values:
                self._evaluate(name, low.program, i)
            for w in low.weights:
                if netlevel.flatten(w.program, w.index, "param") is None:
                    self._evaluate(f"net.{w.name}", w.program, w.index)

    def _evaluate(self, name: str, program: Any, i: int) -> None:
        value = netlevel.evaluate(program, i, lambda k: self._parameter(program.calls[k]["name"]))
        target = self.memory.read(name)
        target[...] = np.broadcast_to(value, program.calls[i].type.shape).reshape(target.shape)

    # -- planning

    def _plan(self, graph: Graph) -> Batch:
        made = self._learn(graph)
        members: dict[Space, np.ndarray] = {}
        starts: dict[Space, np.ndarray] = {}

        def start(space: Space) -> np.ndarray:
            if space not in starts:
                if space.what == "scratch":
                    starts[space] = np.zeros(len(made.cells.count), "int64")
                else:
                    starts[space] = made.cells.starts(member(space), space.base)
            return starts[space]

        def member(space: Space) -> np.ndarray:
            if space not in members:
                members[space] = self.kinds.members(space)
            return members[space]

        scratch_rows = [0]
        runs = {}
        for direction, groups in (("forward", self.kinds.forward), ("backward", self.kinds.backward)):
            runs[direction] = [(g, _segments(g, made, start, scratch_rows)) for g in groups]
        self._allocate(made, member, scratch_rows[0])
        rows = self._fill(made, member)
        return Batch(
            made,
            self._calls(runs["forward"], descending=False),
            self._calls(runs["backward"], descending=True),
            rows,
        )

    def _allocate(self, made: Plan, member: Any, scratch_rows: int) -> None:
        for low in self._stages():
            for b in low.buffers.values():
                self._allocate_one(b, made, member, scratch_rows)

    def _allocate_one(self, b: Buffer, made: Plan, member: Any, scratch_rows: int) -> None:
        kind, _, rest = b.name.partition(".")
        if b.space is not None:
            n = scratch_rows if b.space == SCRATCH else made.cells.rows(member(b.space)) + b.space.base
            if b.name == "edges.slots":
                n *= self._programs.arity
            self.memory.rows(b.name, n + (b.name == "edges.pointers"), b.ld, b.dtype)
        elif kind == "total":
            self.memory.fixed(b.name, tuple(int(d) for d in rest.split(".")[0].split("x")))
        elif kind == "net":
            size = next(low.program.calls[i].type.size for low in self._stages() for n, i in low.net_values if n == b.name)
            self.memory.fixed(b.name, (size,))
        elif b.name == "dropout.keys":
            n_sites = 1 + max(c["site"] for _, c in self._programs.forward.select("dropout"))
            self.memory.fixed(b.name, (n_sites,), "uint32")

    def _fill(self, made: Plan, member: Any) -> dict[str, tuple[np.ndarray, int]]:
        """Write what kernels read from the graph: children, inputs, edges."""
        names = {b.name: b for low in self._stages() for b in low.buffers.values()}
        graph = made.graph
        pulls_of_rows = {r.pull for r in self._row_gradients()}
        found = {}
        for name, b in names.items():
            kind, _, rest = name.partition(".")
            if kind == "child":
                has = member(b.space)[made.kind_of_row]
                self.memory.write(name, made.children[:, int(rest)][has] + 1)
            elif kind in ("index", "pull"):
                has = made.order[member(b.space)[made.kind_of_row]]
                values = graph.inputs[rest].values[has]
                self.memory.write(name, values.reshape(len(has), -1) if b.ld else values)
                if kind == "index" and rest in pulls_of_rows:
                    found[rest] = self._group_rows(rest, values)
            elif name == "edges.pointers":
                pointers, slots = parent_edges(made, member(Space("edges")))
                self.memory.write("edges.pointers", pointers)
                self.memory.write("edges.slots", slots)
            elif name == "dropout.vertices":
                self.memory.write(name, dropout.vertex_keys(graph.vertex_id[made.order]))
            elif kind == "state":
                self.memory.read(name)[0] = 0.0
        for r in self._row_gradients():
            self._clear_unwritten(r, member)
        return found

    def _group_rows(self, pull: str, values: np.ndarray) -> tuple[np.ndarray, int]:
        distinct, pointers, positions = rows_by_value(values)
        for name, array in ((f"pointers.{pull}", pointers), (f"edges.{pull}", positions)):
            self.memory.rows(name, len(array), 0, "int32")
            self.memory.write(name, array)
        return distinct, len(distinct)

    def _clear_unwritten(self, r: RowGradient, member: Any) -> None:
        """Rows of kinds that have the input but give it no gradient are zero."""
        wanted = member(Space("pull", r.pull))
        writers = np.zeros(len(wanted), bool)
        for g in self.kinds.backward:
            if r in g.lowered.row_gradients:
                writers |= g.member
        if (wanted & ~writers).any():
            self.memory.fill(r.buffer, 0.0)

    def _calls(self, runs: Iterable[tuple[Group, Any]], descending: bool) -> list[Call]:
        """The kernel calls of one direction, in order."""
        eager: list[Call] = []
        recurrent: list[tuple[int, list[Call]]] = []
        lazy: list[Call] = []
        for group, found in runs:
            per_segment = self._segment_calls(group, found)
            if group.stage == "recurrent":
                recurrent += zip(found.level.tolist(), per_segment, strict=True)
            else:
                flat = eager if group.stage == "eager" else lazy
                for calls in per_segment:
                    flat += calls
        recurrent.sort(key=lambda item: -item[0] if descending else item[0])
        return eager + [c for _, calls in recurrent for c in calls] + lazy

    def _segment_calls(self, group: Group, found: Any) -> list[list[Call]]:
        low = group.lowered
        counts = found.count.tolist()
        out: list[list[Call]] = [[] for _ in counts]
        position = {s: i for i, s in enumerate(low.spaces)}
        for step in low.steps:
            forms = self._forms[group.stage, step]
            limits = [f.min_rows for f in forms]
            functions = [self.compiler.function(f.symbol) for f in forms]
            tensors = tuple(self.memory.tensor(b.name) for b in step.buffers)
            columns = [found.starts[position[s]] for s in step.starts]
            offsets = np.stack(columns, 1).tolist() if columns else [[]] * len(counts)
            for calls, n, at in zip(out, counts, offsets, strict=True):
                function = functions[max(0, bisect_right(limits, n) - 1)]
                calls.append((function, (n, *at, *tensors)))
        return out


def _segments(group: Group, made: Plan, start: Any, scratch_rows: list[int]) -> Any:
    found = segments(
        made.cells, group.member, [start(s) for s in group.lowered.spaces], group.stage == "recurrent"
    )
    if len(found.count):
        scratch_rows[0] = max(scratch_rows[0], int(found.count.max()))
    # scratch rows start at 0 in every segment
    at = [i for i, s in enumerate(group.lowered.spaces) if s == SCRATCH]
    for i in at:
        found.starts[i][:] = 0
    return found


def _merge(parts: Sequence[RowSparse]) -> RowSparse:
    """Row-sparse gradients of one table, from several inputs, as one."""
    if len(parts) == 1:
        return parts[0]
    rows, inverse = np.unique(np.concatenate([p.rows for p in parts]), return_inverse=True)
    values = np.zeros((len(rows), parts[0].values.shape[1]), "float32")
    np.add.at(values, inverse, np.concatenate([p.values for p in parts]))
    return RowSparse(rows, values)
