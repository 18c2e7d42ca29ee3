"""Trials: whatever a candidate leaves out of a call shows, whatever memory held before."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm")

from helpers.targets import X86
from schedules.knobs import OuterKnobs
from tvm_cavs.compiler import Compiler, Recorded, Trial, Workload, Wrong, peak, recorded_of
from tvm_cavs.compiler.lowering.region import (
    Array,
    Constant,
    Line,
    Load,
    Ref,
    Region,
    Room,
    Store,
    View,
)
from tvm_cavs.compiler.lowering.specs import (
    DirectWeights,
    Outer,
    Pack,
    Piece,
    Placement,
    Product,
)
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.compiler.trial import HERE, Slot
from tvm_cavs.compiler.trial.check import _compare
from tvm_cavs.compiler.trial.start import poison, start
from tvm_cavs.compiler.trial.touched import places, rooms, sources, touched
from tvm_cavs.compiler.trial.weights import depth_of, packed, plain
from tvm_cavs.compiler.workload import defaults, forms_with

ROWS, K, N = 9, 5, 20
OTHER = OuterKnobs(1, 2, 64)


TARGETS = ["host", {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"}]


def product(k, n_columns):
    return Product((Piece(k, 0, k),), n_columns, n_columns)


def recorded(arrays=None, adds=(0, 1)):
    """A weight gradient and its bias's in two calls, of which the first may replace."""
    rng = np.random.default_rng(1)
    given = rng.standard_normal((ROWS, K), "float32"), rng.standard_normal((ROWS, N), "float32")
    outs = np.ones((K + 1, N), "float32"), np.ones(N, "float32")
    spec = Outer((Piece(K, 0, K),), (Piece(N, 1, N),), N, row=1, sums=0)
    slots = tuple(map(Slot, range(4)))
    calls = tuple((n, add, at, at, *slots) for n, at, add in ((6, 0, adds[0]), (3, 6, adds[1])))
    return Recorded(Workload(Kernel("outer", spec)), calls, arrays or (*given, *outs))


@pytest.fixture(scope="module")
def compiler():
    return Compiler("host", 1, cache=False, records=False)


def changed(change):
    """A trial whose candidates make other calls."""

    class Changed(Trial):
        def ready(self, knobs, arrays=None):
            made = super().ready(knobs, arrays)
            return made if knobs is None else replace(made, calls=change(made.calls))

    return Changed


def adding(value):
    return lambda calls: tuple((f, (given[0], value, *given[2:])) for f, given in calls)


def rows_less(calls):
    return tuple((f, (given[0] - 1, *given[1:])) for f, given in calls)


def test_what_calls_replace_and_what_they_add_to():
    replaced, added = touched(recorded())
    assert not replaced[2][0].any() and replaced[2][1:].all() and not added[2].any()
    assert added[3].all() and not replaced[3].any()
    replaced, added = touched(recorded(adds=(1, 0)))  # it was read before
    assert added[2][1:].all() and not replaced[2].any()


@pytest.mark.compiles
def test_what_is_added_to_may_be_rounded_in_another_way(compiler):
    """By knobs that decide in which order rows are added up; a row less is wrong all the same."""
    n, rng = 300, np.random.default_rng(3)
    left, right = (rng.standard_normal((n, width), "float32") for width in (K, N))
    given = recorded((left, right, *recorded().arrays[2:]))
    given = replace(given, calls=((n, 1, 0, 0, *given.calls[0][4:]),))
    trial = Trial(given, compiler)
    trial.check(OTHER)
    got = trial._run(OTHER, trial.start)
    assert (got[2] != trial._expected[2]).any(), "the order does not show"
    with pytest.raises(Wrong, match="results differ"):
        changed(rows_less)(given, compiler).check(OTHER)


