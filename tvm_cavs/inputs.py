"""A batch and the programs of a network -> nothing, or what does not fit between them.

Everything that a user's graphs can get wrong is found here, before any kernel runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import GraphError
from .execution import Programs
from .graph import Graph
from .ops import Type


def check_fit(graph: Graph, programs: Programs) -> None:
    """The batch has the inputs that F reads, of the right type and range, and fits its arity.

    Raises:
        GraphError: otherwise, naming the input or the vertex.
    """
    forward = programs.forward
    if graph.arity > programs.arity:
        widths = np.diff(graph.child_ptr)
        v = int(widths.argmax())
        raise GraphError(
            f"{_where(graph, v)} has {widths[v]} children, but {forward.name} gathers from "
            f"{programs.arity}; set `arity` to the most children, or binarise the graphs"
        )
    for read in programs.reads:
        if read.name not in graph.inputs:
            raise GraphError(
                f"{forward.name} pulls {read.name!r}, which the graph does not have; "
                f"it has {', '.join(graph.inputs) or 'no inputs'}"
            )
        if read.type is not None:
            _check_input(graph, read.name, read.type, forward.name, read.limit)


def _check_input(graph: Graph, name: str, want: Type, function: str, limit: int | None) -> None:
    values, present = graph.inputs[name].values, graph.inputs[name].present
    if (values.shape[1:] != want.shape or values.dtype != want.dtype) and present.any():
        given = Type(values.shape[1:], str(values.dtype))
        raise GraphError(f"{function} pulls {name!r} as {want}; the graph gives {given} per vertex")
    if values.dtype != "int32" or (values.ndim > 1 and limit is None):
        return
    high = np.iinfo("int32").max if limit is None else limit - 1
    fits: Any = values.view("uint32") <= high
    if values.ndim > 1:
        fits = fits.reshape(len(values), -1).all(axis=1)
    wrong = present > fits  # present, and not in 0..high
    if wrong.any():
        v = int(wrong.argmax())
        expected = "0 or more" if limit is None else f"0..{high}"
        raise GraphError(
            f"{_where(graph, v)}: input {name!r} is {values[v]}; {function} takes {expected}"
        )


def _where(graph: Graph, v: int) -> str:
    g = int(np.searchsorted(graph.graph_ptr, v, side="right")) - 1
    return f"graph {g}, vertex {v - int(graph.graph_ptr[g])}"
