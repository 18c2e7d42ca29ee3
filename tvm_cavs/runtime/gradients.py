"""Gradients of parameters from the totals that the backward pass leaves in its buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..row_sparse import RowSparse, made_rows, merge
from .area import Area
from .batch_memory import Batch
from .executable import Executable, GradientPart
from .roles import BufferId, Role
from .spaces import RowGradient
from .workspace import Workspace


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


def gradient_buffer(parameter: str) -> BufferId:
    """The buffer with the gradient of a parameter, in its shape."""
    return BufferId(Role.GRADIENT, parameter)


class Gradients:
    """Gives every parameter its gradient after a backward pass; made once for what was compiled.

    Args:
        names: the parameters.
    """

    def __init__(self, compiled: Executable, names: Iterable[str]) -> None:
        self._compiled, self._tables = compiled, compiled.tables
        self._dense = {name: gradient_buffer(name) for name in names}
        sums = [RowSum.of(r, kernel) for r, kernel in compiled.row_sums.items()]
        self._rows = {
            name: [s for s in sums if s.of_rows.parameter == name] for name in self._dense
        }
        self._parts = {
            name: [g for g in compiled.gradients if g.parameter == name] for name in self._dense
        }

    def clear(self, replaced: Mapping[BufferId, Area], workspace: Workspace) -> None:
        """Zeros where kernels add, and around the areas in `replaced`, which they write."""
        for buffer in (*self._compiled.totals, *self._compiled.cleared):
            if buffer in replaced:
                workspace.memory.clear_around(buffer, replaced[buffer])
            else:
                workspace.memory.fill(buffer, 0.0)

    def collect(self, batch: Batch, workspace: Workspace) -> dict[str, np.ndarray | RowSparse]:
        """The gradients by parameter, float32[shape] or rows.

        The memory of their values is used again by the next backward pass.
        """
        out: dict[str, np.ndarray | RowSparse] = {}
        read = workspace.memory.read
        for name, buffer in self._dense.items():
            rows = [self._summed(s, batch, workspace) for s in self._rows[name]]
            if name in self._tables:
                out[name] = merge(rows, self._tables[name])
                continue
            out[name] = grad = read(buffer)
            for g in self._parts[name]:
                _add(grad, g, read)
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


def _add(grad: np.ndarray, g: GradientPart, read: Callable[[BufferId], np.ndarray]) -> None:
    if g.value is not None:
        grad += g.count * g.value.value(read)
    for b in g.blocks:
        source = read(b.total).reshape(b.extent)
        part = source[b.rows[0] : b.rows[1], b.columns[0] : b.columns[1]]
        part = part.T if b.transposed else part
        view = grad.reshape(-1, grad.shape[-1])
        target = view[b.row : b.row + part.shape[0], b.column : b.column + part.shape[1]]
        target += g.count * part