def of_region():
    """A table's rows and a child's, chosen by integers, of which one is seen through views."""
    arrays = (
        Array("table", "float32", 4, False),
        Array("word", "int32", 0, True),
        Array("x", "int32", 6, True),
        Array("out", "float32", 8, True),
        Array("count", "float32", 0, True),
        Array("room", "float32", 16, False),
    )
    seen = View(View(Load(2, 1), "slice", (4,), 0, 1), "reshape", (3,))
    lines = (
        Line("copy", (Load(0, 0, 1),), ((4,),), (4,), stores=(Store(3, 2),)),
        Line("equal", (seen, Constant(-1, "int32")), ((3,), ()), (3,)),
        Line("sum", (Ref(1),), ((3,),), (), attrs=(("keep", False),), stores=(Store(4),)),
    )
    kernel = Kernel("region", Region(arrays, lines, (Room(5, ((1, 0),)),)))
    call = (3, 1, 0, 2, 5, *map(Slot, (4, 0, 1, 2, 3, 5)))
    sizes = {4: (9, 4), 0: (9,), 1: (9, 6), 2: (9, 8), 3: (9,), 5: (1, 16)}
    held = [np.zeros(sizes[n], "int32" if n < 2 else "float32") for n in range(6)]
    return Recorded(Workload(kernel), (call,), tuple(held))


def test_what_a_region_replaces_where_it_looks_and_what_is_room():
    given = of_region()
    replaced, added = touched(given)
    assert replaced.keys() == {2, 3} and not any(mask.any() for mask in added.values())
    assert np.argwhere(replaced[2]).tolist() == [[r, c] for r in (2, 3, 4) for c in range(2, 6)]
    assert np.flatnonzero(replaced[3]).tolist() == [5, 6, 7]
    assert places(given) == {0, 1}, "integers that are read, as they are or through views"
    assert rooms(given) == {5} and sources(given) == set() and rooms(recorded()) == set()


@pytest.mark.parametrize("adds", [False, True])
def test_what_a_product_writes(adds):
    """Its own rows and columns; rows that an index chooses are read where it says."""
    pieces = Piece(K, 0, K), Piece(K, 1, K, 0, 0)
    spec = Product(pieces, 4, N, 8, accumulate=adds)
    shapes = ((ROWS, K), (ROWS, K), (ROWS,), (2 * K, 4), (ROWS, N))
    arrays = tuple(np.zeros(s, "int32" if n == 2 else "float32") for n, s in enumerate(shapes))
    calls = tuple((n, 1, row, 0, 5, *map(Slot, range(5))) for n, row in ((3, 2), (1, 7)))
    given = Recorded(Workload(Kernel("product", spec)), calls, arrays)
    replaced, added = touched(given)
    masks, others = (added, replaced) if adds else (replaced, added)
    assert masks.keys() == {4} and not others[4].any()
    expected = [[r, c] for r in (2, 3, 4, 7) for c in range(8, 12)]
    assert np.argwhere(masks[4]).tolist() == expected
    assert places(given) == {2} and sources(given) == {0, 1} and rooms(given) == set()


def test_what_a_step_multiplies_and_does_not_write():
    assert sources(recorded()) == {0, 1}
    spec = Product((Piece(K, 0, N), Piece(K, 1, K)), 4, N, 8)
    arrays = np.ones((ROWS, N), "float32"), np.ones((ROWS, K), "float32"), np.ones((2 * K, 4))
    call = (ROWS, 0, 0, 0, 0, Slot(0), Slot(1), Slot(2), Slot(0))  # its result beside an operand
    assert sources(Recorded(Workload(Kernel("product", spec)), (call,), arrays)) == {1}


def test_what_is_recorded_is_a_copy(compiler):
    tensor = np.ones((ROWS, K), "float32")
    kernel, machine = recorded().workload.kernel, compiler.machine
    made = recorded_of(Workload(kernel), [(ROWS, 1, 0, 0, tensor, tensor)], machine)
    tensor[:] = 0
    assert made.calls == ((ROWS, 1, 0, 0, Slot(0), Slot(0)),)
    (array,) = made.arrays
    assert array.all()


