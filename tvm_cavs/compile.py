"""Compile: kernels by specification -> machine code, once per target, kept on disk.

All kernels of a network go into one IRModule, are scheduled by the target's rules and compiled
together. The library is stored under a key of the kernels, the target, the versions and the sources
that make kernels; an entry that does not match its checksum is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm.support import cc

from . import packing, products, region_kernel, sums
from .bfloat16 import WORD, words
from .direct_product import Rectangle, direct_product
from .errors import TargetError
from .packing import Pack
from .products import Outer, Product
from .regions import Region
from .steps import Kernel
from .sums import ColumnSum, SegmentSum
from .target_rules import layout, require_host, require_precision, schedules, simd, threads

_pool_threads = 1
SHARE_ALL_CORES = -3  # a mode of TVM's thread pool
REGION_SECONDS = 1e-9  # rough time of one element of a region, only for the grain
# The modules that make kernels: what is kept on disk is of no use when one of them changes.
SOURCES = (
    "bfloat16 direct_product dropout elementwise integers loopnest narrow_outer narrow_product "
    "operands optim outer packing pairs plan_kernels polynomials products region_kernel "
    "region_loops region_row regions register_tile routine_kernel slice_kernels sums update_kernels"
).split()


@dataclass(frozen=True)
class Form:
    """One compiled form of a kernel: its symbol, and the row count from which it is called."""

    symbol: str
    min_rows: int
    make: Callable[[], Any]


class Compiler:
    """Makes kernels for one target and keeps them.

    Args:
        target: "host", or a TVM target or its dictionary.
        n_threads: cores that kernels may use (default: all).
        cache: folder of compiled libraries; None for the default; False to keep nothing.
        precision: "float32" or "bf16", to which the operands of products are rounded.

    Raises:
        TargetError: a target that is unknown, has no rules or no instruction for the precision.
    """

    def __init__(
        self,
        target: Any = "host",
        n_threads: int | None = None,
        cache: Any = None,
        precision: str = "float32",
    ) -> None:
        try:
            self.target = schedules.make_target(target, n_threads)
            require_precision(self.target, precision)
        except ValueError as error:
            raise TargetError(str(error)) from None
        self.lanes = simd(self.target).lanes
        self.n_threads = threads(self.target)
        self.cache = None if cache is False else Path(cache) if cache else default_cache()
        self.precision = precision
        self.unclaimed: tuple[str, ...] = ()
        self._functions: dict[str, Any] = {}

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
        tile = self._tile(k, n_columns)
        if layout.operand_precision(k, self.precision) == "bf16":
            return layout.weights_shape(words(k), n_columns, tile), WORD
        return layout.weights_shape(k, n_columns, tile), "float32"

    def _tile(self, k: int, n_columns: int) -> layout.Tile:
        """How weights of this shape are packed."""
        precision = layout.operand_precision(k, self.precision)
        return layout.product_variants(self.target, k, n_columns, precision)[0].tile

    def forms(self, kernel: Kernel, by_level: bool = True) -> list[Form]:
        """The forms in which a kernel is compiled, by ascending row count.

        A kernel that never runs level by level sees the whole batch at once: with threads, it has
        the parallel form only.
        """
        found = self._forms(kernel)
        return found if by_level else found[-1:]

    def reads_directly(self, k: int, n_columns: int) -> bool:
        """Whether there is a product of these sizes that reads weights where they lie."""
        exact = layout.operand_precision(k, self.precision) == "float32"
        return exact and not self._tile(k, n_columns).narrow

    def direct_forms(self, kernel: Kernel, weights: Rectangle, by_level: bool) -> list[Form]:
        """`forms` of a product that reads its weights in a parameter."""
        spec = kernel.spec
        assert isinstance(spec, Product)
        spec = replace(spec, cover=False)  # which it never does: with and without is one kernel
        name = _named("direct", (spec, weights))
        sizes = spec.k, spec.n_columns, weights.transposed

        def form(v: layout.Variant) -> Form:
            symbol = name + v.suffix
            return Form(symbol, v.min_rows, lambda: direct_product(spec, weights, v.tile, symbol))

        found = [form(v) for v in layout.direct_variants(self.target, *sizes)]
        return found if by_level else found[-1:]

    def _forms(self, kernel: Kernel) -> list[Form]:
        name, spec = kernel.name, kernel.spec
        if isinstance(spec, (Product, Outer)):
            variants = (
                layout.product_variants if isinstance(spec, Product) else layout.outer_variants
            )
            make: Any = products.product if isinstance(spec, Product) else products.outer
            precision = layout.operand_precision(spec.k, self.precision)
            spec = replace(spec, precision=precision)
            name = Kernel(kernel.kind, spec).name
            return [
                Form(name + v.suffix, v.min_rows, partial(make, spec, v.tile, name + v.suffix))
                for v in variants(self.target, spec.k, spec.n_columns, precision)
            ]
        if isinstance(spec, ColumnSum):
            return [Form(name, 1, lambda: sums.column_sum(spec, self.lanes, name))]
        assert isinstance(spec, Region)
        serial = Form(name, 1, lambda: region_kernel.region(spec, self.lanes, 1, name))
        if self.n_threads == 1:
            return [serial]
        grain = max(2, round(layout.GRAIN_SECONDS / (REGION_SECONDS * max(1, spec.elements))))
        wide = f"{name}_parallel"
        return [
            serial,
            Form(wide, grain, lambda: region_kernel.region(spec, self.lanes, self.n_threads, wide)),
        ]

    def pack_form(self, spec: Pack) -> Form:
        """The kernel that packs a weight operand."""
        made = replace(spec, precision=layout.operand_precision(spec.k, self.precision))
        name = _named("pack", made)
        return Form(name, 1, lambda: packing.pack(made, self._tile(spec.k, spec.n_columns), name))

    def segment_form(self, spec: SegmentSum) -> Form:
        """The kernel that sums the rows of equal words."""
        name = _named(f"segment{self.n_threads}", spec)
        return Form(name, 1, lambda: sums.segment_sum(spec, self.lanes, name, self.n_threads))

    def compile(self, forms: Sequence[Form]) -> None:
        """Make sure that these kernels exist."""
        new = {f.symbol: f for f in forms if f.symbol not in self._functions}
        if not new:
            return
        key = self._key(sorted(new))
        libraries = _load(self.cache, key, sorted(new)) if self.cache else None
        if libraries is None:
            libraries = self._build([new[symbol] for symbol in sorted(new)], key)
        for library in libraries:
            self._functions.update(
                {s: library[s] for s in new if library.implements_function(s, True)}
            )
        assert all(symbol in self._functions for symbol in new), sorted(new)

    def function(self, symbol: str) -> Any:
        """A kernel that `compile` has made."""
        return self._functions[symbol]

    def _build(self, forms: Sequence[Form], key: str) -> list[Any]:
        """Schedule and compile, several parts at once: LLVM runs outside of Python's lock.

        What has been stored is loaded, because TVM makes machine code a second time for a function
        that is taken from the module in memory.
        """
        module = tvm.IRModule({f.symbol: f.make() for f in forms})
        scheduled, unclaimed = schedules.schedule(module, self.target)
        if unclaimed:
            self.unclaimed += unclaimed
            warnings.warn(
                f"no schedule rule for {', '.join(unclaimed)}: "
                "left on TVM's default lowering, which is slow",
                stacklevel=4,
            )
        functions = list(scheduled.functions.items())
        n_parts = min(os.cpu_count() or 1, len(functions))
        parts = [dict(functions[i::n_parts]) for i in range(n_parts)]
        with ThreadPoolExecutor(n_parts) as pool:
            executables = list(pool.map(self._compile_part, parts))
            stored = self.cache and _store(executables, self.cache, key, pool)
        symbols = [f.symbol for f in forms]
        loaded = _load(self.cache, key, symbols) if self.cache and stored else None
        return loaded or [e.mod for e in executables]

    def _compile_part(self, functions: Any) -> Any:
        return tvm.compile(
            tvm.IRModule(functions), target=self.target, tir_pipeline=schedules.pipeline()
        )

    def _key(self, symbols: Sequence[str]) -> str:
        parts = [str(self.target), tvm.__version__, tvm_ffi.__version__, _sources(), *symbols]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _named(kind: str, spec: Any) -> str:
    return f"{kind}_{hashlib.sha256(repr(spec).encode()).hexdigest()[:12]}"


def threads_in_use() -> int:
    """How many threads TVM's pool has been given; 1 before that, and the pool is not made."""
    return _pool_threads


