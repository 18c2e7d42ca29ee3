"""What may be chosen for each knob of a kernel on a target: finite, and printable.

Every combination that fits the target is a candidate; `misfit` says which do not. The default is
always among them.
"""

from dataclasses import fields
from typing import Any

from tvm.target import Target

from .knobs import (
    ALWAYS,
    AMX_HEIGHT,
    MAX_VECTORS,
    MOST_BLOCK,
    NEVER,
    OUTER_ROWS,
    DirectKnobs,
    Knobs,
    OuterKnobs,
    ProductKnobs,
    RegionKnobs,
    StepKnobs,
    tallest,
)
from .target import simd, threads

Domains = dict[str, tuple[Any, ...]]  # of every knob, its default first


def domains(default: Knobs, target: Target) -> Domains:
    """The values of every knob of a kernel whose default knobs these are."""
    unit = simd(target)
    heights = tuple(dict.fromkeys(tallest(unit, v) for v in range(1, MAX_VECTORS + 1)))
    found: Domains = {}
    match default:
        case ProductKnobs():
            blocks = [default.block * 2, default.block // 2, default.block // 4]
            found = {
                "vectors": tuple(range(1, MAX_VECTORS + 1)),
                "height": heights,
                "block": tuple(blocks),
                "even": (True,),
                "ahead": (4, 8),
                "next_panel": (True,),
                "packs": (True, False),
            }
        case OuterKnobs():
            blocks = [default.block * 2, default.block // 2, default.block // 4]
            found = {
                "vectors": tuple(range(1, MAX_VECTORS + 1)),
                "height": heights,
                "block": tuple(max(OUTER_ROWS, b // OUTER_ROWS * OUTER_ROWS) for b in blocks),
                "ahead": (0, 1),
                "group": (0, 8),
            }
        case DirectKnobs():
            found = {
                "vectors": tuple(range(1, MAX_VECTORS + 1)),
                "height": heights,
                "depth": () if default.ahead else (16, 64, 128),  # of plain weights
                "ahead": (4, 16) if default.ahead else (),  # of transposed ones
            }
        case RegionKnobs():
            found = {"lanes": (2 * unit.lanes, unit.lanes // 2), "ahead": (0, 1)}
        case StepKnobs():
            fewer = (1 << i for i in range(threads(target).bit_length()))
            found = {
                "threads": tuple(n for n in fewer if n < threads(target)),
                "direct": (NEVER, ALWAYS),
            }
    if getattr(default, "height", 0) == AMX_HEIGHT:
        found |= dict.fromkeys(("vectors", "height", "ahead", "next_panel", "packs", "group"), ())
    found["split"] = (NEVER, ALWAYS) if threads(target) > 1 else ()
    return {f.name: _first(getattr(default, f.name), found[f.name]) for f in fields(default)}


def _first(default: Any, others: tuple[Any, ...]) -> tuple[Any, ...]:
    """The default, then the other values, each once."""
    return tuple(dict.fromkeys([default, *others]))


def adjusted(knobs: Knobs) -> Knobs:
    """Knobs whose block is a multiple of what a tile of their height needs, at least one tile."""
    if not isinstance(knobs, ProductKnobs):
        return knobs
    block = max(1, min(knobs.block, MOST_BLOCK) // knobs.height) * knobs.height
    values = {f.name: getattr(knobs, f.name) for f in fields(knobs)}
    return ProductKnobs(**{**values, "block": block})
