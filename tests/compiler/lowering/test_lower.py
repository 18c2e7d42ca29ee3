"""Lowering: what becomes a kernel, what is read where it is, where results are written."""

from collections.abc import Callable
from typing import Any

import pytest

from tvm_cavs.errors import TraceError
from tvm_cavs.graph.kind import Kind
from tvm_cavs.language.program import Builder
from tvm_cavs.language.value import Type, Value
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network
from tvm_cavs.transform.specialisation import specialise
from tvm_cavs.transform.stages import split

pytest.importorskip("tvm")

from tvm_cavs.compiler.lowering.lower import lower
from tvm_cavs.compiler.lowering.lowered import Lowered
from tvm_cavs.compiler.lowering.steps import identity
from tvm_cavs.runtime.roles import Role

KINDS = {
    "leaf": Kind((), ("word", "label")),
    "inner": Kind((0, 1), ("label",)),
    "right_child_only": Kind((1,), ()),
}


@pytest.mark.parametrize("name", KINDS)
def test_golden_stages(golden: Any, name: str) -> None:
    network = Network(CELLS["tree_lstm"](10, 3, 4, 5, dropout=0.5))
    programs = network.programs(SoftmaxCrossEntropy())
    sides = specialise(programs.forward, programs.adjoint, KINDS[name])
    stages = [s for side in sides if side is not None for s in split(side) if s.calls]
    golden(f"tree_lstm_hidden_4_{name}_lowered", "\n\n".join(str(lower(s, 2)) for s in stages))


class Stage(Builder):
    """A stage under construction, with short names for what stages read and write."""

    def pull(self, *shape: int) -> Value:
        return self.call("pull", name="x", type=Type(shape))

    def param(self, name: str, *shape: int) -> Value:
        return self.call("param", name=name, type=Type(shape, "float32", "net"))

    def child(self, slot: int, *shape: int) -> Value:
        return self.call("gather", slot=slot, field="h", type=Type(shape))

    def parents(self, *shape: int) -> Value:
        return self.call("gather_sum", field="h", type=Type(shape))

    def push(self, x: Value, name: str = "y") -> None:
        self.call("push", x, name=name)

    def gradient(self, x: Value, name: str) -> None:
        self.call("gradient", x, name=name)


def lowered(write: Callable[[Stage], None]) -> Lowered:
    b = Stage("test")
    write(b)
    return lower(b.finish(), 2)


def product_into_the_adjoint(b: Stage) -> None:
    """Slices of a product that go side by side into one buffer: it writes there itself."""
    both = b.parents(3) @ b.param("W", 3, 6)
    b.call("scatter", both[0:3], field="h", slot=0)
    b.call("scatter", both[3:6], field="h", slot=1)


def product_of_two_fields(b: Stage) -> None:
    """What goes to two buffers cannot be written to one, even where columns agree."""
    both = b.parents(3) @ b.param("W", 3, 6)
    b.call("scatter", both[0:3], field="h", slot=0)
    b.call("scatter", both[3:6], field="c", slot=1)


def product_in_the_wrong_order(b: Stage) -> None:
    both = b.parents(3) @ b.param("W", 3, 6)
    b.call("scatter", both[3:6], field="h", slot=0)
    b.call("scatter", both[0:3], field="h", slot=1)


def product_of_which_a_part_is_stored(b: Stage) -> None:
    """It must not write over what lies beside that part."""
    both = b.parents(3) @ b.param("W", 3, 6)
    b.call("scatter", both[0:3], field="h", slot=0)
    b.push(b.call("tanh", both[3:6]))


def product_that_is_an_output_too(b: Stage) -> None:
    """It writes where its slices go, and is copied from there."""
    both = b.parents(3) @ b.param("W", 3, 6)
    b.call("scatter", both[0:3], field="h", slot=0)
    b.call("scatter", both[3:6], field="h", slot=1)
    b.push(both)


def line_that_the_next_region_reads(b: Stage) -> None:
    """What is computed before a product and read after it lies in memory meanwhile."""
    x = b.pull(3)
    b.push(b.call("tanh", x) + x @ b.param("W", 3, 3))


def concat_as_pieces(b: Stage) -> None:
    """What is concatenated only for a product is read where it is; slices of it too."""
    x = b.call("concat", b.child(0, 3), b.pull(2), axis=0)
    b.push(x[2:5] @ b.param("W", 3, 4))


