"""Backward: graphs -> outputs, and a pullback: gradients of outputs -> gradients of parameters.

The gradients of outputs, *seeds*, are inputs of the program. A batch is planned with zeros there,
and every backward pass writes its own. A pullback owns the workspace of its forward pass, with the
values saved there, until nobody holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DeployError, ShapeError
from ..given import FLOAT, numbers
from ..graph import Graph
from ..renewal import renewed_after_fork
from ..row_sparse import RowSparse, made_rows
from ..runtime import Batch, Gradients, HostMemory, Lending, Slots, Workspace, read_outputs
from .program import Deployed
from .runner import Runner

Gradient = np.ndarray | RowSparse


@dataclass(eq=False)
class Held:
    """A forward pass that backward passes can follow."""

    batch: Batch
    workspace: Workspace


class Backward:
    """Runs the program of an exported model that has a backward pass.

    Args:
        name: the model's. parameters: their names. slots: places for calls, those of the model.
    """

    def __init__(self, program: Deployed, name: str, parameters: list[str], slots: Slots) -> None:
        self.program, self._runner, self._slots = program, Runner(program, name), slots
        self._gradients = Gradients(program.executable, parameters)
        shapes = {o.name: o.shape for o in program.outputs}
        self._seeds = {name: (buffer, shapes[name]) for name, buffer in program.seeds.items()}
        self._renew()
        renewed_after_fork(self, Backward._renew)

    def _renew(self) -> None:
        self._lent = Lending[Workspace]()

    def forward(self, graph: Graph, weights: HostMemory) -> tuple[dict[str, np.ndarray], Pullback]:
        """The outputs of a graph that fits, and what goes back from them."""
        n = graph.n_vertices
        zeros = {str(b.key): np.zeros((n, *shape), FLOAT) for b, shape in self._seeds.values()}
        seeded = graph.with_inputs({**graph.inputs, **zeros})
        outputs, held = self._slots.call(lambda found: (self._run(seeded, weights), found))
        return outputs, Pullback(self, held, n)

    def _run(self, graph: Graph, weights: HostMemory) -> tuple[dict[str, np.ndarray], Held]:
        batch = self._runner.plan(graph)
        workspace = self._runner.prepared.workspace(self._lent.take(), weights)
        workspace.make_room(batch)
        workspace.run(batch, "forward")
        held = Held(batch, workspace)
        self._lent.give(workspace, held)
        return read_outputs(self._runner.outputs, batch, workspace), held

    def back(self, held: Held, seeds: Mapping[str, np.ndarray]) -> dict[str, Gradient]:
        """Gradients of parameters, which are the caller's own."""
        self._lent.withdraw(held)  # interrupted from here on, it is nobody's any more
        found = self._slots.call(lambda left: (self._run_back(held, seeds), left))
        self._lent.give(held.workspace, held)
        return found

    def _run_back(self, held: Held, seeds: Mapping[str, np.ndarray]) -> dict[str, Gradient]:
        batch, workspace = held.batch, held.workspace
        for name, (buffer, _) in self._seeds.items():
            if buffer not in batch.memory:  # no parameter moves this output
                continue
            rows = batch.memory.read(buffer)[: batch.plan.n_rows]
            rows.fill(0)
            if name in seeds:
                rows[...] = seeds[name].take(batch.plan.order, axis=0).reshape(rows.shape)
        self._gradients.clear(batch.replaced, workspace)
        workspace.run(batch, "backward")
        return {name: _own(g) for name, g in self._gradients.collect(batch, workspace).items()}

    def checked(self, given: Any, n: int) -> dict[str, np.ndarray]:
        """Gradients of outputs by name: float32[n, ...].

        Raises:
            ShapeError: they do not fit; all that do not are named.
        """
        if not isinstance(given, Mapping):
            raise ShapeError(
                f"a pullback: expected gradients by the names of outputs, given {given!r:.60}"
            )
        found, problems = {}, []
        for name, values in given.items():
            try:
                found[name] = self._seed(name, values, n)
            except ShapeError as error:
                problems.append(str(error))
        if problems:
            raise ShapeError("\n".join(problems))
        return found

    def _seed(self, name: Any, values: Any, n: int) -> np.ndarray:
        if name not in self._seeds:
            raise ShapeError(
                f"no output with a gradient is called {name!r:.60}; there are "
                f"{', '.join(self._seeds) or 'none'}"
            )
        what, shape = f"gradient of output {name}", (n, *self._seeds[name][1])
        made = np.asarray(numbers(what, values, ShapeError), FLOAT)
        if made.shape != shape:
            raise ShapeError(f"{what}: expected shape {shape}, given {made.shape}")
        return made


class Pullback:
    """Gradients of a batch's outputs -> gradients of parameters; see `Model.vjp`."""

    def __init__(self, backward: Backward, held: Held, n_vertices: int) -> None:
        self._backward, self._held, self._n_vertices = backward, [held], n_vertices

    def __call__(self, gradients: Mapping[str, Any]) -> dict[str, Gradient]:
        """The gradient of every parameter, for gradients of outputs: float32[n_vertices, ...] each,
        in the order of the outputs' rows; one that is left out counts as zeros.

        It may be called again, by one thread at a time.

        Raises:
            ShapeError: a name or a shape does not fit.
            DeployError: another thread is calling it, or a call of it was interrupted.
        """
        seeds = self._backward.checked(gradients, self._n_vertices)
        try:
            held = self._held.pop()
        except IndexError:
            raise DeployError(
                "this pullback is being called by another thread, or a call of it was "
                "interrupted. Call vjp again: every thread can have a pullback of its own."
            ) from None
        found = self._backward.back(held, seeds)
        self._held.append(held)
        return found

    def __repr__(self) -> str:
        return f"<pullback of {self._n_vertices} vertices>"


def _own(gradient: Gradient) -> Gradient:
    if isinstance(gradient, RowSparse):
        return made_rows(gradient.rows, gradient.values.copy())
    return gradient.copy()
