"""Series: calls in one go, with what a run is given, on memory that each thread has for itself."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tvm_ffi = pytest.importorskip("tvm_ffi")
pytest.importorskip("tvm")

from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.host import host_kernels
from tvm_cavs.runtime.memory import HostMemory, tensor_of
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.routine import Given, Held, Number
from tvm_cavs.runtime.series import KEPT, Series, integer, rows_of

pytestmark = pytest.mark.compiles
A, B = (BufferId(Role.SCRATCH, name) for name in "ab")
TABLE = tensor_of(np.arange(3, dtype="int32"))


@pytest.fixture(scope="module")
def kernels(cache: Path) -> Any:
    return host_kernels(Compiler("host", 1, cache))


@pytest.fixture(scope="module")
def kernel(kernels: Any) -> Any:
    return kernels["routine"]


def memory_of(n: int) -> HostMemory:
    memory = HostMemory()
    memory.rows(A, n, 0, "int32")
    memory.rows(B, n, 0, "float32")
    return memory


def data(*tensors: Any) -> tuple[int, ...]:
    return tuple(t.data_ptr() for t in tensors)


class Noting:
    """Functions that note their arguments, and what a series of them is to be called with."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self.fails = False

        def note(*args: Any) -> None:
            self.found.append(tuple(a if isinstance(a, int) else a.data_ptr() for a in args))
            if self.fails and len(args) == 3:
                raise ValueError(f"{args[2].dtype} is not liked")

        self._note = tvm_ffi.convert(note)

    def series(self, kernel: Any) -> Series:
        first = (integer(1), Number(7), *rows_of(A), Given(1), Held(TABLE))
        second = (integer(0), *rows_of(B), Given(0))
        return Series(kernel, [(self._note, first), (self._note, second)], 2)


def expected(memory: HostMemory, integers: tuple[int, int], given: list[Any]) -> list[Any]:
    (a, b), (x, y) = data(memory.tensor(A), memory.tensor(B)), data(*given)
    return [(integers[1], 7, a, y, *data(TABLE)), (integers[0], b, x)]


def test_calls_in_order_with_what_each_run_is_given(kernel: Any) -> None:
    noting, memories = Noting(), (memory_of(3), memory_of(4))
    series = noting.series(kernel)
    for i, memory in enumerate(memories * 3):
        given = [tensor_of(np.zeros(i + 2, dtype)) for dtype in ("int32", "int64")]
        integers = (40 + i, 10**12 + i)
        if i == 4:
            memory.rows(B, 99, 0, "float32")  # moves
        noting.found.clear()
        series.run(memory, integers, given)
        assert noting.found == expected(memory, integers, given), i


def test_a_call_that_fails_says_why(kernel: Any) -> None:
    """Made again from Python with the same tensors."""
    noting, memory = Noting(), memory_of(3)
    series = noting.series(kernel)
    given = [tensor_of(np.zeros(2, dtype)) for dtype in ("float64", "int64")]
    noting.fails = True
    with pytest.raises(ValueError, match="float64 is not liked"):
        series.run(memory, (1, 2), given)
    assert noting.found[1] == noting.found[2] == expected(memory, (1, 2), given)[1]


def test_what_is_kept_beside_a_memory_is_bounded(kernel: Any) -> None:
    noting, memory = Noting(), memory_of(3)
    given = [tensor_of(np.zeros(2, dtype)) for dtype in ("int32", "int64")]
    all_series = [noting.series(kernel) for _ in range(3 * KEPT)]
    for series in all_series:
        series.run(memory, (1, 2), given)
        assert len(memory.beside) <= KEPT
    noting.found.clear()
    all_series[0].run(memory, (3, 4), given)  # what was forgotten is made again
    assert noting.found == expected(memory, (3, 4), given)


def test_threads_with_memories_of_their_own(kernels: Any) -> None:
    """A compiled function writes what it was given; no run sees another's."""
    ints = {name: BufferId(Role.SCRATCH, name) for name in ("order", "row", "children", "below")}
    arguments = (integer(0), Number(1), *rows_of(*ints.values()))
    series = Series(kernels["routine"], [(kernels["below"], arguments)], 1)

    def work(seed: int) -> bool:
        rng, memory = np.random.default_rng(seed), HostMemory()
        for n in rng.integers(1, 60, 200).tolist():
            order = rng.permutation(n).astype("int32")
            row, children = np.argsort(order), rng.integers(-1, n, n)
            made = {"order": order, "row": row, "children": children, "below": order}
            for name, values in made.items():
                memory.rows(ints[name], n, 0, "int32")
                memory.write(ints[name], values)
            series.run(memory, (n,))
            want = np.where(children[order] < 0, -1, row[children[order]])
            if memory.read(ints["below"])[:n].tolist() != want.tolist():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
