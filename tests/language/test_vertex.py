"""Mistakes in a vertex function name the user's line."""

import inspect
import linecache
import re
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.told import beside_the_line
from tvm_cavs.errors import CavsError, ShapeError, TraceError
from tvm_cavs.language import functions
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.language.value import PARAMETERS
from tvm_cavs.language.vertex import Vertex, VertexFunction, trace
from tvm_cavs.nn.network import Network


def function(forward: Any, **attributes: Any) -> VertexFunction:
    """A vertex function with this `forward(self, v)`."""

    class Mistaken(VertexFunction):
        arity = 2
        state = {"h": 3, "c": 3}

        def __init__(self) -> None:
            self.W = Parameter((3, 3))
            vars(self).update(attributes)

        def forward(self, v: Vertex) -> None:
            forward(self, v)

    return Mistaken()


def twice(self: Any, v: Vertex) -> None:
    h = v.gather(0).h
    v.scatter(h=h, c=h)
    v.scatter(h=h, c=h)


def branches(self: Any, v: Vertex) -> None:
    if v.gather(0).h[:1] > 0:
        v.push("a", v.gather(0).h)


def pushes_twice(self: Any, v: Vertex) -> None:
    v.push("a", v.gather(0).h)
    v.push("a", v.gather(1).h)


def pulls_twice(self: Any, v: Vertex) -> None:
    v.pull("x", (3,))
    v.pull("x", (4,))


def pulls_as_another_dtype(self: Any, v: Vertex) -> None:
    v.pull("x", (), "float32")
    v.pull("x")


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (twice, "scatter (test_vertex.py, line {}: v.scatter(h=h, c=h)): it was called before"),
        (branches, "a float32[1] has no truth value"),
        (pushes_twice, "output 'a' was pushed before"),
        (pulls_twice, "expected float32[3] as it was pulled before, now float32[4]"),
        (pulls_as_another_dtype, "expected float32 as it was pulled before, now int32"),
        (lambda self, v: v.scatter(h=v.gather(0).h), "scatter(h)"),
        (lambda self, v: v.scatter(h=v.gather(0).h), "the fields of `state` are h, c"),
        (
            lambda self, v: v.scatter(h=v.gather(0).h[:2], c=v.gather(0).c),
            "field 'h' is float32[3]",
        ),
        (
            lambda self, v: v.scatter(h=cavs.reshape(v.gather(0).h, (3, 1)), c=v.gather(0).c),
            "field 'h' is float32[3] in `state`, given float32[3x1]",
        ),
        (lambda self, v: v.scatter(h=1.0, c=2.0), "expected a value, given float"),
        (lambda self, v: v.scatter(h=self.W[0:1], c=self.W), "the same for every vertex"),
        (lambda self, v: v.gather(5), "gather(5)"),
        (lambda self, v: v.gather(2), "expected a slot in 0..1"),
        (lambda self, v: v.gather(-1), "set the class attribute `arity`"),
        (lambda self, v: v.gather("0"), "gather('0')"),
        (lambda self, v: v.gather(True), "gather(True)"),
        (lambda self, v: v.gather(0).hidden, "no field 'hidden'; the state is h, c"),
        (
            lambda self, v: v.gather(0).h @ Parameter((3, 3)),
            "operand Parameter Parameter(?, (3, 3))",
        ),
        (lambda self, v: v.gather(0).h * Parameter((3,)), "given Parameter; arrays are Parameters"),
        (lambda self, v: v.pull("x", (3,), "float64"), "expected float32 or int32"),
        (lambda self, v: v.pull("x", (0,)), "shape, extent 0: expected a whole number"),
        (lambda self, v: v.dropout(v.gather(0).h, 1), "rate: expected a finite number of 0 or"),
        (lambda self, v: cavs.split(v.gather(0).h, 2), "does not divide into 2 equal parts"),
        (lambda self, v: cavs.split(v.pull("w"), 1), "int32 does not divide into 1 equal parts"),
        (lambda self, v: cavs.one_hot(v.pull("w"), 1 << 31), "depth: expected a whole number of"),
        (
            lambda self, v: cavs.reduce_sum(v.gather(0).h, 1),
            "keepdims: expected True or False, given 1; reduce_sum is along the last axis",
        ),
        (lambda self, v: cavs.reduce_max(v.gather(0).h, -1), "given -1; reduce_max is along"),
        (lambda self, v: cavs.reduce_mean(v.gather(0).h, 0), "given 0; reduce_mean is along"),
        (lambda self, v: cavs.split(v.gather(0).h, 0), "float32[3] does not divide into 0 equal"),
        (lambda self, v: cavs.split(v.gather(0).h, -3), "does not divide into -3 equal parts"),
        (
            lambda self, v: cavs.split(v.gather(0).h, 1.0),
            "sections: expected a whole number, given",
        ),
        (lambda self, v: cavs.concat(v.gather(0).h, axis="0"), "axis: expected a whole number, "),
        (lambda self, v: cavs.reshape(v.gather(0).h, (3, 0)), "shape, extent 1: expected a whole"),
        (
            lambda self, v: cavs.layer_norm(v.gather(0).h, 1.0, 0.0, epsilon=-1.0),
            "epsilon: expected a finite number of 0 or more, given -1.0",
        ),
        (lambda self, v: cavs.embedding(v.pull("w"), self.W * 2.0), "expected a parameter"),
        (
            lambda self, v: cavs.embedding(cavs.argmax(v.gather(0).h), self.W),
            "a computed index takes a row by one_hot(index, rows) @ table",
        ),
        (lambda self, v: cavs.tanh(1.0), "expected a value of the vertex, given float"),
        (lambda self, v: cavs.silu(1.0), "expected a value of the vertex, given 1.0"),
        (lambda self, v: cavs.concat(), "given nothing"),
        (
            lambda self, v: v.output("logits"),
            "no output 'logits'; the vertex function pushes nothing",
        ),
        (lambda self, v: v.gather(0).h + OTHER, "a value of another trace"),
        (lambda self, v: [*v.gather(0).h], "takes slices like x[10:20], given x[0]"),
        (lambda self, v: v.gather(0).h[0], "a float32[3] takes slices like x[10:20], given x[0]"),
        (lambda self, v: v.gather(0).h[0:3:2], "x[slice(0, 3, 2)]; equal parts are split(x, n)"),
        (lambda self, v: v.gather(0).h[0:3:"1"], "takes slices like x[10:20], given x[slice("),
        (lambda self, v: v.gather(0).h[0.5:], "expected whole numbers, given slice(0.5, None,"),
        (lambda self, v: v.gather(0).h[:True], "expected whole numbers, given slice(None, True,"),
        (lambda self, v: v.gather(0).h[2:2], "slice [2:2] of float32[3] along axis 0 is empty"),
        (lambda self, v: v.gather(0).h == 1.0, "a value is not known while tracing; use equal("),
        (lambda self, v: v.gather(0).h != 1.0, "not known while tracing; use 1.0 - equal(a, b)"),
    ],
)
def test_mistakes_in_forward_name_the_line(forward: Any, text: str) -> None:
    with pytest.raises((TraceError, ShapeError)) as caught:
        trace(function(forward))
    message = beside_the_line(caught.value, forward)
    assert re.search(re.escape(text).replace(r"\{\}", r"\d+"), message), message
    assert "test_vertex.py, line" in message


