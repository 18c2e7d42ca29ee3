"""Compile: kernels by specification -> machine code, once per target, kept on disk.

All kernels of a network go into one IRModule, are scheduled by the target's rules and compiled
together.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from ..errors import CacheError, TargetError
from ..kernel_cache import choose
from ..runtime import n_cores
from . import forms as by_rows
from .cache import load, named, source_digest, store
from .forms import Form
from .lowering.specs import DirectWeights, Pack, SegmentSum
from .lowering.steps import Kernel
from .machine import Machine
from .target_rules import (
    architecture,
    describe,
    instructions,
    part_bytes,
    require_host,
    require_precision,
    schedules,
    simd,
    threads,
)
from .tuned import FILE, Tuned, records_of
from .workers import on_all_cores


class Symbol(str):
    """Stands for a kernel that is in no process yet."""

    __slots__ = ()


class Compiler:
    """Makes kernels for one target and keeps them.

    Args:
        target: "host", or a TVM target or its dictionary.
        n_threads: cores that kernels may use (default: all).
        cache: folder of compiled libraries; None for $TVM_CAVS_CACHE or the default; False to keep
            nothing.
        precision: "float32" or "bf16", to which the operands of products are rounded.
        records: a file of measurements; None for those beside the cache and those that were
            shipped; False for none: kernels are then cut as the target's defaults say.
        symbols: compile nothing; `function` gives a symbol, and `noted` all that was asked for, to
            be made into a library for another process.

    Raises:
        TargetError: a target that is unknown, has no rules or no instruction for the precision.
        CacheError: the folder that is named is not the user's own.
    """

    def __init__(
        self,
        target: Any = "host",
        n_threads: int | None = None,
        cache: Any = None,
        precision: str = "float32",
        records: Any = None,
        symbols: bool = False,
    ) -> None:
        try:
            self.target = schedules.make_target(target, n_threads)
            require_precision(self.target, precision)
        except ValueError as error:
            raise TargetError(str(error)) from None
        lanes, n_threads = simd(self.target).lanes, threads(self.target)
        self.part_bytes = part_bytes(self.target)
        self.cache = choose(cache)
        self._keeps = self.cache is not None
        folder = None if self.cache is None else self.cache.path
        self.tuned = Tuned(self.target, records_of(folder, records))
        self.machine = Machine(self.target, lanes, n_threads, precision, self.tuned.choose)
        self.lanes, self.n_threads = lanes, n_threads
        self._functions: dict[str, Any] = {}
        self._symbols = symbols
        self.noted: dict[str, Form] = {}

    @property
    def records_file(self) -> Path:
        """Where records of measurements on this machine are kept, unless another file is named.

        Raises:
            CacheError: no kernels are kept, so there is no folder in which it is looked for.
        """
        if self.cache is None:
            raise CacheError(
                "compiled kernels are kept nowhere here, so no later run would look for records. "
                "Name a file: tune.records=PATH, and executor.records=PATH for the runs."
            )
        return self.cache.path / FILE

    @property
    def described(self) -> str:
        """One line about the target, for people."""
        return describe(self.target)

    def portrait(self) -> dict[str, Any]:
        """The target for another process: TVM's attributes, and what its CPU must have."""
        needed = sorted(instructions(self.target))
        if self.machine.precision != "bf16":  # nothing else multiplies by tiles
            needed = [name for name in needed if not name.startswith("amx")]
        return {
            "architecture": architecture(self.target),
            "instructions": needed,
            "described": self.described,
            "attributes": str(self.target),
        }

    def require_host(self) -> None:
        """What is compiled is to run here.

        Raises:
            TargetError: the target is another architecture, or has instructions that are missing.
        """
        try:
            require_host(self.target)
        except ValueError as error:
            raise TargetError(str(error)) from None

    def packed(self, k: int, n_columns: int) -> tuple[tuple[int, int, int], str]:
        """Shape and dtype of the packed weights of a product [n, k] x [k, n_columns]."""
        return self.machine.packed(k, n_columns)

    def reads_directly(self, k: int, n_columns: int) -> bool:
        """Whether there is a product of these sizes that reads weights where they lie."""
        return self.machine.reads_directly(k, n_columns)

    def forms(self, kernel: Kernel, by_level: bool = True) -> list[Form]:
        """The forms in which a kernel is compiled, by ascending row count."""
        return by_rows.forms(self.machine, kernel, by_level)

    def direct_forms(self, kernel: Kernel, weights: DirectWeights, by_level: bool) -> list[Form]:
        """`forms` of a product that reads its weights in a parameter."""
        return by_rows.direct_forms(self.machine, kernel, weights, by_level)

    def pack_form(self, spec: Pack) -> Form:
        """The kernel that packs a weight operand."""
        return by_rows.pack_form(self.machine, spec)

    def segment_form(self, spec: SegmentSum) -> Form:
        """The kernel that sums the rows of equal words."""
        return by_rows.segment_form(self.machine, spec)

    def compile(self, forms: Sequence[Form]) -> None:
        """Make sure that these kernels exist."""
        new = {f.symbol: f for f in forms if f.symbol not in self._functions}
        if self._symbols:
            self.noted |= new
            self._functions |= {symbol: Symbol(symbol) for symbol in new}
            return
        if not new:
            return
        world = self._world()
        found = load(self.cache, world, list(new)) if self.cache else {}
        missing = [form for symbol, form in sorted(new.items()) if symbol not in found]
        if missing:
            found |= self._build(missing, world)
        assert found.keys() == new.keys(), sorted(new.keys() ^ found.keys())
        self._functions |= found

    def function(self, symbol: str) -> Any:
        """A kernel that `compile` has made."""
        return self._functions[symbol]

    def executables(self, forms: Sequence[Form], n_parts: int) -> list[Any]:
        """Schedule and compile, several parts at once."""
        module = tvm.IRModule({f.symbol: f.make() for f in forms})
        scheduled, unclaimed = schedules.schedule(module, self.target)
        if unclaimed:
            warnings.warn(
                f"no schedule rule for {', '.join(unclaimed)}: "
                "left on TVM's default lowering, which is slow",
                stacklevel=5,
            )
        functions = list(scheduled.functions.items())
        n_parts = min(n_parts, len(functions))
        parts = [dict(functions[i::n_parts]) for i in range(n_parts)]
        return on_all_cores(self._compile_part, parts)

    def _build(self, forms: Sequence[Form], world: str) -> dict[str, Any]:
        """Kernels by symbol. What has been stored is loaded, because TVM makes machine code a
        second time for a function that is taken from the module in memory.
        """
        executables = self.executables(forms, n_cores())
        symbols = [f.symbol for f in forms]
        found: dict[str, Any] = {}
        if self.cache and self._keeps:
            self._keeps = store(executables, self.cache, world, symbols)
            found = load(self.cache, world, symbols) if self._keeps else {}
        return found | named([e.mod for e in executables], set(symbols) - set(found))

    def _compile_part(self, functions: Any) -> Any:
        return tvm.compile(
            tvm.IRModule(functions), target=self.target, tir_pipeline=schedules.pipeline()
        )

    def _world(self) -> str:
        """Digest of what decides about the code of a kernel, beside its symbol."""
        parts = [str(self.target), tvm.__version__, tvm_ffi.__version__, source_digest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
