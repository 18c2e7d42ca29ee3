"""Trial: a kernel with any knobs, on calls recorded in a step -> its result and its time."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import aligned
from ..runtime import tensor_of
from .compiler import Compiler
from .lowering.specs import Piece, Product
from .lowering.steps import Kernel
from .target_rules import Knobs, Tile, panels
from .workload import Workload, defaults, forms_with

PEAK_K, PEAK_ROWS = 64, 48  # of a product that stays in the nearest cache
TOLERANCE = 2e-5  # of a result whose sums have another order, by the largest value in it


@dataclass(frozen=True)
class Slot:
    """An argument that is array number `number`; all others are whole numbers."""

    number: int


@dataclass(frozen=True)
class Recorded:
    """Calls of one kernel, in order, as a step made them with the target's default knobs.

    calls: their arguments; the first is the count of rows. arrays: as they were before.
    """

    workload: Workload
    calls: tuple[tuple[int | Slot, ...], ...]
    arrays: tuple[np.ndarray, ...]


class Wrong(Exception):
    """A candidate whose result is not that of the default."""


@dataclass(frozen=True)
class Runnable:
    """Calls that are ready to be made, and the arrays that they read and write."""

    calls: tuple[tuple[Any, tuple[Any, ...]], ...]
    arrays: tuple[np.ndarray, ...]

    def run(self) -> None:
        for function, arguments in self.calls:
            function(*arguments)

    def seconds(self, repeats: int) -> float:
        """Of one run, the mean of `repeats`."""
        start = time.perf_counter()
        for _ in range(repeats):
            self.run()
        return (time.perf_counter() - start) / repeats


class Trial:
    """The forms of a recorded kernel on its calls.

    Args:
        compiler: of the target, without records; it keeps what it has compiled.

    Attributes:
        default: the calls with the default knobs, to be timed.
    """

    def __init__(self, recorded: Recorded, compiler: Compiler) -> None:
        self._recorded, self._compiler = recorded, compiler
        self._packed = _packed_slots(recorded)
        self.default = self.ready(None)
        self._expected = self.ready(None)
        self._expected.run()

    def ready(self, knobs: Knobs | None) -> Runnable:
        """The calls with these knobs (None: the defaults), on arrays of their own."""
        forms = forms_with(self._compiler.machine, self._recorded.workload, knobs)
        self._compiler.compile(forms)
        functions = [self._compiler.function(form.symbol) for form in forms]
        limits = [form.min_rows for form in forms]
        arrays = [_copy(array) for array in self._recorded.arrays]
        if knobs is not None:
            for number in self._packed:
                arrays[number] = _copy(self._repacked(arrays[number], knobs))
        tensors = [tensor_of(array) for array in arrays]

        def call(given: tuple[int | Slot, ...]) -> tuple[Any, tuple[Any, ...]]:
            n_rows = given[0]
            assert isinstance(n_rows, int)
            function = functions[bisect_right(limits, n_rows) - 1]
            return function, tuple(tensors[a.number] if isinstance(a, Slot) else a for a in given)

        return Runnable(tuple(map(call, self._recorded.calls)), tuple(arrays))

    def check(self, knobs: Knobs) -> None:
        """The result with these knobs is the default's: in every bit, or where knobs change the
        order of sums, up to rounding.

        Raises:
            Wrong: it is not; the message says by how much.
        """
        got, exact = self.ready(knobs), self._keeps_bits(knobs)
        got.run()
        for number, (a, b) in enumerate(zip(got.arrays, self._expected.arrays, strict=True)):
            if number not in self._packed:
                _compare(a, b, exact)

    def _keeps_bits(self, knobs: Knobs) -> bool:
        """Whether no knob that decides the order of additions differs from the default's."""
        found = defaults(self._compiler.machine, self._recorded.workload)
        assert found is not None
        usual = found[1]()
        same = all(getattr(knobs, name) == getattr(usual, name) for name in knobs.SHARED)
        return same or isinstance(self._recorded.workload.kernel.spec, Product)

    def _repacked(self, weights: np.ndarray, knobs: Knobs) -> np.ndarray:
        """Packed weights as the candidate reads them."""
        spec, machine = self._recorded.workload.kernel.spec, self._compiler.machine
        assert isinstance(spec, Product)
        tile = machine.tile(spec.k, spec.n_columns)
        wide: Tile = tile.with_vectors(getattr(knobs, "vectors", tile.vectors))
        if wide.columns == tile.columns:
            return weights
        depth = weights.shape[1]
        flat = weights.transpose(1, 0, 2).reshape(depth, -1)[:, : spec.n_columns]
        n_panels = panels(spec.n_columns, wide)
        padded = np.zeros((depth, n_panels * wide.columns), weights.dtype)
        padded[:, : spec.n_columns] = flat
        return padded.reshape(depth, n_panels, wide.columns).transpose(1, 0, 2)


def peak(compiler: Compiler) -> tuple[Runnable, float]:
    """A small product that never leaves the nearest cache, and its GFLOP: what a core can do."""
    lanes = compiler.lanes
    spec = Product((Piece(PEAK_K, 0, PEAK_K),), 2 * lanes, 2 * lanes)
    workload = Workload(Kernel("product", spec))
    shape, dtype = compiler.packed(spec.k, spec.n_columns)
    arrays = (
        np.ones((PEAK_ROWS, PEAK_K), "float32"),
        np.zeros(shape, dtype),
        np.zeros((PEAK_ROWS, 2 * lanes), "float32"),
    )
    call = (PEAK_ROWS, 0, 0, 0, Slot(0), Slot(1), Slot(2))
    trial = Trial(Recorded(workload, (call,) * 16, arrays), compiler)
    return trial.ready(None), 16 * 2 * PEAK_ROWS * PEAK_K * 2 * lanes / 1e9


def _packed_slots(recorded: Recorded) -> frozenset[int]:
    """The arrays that hold packed weights: one kernel may be called with several."""
    if not recorded.workload.packs:
        return frozenset()
    slots = (call[-2] for call in recorded.calls)
    return frozenset(slot.number for slot in slots if isinstance(slot, Slot))


def _copy(array: np.ndarray) -> np.ndarray:
    made: np.ndarray = aligned(array.shape, str(array.dtype))
    made[...] = array
    return made


def _compare(got: np.ndarray, want: np.ndarray, exact: bool) -> None:
    bits = f"uint{8 * got.dtype.itemsize}"
    differ = got.view(bits) != want.view(bits)
    if not exact and got.dtype.kind == "f":
        finite = np.isfinite(want)
        largest = float(np.abs(want[finite]).max(initial=1.0))
        with np.errstate(invalid="ignore", over="ignore"):
            differ &= ~(np.abs(got - want) <= TOLERANCE * largest)
    if differ.any():
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.abs(got[differ].astype("float64") - want[differ].astype("float64"))
        raise Wrong(f"{int(differ.sum())} of {got.size} results differ, by {far.max():.3g}")


def buffers_of(calls: Sequence[tuple[Any, ...]]) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Distinct tensors of calls, and the calls with slots instead of them."""
    tensors: list[Any] = []
    number: dict[int, int] = {}

    def slot(argument: Any) -> int | Slot:
        if isinstance(argument, int):
            return argument
        if id(argument) not in number:
            number[id(argument)] = len(tensors)
            tensors.append(argument)
        return Slot(number[id(argument)])

    return tensors, [tuple(map(slot, call)) for call in calls]