@pytest.mark.parametrize(
    ("forward", "called", "problem"),
    [
        (
            lambda self, v: [v.pull("x", (3,)), v.pull("y", 2), v.pull("y", (5, 2))],
            "in Mistaken, pull('y')",
            "expected float32[2] as it was pulled before, now float32[5x2]",
        ),
        (
            lambda self, v: v.pull("y", (5, 2), "float64"),
            "in Mistaken, pull('y')",
            "expected float32 or int32, given dtype 'float64', shape (5, 2)",
        ),
        (
            lambda self, v: v.scatter(c=v.pull("x", 3), x=v.pull("x", 3)),
            "in Mistaken, scatter(c, x)",
            "the fields of `state` are h, c",
        ),
        (
            lambda self, v: v.scatter(h=v.pull("x", 3), c=v.pull("y", 2)),
            "in Mistaken, scatter",
            "field 'c' is float32[3] in `state`, given float32[2]",
        ),
        (
            lambda self, v: v.scatter(h=v.pull("x", 3), c=[2.0]),
            "in Mistaken, scatter(c=...)",
            "expected a value, given list",
        ),
        (
            lambda self, v: v.scatter(h=v.pull("x", 3), c=self.W),
            "in Mistaken, scatter(c=...)",
            "the value is the same for every vertex (float32[3x3] per net); "
            "add something that the vertex reads",
        ),
        (
            lambda self, v: v.push("y", self.W[1:]),
            "in Mistaken, push('y', ...)",
            "the value is the same for every vertex (float32[2x3] per net); "
            "add something that the vertex reads",
        ),
        (
            lambda self, v: [v.push(y, v.pull("x", 3)) for y in "abb"],
            "in Mistaken, push",
            "output 'b' was pushed before; use another name",
        ),
        (
            lambda self, v: [v.push(y, v.pull("x", 3)) for y in "ba"] + [v.output("c")],
            "in Mistaken, output",
            "no output 'c'; the vertex function pushes b, a",
        ),
        (
            lambda self, v: v.gather(2),
            "in Mistaken, gather(2)",
            "expected a slot in 0..1; "
            "set the class attribute `arity` to the largest number of children",
        ),
        (
            lambda self, v: v.gather(1).i,
            "in Mistaken, gather",
            "no field 'i'; the state is h, c",
        ),
        (
            lambda self, v: v.dropout(2.5, 0.25),
            "in Mistaken, dropout",
            "expected a value of the vertex, given 2.5",
        ),
        (
            lambda self, v: v.pull("x", 3) - "y",
            "in Mistaken, sub",
            f"expected a value or a number, given str; {PARAMETERS}",
        ),
        (
            lambda self, v: v.pull("x", 3) @ [2.0],
            "in Mistaken, matmul",
            "operand list [2.0]; expected a value of this vertex. "
            f"Use values made inside forward(self, v); {PARAMETERS}",
        ),
        (
            lambda self, v: v.pull("x", 7)[5::2],
            "in Mistaken, slice",
            "a float32[7] takes slices like x[10:20], given x[slice(5, None, 2)]; "
            "equal parts are split(x, n)",
        ),
        (
            lambda self, v: v.pull("x", 7)[2:"5"],
            "in Mistaken, slice",
            "expected whole numbers, given slice(2, '5', None)",
        ),
        (
            lambda self, v: bool(v.pull("x", 7)),
            "in Mistaken, branch",
            "a float32[7] has no truth value: a vertex function is traced once, so it cannot "
            "branch on values; use where(condition, a, b)",
        ),
        (
            lambda self, v: cavs.split(v.pull("x", (3, 8)), 5),
            "split",
            "float32[3x8] does not divide into 5 equal parts",
        ),
        (
            lambda self, v: cavs.split(v.pull("x", 8), 2.5),
            "split",
            "sections: expected a whole number, given 2.5",
        ),
        (
            lambda self, v: cavs.concat(v.pull("x", 8), axis=1.5),
            "concat",
            "axis: expected a whole number, given 1.5",
        ),
        (
            lambda self, v: cavs.one_hot(v.pull("i"), 2.5),
            "one_hot",
            "depth: expected a whole number of at most 2147483647, given 2.5",
        ),
        (
            lambda self, v: cavs.reshape(v.pull("x", 8), (2, 4, -1)),
            "reshape",
            "shape, extent 2: expected a whole number from 1 to 2147483647, given -1",
        ),
        (
            lambda self, v: cavs.layer_norm(v.pull("x", 8), 1.0, 0.0, -2.5),
            "layer_norm",
            "epsilon: expected a finite number of 0 or more, given -2.5",
        ),
        (
            lambda self, v: cavs.reduce_max(v.pull("x", 8), "yes"),
            "reduce_max",
            "keepdims: expected True or False, given 'yes'; reduce_max is along the last axis",
        ),
        (
            lambda self, v: cavs.silu(2.5),
            "silu",
            "expected a value of the vertex, given 2.5",
        ),
        (
            lambda self, v: cavs.maximum(2.5, 3),
            "maximum",
            "expected a value of the vertex, given float, int",
        ),
        (
            lambda self, v: cavs.embedding(v.pull("i"), self.W[:2]),
            "in Mistaken, embedding",
            "expected a parameter, given a computed float32[2x3] per net; "
            "compute on the row instead",
        ),
        (
            lambda self, v: cavs.embedding(v.pull("x", 3) * 2.0, self.W),
            "in Mistaken, embedding",
            "expected an integer input as v.pull gives it, given a computed float32[3]; "
            "a computed index takes a row by one_hot(index, rows) @ table",
        ),
        (
            lambda self, v: cavs.concat(v.pull("x", 3), v.pull("y", (2, 4))),
            "in Mistaken, concat",
            "cannot concatenate float32[3], float32[2x4] along axis 0",
        ),
    ],
)
def test_a_refusal_says_whose_it_is_what_was_called_where_and_what_is_wrong(
    forward: Any, called: str, problem: str
) -> None:
    """The whole message: no part of it is of another call, or of another line."""
    code = forward.__code__
    text = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    with pytest.raises((TraceError, ShapeError)) as caught:
        trace(function(forward))
    where = f"test_vertex.py, line {code.co_firstlineno}: {text}"
    assert str(caught.value) == f"{called} ({where}): {problem}"


