"""What kernels depend on besides their specifications: the target, and what was chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .kernels.cpu.bfloat16 import WORD, words
from .target_rules import (
    UNTUNED,
    Bucket,
    Chosen,
    StepKnobs,
    direct_key,
    direct_knobs,
    layout,
    outer_key,
    outer_knobs,
    product_key,
    product_knobs,
    region_knobs,
    step_knobs,
)

REGION_SECONDS = 1e-9  # rough time of one element of a region, only for the grain
Choose = Callable[[str, Callable[..., Any]], Chosen]


def untuned(_key: str, _default: Callable[..., Any]) -> Chosen:
    """The choice where nothing has been measured."""
    return UNTUNED


@dataclass(frozen=True)
class Machine:
    """What forms depend on besides a kernel's specification.

    lanes: float32 in a vector. n_threads: cores that kernels may use. precision: to which the
    operands of products are rounded, "float32" or "bf16". choose: what measuring has chosen for
    a kernel, by its key and its default knobs.
    """

    target: Any
    lanes: int
    n_threads: int
    precision: str
    choose: Choose = untuned

    def operand_precision(self, k: int) -> str:
        """The precision of a product over k: "bf16" only where it gains."""
        return layout.operand_precision(k, self.precision)

    def tile(self, k: int, n_columns: int) -> layout.Tile:
        """How weights of this shape are packed."""
        return self.product(k, n_columns)[0].tile

    def product(self, k: int, n_columns: int, by_level: bool = True) -> layout.Variants:
        """Variants of a product with packed weights."""
        given = k, n_columns, self.operand_precision(k)
        default = partial(product_knobs, self.target, *given)
        chosen = self.choose(product_key(*given), default)
        return layout.product_variants(self.target, *given, chosen, by_level)

    def outer(self, k: int, n_columns: int, by_level: bool = True) -> layout.Variants:
        """Variants of a weight gradient."""
        given = k, n_columns, self.operand_precision(k)
        default = partial(outer_knobs, self.target, *given)
        chosen = self.choose(outer_key(*given), default)
        return layout.outer_variants(self.target, *given, chosen, by_level)

    def direct(self, k: int, n_columns: int, transposed: bool, by_level: bool) -> layout.Variants:
        """Variants of a product that reads its weights where they lie."""
        default = partial(direct_knobs, self.target, n_columns, transposed)
        chosen = self.choose(direct_key(k, n_columns, transposed), default)
        return layout.direct_variants(
            self.target, k, n_columns, transposed, chosen=chosen, by_level=by_level
        )

    def region(self, name: str, elements: int, by_level: bool = True) -> layout.Variants:
        """Variants of the region `name`, which computes so many elements a row."""
        chosen = self.choose(name, partial(region_knobs, self.target))
        seconds = REGION_SECONDS * max(1, elements)
        return layout.region_variants(self.target, seconds, chosen, by_level)

    def step(self, key: str) -> Mapping[Bucket, StepKnobs]:
        """What was measured of a network's whole steps, by the rows that they run."""
        chosen = self.choose(key, partial(step_knobs, self.target))
        return dict(chosen.by_rows)

    def packed(self, k: int, n_columns: int) -> tuple[tuple[int, int, int], str]:
        """Shape and dtype of the packed weights of a product [n, k] x [k, n_columns]."""
        tile = self.tile(k, n_columns)
        if self.operand_precision(k) == "bf16":
            return layout.weights_shape(words(k), n_columns, tile), WORD
        return layout.weights_shape(k, n_columns, tile), "float32"

    def reads_directly(self, k: int, n_columns: int) -> bool:
        """Whether there is a product of these sizes that reads weights where they lie."""
        return self.operand_precision(k) == "float32" and not self.tile(k, n_columns).narrow