@pytest.mark.parametrize("direct", [False, True])
def test_packed_weights_are_recorded_plain(direct, compiler):
    """Of several operands each; what a product reads where it lies stays as it is."""
    spec, machine = product(33, 75), compiler.machine
    weights = np.arange(2 * 33 * 75, dtype="float32").reshape(2, 33, 75)
    given = [packed(machine.tile(33, 75), spec, each) for each in weights]
    left, out = np.ones((ROWS, 33), "float32"), np.zeros((ROWS, 75), "float32")
    calls = [(ROWS, turn, 0, 0, left, each, out) for turn, each in enumerate(given)]
    where = DirectWeights(75) if direct else None
    made = recorded_of(Workload(Kernel("product", spec), weights=where), calls, machine)
    assert [call[:4] for call in made.calls] == [(ROWS, 0, 0, 0), (ROWS, 1, 0, 0)]
    assert [call[4:] for call in made.calls] == [
        tuple(map(Slot, n)) for n in ((0, 1, 2), (0, 3, 2))
    ]
    first, second = given if direct else weights
    for array, want in zip(made.arrays, (left, first, out, second), strict=True):
        np.testing.assert_array_equal(array, want)


def test_only_packed_weights_are_packed_anew():
    kernel = Kernel("product", product(K, N))
    call = (ROWS, 0, 0, 0, Slot(0), Slot(1), Slot(2))
    for weights, numbers in ((None, {1}), (DirectWeights(N), set())):
        assert Recorded(Workload(kernel, True, weights), (call,), ()).packed == numbers
    assert recorded().packed == set()


class Nowhere:
    """A place that notes which forms there are and which is called, and computes nothing."""

    def __init__(self):
        self.called, self.symbols = [], set()

    def functions(self, _compiler, forms):
        self.symbols |= {form.symbol for form in forms}
        return [lambda *_, n=form.min_rows: self.called.append(n) for form in forms]

    def put(self, array):
        return array

    get = put


def test_rows_decide_which_form_is_called():
    compiler = Compiler({**X86, "mcpu": "znver4", "num-cores": 2}, 2, False, records=False)
    workload, place = Workload(Kernel("product", product(150, 600))), Nowhere()
    first, second = (form.min_rows for form in forms_with(compiler.machine, workload, None))
    assert 1 == first < second - 1
    calls = tuple((n, 0, 0, 0, *map(Slot, range(3))) for n in (1, second - 1, second, second + 1))
    arrays = np.ones((second + 1, 150)), np.ones((150, 600)), np.ones((second + 1, 600))
    trial = Trial(Recorded(workload, calls, arrays), compiler, place, arrays)
    place.called.clear()
    trial.default.run()
    assert place.called == [first, first, second, second]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_arithmetic_of_the_peak_is_that_of_its_calls(precision):
    """All of them multiply all rows by all columns."""
    target, place = {**X86, "mcpu": "znver4", "num-cores": 1}, Nowhere()
    compiler = Compiler(target, 1, False, precision=precision, records=False)
    made, gflop = peak(compiler, place)
    left, weights, out = made.tensors
    assert gflop * 1e9 == len(made.calls) * 2 * left.shape[1] * out.size
    spec = product(left.shape[1], out.shape[1])
    (form,) = forms_with(compiler.machine, Workload(Kernel("product", spec)), None)
    assert place.symbols == {form.symbol}
    assert (weights.shape, weights.dtype) == compiler.packed(*left.shape[1:], *out.shape[1:])
    assert {given[:4] for _, given in made.calls} == {(len(left), 0, 0, 0)} and len(left) == len(
        out
    )


def of_product():
    kernel, call = Kernel("product", product(K, N)), (ROWS, 0, 0, 0, *map(Slot, range(3)))
    arrays = tuple(np.ones(shape, "float32") for shape in ((ROWS, K), (K, N), (ROWS, N)))
    return Recorded(Workload(kernel), (call,), arrays)


