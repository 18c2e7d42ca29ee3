"""Regions against NumPy: every op at awkward widths, views, indices, chains, rows left alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import schedules
from schedules.target import simd
from schedules.tiles import Strip
from tvm_cavs import dropout
from tvm_cavs.compiler.kernels.region.elementwise import ELEMENTWISE
from tvm_cavs.compiler.kernels.region.kernel import region
from tvm_cavs.compiler.kernels.region.own_loops import OWN
from tvm_cavs.compiler.lowering.region import (
    OWN_LOOP,
    Array,
    Constant,
    Line,
    Load,
    Operand,
    Ref,
    Region,
    Store,
    View,
    line_of,
    phases,
    row_locals,
)
from tvm_cavs.language.ops import OPS

pytestmark = pytest.mark.compiles

WIDTHS, THREADED = (1, 3, 15, 16, 17, 33), 17
GUARD, ROWS, START, SIDE = 3, 5, 4, 2  # rows around results, of a call, before inputs; columns
INF, NAN = float("inf"), float("nan")
RATE, SITE, ARITY = 0.3, 1, 2
NUMPY: dict[str, Callable[..., Any]] = {"copy": lambda x: x}
NUMPY |= {name: op.numpy for name, op in OPS.items() if op.numpy is not None}


@dataclass(frozen=True)
class Input:
    """An array of a region, and which operand each row of a call reads of it."""

    array: Array
    values: np.ndarray
    start: int = 0


def rows_of(width: int, seed: int, dtype: str = "float32") -> np.ndarray:
    """Numbers with infinities, NaNs, zeros and ties in some rows."""
    rng = np.random.default_rng([width, seed])
    if dtype == "int32":
        return rng.integers(-1, width, (ROWS + 9, width), "int32")
    values = rng.normal(0, 2, (ROWS + 9, width)).astype("float32")
    values[START + 1] = np.round(values[START + 1])
    values[START + 2, rng.integers(width)] = NAN
    values[START + 3, :: 1 + seed % 2] = (INF, -INF)[seed % 2]
    values[START + 4] = 0.0
    return values


class Case:
    """A region under construction: `call` gives its kernel's arguments and what they become."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.inputs: list[Input] = []
        self.lines: list[Line] = []
        self.results: list[tuple[str, int, np.ndarray]] = []  # array, column, values by row

    def add(self, dtype: str, ld: int, by_row: bool, values: np.ndarray, start: int = 0) -> int:
        """A new array; its number."""
        name = f"a{len(self.inputs)}"
        self.inputs.append(Input(Array(name, dtype, ld, by_row), values, start))
        return len(self.inputs) - 1

    def rows(self, seed: int) -> tuple[Operand, np.ndarray]:
        """A vector of every row, in the middle of a wider buffer."""
        values = rows_of(self.width, seed)
        padded = np.pad(values, ((0, 0), (SIDE, 1)), constant_values=7.0)
        return Load(self.add("float32", padded.shape[1], True, padded, START), SIDE), values[START:]

    def indexed(self, seed: int) -> tuple[Operand, np.ndarray]:
        """A vector of every row, found through an index."""
        values = rows_of(self.width, seed)
        index = np.random.default_rng(seed).permutation(len(values)).astype("int32")
        source = self.add("float32", self.width, False, values)
        return Load(source, 0, self.add("int32", 0, True, index, 3)), values[index[3:]]

    def shared(self, seed: int) -> tuple[Operand, np.ndarray]:
        """A vector that all rows read."""
        values = rows_of(self.width, seed)[0]
        return Load(self.add("float32", 0, False, values)), np.tile(values, (ROWS, 1))

    def integers(self, seed: int) -> tuple[Operand, np.ndarray]:
        """A position, or -1, for every row."""
        values = rows_of(self.width, seed, "int32")[:, 0]
        return Load(self.add("int32", 0, True, values, START)), values[START:]

    def line(
        self,
        op: str,
        args: Sequence[Operand],
        shapes: Sequence[tuple[int, ...]],
        want: np.ndarray,
        stored: bool = True,
        **attrs: Any,
    ) -> Ref:
        """Append a line whose result in every row is `want`, float or int [ROWS, ...]."""
        dtype = "int32" if op == "argmax" else "float32"
        stores = ()
        if stored:
            ld = int(np.prod(want.shape[1:], dtype=int)) + SIDE + 1
            out = np.full((ROWS + 2 * GUARD, ld), 9, dtype)
            stores = (Store(self.add(dtype, ld, True, out, GUARD), SIDE),)
            self.results.append((op, stores[0].array, want))
        self.lines.append(
            Line(
                op, tuple(args), tuple(shapes), want.shape[1:], dtype, tuple(attrs.items()), stores
            )
        )
        return Ref(len(self.lines) - 1)

    def apply(self, op: str, *operands: tuple[Operand, np.ndarray], **attrs: Any) -> Ref:
        """Append a line that means what NumPy says, row by row."""
        values = [
            v[:ROWS].astype("float64" if v.dtype.kind == "f" else v.dtype) for _, v in operands
        ]
        with np.errstate(all="ignore"):
            want = np.array([NUMPY[op](*(v[i] for v in values), **attrs) for i in range(ROWS)])
        shapes = [v.shape[1:] for v in values]
        return self.line(op, [o for o, _ in operands], shapes, want, **attrs)

    def call(self, kernel: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(op, what the result's array is, what it should be), guard rows and columns included."""
        tensors = [tvm.runtime.tensor(i.values.copy()) for i in self.inputs]
        starts = [i.start for i in self.inputs if i.array.by_row]
        kernel(ROWS, *starts, *tensors)
        found = []
        for op, number, want in self.results:
            expected = self.inputs[number].values.copy()
            with np.errstate(over="ignore"):
                inside = want.reshape(ROWS, -1).astype(expected.dtype)
            expected[GUARD : GUARD + ROWS, SIDE:-1] = inside
            found.append((op, tensors[number].numpy(), expected))
        return found

    @property
    def region(self) -> Region:
        return Region(tuple(i.array for i in self.inputs), tuple(self.lines))


def elementwise(case: Case) -> None:
    """Every op whose elements are computed one by one, and those that read more than operands."""
    a, b, c = case.rows(0), case.indexed(1), case.shared(2)
    for op in ("copy", "neg", "sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs"):
        case.apply(op, a)
    for op in ("add", "sub", "mul", "div", "over", "maximum", "minimum", "greater", "equal"):
        case.apply(op, a, b)
    zero = Constant(0.0), np.zeros(ROWS, "float32")
    for op in ("add", "sub", "mul", "div", "equal"):  # what TVM would simplify
        case.apply(op, a, a)
        case.apply(op, zero, a)
        case.apply(op, a, zero)
    case.apply("where", c, a, b)
    case.apply("one_hot", case.integers(3), depth=case.width)
    for whole in (-1, case.width - 1):  # what is absent everywhere is the first
        number = Constant(whole, "int32"), np.full(ROWS, whole, "int32")
        case.apply("one_hot", number, depth=case.width)
        case.apply("equal", case.integers(5), number)
    vertices, keys = np.arange(1, 30, dtype="uint32") * 77, np.array([5, 6, 7], "uint32")
    factor = dropout.scale(RATE, int(keys[SITE]), vertices[START : START + ROWS], case.width)
    extra = [
        Load(case.add("uint32", 0, True, vertices, START)),
        Load(case.add("uint32", 0, False, keys)),
    ]
    with np.errstate(invalid="ignore"):
        want = np.where(factor > 0, a[1][:ROWS] * factor, 0.0)
    case.line("dropout", [a[0], *extra], [(case.width,), (), ()], want, rate=RATE, site=SITE)

    rows = np.arange(ROWS + START, dtype="int32") % 3
    child = Load(case.add("int32", 0, True, rows, START))
    case.line("child_present", [child], [()], (rows[START:] > 0) * 1.0)


def own_loops(case: Case) -> None:
    """Every op with a loop of its own."""
    a, b, w = case.rows(0), case.indexed(1), case.width
    for op in ("sum", "max"):
        case.apply(op, a, keep=False)
        case.apply(op, a, keep=True)
    case.apply("argmax", a)
    case.apply("pick", a, case.integers(4))
    case.apply("concat", a, b, a, axis=0)
    parents, rng = 6, np.random.default_rng(w)
    slots = rng.normal(size=(parents, ARITY * w)).astype("float32")
    counts = np.array([0, 2, 0, 1, 4, 0, 0, 3, 1])
    pointers = np.concatenate([[0], np.cumsum(counts)]).astype("int32")
    edges = rng.integers(0, parents * ARITY, pointers[-1], "int32")
    want = np.zeros((ROWS, w))
    for i in range(ROWS):
        for e in edges[pointers[i + 1] : pointers[i + 2]]:
            parent, slot = divmod(int(e), ARITY)
            want[i] += slots[parent, slot * w : (slot + 1) * w]
    operands = [
        Load(case.add("float32", ARITY * w, False, slots)),
        Load(case.add("int32", 0, True, pointers, 1)),
        Load(case.add("int32", 0, False, edges)),
    ]
    case.line("gather_sum", operands, [(), (), ()], want, arity=ARITY)


def matrix(case: Case, n: int, seed: int) -> tuple[Operand, np.ndarray]:
    """float32[n, width] in every row, and of the parameter kind when the seed is odd."""
    values = np.random.default_rng([case.width, seed]).normal(size=(ROWS + 2, n * case.width))
    values = values.astype("float32")
    if seed % 2:
        values[:] = values[0]
        load: Operand = Load(case.add("float32", 0, False, values[0]))
    else:
        load = Load(case.add("float32", n * case.width, True, values, 1))
        values = values[1:]
    return load, values[:ROWS].reshape(ROWS, n, case.width)


def views(case: Case) -> None:
    """Operands behind slices, reshapes, transposes and several of them; operands that broadcast."""
    w = case.width
    (a, m), (b, p) = matrix(case, 3, 0), matrix(case, 4, 1)
    turned = View(View(b, "slice", (4, w), 0, 1), "transpose", (3, w))
    case.apply(
        "add",
        (View(a, "transpose", (3, w)), m.transpose(0, 2, 1)),
        (turned, p[:, 1:].transpose(0, 2, 1)),
    )
    case.apply("sum", (turned, p[:, 1:].transpose(0, 2, 1)), keep=False)
    flat = View(a, "reshape", (3, w))
    case.apply("mul", (flat, m.reshape(ROWS, -1)), (Constant(0.5), np.full(ROWS, 0.5)))
    back = View(View(flat, "slice", (3 * w,), 0, w), "reshape", (2 * w,))
    case.apply("max", (back, m.reshape(ROWS, -1)[:, w:].reshape(ROWS, 2, w)), keep=True)
    if w > 2:
        case.apply("tanh", (View(a, "slice", (3, w), 1, 2), m[:, :, 2:]))
    row = View(View(b, "slice", (4, w), 0, 3), "reshape", (1, w))
    case.apply("sub", (a, m), (row, p[:, 3]))
    column = View(a, "slice", (3, w), 1, 0)
    case.apply("add", (a, m), (View(column, "slice", (3, w), 1, 0), m[:, :, :1]))
    case.apply("concat", (a, m), (b, p), axis=0)
    case.apply("concat", (a, m), (a, m), axis=1)
    joined = np.concatenate([m, m], 2)
    last = Ref(len(case.lines) - 1)
    case.apply("neg", (View(last, "transpose", (3, 2 * w)), joined.transpose(0, 2, 1)))


def chains(case: Case) -> None:
    """Lines that read lines: in one loop, in a later one, through views, stored and not stored."""
    w = case.width
    a, x = case.rows(2)
    x = x[:ROWS].astype("float64")
    with np.errstate(all="ignore"):
        top = x.max(-1, keepdims=True)
        e = np.exp(x - top)
        total = e.sum(-1, keepdims=True)
        low = case.line("max", [a], [(w,)], top, stored=False, keep=True)
        shifted = case.line("sub", [a, low], [(w,), (1,)], x - top)
        power = case.line("exp", [shifted], [(w,)], e, stored=False)
        twice = case.line("add", [power, power], [(w,), (w,)], e + e, stored=False)
        full = case.line("sum", [power], [(w,)], total, stored=False, keep=True)
        case.line("div", [power, full], [(w,), (1,)], e / total)
        case.line("log", [full], [(1,)], np.log(total))
        reverse = View(View(twice, "reshape", (w,)), "transpose", (w, 1))
        case.line("copy", [reverse], [(1, w)], (e + e)[:, None, :])


CASES = {"elementwise": elementwise, "own": own_loops, "views": views, "chains": chains}
FORMS: dict[str, dict[str, Any]] = {
    "serial": {},
    "threads": {"parts": (2, 1)},
    "asking": {"ahead": True},
    "asking_threads": {"parts": (2, 1), "ahead": True},
}
OPS_OF = {"elementwise": {*ELEMENTWISE, "child_present", "dropout", "one_hot"}, "own": set(OWN)}


@pytest.fixture(scope="module")
def cases() -> dict[tuple[str, int], Case]:
    made = {}
    for name, fill in CASES.items():
        for width in WIDTHS:
            made[name, width] = Case(width)
            fill(made[name, width])
    return made


@pytest.fixture(scope="module")
def kernels(cases: dict[tuple[str, int], Case]) -> Any:
    """All regions in their serial form; some cut for two threads, or asking for the next row."""
    target = schedules.host_target(2)
    functions = {}
    for (name, width), case in cases.items():
        for form in FORMS if width == THREADED else ("serial",):
            symbol = f"{name}_{width}_{form}"
            cut = Strip(simd(target).lanes, **FORMS[form])
            functions[symbol] = region(case.region, cut, symbol)
    mod, unclaimed = schedules.schedule(tvm.IRModule(functions), target)
    assert unclaimed == ()
    return tvm.compile(mod, target=target, tir_pipeline=schedules.pipeline())


@pytest.mark.parametrize(
    ("width", "form"), [*((w, "serial") for w in WIDTHS), *((THREADED, f) for f in list(FORMS)[1:])]
)
@pytest.mark.parametrize("name", CASES)
def test_regions_mean_what_numpy_says(
    cases: dict[tuple[str, int], Case], kernels: Any, name: str, width: int, form: str
) -> None:
    for op, got, want in cases[name, width].call(kernels[f"{name}_{width}_{form}"]):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=4e-7, err_msg=f"{op}, width {width}")


def rows_with_one_that_counts(width: int) -> np.ndarray:
    """One row or more for every place at which a reduction may find what decides it."""
    rng, made = np.random.default_rng(width), []
    for i in range(width):
        noise = rng.normal(size=width)
        one, several, last = np.zeros(width), np.where(np.arange(width) >= i, 3.0, -1.0), -noise
        one[i], last[: i + 1] = 1.0, 9.0
        low = np.full(width, -INF)
        low[i] = -5.0
        nan, beside = noise.copy(), noise.copy()
        nan[i:] = NAN
        beside[[i - 1, i]] = 99.0, NAN
        made += [one, several, last, low, nan, beside]
    return np.array([*made, np.full(width, -INF), np.full(width, NAN)], "float32")


def test_reductions_read_every_element_and_find_the_first_of_the_largest() -> None:
    """Of rows shorter than two vectors, of whole vectors, and with some elements left over."""
    target = schedules.host_target(1)
    lanes, functions = simd(target).lanes, {}
    widths = (1, 2 * lanes - 1, 2 * lanes, 3 * lanes, 4 * lanes + 3)
    for w in widths:
        arrays = [Array("x", "float32", w, True), Array("argmax", "int32", 0, True)]
        arrays += [Array(op, "float32", 0, True) for op in ("max", "sum")]
        whole = (("keep", False),)
        lines = (
            Line("argmax", (Load(0),), ((w,),), (), "int32", stores=(Store(1),)),
            Line("max", (Load(0),), ((w,),), (), attrs=whole, stores=(Store(2),)),
            Line("sum", (Load(0),), ((w,),), (), attrs=whole, stores=(Store(3),)),
        )
        functions[f"reduce_{w}"] = region(Region(tuple(arrays), lines), Strip(lanes), f"reduce_{w}")
    mod, _ = schedules.schedule(tvm.IRModule(functions), target)
    library = tvm.compile(mod, target=target, tir_pipeline=schedules.pipeline())
    for w in widths:
        x = rows_with_one_that_counts(w)
        out = [tvm.runtime.tensor(np.full(len(x), 7, t)) for t in ("int32", "float32", "float32")]
        library[f"reduce_{w}"](len(x), 0, 0, 0, 0, tvm.runtime.tensor(x), *out)
        argmax, largest, total = (each.numpy() for each in out)
        np.testing.assert_array_equal(argmax, x.argmax(1))
        np.testing.assert_array_equal(largest, x.max(1))
        np.testing.assert_allclose(total, x.astype("float64").sum(1), rtol=1e-5, atol=1e-5)


def asked(spec: Region, lanes: int = 16) -> list[str]:
    """What a region asks for, as TVM prints it: element, and whether it is to be written."""
    text = region(spec, Strip(lanes, ahead=True), "kernel").script()
    return re.findall(r"prefetch\(T.address_of\((.*)\), (\d), 3, 1\)", text)


def test_a_row_asks_for_the_next_one() -> None:
    """Once for each stretch: not for broadcasts, views, scalars, or what a register holds."""
    w = 32
    arrays = [
        Array("x", "float32", 2 * w, True),
        Array("table", "float32", w, False),
        Array("index", "int32", 0, True),
        Array("bias", "float32", 0, False),
        Array("out", "float32", 3 * w, True),
        Array("one", "float32", 1, True),
    ]
    x, picked, same = Load(0, 5), Load(1, 0, index=2), ((w,), (w,))
    lines = (
        Line("add", (x, picked), same, (w,)),
        Line("mul", (Ref(0), x), same, (w,), stores=(Store(4, 7),)),
        Line("add", (Ref(1), Load(3)), same, (w,)),
        Line("mul", (Ref(2), Load(5)), ((w,), (1,)), (w,), stores=(Store(4, 40),)),
    )
    found = asked(Region(tuple(arrays), lines))
    assert [write for _, write in found] == ["0", "0", "1", "1"]
    x_at, table_at, first_at, second_at = (element for element, _ in found)
    assert "T.int64(16) + T.int64(5) +" in x_at
    assert table_at.count("buffer") == 2  # the row that the index of the next one names
    assert "T.int64(16) + T.int64(7) +" in first_at
    assert "T.int64(16) + T.int64(40) +" in second_at
    text = region(Region(tuple(arrays), lines), Strip(16, ahead=True), "kernel").script()
    assert re.search(r"T.min\(\w+ \+ T.int64\(1\), \w+ - T.int64\(1\)\)", text)
    assert not re.search("prefetch", region(Region(tuple(arrays), lines), Strip(16), "k").script())


@pytest.mark.parametrize("name", OPS_OF)
def test_every_op_has_a_case(cases: dict[tuple[str, int], Case], name: str) -> None:
    assert {line.op for line in cases[name, 3].lines} == OPS_OF[name]


def test_the_tables_agree() -> None:
    assert set(OWN) == OWN_LOOP
    numpy = {name for name, op in OPS.items() if op.elementwise}
    assert numpy | {"copy"} == set(ELEMENTWISE)


def test_lines_out_of_step_run_in_a_later_loop(cases: dict[tuple[str, int], Case]) -> None:
    assert phases(cases["chains", 3].region.lines) == [0, 1, 1, 1, 2, 3, 3, 2]
    wide = Region((), (Line("exp", (Constant(1.0),), ((),), (4,)),) * 2)
    assert phases(wide.lines) == [0, 0]
    assert wide.elements == 8


def random_lines(rng: np.random.Generator) -> list[Line]:
    """Numbers and vectors made of each other, directly and through views."""
    lines = [Line("exp", (Constant(1.0),), ((),), shape) for shape in ((), (4,))]
    for op in rng.choice(["exp", "add", "add", "sum", "concat"], 14):
        shape = (4,) if op == "concat" else ((), (4,))[op != "sum" and int(rng.integers(2))]
        args, shapes = [], []
        for _ in range(2 if op == "add" else 1):
            vector = op in ("sum", "concat") or (shape != () and rng.random() < 0.7)
            wanted = (4,) if vector else ()
            read = int(rng.choice([i for i, line in enumerate(lines) if line.shape == wanted]))
            view = rng.random() < 0.2
            args.append(View(Ref(read), "reshape", wanted) if view else Ref(read))
            shapes.append(wanted)
        lines.append(Line(str(op), tuple(args), tuple(shapes), shape))
    return lines


@pytest.mark.parametrize("seed", range(20))
def test_loops_read_what_loops_before_them_have_made(seed: int) -> None:
    """In a phase lines with loops of their own come first, then those of each shape share one. What
    a line reads of another loop is kept for it, and nothing else is.
    """
    lines = random_lines(np.random.default_rng(seed))
    order, done, kept = phases(lines), set[int](), set[int]()
    for phase in range(max(order) + 1):
        loops: dict[Any, list[int]] = {}
        for i in (i for i, at in enumerate(order) if at == phase):
            own = lines[i].op in OWN_LOOP
            loops.setdefault((not own, i if own else lines[i].shape), []).append(i)
        for members in sorted(loops.items(), key=lambda item: item[0][0]):
            made: set[int] = set()
            for i in members[1]:
                for a, shape in zip(lines[i].args, lines[i].shapes, strict=True):
                    read = line_of(a)
                    if read is None or (
                        read in made and a == Ref(read) and shape == lines[i].shape
                    ):
                        continue
                    assert read in done, (i, a)
                    kept.add(read)
                made.add(i)
            done |= made
    assert row_locals(lines) == sorted(kept | {i for i in done if lines[i].op in OWN_LOOP})
    assert len(done) == len(lines)
