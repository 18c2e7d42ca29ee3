"""The reference executor: a Program run one vertex at a time in NumPy.

It is slow, short and obviously right, and the truth that every other executor is tested against.
Children come before parents; the adjoint runs in the opposite order. Numbers are NumPy's, NaN and
infinities included; what absent children and inputs give is nothing, as `absence` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import dropout
from ..errors import TargetError
from ..graph import Graph
from ..language import ABSENT, EFFECTS, OPS, Call, Parameter, Program, RowSparse, made_rows
from ..transform import Need, Programs, absent_ranges, presences, saved_runs
from .protocol import Result, Seeds

State = dict[tuple[int, str], Any]


class ReferenceExecutor:
    """Runs programs vertex by vertex. `dtype` float64 is for numeric derivatives.

    Raises:
        TargetError: another dtype.
    """

    def __init__(
        self, programs: Programs, parameters: Mapping[str, Parameter], dtype: str = "float32"
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise TargetError(
                f"reference executor: expected dtype float32 or float64, given {dtype!r}"
            )
        self.dtype = dtype
        self._programs, self._parameters = programs, parameters
        self._data: dict[str, np.ndarray] = {}
        self._last: tuple[Graph, Seeds, list[dict[str, Any]], State] | None = None
        self._runs = [presences(programs.forward)]
        if programs.adjoint is not None:
            self._runs.append(presences(programs.adjoint, saved_runs(programs.forward)))
        self._nothing: dict[tuple[int, frozenset[Need]], list[Any]] = {}

    def prepare(self, batches: Iterable[Graph]) -> None:
        """Only look at the batches: the reference compiles nothing."""
        for _ in batches:
            pass

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order."""
        program, adjoint = self._programs.forward, self._programs.adjoint
        wanted = [c["name"] for _, c in adjoint.select("saved")] if adjoint is not None else []
        self._data = {}
        state: State = {}
        saved: list[dict[str, Any]] = [{} for _ in range(graph.n_vertices)]
        outputs: dict[str, list[Any]] = {
            c["name"]: [None] * graph.n_vertices for _, c in program.select("push")
        }
        for v in map(int, np.argsort(graph.level, kind="stable")):
            at = AtVertex(self, graph, seeds, v, state, nothing=self._masks(0, graph, v))
            run = VertexRun(at, program)
            saved[v] = {name: run.values[int(name)] for name in wanted}
            for c, value in run.effects:
                if c.op == "scatter":
                    state[v, c["field"]] = value
                elif c.op == "push":
                    outputs[c["name"]][v] = value
        self._last = (graph, seeds, saved, state)
        return Result({name: _stacked(rows, self.dtype) for name, rows in outputs.items()})

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradient of every parameter, for the last forward pass."""
        adjoint = self._programs.adjoint
        assert adjoint is not None and self._last is not None, (
            "forward with a loss comes before backward"
        )
        graph, seeds, saved, state = self._last
        arity = self._programs.arity
        parents, slots = parents_of(graph, arity), State()
        gradients = Gradients(self._programs, self._parameters, self.dtype)
        for v in map(int, np.argsort(-graph.level, kind="stable")):
            seen = state, slots, saved[v], parents[v], self._masks(1, graph, v)
            run = VertexRun(AtVertex(self, graph, seeds, v, *seen), adjoint)
            for c, value in run.effects:
                if c.op == "scatter":
                    slots[v * arity + c["slot"], c["field"]] = value
                else:
                    gradients.add(c["name"], value)
        return gradients.result()

    def _masks(self, which: int, graph: Graph, vertex: int) -> list[Any]:
        """For every call of F (0) or its adjoint (1), where its result is nothing at a vertex."""
        first, last = graph.child_ptr[vertex : vertex + 2]
        slots = (k for k, child in enumerate(graph.child[first:last].tolist()) if child >= 0)
        held = (name for name, given in graph.inputs.items() if given.present[vertex])
        has: frozenset[Need] = frozenset((*slots, *held))
        if (which, has) not in self._nothing:
            program = self._programs.adjoint if which else self._programs.forward
            assert program is not None
            self._nothing[which, has] = [
                _mask(c.type.shape, absent_ranges(runs, has))
                for c, runs in zip(program.calls, self._runs[which], strict=True)
            ]
        return self._nothing[which, has]

    def parameter(self, name: str) -> np.ndarray:
        """A parameter's data as of the last forward pass, in this executor's dtype."""
        if name not in self._data:
            self._data[name] = self._parameters[name].data.astype(self.dtype)
        return self._data[name]


class Gradients:
    """Sums over vertices: an array for each parameter, and the rows that were touched."""

    def __init__(self, programs: Programs, parameters: Mapping[str, Parameter], dtype: str) -> None:
        self._sparse = programs.row_sparse
        self._totals = {name: np.zeros(p.shape, dtype) for name, p in parameters.items()}
        self._rows: dict[str, set[int]] = {name: set() for name in parameters}

    @np.errstate(all="ignore")
    def add(self, name: str, value: Any) -> None:
        """Add one vertex's part: an array, or (row, its values)."""
        if not isinstance(value, tuple):
            self._totals[name] += value
        elif value[0] != ABSENT:
            self._totals[name][value[0]] += value[1]
            self._rows[name].add(value[0])

    def result(self) -> dict[str, np.ndarray | RowSparse]:
        """Row-sparse where every part was a row."""
        return {name: self._gradient(name, total) for name, total in self._totals.items()}

    def _gradient(self, name: str, total: np.ndarray) -> np.ndarray | RowSparse:
        if name not in self._sparse:
            return total
        rows = np.array(sorted(self._rows[name]), "int32")
        return made_rows(rows, total[rows])