@pytest.mark.parametrize(
    ("given", "change", "passes"),
    [
        (recorded(), {"vectors": 1}, False),
        (recorded(), {"block": 64}, True),
        (of_product(), {"ahead": 4}, False),
        (of_product(), {"vectors": 2}, False),
        (of_region(), {"ahead": 1}, False),
        (of_region(), {"lanes": 4}, True),
    ],
)
def test_only_knobs_that_change_the_order_of_sums_may_round_in_another_way(given, change, passes):
    """Those of a product never do: its panels are shared, and keep every bit."""

    class Nudged(Trial):
        def _run(self, knobs, arrays):
            found = super()._run(knobs, arrays)
            for number, mask in self._written.items() if knobs is not None else ():
                found[number][mask] += np.float32(1e-6)
            return found

    compiler = Compiler({**X86, "mcpu": "haswell"}, 1, False, records=False)
    arrays = tuple(np.ones_like(array) for array in given.arrays)
    trial = Nudged(replace(given, arrays=arrays), compiler, Nowhere(), arrays)
    _, default = defaults(compiler.machine, given.workload)
    knobs = replace(default(), **change)
    assert knobs != default()
    if passes:
        trial.check(knobs)
    else:
        with pytest.raises(Wrong, match="results differ, by 9.54e-07"):
            trial.check(knobs)


@pytest.mark.compiles
def test_the_same_calls_pass(compiler):
    Trial(recorded(), compiler).check(OTHER)


@pytest.mark.compiles
@pytest.mark.parametrize(
    "change",
    [
        adding(0),  # the second call forgets what the first has summed up
        adding(1),  # the first adds to what is to be replaced
        rows_less,
        lambda calls: calls[:1],
        lambda calls: calls[1:],
        lambda calls: (*calls, calls[1]),
    ],
)
def test_calls_that_do_less_or_more_are_wrong(compiler, change):
    with pytest.raises(Wrong, match="results differ"):
        changed(change)(recorded(), compiler).check(OTHER)


@pytest.mark.compiles
@pytest.mark.parametrize("adds", [(0, 1), (1, 1)])
def test_a_row_of_zeros_is_missed_too(compiler, adds):
    """And so is a small sum, where the step has left large ones."""
    left, right, out, sums = recorded().arrays
    right[[5, 8]] = 0
    given = recorded((left, right, 1e6 * out, 1e6 * sums), adds)
    Trial(given, compiler).check(OTHER)
    with pytest.raises(Wrong, match="results differ"):
        changed(rows_less)(given, compiler).check(OTHER)


@pytest.mark.compiles
def test_small_results_are_compared_by_their_size(compiler):
    """What is nearly right is so by the largest result, not by 1."""

    class Small(changed(lambda calls: calls[:1])):
        def _start(self):
            return [array * np.float32(1e-6) for array in super()._start()]

    with pytest.raises(Wrong, match="results differ"):
        Small(recorded(), compiler).check(OTHER)


def test_what_is_read_before_it_is_replaced_keeps_its_values():
    """The one array is poisoned, the other not: by what the default makes of them."""
    given = recorded()

    def run(arrays):
        made = [array.copy() for array in arrays]
        made[2][1:] = 7.0  # replaced
        made[3] = -made[3]  # read first
        return made

    masks = {n: np.ones_like(given.arrays[n], bool) for n in (2, 3)}
    masks[2][0] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tvm_cavs.compiler.trial.start.touched", lambda _: (masks, {}))
        found = start(given, run)
    nan = np.array(poison(np.dtype("float32")))
    assert (found[2][1:].view("uint32") == nan.view("uint32")).all()
    np.testing.assert_array_equal(found[2][0], given.arrays[2][0])
    np.testing.assert_array_equal(found[3], given.arrays[3])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool"])
