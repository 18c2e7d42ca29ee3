"""Calls on another device: libraries are compiled here, and sent to a server of TVM's RPC.

Object code is sent, and linked there: no linker for the device is needed here. Times are taken
there, call by call, so none holds the way to the device and back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ..compiler import Compiler
from ..forms import Form
from ..target_rules import Knobs
from ..workload import Workload, forms_with
from .calls import Call
from .tracker import Session

ON_ALL_CORES = -3  # a mode of TVM's thread pool: its threads are bound to no core


class Libraries:
    """Object code of forms, compiled once: a name and the bytes of an archive."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._made: dict[tuple[str, ...], tuple[str, bytes]] = {}

    def prepare(self, workload: Workload, knobs: Knobs | None) -> None:
        """Compile the forms of a kernel with these knobs."""
        self.of(forms_with(self._compiler.machine, workload, knobs))

    def of(self, forms: Sequence[Form]) -> tuple[str, bytes]:
        """The archive that holds these forms."""
        symbols = tuple(sorted({form.symbol for form in forms}))
        if symbols not in self._made:
            (executable,) = self._compiler.executables(forms, 1)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"kernels{len(self._made)}.tar"
                executable.export_library(str(path))
                self._made[symbols] = path.name, path.read_bytes()
        return self._made[symbols]


class RemoteFunction:
    """A kernel on the device."""

    def __init__(self, place: Remote, library: Any, symbol: str) -> None:
        self._place, self._library, self._symbol = place, library, symbol
        self._function = library.get_function(symbol)
        self._evaluators: dict[int, Any] = {}

    def __call__(self, *arguments: Any) -> None:
        self._function(*arguments)

    def seconds(self, repeats: int, arguments: tuple[Any, ...]) -> float:
        """Of one call, the mean of so many after a first one."""
        if repeats not in self._evaluators:
            made = self._library.time_evaluator(self._symbol, self._place.device, number=repeats)
            self._evaluators[repeats] = made
        return float(self._evaluators[repeats](*arguments).mean)


class Remote:
    """A device at the other end of a session; as `calls.Place` wants one."""

    def __init__(self, session: Session, libraries: Libraries, n_threads: int) -> None:
        self._remote, self._libraries = session.remote, libraries
        self.device = self._remote.cpu()
        self._loaded: dict[str, Any] = {}
        self._remote.get_function("runtime.config_threadpool")(ON_ALL_CORES, n_threads)

    def functions(self, _compiler: Compiler, forms: Sequence[Form]) -> list[Callable[..., Any]]:
        name, archive = self._libraries.of(forms)
        if name not in self._loaded:
            self._remote.upload(bytearray(archive), name)
            self._loaded[name] = self._remote.load_module(name)
        return [RemoteFunction(self, self._loaded[name], form.symbol) for form in forms]

    def put(self, array: np.ndarray) -> Any:
        given = array if array.size else np.zeros(1, array.dtype)
        return tvm.runtime.tensor(np.ascontiguousarray(given), self.device)

    def get(self, tensor: Any) -> np.ndarray:
        found: np.ndarray = tensor.numpy()
        return found

    def seconds(self, calls: Sequence[Call], repeats: int) -> float:
        total = 0.0
        for function, arguments in calls:
            assert isinstance(function, RemoteFunction)
            total += function.seconds(repeats, arguments)
        return total
