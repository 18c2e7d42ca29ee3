"""Gradients of parameters from the totals that the backward pass leaves in its buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import netlevel
from .buffers import HostMemory
from .steps import Gradient
from .vertex import Parameter, RowSparse

Rows = Callable[[str], RowSparse]


def dense(
    parameter: Parameter,
    contributions: Sequence[Gradient],
    memory: HostMemory,
    parameters: Mapping[str, Parameter],
) -> np.ndarray:
    """A parameter's gradient, float32[shape]: the one total it is, or a sum of parts of several.

    The array belongs to `memory` and is used again by the next batch.
    """
    name, shape = parameter.name, parameter.shape
    if len(contributions) == 1:
        (only,) = contributions
        if only.alone and only.count == 1:
            return memory.read(only.totals[0][1]).reshape(shape)
    memory.fixed(f"grad.{name}", shape)
    grad = memory.read(f"grad.{name}")
    grad.fill(0.0)
    for g in contributions:
        totals = {i: memory.read(b).reshape(g.program.calls[i].type.shape) for i, b in g.totals}
        _add(grad, g, totals, parameters)
    return grad


def _add(
    grad: np.ndarray,
    g: Gradient,
    totals: Mapping[int, np.ndarray],
    parameters: Mapping[str, Parameter],
) -> None:
    rectangles = netlevel.flatten(g.program, g.index, "total", sums=True)
    if rectangles is None:

        def leaf(i: int) -> np.ndarray:
            return totals[i] if i in totals else parameters[g.program.calls[i]["name"]].data

        grad += g.count * netlevel.evaluate(g.program, g.index, leaf)
        return
    view = grad.reshape(netlevel.extent(grad.shape))
    for r in rectangles:
        source = totals[r.leaf].reshape(netlevel.extent(totals[r.leaf].shape))
        part = source[r.rows[0] : r.rows[1], r.columns[0] : r.columns[1]]
        n_rows, n_columns = r.shape
        target = view[r.row : r.row + n_rows, r.column : r.column + n_columns]
        target += (
            g.count * (part.T if r.transposed else part)
            if g.count > 1
            else part.T
            if r.transposed
            else part
        )


def merge(parts: Sequence[RowSparse]) -> RowSparse:
    """Row-sparse gradients of one table, from several inputs, as one."""
    if len(parts) == 1:
        return parts[0]
    rows, inverse = np.unique(np.concatenate([p.rows for p in parts]), return_inverse=True)
    values = np.zeros((len(rows), parts[0].values.shape[1]), "float32")
    np.add.at(values, inverse, np.concatenate([p.values for p in parts]))
    return RowSparse(rows, values)