@dataclass(frozen=True)
class AtVertex:
    """What a program finds at one vertex.

    executor: its parameters and dtype. state: what vertices scattered, by (vertex, field). slots:
    what the adjoint scattered, by (parent * arity + slot, field). saved: forward values of this
    vertex by name. parents: the numbers `parent * arity + slot` of the slots that this vertex
    fills. nothing: for every call a mask of where its result is nothing, or None; () where all
    there is counts.
    """

    executor: ReferenceExecutor
    graph: Graph
    seeds: Seeds
    vertex: int
    state: State
    slots: State = field(default_factory=dict)
    saved: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[int] = ()
    nothing: Sequence[Any] = ()

    def child(self, slot: int) -> int:
        """The vertex in a slot, or -1."""
        first, last = self.graph.child_ptr[self.vertex : self.vertex + 2]
        return int(self.graph.child[first + slot]) if first + slot < last else -1

    def dtype(self, c: Call) -> str:
        """The dtype of a call's result here."""
        return self.executor.dtype if c.type.dtype == "float32" else c.type.dtype


class VertexRun:
    """One program at one vertex: `values` by call number, `effects` in order.

    What `at.nothing` masks is 0.0 in `values`.
    """

    @np.errstate(all="ignore")  # infinities and NaN are values like others
    def __init__(self, at: AtVertex, program: Program) -> None:
        self.values: dict[int, Any] = {}
        self.effects: list[tuple[Call, Any]] = []
        for i, c in enumerate(program.calls):
            args = [self.values[a] for a in c.args]
            if c.op in EFFECTS:
                self.effects.append((c, args[0]))
                continue
            gone = [at.nothing[a] for a in c.args] if at.nothing else []
            whole = all(g is None for g in gone)
            value = _evaluate(at, c, args) if whole else _partly(at, c, args, gone)
            mask = at.nothing[i] if at.nothing else None
            if mask is not None and c.type.dtype == "float32" and c.op != "total_rows":
                value = np.where(mask, value.dtype.type(0), value)
            self.values[i] = value


Args = Sequence[Any]  # the values of a call's operands


def _evaluate(at: AtVertex, c: Call, args: Args) -> Any:
    """The value of a call, all of whose operands are there."""
    if c.op in _HERE:
        return _HERE[c.op](at, c, args)
    compute = OPS[c.op].numpy
    assert compute is not None, c.op
    result = compute(*args, **{k: x for k, x in c.attrs if k != "type"})
    return np.asarray(result, at.dtype(c))


def _partly(at: AtVertex, c: Call, args: Args, gone: Sequence[Any]) -> Any:
    """An op some of whose operands are nothing, in parts: sums and products without those."""
    masks = [np.zeros((), bool) if g is None else g for g in gone]
    match c.op:
        case "add":
            a, b = np.broadcast_arrays(*args)
            return np.where(masks[0], b, np.where(masks[1], a, a + b))
        case "sub":
            a, b = np.broadcast_arrays(*args)
            left = np.where(masks[0], -b, a - b)
            return np.where(masks[1], np.where(masks[0], a.dtype.type(0), a), left)
        case "matmul":
            kept = ~np.broadcast_to(masks[0], args[0].shape)
            return args[0][kept] @ args[1][kept]
        case "outer":
            left, right = (np.broadcast_to(m, a.shape) for m, a in zip(masks, args, strict=True))
            return np.where(np.logical_or.outer(left, right), 0, _evaluate(at, c, args))
        case "equal" if args[0].dtype.kind == "i":
            return np.where(masks[0] != masks[1], 0, _evaluate(at, c, args))
    return _evaluate(at, c, args)


