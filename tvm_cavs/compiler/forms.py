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

from .kernels.cpu.bfloat16 import WORD, words
from .kernels.cpu.direct_product import direct_product
from .kernels.cpu.outer import outer
from .kernels.cpu.pack import pack
from .kernels.cpu.product import product
from .kernels.cpu.sums import column_sum, segment_sum
from .kernels.region.kernel import region
from .lowering.region import Region
from .lowering.specs import ColumnSum, DirectWeights, Outer, Pack, Product, SegmentSum
from .lowering.steps import Kernel
from .target_rules import layout

REGION_SECONDS = 1e-9  # rough time of one element of a region, only for the grain


@dataclass(frozen=True)
class Form:
    """One compiled form of a kernel: its symbol, and the row count from which it is called."""

    symbol: str
    min_rows: int
    make: Callable[[], Any]


@dataclass(frozen=True)
class Machine:
    """What forms depend on besides a kernel's specification.

    lanes: float32 in a vector. n_threads: cores that kernels may use. precision: to which the
    operands of products are rounded, "float32" or "bf16".
    """

    target: Any
    lanes: int
    n_threads: int
    precision: str

    def operand_precision(self, k: int) -> str:
        """The precision of a product over k: "bf16" only where it gains."""
        return layout.operand_precision(k, self.precision)

    def tile(self, k: int, n_columns: int) -> layout.Tile:
        """How weights of this shape are packed."""
        precision = self.operand_precision(k)
        return layout.product_variants(self.target, k, n_columns, precision)[0].tile

    def packed(self, k: int, n_columns: int) -> tuple[tuple[int, int, int], str]:
        """Shape and dtype of the packed weights of a product [n, k] x [k, n_columns]."""
        tile = self.tile(k, n_columns)
        if self.operand_precision(k) == "bf16":
            return layout.weights_shape(words(k), n_columns, tile), WORD
        return layout.weights_shape(k, n_columns, tile), "float32"

    def reads_directly(self, k: int, n_columns: int) -> bool:
        """Whether there is a product of these sizes that reads weights where they lie."""
        return self.operand_precision(k) == "float32" and not self.tile(k, n_columns).narrow


def forms(machine: Machine, kernel: Kernel) -> list[Form]:
    """The forms of a kernel, by ascending row count."""
    return FORMS[type(kernel.spec)](machine, kernel.kind, kernel.spec)


def direct_forms(machine: Machine, kernel: Kernel, weights: DirectWeights) -> list[Form]:
    """The forms of a product that reads its weights in a parameter."""
    assert isinstance(kernel.spec, Product)
    # It never covers its result: with and without is one kernel.
    spec = replace(kernel.spec, cover=False)
    name = named("direct", (spec, weights))
    variants = layout.direct_variants(machine.target, spec.k, spec.n_columns, weights.transposed)
    make = partial(direct_product, spec, weights)
    return [
        Form(name + v.suffix, v.min_rows, partial(make, v.tile, name + v.suffix)) for v in variants
    ]


def pack_form(machine: Machine, spec: Pack) -> Form:
    """The kernel that packs a weight operand."""
    made = replace(spec, precision=machine.operand_precision(spec.k))
    name = named("pack", made)
    return Form(name, 1, lambda: pack(made, machine.tile(spec.k, spec.n_columns), name))


def segment_form(machine: Machine, spec: SegmentSum) -> Form:
    """The kernel that sums the rows of equal words."""
    name = named(f"segment{machine.n_threads}", spec)
    return Form(name, 1, lambda: segment_sum(spec, machine.lanes, name, machine.n_threads))


def named(kind: str, spec: Any) -> str:
    """The name of a kernel: its kind and a digest of its specification."""
    return f"{kind}_{hashlib.sha256(repr(spec).encode()).hexdigest()[:12]}"


def _tiled(variants: Callable[..., Any], make: Callable[..., Any]) -> Callable[..., list[Form]]:
    """Forms that differ in their tiles, for products and weight gradients."""

    def forms(machine: Machine, kind: str, spec: Any) -> list[Form]:
        precision = machine.operand_precision(spec.k)
        spec = replace(spec, precision=precision)
        name = Kernel(kind, spec).name
        return [
            Form(name + v.suffix, v.min_rows, partial(make, spec, v.tile, name + v.suffix))
            for v in variants(machine.target, spec.k, spec.n_columns, precision)
        ]

    return forms


def _column_sum(machine: Machine, kind: str, spec: ColumnSum) -> list[Form]:
    name = Kernel(kind, spec).name
    return [Form(name, 1, partial(column_sum, spec, machine.lanes, name))]


def _region(machine: Machine, kind: str, spec: Region) -> list[Form]:
    name, n_threads = Kernel(kind, spec).name, machine.n_threads
    serial = Form(name, 1, partial(region, spec, machine.lanes, 1, name))
    if n_threads == 1:
        return [serial]
    grain = max(2, round(layout.GRAIN_SECONDS / (REGION_SECONDS * max(1, spec.elements))))
    wide = f"{name}_parallel"
    return [
        serial,
        Form(wide, grain, partial(region, spec, machine.lanes, n_threads, wide)),
    ]


FORMS: Mapping[type, Callable[[Machine, str, Any], list[Form]]] = {
    Product: _tiled(layout.product_variants, product),
    Outer: _tiled(layout.outer_variants, outer),
    ColumnSum: _column_sum,
    Region: _region,
}
