"""A batch, and what a network reads of it -> nothing, or what does not fit between them.

Everything that a user's graphs can get wrong is found here, before any kernel runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError
from .graph import Graph

INT32, UINT32 = np.dtype("int32"), np.dtype("uint32")
DTYPES = {"int32": INT32, "float32": np.dtype("float32")}


@dataclass(frozen=True)
class Read:
    """An input of the vertices as F reads it.

    shape: at one vertex; None where F asks only whether the input is there. limit: integers are
    from 0 to below it; None where F does not say.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    limit: int | None


def check_inputs(graph: Graph, reads: Sequence[Read], arity: int, function: str) -> None:
    """The batch has the inputs that F reads, of the right type and range, and fits its arity.

    Args:
        function: what F is called, for messages.

    Raises:
        GraphError: otherwise, naming the input or the vertex.
    """
    if graph.arity > arity:
        widths = np.diff(graph.child_ptr)
        v = int(widths.argmax())
        raise GraphError(
            f"{_where(graph, v)} has {widths[v]} children, but {function} gathers from "
            f"{arity}; set `arity` to the most children, or binarise the graphs"
        )
    for read in reads:
        if read.name not in graph.inputs:
            raise GraphError(
                f"{function} pulls {read.name!r}, which the graph does not have; "
                f"it has {', '.join(graph.inputs) or 'no inputs'}"
            )
        if read.shape is not None:
            _check_input(graph, read, function)


def _check_input(graph: Graph, read: Read, function: str) -> None:
    values, present = graph.inputs[read.name].values, graph.inputs[read.name].present
    name, limit = read.name, read.limit
    dtype = DTYPES[read.dtype]
    if (values.shape[1:] != read.shape or values.dtype != dtype) and present.any():
        want, given = _type(read.shape or (), read.dtype), _type(values.shape[1:], values.dtype)
        raise GraphError(f"{function} pulls {name!r} as {want}; the graph gives {given} per vertex")
    if values.dtype != INT32 or (values.ndim > 1 and limit is None):
        return
    high = np.iinfo("int32").max if limit is None else limit - 1
    fits: Any = values.view(UINT32) <= high
    if values.ndim > 1:
        fits = fits.reshape(len(values), -1).all(axis=1)
    wrong = present > fits  # present, and not in 0..high
    if np.count_nonzero(wrong):
        v = int(wrong.argmax())
        expected = "0 or more" if limit is None else f"0..{high}"
        raise GraphError(
            f"{_where(graph, v)}: input {name!r} is {values[v]}; {function} takes {expected}"
        )


def _type(shape: tuple[int, ...], dtype: object) -> str:
    return f"{dtype}[{'x'.join(map(str, shape))}]" if shape else str(dtype)


def _where(graph: Graph, v: int) -> str:
    g = int(np.searchsorted(graph.graph_ptr, v, side="right")) - 1
    return f"graph {g}, vertex {v - int(graph.graph_ptr[g])}"
