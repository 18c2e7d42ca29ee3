"""Ablations -> a picture: what each optimisation is worth over batch sizes, a panel per width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .ablate import Ablation

NAMES = {
    "kinds": "kinds of vertices",
    "joined": "joined products",
    "lazy": "lazy batching",
    "fusion": "fused elementwise",
    "gather": "gather in packing",
    "direct": "unpacked weights",
    "sharing": "equal vertices once",
    "overlap": "planning ahead",
}


def save_ablations(path: Path, results: Sequence[Ablation]) -> bool:
    """Ratio of times (without / with) as PNG; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = sorted({(r.case.mode, r.case.hidden) for r in results}, reverse=True)
    panels.sort(key=lambda panel: panel[1])
    figure = Figure(figsize=(max(6.2, 3.6 * len(panels)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    shared = None
    for place, (mode, hidden) in enumerate(panels, start=1):
        axes = shared = figure.add_subplot(1, len(panels), place, sharey=shared)
        mine = [r for r in results if (r.case.mode, r.case.hidden) == (mode, hidden)]
        mine.sort(key=lambda r: r.case.batch)
        batches = [r.case.batch for r in mine]
        for name in mine[0].ratios:
            axes.plot(batches, [r.ratios[name] for r in mine], marker=".", label=NAMES[name])
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(batches, [str(b) for b in batches])
        axes.minorticks_off()
        axes.set_xlabel("batch")
        axes.set_title(f"{mine[0].workload}, {mode}, hidden {hidden}")
        axes.grid(alpha=0.3)
        if place == 1:
            axes.set_ylabel("time without / time with")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, format="png", dpi=120)
    return True
