"""Runs specialised programs, and stages, one vertex at a time: each vertex by the programs of its
kind.

The truth that the rewrites and the split are tested against is the reference executor on the plain
programs; this evaluator shares its meaning of every op, and differs in what it runs and in which
order.
"""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.reference import (
    AtVertex,
    Gradients,
    ReferenceExecutor,
    State,
    VertexRun,
    parents_of,
)
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.kind import Kind
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.language.program import Program
from tvm_cavs.transform.absence import Need
from tvm_cavs.transform.programs import Programs
from tvm_cavs.transform.specialisation import specialise
from tvm_cavs.transform.stages import split

Outputs = dict[str, list[Any]]
Kinds = dict[Kind, tuple[Program, Program | None]]


def kind_of(graph: Graph, v: int, programs: Programs, maybe: Collection[Need] = ()) -> Kind:
    """What a vertex has, read off the graph the slow way; it may also have what is in `maybe`."""
    slots = graph.child[graph.child_ptr[v] : graph.child_ptr[v + 1]]
    pulls = dict.fromkeys(c["name"] for _, c in programs.forward.select("pull", "present"))
    has = {k for k, child in enumerate(slots) if child >= 0} | set(maybe)
    held = tuple(name for name in pulls if graph.inputs[name].present[v] or name in has)
    read = tuple(n for n in (*range(programs.arity), *pulls) if n in maybe)
    return Kind(tuple(k for k in range(programs.arity) if k in has), held, read)


class PerVertex:
    """Forward and backward pass of a batch, float64; `staged` runs stages, else whole programs.

    kinds: the programs of the kinds seen so far, filled as they are met. maybe: slots and inputs
    that the kinds do not tell apart.
    """

    def __init__(
        self,
        programs: Programs,
        parameters: dict[str, Parameter],
        staged: bool,
        kinds: Kinds,
        maybe: Collection[Need] = (),
    ) -> None:
        self.programs, self.staged = programs, staged
        self.executor = ReferenceExecutor(programs, parameters, "float64")
        self.kinds, self.maybe = kinds, maybe
        self.parameters = parameters
        self.stages: dict[int, tuple[Program, ...]] = {}  # by the id of a program of `kinds`

    def kind(self, graph: Graph, v: int) -> tuple[Program, Program | None]:
        kind = kind_of(graph, v, self.programs, self.maybe)
        if kind not in self.kinds:
            self.kinds[kind] = specialise(self.programs.forward, self.programs.adjoint, kind)
        return self.kinds[kind]

    def parts(self, program: Program) -> tuple[Program, ...]:
        if id(program) not in self.stages:
            self.stages[id(program)] = tuple(split(program)) if self.staged else (program,)
        return self.stages[id(program)]

    def forward(self, graph: Graph, seeds: Seeds) -> Outputs:
        """Pushed outputs by name, a list over vertices."""
        self.graph, self.seeds, self.state = graph, seeds, State()
        self.saved: list[dict[str, Any]] = [{} for _ in range(graph.n_vertices)]
        outputs: Outputs = {}
        for part, v in self.order(0, np.argsort(graph.level, kind="stable")):
            run = self.run(part, v, State(), [])
            for c, value in run.effects:
                if c.op == "scatter":
                    self.state[v, c["field"]] = value
                elif c.op == "push":
                    outputs.setdefault(c["name"], [None] * graph.n_vertices)[v] = value
        return outputs

    def backward(self) -> dict[str, Any]:
        """The gradient of every parameter."""
        parents, slots = parents_of(self.graph, self.programs.arity), State()
        gradients = Gradients(self.programs, self.parameters, "float64")
        for part, v in self.order(1, np.argsort(-self.graph.level, kind="stable")):
            run = self.run(part, v, slots, parents[v])
            for c, value in run.effects:
                if c.op == "scatter":
                    slots[v * self.programs.arity + c["slot"], c["field"]] = value
                elif c.op == "gradient":
                    gradients.add(c["name"], value)
        return gradients.result()

    def order(self, which: int, by_level: Any) -> Iterable[tuple[Program, int]]:
        """Eager for all vertices, last first; recurrent by level; lazy for all, last first."""
        n = self.graph.n_vertices
        parts = [self.parts(p) for v in range(n) if (p := self.kind(self.graph, v)[which])]
        backwards = range(n)[::-1]
        for s in range(len(parts[0])):
            recurrent = len(parts[0]) == 1 or s == 1
            for v in by_level if recurrent else backwards:
                yield parts[v][s], int(v)

    def run(self, part: Program, v: int, slots: State, parents: list[int]) -> VertexRun:
        seen = self.state, slots, self.saved[v], parents
        run = VertexRun(AtVertex(self.executor, self.graph, self.seeds, v, *seen), part)
        for c, value in run.effects:
            if c.op == "save":
                assert c["name"] not in self.saved[v], f"{c['name']} is saved twice"
                self.saved[v][c["name"]] = value
        return run
