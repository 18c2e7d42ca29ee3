"""Trial: a kernel with any knobs, on recorded calls -> whether its results are the default's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ..compiler import Compiler
from ..lowering.specs import Piece, Product
from ..lowering.steps import Kernel
from ..target_rules import Knobs, Tile
from ..workload import Workload, defaults, forms_with
from .calls import HERE, Arguments, Call, Place, Recorded, Runnable, Slot
from .start import bits, start
from .touched import rooms, touched
from .weights import depth_of, packed

PEAK_K, PEAK_ROWS = 64, 48  # of a product that stays in the nearest cache
TOLERANCE = 2e-5  # of a result whose sums have another order, by the largest value in it


class Wrong(Exception):
    """A candidate whose result is not that of the default."""


class Trial:
    """The forms of a recorded kernel on its calls.

    Args:
        compiler: of the target, without records; it keeps what it has compiled.
        place: where calls are made.
        start: what another trial of the same has found; None to find out.

    Attributes:
        default: the calls with the default knobs, to be timed.
        start: arrays on which results are compared, see `start.py`.
    """

    def __init__(
        self,
        recorded: Recorded,
        compiler: Compiler,
        place: Place = HERE,
        start: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._recorded, self._compiler, self._place = recorded, compiler, place
        self.default = self.ready(None)
        self.start = start if start is not None else self._start()
        self._expected = self._run(None, self.start)
        replaced, added = touched(recorded)
        self._written = {number: replaced[number] | added[number] for number in replaced}

    def _start(self) -> list[np.ndarray]:
        return start(self._recorded, lambda arrays: self._run(None, arrays))

    def ready(self, knobs: Knobs | None, arrays: Sequence[np.ndarray] | None = None) -> Runnable:
        """The calls with these knobs (None: the defaults), on arrays of their own.

        Args:
            arrays: that they start with; None for those that were recorded.
        """
        forms = forms_with(self._compiler.machine, self._recorded.workload, knobs)
        functions = self._place.functions(self._compiler, forms)
        limits = [form.min_rows for form in forms]
        given = list(self._recorded.arrays if arrays is None else arrays)
        for number in self._recorded.packed:
            given[number] = self._packed(given[number], knobs)
        tensors = [self._place.put(array) for array in given]

        def call(given: Arguments) -> Call:
            n_rows = given[0]
            assert isinstance(n_rows, int)
            function = functions[bisect_right(limits, n_rows) - 1]
            return function, tuple(tensors[a.number] if isinstance(a, Slot) else a for a in given)

        return Runnable(tuple(map(call, self._recorded.calls)), tuple(tensors), self._place)

    def check(self, knobs: Knobs) -> None:
        """The result with these knobs is the default's: in every bit, or where knobs change the
        order of sums, up to rounding.

        Raises:
            Wrong: it is not; the message says by how much.
        """
        exact, got = self._keeps_bits(knobs), self._run(knobs, self.start)
        beside = self._recorded.packed | rooms(self._recorded)
        for number, (a, b) in enumerate(zip(got, self._expected, strict=True)):
            if number not in beside:
                _compare(a, b, None if exact else self._written.get(number))

    def _run(self, knobs: Knobs | None, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What arrays hold after all calls."""
        made = self.ready(knobs, arrays)
        made.run()
        return [array.copy() for array in made.arrays]

    def _keeps_bits(self, knobs: Knobs) -> bool:
        """Whether no knob that decides the order of additions differs from the default's."""
        found = defaults(self._compiler.machine, self._recorded.workload)
        assert found is not None
        usual = found[1]()
        same = all(getattr(knobs, name) == getattr(usual, name) for name in knobs.SHARED)
        return same or isinstance(self._recorded.workload.kernel.spec, Product)

    def _packed(self, weights: np.ndarray, knobs: Knobs | None) -> np.ndarray:
        """Plain weights as the candidate reads them."""
        spec, machine = self._recorded.workload.kernel.spec, self._compiler.machine
        assert isinstance(spec, Product)
        tile: Tile = machine.tile(spec.k, spec.n_columns)
        return packed(tile.with_vectors(getattr(knobs, "vectors", tile.vectors)), spec, weights)


def peak(compiler: Compiler, place: Place = HERE) -> tuple[Runnable, float]:
    """A small product that never leaves the nearest cache, and its GFLOP: what a core can do."""
    lanes = compiler.lanes
    spec = Product((Piece(PEAK_K, 0, PEAK_K),), 2 * lanes, 2 * lanes)
    workload = Workload(Kernel("product", spec))
    _, dtype = compiler.packed(spec.k, spec.n_columns)
    arrays = (
        np.ones((PEAK_ROWS, PEAK_K), "float32"),
        np.zeros((depth_of(compiler.machine, spec), spec.n_columns), dtype),
        np.zeros((PEAK_ROWS, 2 * lanes), "float32"),
    )
    call = (PEAK_ROWS, 0, 0, 0, Slot(0), Slot(1), Slot(2))
    trial = Trial(Recorded(workload, (call,) * 16, arrays), compiler, place)
    return trial.default, 16 * 2 * PEAK_ROWS * PEAK_K * 2 * lanes / 1e9


def _compare(got: np.ndarray, want: np.ndarray, rounded: np.ndarray | None) -> None:
    """Arrays are the same in every bit, or in elements that are `rounded` nearly so."""
    differ = bits(got) != bits(want)
    if rounded is not None and got.dtype.kind == "f":
        results = want[rounded & np.isfinite(want)]
        largest = float(np.abs(results).max(initial=0.0))
        with np.errstate(invalid="ignore", over="ignore"):
            differ &= ~(rounded & (np.abs(got - want) <= TOLERANCE * largest))
    if differ.any():
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.abs(got[differ].astype("float64") - want[differ].astype("float64"))
        raise Wrong(f"{int(differ.sum())} of {got.size} results differ, by {far.max():.3g}")
