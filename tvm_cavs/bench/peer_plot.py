"""Comparisons -> a picture: each system's time by that of tvm_cavs, a panel for every width."""

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
FLOOR = "floor (products alone)"


def save_comparison(path: Path, results: Sequence[Comparison]) -> bool:
    """Bars as PNG, 1 is tvm_cavs; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    keys = list(dict.fromkeys((r.ours.workload, r.ours.mode, r.ours.hidden) for r in results))
    columns = min(len(keys), 2)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(1.0 + 5.2 * columns, 0.7 + 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, key in enumerate(keys, start=1):
        axes = figure.add_subplot(rows, columns, place)
        panel(axes, [r for r in results if (r.ours.workload, r.ours.mode, r.ours.hidden) == key])
        axes.set_title("{}, {}, hidden {}".format(*key), fontsize=10)
        if place % columns == 1 % columns:
            axes.set_ylabel("time / time of tvm_cavs", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
    )
    figure.savefig(path, format="png", dpi=120)
    return True


def panel(axes: Any, results: Sequence[Comparison]) -> None:
    """Groups of bars, one a batch size; a black mark across the first bar is the floor."""
    ratios = [{OURS: 1.0, **{p.system: p.ratio or 0.0 for p in result.peers}} for result in results]
    names = [name for name in COLORS if name in ratios[0]]
    width = 0.84 / len(names)
    first = [x - (len(names) - 1) / 2 * width for x in range(len(results))]
    for number, name in enumerate(names):
        places = [x + number * width for x in first]
        heights = [ratio[name] for ratio in ratios]
        bars = axes.bar(places, heights, width * 0.94, color=COLORS[name], label=name)
        texts = [f"{y:.2f}" if y else "-" for y in heights]
        if name != OURS:
            axes.bar_label(bars, texts, padding=1, fontsize=7)
    shares = [result.ours.share_of_floor for result in results]
    ends = [x + width / 2 for x in first]
    axes.hlines(shares, [x - width for x in ends], ends, "black", linewidth=1.5, label=FLOOR)
    axes.axhline(1.0, color=COLORS[OURS], linewidth=0.8, linestyle="--", zorder=0)
    axes.set_ylim(0, 1.12 * max(max(ratio.values()) for ratio in ratios))
    axes.set_xticks(range(len(results)), [f"batch {r.ours.batch}" for r in results], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