def pieces_within_a_slice(b: Stage) -> None:
    """Of the last piece too only what the slice has."""
    x = b.call("concat", b.child(0, 3), b.pull(4), b.child(1, 2), axis=0)
    b.push(x[2:5] @ b.param("W", 3, 4))


def line_behind_two_views(b: Stage) -> None:
    """It lies in memory for the product that reads a view of a view of it."""
    x = b.call("tanh", b.pull(6))
    b.push(x[1:5][1:3] @ b.param("W", 2, 4))


def computed_concat(b: Stage) -> None:
    """If all parts are computed, they are written side by side."""
    x = b.pull(2)
    parts = (b.call("tanh", x), b.call("exp", x))
    b.push(b.call("concat", *parts, axis=0) @ b.param("W", 4, 3))


def concat_within_another(b: Stage) -> None:
    """Stored within another one, and read by a product: both have all of it."""
    x = b.pull(2)
    inner = b.call("concat", b.call("tanh", x), b.call("exp", x), axis=0)
    outer = b.call("concat", inner, x, axis=0)
    b.push(inner @ b.param("W", 4, 3))
    b.push(outer, "z")


def concat_within_a_line(b: Stage) -> None:
    """Read by a region within another one, and by a product."""
    x = b.pull(2)
    inner = b.call("concat", b.call("tanh", x), b.call("exp", x), axis=0)
    outer = b.call("concat", inner, x, axis=0)
    b.push(inner @ b.param("W", 4, 3))
    b.push(b.call("neg", outer), "z")


def product_within_a_stored_concat(b: Stage) -> None:
    """It writes there, where another product reads it."""
    h = b.pull(2) @ b.param("U", 2, 3)
    both = b.call("concat", h, b.parents(3), axis=0)
    b.push(h @ b.param("W", 3, 4))
    b.push(both, "z")


def copied_operand(b: Stage) -> None:
    """A column of a matrix is not a piece of a row: it is copied."""
    x = b.pull(3, 2)
    column = b.call("reshape", b.call("slice", x, axis=1, start=0, stop=1), shape=(3,))
    b.push(column @ b.param("W", 3, 4))


def net_level_operand(b: Stage) -> None:
    """A parameter is read as it is; what is made of parameters alone is evaluated once."""
    bias, scale = b.param("b", 3), b.param("s", 3)
    b.push((b.pull(3) + bias) * (scale * scale))


def identical_gradients(b: Stage) -> None:
    total = b.call("total", b.parents(3))
    b.gradient(total, "a")
    b.gradient(total, "a")
    b.gradient(total, "b")


def weight_and_bias(b: Stage) -> None:
    """The sum of rows for a bias is taken in the pass of the weight's gradient."""
    x, g = b.pull(2), b.parents(3)
    b.gradient(b.call("total", b.call("outer", x, g)), "W")
    b.gradient(b.call("total", g), "b")


def weight_in_parts_and_bias(b: Stage) -> None:
    """A bias is added once, with one of the parts, if that has all of its columns."""
    x, g = b.pull(2), b.parents(3)
    total = b.call("total", b.call("outer", x, g))
    for row, name in enumerate("UV"):
        b.gradient(b.call("slice", total, axis=0, start=row, stop=row + 1), name)
    b.gradient(b.call("total", g), "b")


def weight_in_columns_and_bias(b: Stage) -> None:
    x, g = b.pull(2), b.parents(3)
    total = b.call("total", b.call("outer", x, g))
    for start, stop, name in ((0, 2, "U"), (2, 3, "V")):
        b.gradient(b.call("slice", total, axis=1, start=start, stop=stop), name)
    b.gradient(b.call("total", g), "b")


def loops_between_products(b: Stage) -> None:
    """One region before, between and after two products; a value stored twice is computed once."""
    h = b.call("tanh", b.pull(3) @ b.param("U", 3, 4))
    b.call("scatter", h, field="h")
    b.push(h, "h")
    b.push(b.call("softmax", h @ b.param("V", 4, 2)), "y")