@pytest.mark.parametrize(
    ("method", "given", "shown"),
    [
        ("gather", (7,), "gather(7)"),
        ("pull", (3,), "given 3"),
        ("pull", ("x", (), "float64"), "dtype 'float64'"),
        ("present", (3,), "given 3"),
        ("push", (3, None), "given 3"),
        ("push", ("y", 3.5), "given float"),
        ("output", (3,), "given 3"),
        ("output", ("y",), "'y'"),
        ("dropout", (3.5, 0.25), "given 3.5"),
        ("dropout", (None, 7), "given 7"),
    ],
)
def test_a_method_that_refuses_says_its_name_and_what_was_given(
    method: str, given: tuple[Any, ...], shown: str
) -> None:
    def forward(self: Any, v: Vertex) -> None:
        getattr(v, method)(*given)

    with pytest.raises(TraceError, match=rf"^in Mistaken, {method}\b") as caught:
        trace(function(forward))
    assert shown in str(caught.value)


def _leak() -> Any:
    kept = []

    def forward(self: Any, v: Vertex) -> None:
        h = v.gather(0).h
        kept.append(h)
        v.scatter(h=h, c=h)

    trace(function(forward))
    return kept[0]


OTHER = _leak()


def test_mistakes_around_forward() -> None:
    nothing = function(lambda self, v: None)
    line = inspect.getsourcelines(type(nothing).forward)[1]
    with pytest.raises(
        TraceError, match=rf"^Mistaken.forward \(line {line}\) never scatters c, h;"
    ):
        trace(nothing)
    with pytest.raises(TraceError, match="^Mistaken needs `self.state"):
        trace(function(twice, state={}))
    with pytest.raises(TraceError, match="^Mistaken.state: a field is an attribute .*, given '2h'"):
        trace(function(twice, state={"h": 3, "2h": 3}))
    with pytest.raises(TraceError, match=r"no field 'x'; the state is h, c$"):
        trace(function(lambda self, v: v.gather(0).x))
    with pytest.raises(
        TraceError, match=r"^Mistaken.state\['c'\], a width: expected a whole .* given 2.5$"
    ):
        trace(function(twice, state={"h": 3, "c": 2.5}))
    with pytest.raises(
        TraceError, match="^Mistaken.arity, the largest number of children: .* given None$"
    ):
        trace(function(twice, arity=None))
    for held in ({"a": Parameter((3,))}, [Parameter((3,)), 1], [[Parameter((3,))]]):
        with pytest.raises(TraceError, match="^Mistaken.weights holds parameters among other"):
            Network(function(twice, weights=held))

    class Silent(VertexFunction): ...

    with pytest.raises(NotImplementedError, match=r"^Silent must define forward\(self, v\)$"):
        Silent().forward(None)  # type: ignore[arg-type]


