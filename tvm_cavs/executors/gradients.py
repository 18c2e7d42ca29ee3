"""Gradients of parameters from the totals that the backward pass leaves in its buffers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..compiler import Compiled, Gradient, gradient_buffer, rectangles
from ..language import Parameter, RowSparse, made_rows
from ..row_sparse import merge
from ..runtime import Batch, BufferId, Role, RowGradient, Workspace
from ..transform import Programs, net_value


class RowSum(NamedTuple):
    """How equal rows of a table's gradient are added up: the kernel, what it reads, its result."""

    of_rows: RowGradient
    kernel: Callable[..., Any]
    read: tuple[BufferId, ...]
    out: BufferId

    @staticmethod
    def of(r: RowGradient, kernel: Callable[..., Any]) -> RowSum:
        groups = BufferId(Role.GROUP_ROWS, r.pull), BufferId(Role.GROUP_POINTERS, r.pull)
        return RowSum(r, kernel, (r.buffer, *groups), BufferId(Role.ROW_SUM, r.buffer.key))


class Gradients:
    """Gives every parameter its gradient after a backward pass; made once for what was compiled."""

    def __init__(
        self,
        programs: Programs,
        parameters: Mapping[str, Parameter],
        compiled: Compiled,
    ) -> None:
        self._parameters, self._compiled = parameters, compiled
        self._sparse = programs.row_sparse
        self._dense = {name: gradient_buffer(name) for name in parameters}
        sums = [RowSum.of(r, kernel) for r, kernel in compiled.row_sums.items()]
        self._rows = {name: [s for s in sums if s.of_rows.parameter == name] for name in parameters}
        self._parts = {
            name: [g for g in compiled.gradients if g.parameter == name] for name in parameters
        }

    def clear(self, replaced: Collection[BufferId], workspace: Workspace) -> None:
        """Zeros where kernels add; buffers in `replaced` they fill by themselves."""
        for buffer in (*self._compiled.totals, *self._compiled.cleared):
            if buffer not in replaced:
                workspace.memory.fill(buffer, 0.0)

    def collect(self, batch: Batch, workspace: Workspace) -> dict[str, np.ndarray | RowSparse]:
        """The gradients by parameter, float32[shape] or rows.

        The memory of their values is used again by the next backward pass.
        """
        out: dict[str, np.ndarray | RowSparse] = {}
        for name, parameter in self._parameters.items():
            rows = [self._summed(s, batch, workspace) for s in self._rows[name]]
            if name in self._sparse:
                out[name] = merge(rows, parameter.shape[1])
                continue
            read = workspace.memory.read
            out[name] = grad = read(self._dense[name])
            for g in self._parts[name]:
                calls = g.program.calls
                totals = {i: read(b).reshape(calls[i].type.shape) for i, b in g.totals}
                _add(grad, g, totals, self._parameters)
            for some in rows:
                grad[some.rows] += some.values
        return out

    def _summed(self, s: RowSum, batch: Batch, workspace: Workspace) -> RowSparse:
        """Sum the rows of a table's gradient that belong to the same row of the table."""
        values, memory = batch.distinct[s.of_rows.pull], workspace.memory
        result = memory.rows(s.out, len(values), s.of_rows.width, "float32")
        s.kernel(len(values), *map(workspace.seen_by(batch).tensor, s.read), result)
        # the rows lie in memory of the batch, which another forward pass may use again
        return made_rows(values.copy(), memory.read(s.out)[: len(values)])


def _add(
    grad: np.ndarray,
    g: Gradient,
    totals: Mapping[int, np.ndarray],
    parameters: Mapping[str, Parameter],
) -> None:
    parts = rectangles.flatten(g.program, g.index, "total", sums=True)
    if parts is None:

        def leaf(i: int) -> np.ndarray:
            return totals[i] if i in totals else parameters[g.program.calls[i]["name"]].data

        grad += g.count * net_value(g.program, g.index, leaf)
        return
    view = grad.reshape(rectangles.extent(grad.shape))
    for r in parts:
        if r.leaf not in totals:  # a kernel has added it
            continue
        source = totals[r.leaf].reshape(rectangles.extent(totals[r.leaf].shape))
        part = source[r.rows[0] : r.rows[1], r.columns[0] : r.columns[1]]
        n_rows, n_columns = r.shape
        target = view[r.row : r.row + n_rows, r.column : r.column + n_columns]
        target += g.count * (part.T if r.transposed else part)