def use_threads(n: int) -> None:
    """Let TVM's pool, one per process, have as many threads as kernels are made for.

    By itself it takes half of the cores and binds each thread to one, the caller's too. Mode -3
    lets n threads share the cores that this process may run on, bound to none.
    """
    global _pool_threads
    _pool_threads = n
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    tvm.get_global_func("runtime.config_threadpool")(SHARE_ALL_CORES, n, cores)


def default_cache() -> Path:
    """$TVM_CAVS_CACHE, or tvm_cavs in the user's cache folder."""
    if os.environ.get("TVM_CAVS_CACHE"):
        return Path(os.environ["TVM_CAVS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_cavs"


def _sources() -> str:
    """Digest of the code that makes kernels."""
    here = Path(__file__).parent
    files = [here / f"{module}.py" for module in SOURCES]
    files += sorted(Path(schedules.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _load(folder: Path, key: str, symbols: Sequence[str]) -> list[Any] | None:
    """Stored libraries that have these functions; None if there are none or one is damaged."""
    note = folder / f"{key}.json"
    try:
        libraries = []
        for name, digest in json.loads(note.read_text()).items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name}: the checksum differs")
            libraries.append(tvm.runtime.load_module(str(folder / name)))
        for s in symbols:
            if not any(library.implements_function(s, True) for library in libraries):
                raise ValueError(f"{s} is in none of its libraries")
        return libraries
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError, OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled network {note} is damaged ({error}); building it again", stacklevel=5
        )
        return None


def _store(executables: Sequence[Any], folder: Path, key: str, pool: ThreadPoolExecutor) -> bool:
    """Write the libraries, then their checksums, each file whole or not at all; True if done.

    A library is named for its content: two processes that store at once do not mix theirs.
    Without a linker, or where the folder cannot be written, a warning says so and nothing is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            digests = {}
            if cc.get_cc() is None:
                raise OSError("no C compiler to link them with")
            libraries = [Path(scratch) / f"{i}.so" for i in range(len(executables))]
            list(pool.map(lambda e, to: e.export_library(str(to)), executables, libraries))
            for library in libraries:
                digest = hashlib.sha256(library.read_bytes()).hexdigest()
                name = f"{key}.{digest[:12]}.so"
                digests[name] = digest
                os.replace(library, folder / name)
            note = Path(scratch) / "note.json"
            note.write_text(json.dumps(digests))
            os.replace(note, folder / f"{key}.json")
            return True
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        warnings.warn(
            f"compiled kernels cannot be kept in {folder} ({reason}): every start compiles again. "
            "Install gcc, or set TVM_CAVS_CACHE to a folder that can be written",
            stacklevel=6,
        )
        return False
