"""Guard pages: what compiled code is given ends at a page that nobody may touch, or starts there.

With `pytest --guard end` (or `start`) all tests run so, in a child process. An access outside ends
it; then the test that ran is run once more, its kernels called one by one, to tell which did it.
"""

import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIDES = ("end", "start")
NOTE, TEST, ONE_BY_ONE = VARIABLES = tuple(
    f"TVM_CAVS_GUARD_{name}" for name in ("NOTE", "TEST", "ONE_BY_ONE")
)
NOTE_BYTES = 4096
PROT_NONE = 0  # of sys/mman.h
libc = ctypes.CDLL(None, use_errno=True)


def guarded_bytes(n_bytes: int, side: str) -> np.ndarray:
    """Zeros uint8[n_bytes] with a page that cannot be read or written right behind or before."""
    size = -(-max(n_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), "uint8")
    page = ctypes.c_void_p(whole.ctypes.data + (size if side == "end" else 0))
    if libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    first = size - n_bytes if side == "end" else mmap.PAGESIZE
    return whole[first : first + n_bytes]


@contextmanager
def guard_pages(side: str) -> Iterator[None]:
    """Inside, buffers are exactly as large as a batch needs, and guarded."""
    from tvm_cavs import arrays
    from tvm_cavs.runtime import memory, needs, room

    ready, rows = memory.ready, memory.HostMemory.rows
    make_room, make_need = room.Room.make, needs.Needs.make_room

    def guarded(array: np.ndarray, dtype: Any) -> np.ndarray:
        """What nobody may write to is copied: users' arrays, those of graphs."""
        given = ready(array, dtype)
        if given.flags.writeable:
            return given
        copy = guarded_bytes(given.nbytes, side).view(given.dtype).reshape(given.shape)
        copy[...] = given
        return copy

    def exact_rows(
        self: Any, buffer: Any, n_rows: int, ld: int, dtype: str, _spare: bool = True
    ) -> Any:
        have = self._arrays.get(buffer)
        if have is not None and len(have) != max(1, n_rows):
            self.bind(buffer, arrays.aligned((max(1, n_rows), ld) if ld else (n_rows,), dtype))
        return rows(self, buffer, n_rows, ld, dtype, spare=False)

    def exact_room(self: Any, *given: Any) -> None:
        self._rows[:] = -1
        self._held = [-1] * len(self._held)
        make_room(self, *given)

    def exact_needs(self: Any, its_memory: Any, sizes: Any) -> None:
        its_memory.beside.pop(self, None)
        make_need(self, its_memory, sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "zero_bytes", lambda n_bytes: guarded_bytes(n_bytes, side))
        patch.setattr(memory, "ready", guarded)
        patch.setattr(memory.HostMemory, "rows", exact_rows)
        patch.setattr(room.Room, "make", exact_room)
        patch.setattr(needs.Needs, "make_room", exact_needs)
        if os.environ.get(ONE_BY_ONE):
            note_kernels(patch)
        yield


class Noted:
    """A kernel that is noted before it is called."""

    def __init__(self, function: Any, symbol: str) -> None:
        self._function, self._symbol = function, symbol

    def __call__(self, *given: Any) -> Any:
        note(f"kernel {self._symbol}({', '.join(map(_shown, given))})")
        return self._function(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _shown(argument: Any) -> str:
    shape = getattr(argument, "shape", None)
    return str(argument) if shape is None else f"{argument.dtype}{list(shape)}"


def note_kernels(patch: pytest.MonkeyPatch) -> None:
    """From now on kernels are called one by one, from Python, and noted."""
    from tvm_cavs.compiler.compiler import Compiler
    from tvm_cavs.runtime import Workspace

    function = Compiler.function

    def run(self: Workspace, batch: Any, direction: str) -> None:
        calls = batch.passes.calls(batch.parts(direction), self.seen_by(batch), batch.replaced)
        for kernel, given in calls:
            kernel(*given)

    patch.setattr(Compiler, "function", lambda self, symbol: Noted(function(self, symbol), symbol))
    patch.setattr(Workspace, "run", run)


def note(text: str, test: str = "") -> None:
    """Keep the running test's name, and a line, where they outlive this process."""
    os.environ[TEST] = test or os.environ.get(TEST, "")
    text = f"{os.environ[TEST]}\n{text}"
    with open(os.environ[NOTE], "r+b") as file:
        file.write(text.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0"))


def is_child() -> bool:
    """Whether this process is one that `supervise` has started."""
    return NOTE in os.environ


def supervise(arguments: Sequence[str], side: str) -> int:
    """Run pytest in a child process; where a guard page ends it, say at which test and kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "note"
        status = _run(arguments, path)
        if status >= 0:
            return status
        test = path.read_bytes().partition(b"\n")[0].decode()
        print(f"\n--guard {side}: signal {-status} in {test or 'no test'}; again, call by call")
        again = _run([test, "--guard", side, "-q"], path, **{ONE_BY_ONE: "1"}) if test else 0
        what = path.read_bytes().rstrip(b"\0").partition(b"\n")[2].decode()
        outcome = what if again < 0 else "none of the kernels: a compiled loop that calls them"
        print(f"\n--guard {side}: outside of its memory in {test}: {outcome}")
        return 1


def _run(arguments: Sequence[str], path: Path, **more: str) -> int:
    path.write_bytes(b"\0" * NOTE_BYTES)
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env={**os.environ, NOTE: str(path), **more}).returncode
