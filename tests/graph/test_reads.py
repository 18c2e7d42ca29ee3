"""What a network reads of a batch, by itself: no network is needed to refuse what does not fit."""

import re

import pytest

from tvm_cavs.errors import GraphError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.reads import Read, check_inputs

READS = {
    "float32": Read("x", (), "float32", None),
    "float32[2]": Read("x", (2,), "float32", None),
    "int32": Read("x", (), "int32", 3),
    "int32[2x3]": Read("x", (2, 3), "int32", 3),
}


@pytest.mark.parametrize("said", READS)
def test_an_input_that_nobody_has_fits_whatever_is_read(said: str) -> None:
    """Only what is there has a type, and a range."""
    read = READS[said]
    absent = Graph.from_children([[], [0]], {"x": [None, None]})
    check_inputs(absent, [read], 1, "F")
    for row, given in (([1, 2, 3], "int32[3]"), ([[0.5], [1.5]], "float32[2x1]")):
        some = batch([absent, Graph.from_children([[], [0]], {"x": [None, row]})])
        text = f"F pulls 'x' as {said}; the graph gives {given} per vertex"
        with pytest.raises(GraphError, match=f"^{re.escape(text)}$"):
            check_inputs(some, [read], 1, "F")


def test_where_only_presence_is_asked_any_type_fits() -> None:
    graph = Graph.from_children([[]], {"x": [[-1.0, 2.0]]})
    check_inputs(graph, [Read("x", None, "int32", None)], 0, "F")
    with pytest.raises(GraphError, match="^F pulls 'y', which the graph does not have; it has x$"):
        check_inputs(graph, [Read("y", None, "int32", None)], 0, "F")


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2, 3, 2**31 - 1])
def test_an_integer_chooses_from_0_on_below_its_limit(value: int, limit: int | None) -> None:
    """One alone never is below 0; of several that may choose nothing, any may be."""
    one = Graph.from_children([[], []], {"x": [0, value]})
    two = Graph.from_children([[], []], {"x": [[0, 0], [1, value]]})
    absent = Graph.from_children([[], []], {"x": [0, None]})
    for graph, shape, fits in (
        (one, (), 0 <= value < (limit or 2**31)),
        (two, (2,), limit is None or 0 <= value < limit),
        (absent, (), True),
    ):
        if fits:
            check_inputs(graph, [Read("x", shape, "int32", limit)], 0, "F")
            continue
        takes = "0 or more" if limit is None else "0..2"
        with pytest.raises(
            GraphError, match=rf"^graph 0, vertex 1: .*{value}\]?; F takes {takes}$"
        ):
            check_inputs(graph, [Read("x", shape, "int32", limit)], 0, "F")


def test_what_is_read_and_by_whom_is_named() -> None:
    """Where the graph has several inputs, of which the second does not fit, or none."""
    graphs = [Graph.from_sequence(n, {"a": [0] * n, "size": [*range(n)]}) for n in (5, 8)]
    reads = [Read("a", (), "int32", 2), Read("size", (), "int32", 7)]
    with pytest.raises(GraphError) as error:
        check_inputs(batch(graphs), reads, 1, "Cell")
    assert str(error.value) == "graph 1, vertex 7: input 'size' is 7; Cell takes 0..6"
    with pytest.raises(
        GraphError, match="^Cell pulls 'size' as float32; the graph gives int32 per"
    ):
        check_inputs(graphs[0], [reads[0], Read("size", (), "float32", None)], 1, "Cell")
    for graph, held in ((graphs[0], "a, size"), (Graph.from_sequence(2), "no inputs")):
        with pytest.raises(GraphError) as error:
            check_inputs(graph, [Read("word", (), "int32", 3)], 1, "Cell")
        told = f"which the graph does not have; it has {held}"
        assert str(error.value) == f"Cell pulls 'word', {told}"
    with pytest.raises(
        GraphError, match="^graph 0, vertex 1 has 5 children, but Cell gathers from 4;"
    ):
        check_inputs(Graph.from_children([[], [0] * 5, [0]]), [], 4, "Cell")


def test_the_vertex_that_is_too_wide_is_the_widest() -> None:
    graph = batch([Graph.from_children([[], [0]]), Graph.from_children([[], [0], [0, 1, 1]])])
    check_inputs(graph, [], 3, "F")
    with pytest.raises(GraphError, match="^graph 1, vertex 2 has 3 children, but F gathers from 2"):
        check_inputs(graph, [], 2, "F")