EXPECTED = {
    product_into_the_adjoint: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
product#1: adjoint.h[0:6] = scratch.3.1[0:3] @ pack#1 [3x6]
""",
    product_of_two_fields: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
product#1: scratch.6.1[0:6] = scratch.3.1[0:3] @ pack#1 [3x6]
region#2
  %0 = copy(scratch.6.1[0:3]) : [3] -> adjoint.h[0:3]
  %1 = copy(scratch.6.1[3:6]) : [3] -> adjoint.c[3:6]
""",
    product_in_the_wrong_order: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
product#1: scratch.6.1[0:6] = scratch.3.1[0:3] @ pack#1 [3x6]
region#2
  %0 = copy(scratch.6.1[3:6]) : [3] -> adjoint.h[0:3]
  %1 = copy(scratch.6.1[0:3]) : [3] -> adjoint.h[3:6]
""",
    product_of_which_a_part_is_stored: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
product#1: scratch.6.1[0:6] = scratch.3.1[0:3] @ pack#1 [3x6]
region#2
  %0 = tanh(scratch.6.1[3:6]) : [3] -> push.y[0:3]
  %1 = copy(scratch.6.1[0:3]) : [3] -> adjoint.h[0:3]
""",
    product_that_is_an_output_too: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
product#1: adjoint.h[0:6] = scratch.3.1[0:3] @ pack#1 [3x6]
region#2
  %0 = copy(adjoint.h[0:6]) : [6] -> push.y[0:6]
""",
    line_that_the_next_region_reads: """
region#1
  %0 = tanh(pull.x[0:3]) : [3] -> scratch.3.2[0:3]
product#1: scratch.3.1[0:3] = pull.x[0:3] @ pack#1 [3x3]
region#2
  %0 = add(scratch.3.2[0:3], scratch.3.1[0:3]) : [3] -> push.y[0:3]
""",
    concat_as_pieces: """
product#1: push.y[0:4] = (state.h[2:3] by child.0 | pull.x[0:2]) @ pack#1 [3x4]
""",
    pieces_within_a_slice: """
product#1: push.y[0:4] = (state.h[2:3] by child.0 | pull.x[0:2]) @ pack#1 [3x4]
""",
    line_behind_two_views: """
region#1
  %0 = tanh(pull.x[0:6]) : [6] -> scratch.6.1[0:6]
product#1: push.y[0:4] = scratch.6.1[2:4] @ pack#1 [2x4]
""",
    computed_concat: """
region#1
  %0 = tanh(pull.x[0:2]) : [2] -> scratch.4.1[0:2]
  %1 = exp(pull.x[0:2]) : [2] -> scratch.4.1[2:4]
product#1: push.y[0:3] = scratch.4.1[0:4] @ pack#1 [4x3]
""",
    concat_within_another: """
region#1
  %0 = tanh(pull.x[0:2]) : [2] -> push.z[0:2]
  %1 = exp(pull.x[0:2]) : [2] -> push.z[2:4]
  %2 = copy(pull.x[0:2]) : [2] -> push.z[4:6]
product#1: push.y[0:3] = push.z[0:4] @ pack#1 [4x3]
""",
    concat_within_a_line: """
region#1
  %0 = tanh(pull.x[0:2]) : [2]
  %1 = exp(pull.x[0:2]) : [2]
  %2 = concat(%0, %1, axis=0) : [4] -> scratch.4.1[0:4]
  %3 = concat(%2, pull.x[0:2], axis=0) : [6]
  %4 = neg(%3) : [6] -> push.z[0:6]
product#1: push.y[0:3] = scratch.4.1[0:4] @ pack#1 [4x3]
""",
    product_within_a_stored_concat: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> push.z[3:6]
product#1: push.z[0:3] = pull.x[0:2] @ pack#1 [2x3]
product#2: push.y[0:4] = push.z[0:3] @ pack#2 [3x4]
""",
    copied_operand: """
region#1
  %0 = copy(reshape(slice(pull.x[0:6], axis 1 from 0))) : [3] -> scratch.3.1[0:3]
product#1: push.y[0:4] = scratch.3.1[0:3] @ pack#1 [3x4]
""",
    net_level_operand: """
region#1
  %0 = add(pull.x[0:3], flat.b[0:3]) : [3]
  %1 = mul(%0, net#1[0:3]) : [3] -> push.y[0:3]
""",
    identical_gradients: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
column_sum#1: total.3#1[0:3] += sum of scratch.3.1[0:3]
""",
    weight_and_bias: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
outer#1: grad.W[0:2][0:3] += pull.x[0:2]^T scratch.3.1[0:3]; grad.b[0:3] += sum of scratch.3.1[0:3]
""",
    weight_in_parts_and_bias: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
outer#1: grad.U[0:1][0:3] += pull.x[0:1]^T scratch.3.1[0:3]; grad.b[0:3] += sum of scratch.3.1[0:3]
outer#2: grad.V[0:1][0:3] += pull.x[1:2]^T scratch.3.1[0:3]
""",
    weight_in_columns_and_bias: """
region#1
  %0 = gather_sum(adjoint.h, edges.pointers, edges.slots, arity=2) : [3] -> scratch.3.1[0:3]
outer#1: grad.U[0:2][0:2] += pull.x[0:2]^T scratch.3.1[0:2]
outer#2: grad.V[0:2][0:1] += pull.x[0:2]^T scratch.3.1[2:3]
column_sum#1: grad.b[0:3] += sum of scratch.3.1[0:3]
""",
    loops_between_products: """
product#1: scratch.4.1[0:4] = pull.x[0:3] @ pack#1 [3x4]
region#1
  %0 = tanh(scratch.4.1[0:4]) : [4] -> state.h[0:4], push.h[0:4]
product#2: scratch.2.1[0:2] = state.h[0:4] @ pack#2 [4x2]
region#2
  %0 = max(scratch.2.1[0:2], keep=True) : [1]
  %1 = sub(scratch.2.1[0:2], %0) : [2]
  %2 = exp(%1) : [2]
  %3 = sum(%2, keep=True) : [1]
  %4 = div(%2, %3) : [2] -> push.y[0:2]
""",
}


@pytest.mark.parametrize("write", EXPECTED, ids=lambda f: f.__name__)
def test_what_becomes_of(write: Callable[[Stage], None]) -> None:
    lines = [line[2:] for line in str(lowered(write)).splitlines()[1:]]
    assert lines == EXPECTED[write].strip().splitlines()


def test_gradients_count_and_say_who_shares() -> None:
    """A sum is added to a gradient by its kernel if it is part of no other."""
    found = lowered(identical_gradients).gradients
    assert [(g.parameter, g.count) for g in found] == [("a", 2), ("b", 1)]
    assert len({g.totals for g in found}) == 1
    assert not lowered(weight_and_bias).gradients


def test_a_tables_gradient_knows_its_rows_and_how_wide_they_are() -> None:
    """By its rows the words of a batch are counted."""
    programs = Network(CELLS["tree_lstm"](10, 3, 4, 5)).programs(SoftmaxCrossEntropy())
    adjoint = programs.adjoint
    assert adjoint is not None
    (row,) = lower(adjoint, 2).row_gradients
    assert (row.parameter, row.pull, row.width, row.n_rows) == ("E", "word", 3, 10)


def test_once_and_twice_are_different_contributions() -> None:
    """One kind of vertices adds a gradient twice, another once: both count."""

    def once(b: Stage) -> None:
        b.gradient(b.call("total", b.parents(3)), "a")

    def twice(b: Stage) -> None:
        once(b)
        once(b)

    assert not lowered(once).gradients  # its kernel adds to the gradient itself
    (second,) = lowered(twice).gradients
    assert second.count == 2 and second.totals[0][1].role is Role.TOTAL


def test_identities_say_how_a_value_is_computed() -> None:
    """The same whatever else a program does, and found in time linear in its length."""
    b = Stage("deep")
    x = b.param("W", 2, 2)
    first = x.index
    for _ in range(60):
        x = x + x
    program = b.finish()
    other = Stage("other")
    other.param("b", 3)
    same = other.param("W", 2, 2)
    names = [identity(program, i) for i in range(len(program.calls))]
    assert len(set(names)) == 61
    assert names[first] == identity(other.finish(), same.index)


def test_integers_lie_in_memory_as_integers() -> None:
    def write(b: Stage) -> None:
        best = b.call("argmax", b.pull(3))
        b.call("save", best, name="best")
        b.push(best)
        b.push(b.call("one_hot", b.call("saved", name="old", type=Type((), "int32")), depth=4), "z")

    dtypes = {f"{b.role.name} {b.key}": b.dtype for b in lowered(write).buffers.values()}
    assert dtypes == {
        "INPUT x": "float32",
        "SAVED best": "int32",
        "PUSHED y": "int32",
        "SAVED old": "int32",
        "PUSHED z": "float32",
    }


def test_a_changed_table_cannot_be_looked_up() -> None:
    def write(b: Stage) -> None:
        word = b.call("pull", name="word", type=Type((), "int32"))
        table = b.param("E", 5, 2)
        b.push(b.call("embedding", word, table * table))

    with pytest.raises(TraceError, match=r"^\w+: embedding \(.+\) takes .*given pull and mul; "):
        lowered(write)