def _param(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    return at.executor.parameter(c["name"])


def _pull(at: AtVertex, c: Call, args: Args) -> np.ndarray:
    inputs = at.graph.inputs[c["name"]]
    if not inputs.present[at.vertex]:
        return _absent(at, c, args)  # what no vertex of the batch has may have another shape
    return np.asarray(inputs.values[at.vertex], at.dtype(c))


def _present(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    return np.asarray(at.graph.inputs[c["name"]].present[at.vertex], at.executor.dtype)


def _child_state(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    child = at.child(c["slot"])
    if child < 0:
        return np.zeros(c.type.shape, at.executor.dtype)
    found: np.ndarray = at.state[child, c["field"]]
    return found


def _own_state(at: AtVertex, c: Call, _: Args) -> Any:
    return at.state[at.vertex, c["field"]]


def _gather_sum(at: AtVertex, c: Call, _: Args) -> Any:
    found = [at.slots.get((p, c["field"]), 0.0) for p in at.parents]
    return sum(found, np.zeros(c.type.shape, at.executor.dtype))


def _child_present(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    return np.asarray(at.child(c["slot"]) >= 0, at.executor.dtype)


def _absent(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    nothing = c.get("absent", ABSENT) if c.type.dtype == "int32" else 0
    return np.full(c.type.shape, nothing, at.dtype(c))


def _saved(at: AtVertex, c: Call, _: Args) -> Any:
    return at.saved[c["name"]]


def _dropout(at: AtVertex, c: Call, args: Args) -> np.ndarray:
    key = dropout.site_key(at.seeds.seed, at.seeds.step, c["site"])
    mine = dropout.vertex_keys(at.graph.vertex_id[at.vertex : at.vertex + 1])
    drawn = dropout.scale(c["rate"], key, mine, c.type.size).reshape(c.type.shape)
    scale = drawn.astype(at.executor.dtype)
    return np.where(scale > 0, args[0] * scale, args[0].dtype.type(0))


def _total(_at: AtVertex, _c: Call, args: Args) -> Any:
    return args[0]


def _total_rows(_at: AtVertex, _c: Call, args: Args) -> tuple[int, Any]:
    return int(args[0]), args[1]


def _full(at: AtVertex, c: Call, _: Args) -> np.ndarray:
    return np.full(c.type.shape, c["value"], at.executor.dtype)


# What depends on the vertex, the batch or the executor; all else is a NumPy function in `OPS`.
_HERE: dict[str, Callable[[AtVertex, Call, Args], Any]] = {
    "param": _param,
    "pull": _pull,
    "present": _present,
    "gather": _child_state,
    "child_state": _child_state,
    "own_state": _own_state,
    "gather_sum": _gather_sum,
    "child_present": _child_present,
    "absent": _absent,
    "saved": _saved,
    "dropout": _dropout,
    "total": _total,
    "total_rows": _total_rows,
    "full": _full,
}


def _mask(shape: tuple[int, ...], ranges: list[tuple[int, int]]) -> Any:
    """True in these ranges of the first axis, to be broadcast over the others; None without any."""
    if not ranges:
        return None
    mask = np.zeros((shape[0] if shape else 1, *(1 for _ in shape[1:])), bool)
    for start, stop in ranges:
        mask[start:stop] = True
    return mask.reshape(()) if not shape else mask


def _stacked(rows: list[Any], floats: str) -> np.ndarray:
    integers = np.asarray(rows[0]).dtype.kind == "i"
    return np.array(rows, "int32" if integers else floats)


def parents_of(graph: Graph, arity: int) -> list[list[int]]:
    """For every vertex, the numbers `parent * arity + slot` of the slots it fills."""
    found: list[list[int]] = [[] for _ in range(graph.n_vertices)]
    for p in range(graph.n_vertices):
        for slot, child in enumerate(graph.child[graph.child_ptr[p] : graph.child_ptr[p + 1]]):
            if child >= 0:
                found[child].append(p * arity + slot)
    return found
