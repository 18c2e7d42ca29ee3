"""The reference executor: a Program run one vertex at a time in NumPy.

It is slow, short and obviously right, and the truth that every other executor is tested against.
Children come before parents; the adjoint runs in the opposite order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dropout
from .execution import Programs, Result, Seeds
from .graph import Graph
from .ops import ABSENT, EFFECTS, OPS
from .program import Call, Program
from .vertex import Parameter, RowSparse

State = dict[tuple[int, str], Any]


class ReferenceExecutor:
    """Runs programs vertex by vertex. `dtype` float64 is for numeric derivatives."""

    def __init__(
        self, programs: Programs, parameters: Mapping[str, Parameter], dtype: str = "float32"
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(
                f"reference executor: expected dtype float32 or float64, given {dtype!r}"
            )
        self._programs, self._parameters, self._dtype = programs, parameters, dtype
        self._last: tuple[Graph, Seeds, list[dict[int, Any]], State] | None = None

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        """Outputs of every vertex, in the graph's vertex order."""
        program = self._programs.forward
        state: State = {}
        values: list[dict[int, Any]] = [{} for _ in range(graph.n_vertices)]
        outputs: dict[str, list[Any]] = {
            c["name"]: [None] * graph.n_vertices for _, c in program.select("push")
        }
        for v in np.argsort(graph.level, kind="stable"):
            run = _Run(self, program, graph, seeds, int(v), state, {})
            values[v] = run.values
            for c, value in run.effects:
                if c.op == "scatter":
                    state[int(v), c["field"]] = value
                elif c.op == "push":
                    outputs[c["name"]][v] = value
        self._last = (graph, seeds, values, state)
        return Result(
            {name: np.array(rows, _dtype(rows[0], self._dtype)) for name, rows in outputs.items()}
        )

    def backward(self) -> dict[str, np.ndarray | RowSparse]:
        """Gradient of every parameter, for the last forward pass."""
        adjoint = self._programs.adjoint
        assert adjoint is not None and self._last is not None, (
            "forward with a loss comes before backward"
        )
        graph, seeds, saved, state = self._last
        parents = _parents(graph)
        slots: State = {}
        totals: dict[str, np.ndarray] = {}
        touched: dict[str, set[int]] = {}
        for v in np.argsort(-graph.level, kind="stable"):
            run = _Run(self, adjoint, graph, seeds, int(v), state, slots, saved[v], parents[v])
            for c, value in run.effects:
                if c.op == "scatter":
                    slots[int(v) * graph.arity + c["slot"], c["field"]] = value
                elif isinstance(value, tuple):
                    self._add_row(totals, touched, c["name"], *value)
                else:
                    totals[c["name"]] = totals.get(c["name"], 0) + value
        return {name: self._gradient(name, totals, touched) for name in self._parameters}

    def _add_row(self, totals: Any, touched: Any, name: str, row: int, value: np.ndarray) -> None:
        table = totals.setdefault(name, np.zeros(self._parameters[name].shape, self._dtype))
        if row != ABSENT:
            table[row] += value
            touched.setdefault(name, set()).add(int(row))

    def _gradient(self, name: str, totals: Any, touched: Any) -> np.ndarray | RowSparse:
        assert self._programs.adjoint is not None
        total = totals.get(name, np.zeros(self._parameters[name].shape, self._dtype))
        if name in self._programs.row_sparse:
            rows = np.array(sorted(touched.get(name, ())), "int32")
            return RowSparse(rows, total[rows])
        return np.broadcast_to(total, self._parameters[name].shape).copy()

    def parameter(self, name: str) -> np.ndarray:
        return self._parameters[name].data.astype(self._dtype)


class _Run:
    """One program at one vertex: `values` by call number, `effects` in order."""

    def __init__(
        self,
        executor: ReferenceExecutor,
        program: Program,
        graph: Graph,
        seeds: Seeds,
        vertex: int,
        state: State,
        slots: State,
        saved: Mapping[int, Any] | None = None,
        parents: list[int] | None = None,
    ) -> None:
        self._executor, self._graph, self._seeds, self._vertex = executor, graph, seeds, vertex
        self._state, self._slots, self._saved, self._parents = state, slots, saved, parents
        self.values: dict[int, Any] = {}
        self.effects: list[tuple[Call, Any]] = []
        for i, c in enumerate(program.calls):
            args = [self.values[a] for a in c.args]
            if c.op in EFFECTS:
                self.effects.append((c, args[0]))
            else:
                self.values[i] = self._evaluate(c, args)

    def _evaluate(self, c: Call, args: list[Any]) -> Any:
        zeros = np.zeros(c.type.shape, self._executor._dtype)
        v = self._vertex
        match c.op:
            case "param":
                return self._executor.parameter(c["name"])
            case "pull":
                field = self._graph.inputs[c["name"]]
                return (
                    field.values[v]
                    if c.type.dtype == "int32"
                    else field.values[v].astype(zeros.dtype)
                )
            case "present":
                return zeros + self._graph.inputs[c["name"]].present[v]
            case "gather" | "child_state":
                child = self._child(c["slot"])
                return self._state[child, c["field"]] if child >= 0 else zeros
            case "own_state":
                return self._state[v, c["field"]]
            case "gather_sum":
                assert self._parents is not None
                return sum((self._slots[p, c["field"]] for p in self._parents), zeros)
            case "saved":
                assert self._saved is not None
                return self._saved[int(c["name"])]
            case "dropout":
                key = dropout.site_key(self._seeds.seed, self._seeds.step, c["site"])
                mine = dropout.vertex_keys(self._graph.vertex_id[v : v + 1])
                return args[0] * dropout.scale(c["rate"], key, mine, c.type.size).reshape(
                    c.type.shape
                ).astype(zeros.dtype)
            case "total":
                return args[0]
            case "total_rows":
                return (int(args[0]), args[1])
            case "full":
                return np.full(c.type.shape, c["value"], zeros.dtype)
        compute = OPS[c.op].numpy
        assert compute is not None, c.op
        return _as(
            compute(*args, **{k: x for k, x in c.attrs if k != "type"}), c.type.dtype, zeros.dtype
        )

    def _child(self, slot: int) -> int:
        first, last = self._graph.child_ptr[self._vertex : self._vertex + 2]
        return int(self._graph.child[first + slot]) if first + slot < last else -1


def _as(value: Any, dtype: str, floats: np.dtype) -> Any:
    return np.asarray(value, floats if dtype == "float32" else dtype)


def _dtype(value: Any, floats: str) -> Any:
    return "int32" if np.asarray(value).dtype.kind == "i" else floats


def _parents(graph: Graph) -> list[list[int]]:
    """For every vertex, the numbers `parent * arity + slot` of the slots it fills."""
    found: list[list[int]] = [[] for _ in range(graph.n_vertices)]
    for p in range(graph.n_vertices):
        for slot, child in enumerate(graph.child[graph.child_ptr[p] : graph.child_ptr[p + 1]]):
            if child >= 0:
                found[child].append(p * graph.arity + slot)
    return found