def alone(self: Any, v: Vertex) -> None:
    v.scatter(**{name: v.pull(name, width) for name, width in self.state.items()})


@pytest.mark.parametrize("width", [0, -1, True, "3", None, 2**31])
def test_a_width_is_a_whole_number_of_1_or_more(width: Any) -> None:
    with pytest.raises(
        TraceError, match=r"^Mistaken.state\['c'\], a width: .* from 1 to 2147483647,"
    ):
        trace(function(alone, state={"h": 1, "c": width}))
    trace(function(alone, state={"h": 1}))


@pytest.mark.parametrize("arity", [-1, True, "2", 1.0, 2**31])
def test_an_arity_is_a_whole_number_of_0_or_more(arity: Any) -> None:
    said = "^Mistaken.arity, the largest number of children: .* from 0 to 2147483647, given"
    with pytest.raises(TraceError, match=said):
        trace(function(alone, arity=arity))
    trace(function(alone, arity=0))


@pytest.mark.parametrize("state", [None, [], ["h"], "h", {}, {3: 1}, {"": 1}, {"a b": 1}])
def test_a_state_is_widths_by_names_of_attributes(state: Any) -> None:
    with pytest.raises(
        TraceError, match=r"^Mistaken(.state: a field is an attr| needs `self.state)"
    ):
        trace(function(alone, state=state))


