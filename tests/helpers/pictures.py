"""A figure of matplotlib in words: what a program chooses of it, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.colors import to_hex


def described(figure: Any, **saved: Any) -> str:
    """Lines about a figure; saved: how it was written to a file."""
    return "\n".join(_figure(figure, saved)) + "\n"


def _figure(figure: Any, saved: dict[str, Any]) -> Iterator[str]:
    engine = type(figure.get_layout_engine()).__name__
    yield f"figure {_numbers(figure.get_size_inches())} {engine}, saved {saved}"
    for axes in figure.axes:
        rows, columns, place, _ = axes.get_subplotspec().get_geometry()
        with_others = len(axes.get_shared_y_axes().get_siblings(axes)) - 1
        yield f"axes {rows}x{columns} at {place}, y shared with {with_others}"
        yield from (f"  {line}" for line in _axes(axes))
    for legend in figure.legends:
        texts = [(t.get_text(), t.get_fontsize()) for t in legend.get_texts()]
        yield f"legend {texts}, {legend._ncols} columns, frame {legend.get_frame_on()}"


def _axes(axes: Any) -> Iterator[str]:
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        yield f"{text.get_text()!r} {text.get_fontsize()}"
    for axis in (axes.xaxis, axes.yaxis):
        ticks = [tick.get_text() for tick in axis.get_ticklabels()]
        line = axis.get_gridlines()[0]
        grid = line.get_alpha() if line.get_visible() else "none"
        size = axis.get_ticklabels()[0].get_fontsize()
        minor = len(axis.get_minorticklocs())
        yield f"{axis.get_scale()}, {ticks} {size}, {minor} minor, grid {grid}"
    yield f"y {_numbers(axes.get_ylim())}, " + ", ".join(
        name for name, spine in axes.spines.items() if spine.get_visible()
    )
    for line in axes.get_lines():
        look = line.get_marker(), line.get_linestyle(), line.get_linewidth(), line.get_zorder()
        points = [_numbers(xy) for xy in line.get_xydata()]
        name = line.get_label()
        name = "" if name.startswith("_") else name  # in no legend
        yield f"line {name!r} {to_hex(line.get_color())} {look} {points}"
    for bar in axes.patches:
        yield f"bar {_numbers(bar.get_bbox().extents)} {to_hex(bar.get_facecolor())}"
    for marks in axes.collections:
        ends = [_numbers(segment.ravel()) for segment in marks.get_segments()]
        yield f"marks {marks.get_label()!r} {_numbers(marks.get_linewidth())} {ends}"
    for text in axes.texts:
        yield f"text {text.get_text()!r} {text.get_fontsize()}"


def _numbers(values: Any) -> str:
    return "(" + " ".join(f"{float(value):.4g}" for value in values) + ")"
