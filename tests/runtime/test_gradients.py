"""What the runtime makes in NumPy around kernels, against plain loops over elements."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.expressions import Expression, Line
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.graph import Graph
from tvm_cavs.row_sparse import RowSparse
from tvm_cavs.runtime.area import Area
from tvm_cavs.runtime.executable import Block, GradientPart, NetValue
from tvm_cavs.runtime.gradients import Gradients, gradient_buffer
from tvm_cavs.runtime.lending import Lending
from tvm_cavs.runtime.memory import HostMemory
from tvm_cavs.runtime.part import make_part
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.slices import replaced as alone_in
from tvm_cavs.runtime.spaces import Buffer, RowGradient
from tvm_cavs.runtime.weights import WeightMemory, parameter_memory, value_of

SEEDS = range(10)
SHAPES = {"m": (5, 4), "v": (6,), "cube": (2, 3, 4), "table": (7, 3), "shared": (6, 2)}
TOTALS = {BufferId(Role.TOTAL, "a"): (9, 8), BufferId(Role.TOTAL, "row"): (12,)}


def random_blocks(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Block, ...]:
    """Blocks of totals that fit somewhere into a gradient of this shape."""
    n, width = int(np.prod(shape[:-1])), shape[-1]
    made = []
    for _ in range(int(rng.integers(0, 4))):
        total = list(TOTALS)[rng.integers(2)]
        extent = TOTALS[total] if len(TOTALS[total]) == 2 else (1, *TOTALS[total])
        transposed = bool(rng.random() < 0.5)
        most = (width, n) if transposed else (n, width)  # of the block, before it is transposed
        h, w = (int(rng.integers(1, min(e, m) + 1)) for e, m in zip(extent, most, strict=True))
        r, c = int(rng.integers(extent[0] - h + 1)), int(rng.integers(extent[1] - w + 1))
        tall, wide = (w, h) if transposed else (h, w)
        at = int(rng.integers(n - tall + 1)), int(rng.integers(width - wide + 1))
        made.append(Block(total, extent, (r, r + h), (c, c + w), *at, transposed))
    return tuple(made)


def sum_rows(n: int, values: Any, rows: Any, pointers: Any, result: Any) -> None:
    """What the kernel does, which adds up rows of equal words."""
    values, rows, pointers, out = map(np.from_dlpack, (values, rows, pointers, result))
    for i in range(n):
        out[i] = values[rows[pointers[i] : pointers[i + 1]]].sum(axis=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_what_kernels_left_and_all_parts_of_it(seed: int) -> None:
    """Blocks of totals, values of expressions and rows; of tables rows alone, each one once."""
    rng, memory = np.random.default_rng(seed), HostMemory()
    for total, shape in TOTALS.items():
        memory.fixed(total, shape)
        memory.write(total, rng.integers(-9, 9, shape))
    expected = {}
    for name in ("m", "v", "cube", "shared"):
        memory.fixed(gradient_buffer(name), SHAPES[name])
        memory.write(gradient_buffer(name), rng.integers(-9, 9, SHAPES[name]))
        expected[name] = memory.read(gradient_buffer(name)).copy()
    leaf = list(TOTALS)[1]
    lines = Line("x", (), {}, (3, 4), None, leaf), Line("sum", (0,), {"axis": 1}, (3,), np.sum)
    spread = Line("outer", (1, 1), {}, (3, 3), np.outer)
    parts = [GradientPart(n, int(rng.integers(1, 4)), random_blocks(rng, SHAPES[n]))
             for n in ("m", "v", "cube", "m")]  # fmt: skip
    parts.append(GradientPart("square", 2, (), Expression((*lines, spread))))
    memory.fixed(gradient_buffer("square"), (3, 3))
    sums = memory.read(leaf).reshape(3, 4).sum(axis=1)
    expected["square"] = 2 * np.array([[a * b for b in sums] for a in sums])
    for part in parts:
        for b in part.blocks:
            source, view = memory.read(b.total), expected[part.parameter]
            for r in range(*b.rows):
                for c in range(*b.columns):
                    i, j = r - b.rows[0], c - b.columns[0]
                    i, j = (j, i) if b.transposed else (i, j)
                    element = source[r, c] if source.ndim == 2 else source[c]
                    flat = (b.row + i) * view.shape[-1] + b.column + j
                    view[np.unravel_index(flat, view.shape)] += part.count * element
    row_sums, distinct, rows_of = {}, {}, {"table": {}, "shared": {}}
    for pull, name in (("word", "table"), ("tag", "table"), ("x", "shared"), ("none", "table")):
        n, width = (0 if pull == "none" else 9), SHAPES[name][1]
        r = RowGradient(name, pull, BufferId(Role.ROW_GRADIENT, (name, pull)), width, 7)
        memory.rows(r.buffer, n, width, "float32")
        memory.write(r.buffer, rng.integers(-9, 9, (n, width)))
        words = rng.integers(0, SHAPES[name][0], n)
        distinct[pull] = np.array(list(dict.fromkeys(words.tolist())), "int32")
        groups = [np.flatnonzero(words == w) for w in distinct[pull]]
        ends = np.cumsum([0, *map(len, groups)])
        positions = np.concatenate([*groups, []])
        for role, values in ((Role.GROUP_POINTERS, ends), (Role.GROUP_ROWS, positions)):
            memory.rows(BufferId(role, pull), len(values), 0, "int32")
            memory.write(BufferId(role, pull), values)
        row_sums[r] = sum_rows
        for w, value in zip(words.tolist(), memory.read(r.buffer), strict=False):
            rows_of[name][w] = rows_of[name].get(w, 0) + value
    for w, value in rows_of["shared"].items():
        expected["shared"][w] += value
    compiled: Any = SimpleNamespace(
        tables={"table": 3, "unused": 5}, row_sums=row_sums, gradients=parts, totals=(), cleared=()
    )
    workspace: Any = SimpleNamespace(memory=memory, seen_by=lambda batch: memory)
    names = ["m", "v", "cube", "square", "shared", "table", "unused"]
    given: Any = SimpleNamespace(distinct=distinct)
    found = Gradients(compiled, names).collect(given, workspace)
    assert list(found) == names
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name] is memory.read(gradient_buffer(name)), "nothing is copied"
    table, unused = found["table"], found["unused"]
    assert isinstance(table, RowSparse) and isinstance(unused, RowSparse)
    assert sorted(table.rows.tolist()) == sorted(rows_of["table"])
    for w, value in zip(table.rows.tolist(), table.values, strict=True):
        np.testing.assert_array_equal(value, rows_of["table"][w])
    assert unused.rows.shape == (0,) and unused.values.shape == (0, 5)


def test_what_kernels_add_to_begins_at_zero() -> None:
    """But for what a call writes."""
    buffers = [BufferId(Role.TOTAL, i) for i in range(4)]
    memory = HostMemory()
    compiled: Any = SimpleNamespace(
        tables={}, row_sums={}, gradients=(), totals=buffers[:2], cleared=buffers[2:]
    )
    workspace: Any = SimpleNamespace(memory=memory)
    shapes = (3,), (4, 5), (2, 3, 4), (6, 2)
    areas = Area(0, 1, 1, 3), Area(1, 3, 2, 4), Area(0, 5, 0, 3), Area.of(shapes[3])
    for n_from in range(5):
        replaced = dict(zip(buffers[n_from:], areas[n_from:], strict=True))
        for b, shape in zip(buffers, shapes, strict=True):
            memory.fixed(b, shape)
            memory.fill(b, 7.0)
        Gradients(compiled, ()).clear(replaced, workspace)
        for b, shape in zip(buffers, shapes, strict=True):
            want = np.zeros((int(np.prod(shape[:-1])), shape[-1]))
            if b in replaced:
                top, bottom, left, right = replaced[b]
                want[top:bottom, left:right] = 7.0
            np.testing.assert_array_equal(memory.read(b), want.reshape(shape))


FIELDS = {  # an input, by name: values of four vertices, the third of which has none
    "word": np.array([3, 0, -7, 2], "int32"),
    "x": np.arange(12, dtype="float32").reshape(4, 3),
    "narrow": np.arange(12, dtype="float32").reshape(4, 3),
    "pair": np.arange(8, dtype="int32").reshape(4, 2),
    "scalar": np.arange(4, dtype="float32"),
    "cube": np.arange(24, dtype="float32").reshape(4, 2, 3),
}
HELD: list[tuple[Buffer, Any]] = [  # what a buffer holds of it
    (Buffer(Role.INDEX, "word", 0, None, "int32"), [3, 0, -1, 2]),
    (Buffer(Role.CHOICE, "word", 0, None, "int32"), [3, 0, 0, 2]),
    (Buffer(Role.INPUT, "x", 3, None), [[0, 1, 2], [3, 4, 5], [0, 0, 0], [9, 10, 11]]),
    (Buffer(Role.INPUT, "pair", 2, None, "int32"), [[0, 1], [2, 3], [-1, -1], [6, 7]]),
    (Buffer(Role.INPUT, "scalar", 1, None), [[0], [1], [0], [3]]),
    (
        Buffer(Role.INPUT, "cube", 6, None),
        [[*range(6)], [*range(6, 12)], [0] * 6, [*range(18, 24)]],
    ),
    (Buffer(Role.PRESENT, "x", 1, None), [[1], [1], [0], [1]]),
    (Buffer(Role.PRESENT, "word", 1, None), [[1], [1], [0], [1]]),
    (Buffer(Role.INDEX, "x", 0, None, "int32"), [-1] * 4),  # of another type: nobody has it
    (Buffer(Role.INPUT, "word", 2, None), [[0, 0]] * 4),
    (Buffer(Role.INPUT, "narrow", 2, None), [[0, 0]] * 4),
]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_a_part_holds_inputs_in_the_order_of_its_rows(order: list[int]) -> None:
    inputs = {}
    for name, values in FIELDS.items():
        inputs[name] = Field(values, np.array([True, True, False, True]))
    graph = Graph.from_children([[]] * 4, inputs)
    cells = SimpleNamespace(level=np.array([0, 0, 1, 3]), size=np.array([1, 1, 1, 1]))
    plan: Any = SimpleNamespace(
        graph=graph,
        order=np.array(order),
        row=np.argsort(order),
        kind_of_row=np.arange(4),
        children=np.full((4, 1), -1),
        cells=cells,
    )
    part = make_part(plan, [b for b, _ in HELD])
    for buffer, values in HELD:
        found = part.values[buffer.id]
        assert found.dtype == buffer.dtype, buffer
        assert found.tolist() == [values[v] for v in order], buffer
    assert part.level.tolist() == [0, 0, 1, 3] and part.ends == [2, 3, 3, 4] and part.n_rows == 4
    for mine, its in ((part.row, plan.row), (part.kind, plan.kind_of_row)):
        assert mine.tolist() == its.tolist() and not np.shares_memory(mine, its)
    assert not np.shares_memory(part.children, plan.children)


def test_weights_are_made_where_nobody_beneath_has_them() -> None:
    arrays = {"W": np.arange(6, dtype="float32").reshape(2, 3)}
    held = parameter_memory(arrays)
    w, flat = BufferId(Role.PARAMETER, "W"), BufferId(Role.FLAT_PARAMETER, "W")
    assert held.read(w) is arrays["W"] and held.read(flat).shape == (6,)
    assert np.shares_memory(held.read(flat), arrays["W"])
    one, two, packed, more, there = (
        BufferId(role, name)
        for role, name in [
            (Role.NET_VALUE, "one"),
            (Role.UNPACKED, "two"),
            (Role.PACKED, "p"),
            (Role.PACKED, "more"),
            (Role.PACKED, "there"),
        ]
    )
    twice = Expression(
        (Line("w", (), {}, (2, 3), None, w), Line("add", (0, 0), {}, (2, 3), np.add))
    )
    ones = Expression((Line("full", (), {}, (4,), lambda: np.ones(1)),))
    calls: list[str] = []

    def pack(name: str) -> Any:
        def call(source: Any, out: Any) -> None:
            calls.append(name)
            np.from_dlpack(out)[:] = np.from_dlpack(source).reshape(-1)[::-1]

        return SimpleNamespace(function=call, sources=(w,))

    compiled: Any = SimpleNamespace(
        fixed={
            one: ((4,), "float32"),
            two: ((2, 3), "float32"),
            packed: ((6,), "float32"),
            more: ((6,), "float32"),
            there: ((6,), "float32"),
            BufferId(Role.GRADIENT, "W"): ((2, 3), "float32"),
        },
        net_values=(NetValue(one, ones, (4,)), NetValue(two, twice, (2, 3))),
        packs={packed: pack("packed"), more: pack("more"), there: pack("there")},
    )
    held.fixed(there, (6,))
    made = WeightMemory(compiled, held)
    assert all(b in made.memory for b in (one, two, packed, more)) and there not in made.memory
    assert BufferId(Role.GRADIENT, "W") not in made.memory
    made.evaluate()
    assert made.memory.read(one).tolist() == [1.0] * 4
    assert made.memory.read(two).tolist() == (2 * arrays["W"]).tolist()
    made.pack()
    assert calls == ["packed", "more"]
    assert made.memory.read(packed).tolist() == [5, 4, 3, 2, 1, 0]
    arrays["W"][:] = 1
    assert made.memory.read(packed).tolist() == [5, 4, 3, 2, 1, 0]
    made.pack([packed])
    assert made.memory.read(packed).tolist() == [1.0] * 6 and calls == ["packed", "more", "packed"]
    value = value_of(compiled.net_values[1], held)
    assert value.flags.c_contiguous and value.dtype == np.float32 and (value == 2).all()


class Owner:
    """Something that can be let go of."""


@pytest.mark.parametrize("seed", range(4))
def test_lent_things_have_one_owner_at_a_time(seed: int) -> None:
    """Against a dictionary: what is given again, withdrawn, or let go of."""
    rng, lent = np.random.default_rng(seed), Lending[int]()
    owners: dict[int, Owner] = {}
    free: set[int] = set()
    gone: set[int] = set()
    for thing in range(60):
        owners[thing] = Owner()
        lent.give(thing, owners[thing])
        what = rng.integers(3)
        some = int(rng.choice(sorted(owners)))
        if what == 0:
            del owners[some]
            free.add(some)
        elif what == 1:
            lent.withdraw(owners[some])
            gone.add(some)
            del owners[some]
        else:
            taken = lent.take()
            assert (taken in free) if free else taken is None
            free.discard(-1 if taken is None else taken)
    while (taken := lent.take()) is not None:
        assert taken in free
        free.remove(taken)
    assert not free


def test_what_another_thread_takes_meanwhile_is_not_taken_again() -> None:
    """Nor withdrawn: who waits for the lock looks at what is there then."""
    lent, owner = Lending[int](), Owner()

    class Waits:
        def __enter__(self) -> None:
            lent._owned.clear()

        def __exit__(self, *_: object) -> None: ...

    lent._lock = Waits()  # type: ignore[assignment]
    lent.give(1, Owner())
    assert lent.take() is None
    lent.give(2, owner)
    lent.withdraw(owner)
    assert not lent._owned


def test_one_call_replaces_the_part_of_a_gradient_that_nobody_else_adds_to() -> None:
    """Two slices are two calls; what runs on none adds nothing."""
    whole, part, twice, late = (BufferId(Role.GRADIENT, name) for name in "wptl")

    def group(*steps: tuple[tuple[BufferId, Area | None], ...]) -> Any:
        return SimpleNamespace(steps=[SimpleNamespace(adds=adds) for adds in steps])

    all_, some = Area.of((3, 4)), Area(0, 3, 1, 2)
    one = group(((whole, all_), (part, None)), ((twice, some),))
    other = group(((twice, all_), (late, some), (part, all_)))
    for n_one, n_other, want in (
        (1, 1, {whole: all_, late: some}),
        (1, 0, {whole: all_, twice: some}),
        (2, 1, {late: some}),
        (0, 1, {twice: all_, late: some, part: all_}),
        (0, 2, {}),
    ):
        assert alone_in([(one, n_one), (other, n_other)]) == want
