"""Forms of a kernel: its specification -> what is compiled of it, by row count.

`FORMS` has a row for each kind of specification. A kernel that may see one row or a million is
compiled in several forms; the number of rows decides at each call which one runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .kernels.cpu.direct_product import direct_product
from .kernels.cpu.outer import outer
from .kernels.cpu.pack import pack
from .kernels.cpu.product import product
from .kernels.cpu.sums import column_sum, segment_sum
from .kernels.region.kernel import region
from .lowering.region import Region
from .lowering.specs import ColumnSum, DirectWeights, Outer, Pack, Product, SegmentSum
from .lowering.steps import Kernel
from .machine import Machine, untuned
from .target_rules import layout


@dataclass(frozen=True)
class Form:
    """One compiled form of a kernel: its symbol, and the row count from which it is called."""

    symbol: str
    min_rows: int
    make: Callable[[], Any]


def forms(machine: Machine, kernel: Kernel, by_level: bool = True) -> list[Form]:
    """The forms of a kernel, by ascending row count.

    One that never runs `by_level` sees the whole batch at once: with threads, it has the parallel
    form only.
    """
    return FORMS[type(kernel.spec)](machine, kernel.kind, kernel.spec, by_level)


def direct_forms(
    machine: Machine, kernel: Kernel, weights: DirectWeights, by_level: bool = True
) -> list[Form]:
    """The forms of a product that reads its weights in a parameter."""
    assert isinstance(kernel.spec, Product)
    # It never covers its result: with and without is one kernel.
    spec = replace(kernel.spec, cover=False)
    name = named("direct", (spec, weights))
    variants = machine.direct(spec.k, spec.n_columns, weights.transposed, by_level)
    make = partial(direct_product, spec, weights)
    return [
        Form(name + v.suffix, v.min_rows, partial(make, v.tile, name + v.suffix)) for v in variants
    ]


def pack_form(machine: Machine, spec: Pack) -> Form:
    """The kernel that packs a weight operand."""
    made = replace(spec, precision=machine.operand_precision(spec.k))
    tile = machine.tile(spec.k, spec.n_columns)
    usual = replace(machine, choose=untuned).tile(spec.k, spec.n_columns)
    other = "" if tile.columns == usual.columns else f"_{tile.columns}"
    tasks = layout.pack_tasks(machine.n_threads, spec.k, spec.n_columns, tile)
    name = named("pack", made) + other + (f"_{tasks}tasks" if tasks > 1 else "")
    return Form(name, 1, lambda: pack(made, tile, name, tasks))


def segment_form(machine: Machine, spec: SegmentSum) -> Form:
    """The kernel that sums the rows of equal words."""
    name = named(f"segment{machine.n_threads}", spec)
    return Form(name, 1, lambda: segment_sum(spec, machine.lanes, name, machine.n_threads))


def named(kind: str, spec: Any) -> str:
    """The name of a kernel: its kind and a digest of its specification."""
    return f"{kind}_{hashlib.sha256(repr(spec).encode()).hexdigest()[:12]}"


def _product(machine: Machine, kind: str, spec: Product, by_level: bool) -> list[Form]:
    variants = machine.product(spec.k, spec.n_columns, by_level)
    return _tiled(machine, kind, spec, product, variants)


def _outer(machine: Machine, kind: str, spec: Outer, by_level: bool) -> list[Form]:
    return _tiled(machine, kind, spec, outer, machine.outer(spec.k, spec.n_columns, by_level))


def _tiled(
    machine: Machine, kind: str, spec: Any, make: Callable[..., Any], variants: layout.Variants
) -> list[Form]:
    """Forms that differ in their tiles."""
    spec = replace(spec, precision=machine.operand_precision(spec.k))
    name = Kernel(kind, spec).name
    return [
        Form(name + v.suffix, v.min_rows, partial(make, spec, v.tile, name + v.suffix))
        for v in variants
    ]


def _column_sum(machine: Machine, kind: str, spec: ColumnSum, _by_level: bool) -> list[Form]:
    name = Kernel(kind, spec).name
    return [Form(name, 1, partial(column_sum, spec, machine.lanes, name))]


def _region(machine: Machine, kind: str, spec: Region, by_level: bool) -> list[Form]:
    name = Kernel(kind, spec).name

    def form(v: layout.Variant) -> Form:
        symbol = name + v.suffix
        return Form(symbol, v.min_rows, partial(region, spec, v.tile, symbol))

    return [form(v) for v in machine.region(name, spec.elements, by_level)]


FORMS: Mapping[type, Callable[[Machine, str, Any, bool], list[Form]]] = {
    Product: _product,
    Outer: _outer,
    ColumnSum: _column_sum,
    Region: _region,
}
