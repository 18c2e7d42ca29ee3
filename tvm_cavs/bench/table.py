"""Results -> the table that is printed: one row a case."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from .measure import Result

COLUMNS = {
    "mode": "mode",
    "hidden": "hidden",
    "batch": "batch",
    "ms_per_batch": "ms",
    "plan_ms": "plan",
    "samples_per_s": "samples/s",
    "product_gflop": "GFLOP",
    "share_of_floor": "floor",
    "share_in_pairs": "pairs",
}


def table(results: Sequence[Result]) -> Table:
    """One row a case; times in milliseconds a batch."""
    first = results[0]
    threads = f"{first.threads} thread(s)" + " + 1 planning ahead" * first.overlap
    title = f"{first.workload}, {first.precision}, {threads}, {first.clock} time"
    caption = (
        "ms, of it planning, and GFLOP of a batch; floor: the share of its products at "
        f"{results[-1].sgemm_gflop_per_s:.0f} GFLOP/s, NumPy's best; pairs: at NumPy's speed "
        "before each round"
    )
    made = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE,
    )
    for heading in COLUMNS.values():
        made.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        row = result.row()
        made.add_row(*(short(row[name]) for name in COLUMNS))
    return made


def short(value: object) -> str:
    """Three digits are what a measurement is worth; None is not a part of it."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 5)}f}"