def test_poisons_are_two_extreme_values(dtype):
    one, other = (np.array(poison(np.dtype(dtype), o)).astype(dtype) for o in (False, True))
    assert one.tobytes() != other.tobytes()
    assert np.dtype(dtype).kind != "f" or (np.isnan(one) and np.isfinite(other))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(5, 1), (33, 75), (64, 40), (300, 3), (31, 130)])
def test_weights_keep_their_elements_whoever_packs_them(target, shape):
    """As a kernel packs them here, plain, and packed for another target."""
    k, n_columns = shape
    machine, spec = Compiler(target, 1, False, records=False).machine, product(k, n_columns)
    weights = np.arange(1.0, k * n_columns + 1, dtype="float32").reshape(k, n_columns)
    tile = machine.tile(k, n_columns)
    made = packed(tile, spec, weights)
    assert (made.shape, str(made.dtype)) == machine.packed(k, n_columns)
    np.testing.assert_array_equal(plain(machine, spec, made), weights)


@pytest.mark.parametrize("model", ["znver4", "sapphirerapids"])
@pytest.mark.parametrize("shape", [(5, 1), (33, 75), (64, 40), (301, 3), (31, 130)])
def test_words_of_two_weights_keep_their_places_too(model, shape):
    """Registers of AMX are filled up with zeros; short products stay in float32."""
    k, n_columns = shape
    target = {**X86, "mcpu": model, "num-cores": 1}
    compiler = Compiler(target, 1, False, precision="bf16", records=False)
    machine, spec = compiler.machine, product(k, n_columns)
    depth, dtype = (k, "float32") if k < 32 else ((k + 1) // 2, "uint32")
    assert depth_of(machine, spec) == depth
    weights = np.arange(1, depth * n_columns + 1, dtype=dtype).reshape(depth, n_columns)
    made = packed(machine.tile(k, n_columns), spec, weights)
    assert (made.shape, str(made.dtype)) == machine.packed(k, n_columns)
    assert np.count_nonzero(made) == weights.size
    np.testing.assert_array_equal(plain(machine, spec, made), weights)


@pytest.mark.compiles
@pytest.mark.parametrize("shape", [(33, 75), (300, 3)])
def test_weights_are_packed_as_a_kernel_packs_them(compiler, shape):
    spec = product(*shape)
    weights = np.random.default_rng(2).standard_normal(shape, "float32")
    pack = compiler.pack_form(
        Pack((shape,), (Placement(0, 0, 0, (0, shape[0]), (0, shape[1])),), *shape)
    )
    compiler.compile([pack])
    made = packed(compiler.machine.tile(*shape), spec, weights)
    given = [HERE.put(weights), HERE.put(np.full_like(made, np.nan))]
    compiler.function(pack.symbol)(*given)
    np.testing.assert_array_equal(HERE.get(given[1]), made)


@pytest.mark.parametrize(
    ("off", "where", "passes"),
    [
        (0.0, None, True),
        (1e-7, None, False),  # in every bit
        (1.9e-5, "all", True),  # of the largest value, which is not its own
        (2.1e-5, "all", False),
        (1e-7, "others", False),
        (float("nan"), "all", False),
    ],
)
def test_results_are_the_same_or_where_sums_are_rounded_nearly_so(off, where, passes):
    want = np.array([-100.0, 3.0, np.inf, 7.0], "float32")
    got = want + np.array([0, 0, 0, 100 * off], "float32")
    rounded = None if where is None else np.array([True, True, True, where == "all"])
    for a, b in ((got, want), (want, got)) if off == off else ((got, want),):
        if passes:
            _compare(a, b, rounded)
        else:
            with pytest.raises(Wrong, match="1 of 4 results differ"):
                _compare(a, b, rounded)
    whole = np.array([1, 2, 3, 4], "int32")
    _compare(whole, whole.copy(), rounded)
    with pytest.raises(Wrong, match="^2 of 4 results differ, by 3$"):
        _compare(whole + np.array([0, 3, 0, 1], "int32"), whole, np.ones(4, bool))