def test_a_state_is_published_by_the_names_of_its_fields() -> None:
    def forward(self: Any, v: Vertex) -> None:
        below = v.gather(0)
        v.scatter(c=below.h, h=below.c)

    program = trace(function(forward))
    written = {c["field"]: program.calls[c.args[0]]["field"] for _, c in program.select("scatter")}
    assert written == {"h": "c", "c": "h"}


def test_a_vertex_has_two_slots_unless_it_says_otherwise() -> None:
    class Usual(VertexFunction):
        state = {"h": 3}

        def forward(self, v: Vertex) -> None:
            v.scatter(h=v.gather(0).h + v.gather(1).h)
            v.gather(2)

    with pytest.raises(TraceError, match=r"gather\(2\).*: expected a slot in 0..1; "):
        trace(Usual())


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64])
def test_a_slot_of_another_kind_of_integer_is_that_slot(kind: Any) -> None:
    def forward(self: Any, v: Vertex) -> None:
        h = v.gather(kind(0)).h * v.gather(1).h
        v.scatter(h=h, c=v.gather(kind(1)).h)

    program = trace(function(forward))
    slots = [c["slot"] for _, c in program.select("gather")]
    assert {*slots} == {0, 1} and {*map(type, slots)} == {int}


def test_a_parameter_of_several_names_has_the_first() -> None:
    made: Any = function(twice)
    made.again, made.more = made.W, [made.W, Parameter((3,))]
    assert list(made.parameters()) == ["W", "more.1"] and made.W.name == "W"


@pytest.mark.parametrize("several", [list, tuple])
def test_parameters_side_by_side_are_values_while_it_is_traced(several: Any) -> None:
    def forward(self: Any, v: Vertex) -> None:
        h = v.gather(0).h @ self.both[0] + self.both[1]
        v.scatter(h=h, c=h)

    made = function(forward, both=several([Parameter((3, 3)), Parameter((3,))]))
    assert {c["name"] for _, c in trace(made).select("param")} >= {"both.0", "both.1"}
    assert isinstance(made.both[0], Parameter)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rate", "training", "n"), [(0.5, True, 1), (0, True, 0), (0.5, False, 0)])
def test_dropout_is_a_call_where_it_drops_anything(rate: float, training: bool, n: int) -> None:
    def forward(self: Any, v: Vertex) -> None:
        h = v.dropout(v.gather(0).h, rate)
        v.scatter(h=h, c=h)

    program = trace(function(forward), training=training)
    assert len(list(program.select("dropout"))) == n


@pytest.mark.parametrize(
    ("make", "ops"),
    [
        (lambda x: x + 0.0, []),
        (lambda x: x - 0, []),
        (lambda x: 0.0 - x, ["sub"]),
        (lambda x: x * 0.0, ["mul"]),
        (lambda x: x + 1.0, ["add"]),
        (lambda x: x / 2.0, ["over"]),
        (lambda x: x / -0.25, ["over"]),
        (lambda x: x / 0.0, ["div"]),
        (lambda x: x / float("nan"), ["div"]),
        (lambda x: 2.0 / x, ["div"]),
        (lambda x: x / x, ["div"]),
    ],
)
def test_what_an_operator_calls(make: Any, ops: list[str]) -> None:
    """Adding nothing is no call. An absent value over a number is absent, unless it makes NaN."""

    def forward(self: Any, v: Vertex) -> None:
        h = make(v.gather(0).h)
        v.scatter(h=h, c=h)

    calls = trace(function(forward)).calls
    assert [c.op for c in calls if c.op not in ("gather", "full", "scatter", "param")] == ops


FUNCTIONS = {
    name: function
    for name, function in vars(functions).items()
    if inspect.isfunction(function) and function.__module__ == functions.__name__ and name[0] != "_"
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_values_of_a_vertex(name: str) -> None:
    """Each of the language's functions refuses anything else in words."""
    given_to = inspect.signature(FUNCTIONS[name]).parameters.values()
    n_needed = sum(p.default is p.empty for p in given_to)
    for given in (3.0, None, "h", np.ones(3)):
        with pytest.raises(CavsError, match=name.removeprefix("reduce_")):
            FUNCTIONS[name](given, *[1] * (n_needed - 1))
