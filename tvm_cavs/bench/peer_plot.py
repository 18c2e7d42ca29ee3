"""Comparisons -> a picture: time a batch by the floor's, a panel for each width, bars by system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .compare import OURS, Comparison

COLORS = {
    OURS: "#1b6ca8",
    "manual": "#e08e36",
    "module": "#b5651d",
    "level": "#8fae5d",
    "compile": "#b7b7b7",
}


def save_comparison(path: Path, results: Sequence[Comparison]) -> bool:
    """Bars as PNG; False where matplotlib is not installed. 1 is the floor; less is not possible
    without a faster product than NumPy's.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    keys = list(dict.fromkeys((r.ours.workload, r.ours.mode, r.ours.hidden) for r in results))
    columns = min(len(keys), 3)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 0.6 + 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, key in enumerate(keys, start=1):
        axes = figure.add_subplot(rows, columns, place)
        mine = [r for r in results if (r.ours.workload, r.ours.mode, r.ours.hidden) == key]
        panel(axes, mine)
        axes.set_title("{}, {}, hidden {}".format(*key), fontsize=10)
        if place % columns == 1 % columns:
            axes.set_ylabel("time / floor")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=120)
    return True


def panel(axes: Any, results: Sequence[Comparison]) -> None:
    """Groups of bars, one a batch size, tvm_cavs first and then peers from the fastest by hand."""
    names = [n for n in COLORS if n == OURS or n in {p.system for p in results[0].peers}]
    width = 0.8 / len(names)
    top = 1.0
    for number, name in enumerate(names):
        heights = [height(result, name) for result in results]
        places = [x + (number - (len(names) - 1) / 2) * width for x in range(len(results))]
        axes.bar(places, heights, width * 0.92, color=COLORS[name], label=name)
        for x, y in zip(places, heights, strict=True):
            axes.text(x, y, f" {y:.1f}" if y else " -", rotation=90, ha="center", fontsize=7)
        top = max(top, *heights)
    axes.set_ylim(0, top * 1.18)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(results)), [f"batch {r.ours.batch}" for r in results], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def height(result: Comparison, name: str) -> float:
    """A system's time by the floor's; 0 where it could not run."""
    ours = result.ours
    floor = ours.share_of_floor * ours.ms_per_batch
    times = {peer.system: peer.ms_per_batch or 0.0 for peer in result.peers}
    return {OURS: ours.ms_per_batch, **times}[name] / floor
