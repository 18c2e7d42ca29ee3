"""Numbers over epochs -> a learning curve: as text, always, and as a picture where matplotlib is.

The text uses block characters where the terminal can show them, and `#` where it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

BLOCKS = " ▁▂▃▄▅▆▇█"


def draw(
    values: Sequence[float],
    width: int = 60,
    height: int = 6,
    plain: bool = False,
    log: bool = False,
) -> str:
    """A column chart whose rows are marked with the largest and the smallest value.

    Args:
        width: columns at most, marks not counted; long series are averaged, short ones widened.
        plain: use ASCII characters only.
        log: a logarithmic scale; all values are above 0.
    """
    columns = _fit(values, width)
    low, high = min(columns), max(columns)
    steps = len(BLOCKS) - 1
    heights = [math.log(c) for c in columns] if log else columns
    bottom, span = min(heights), (max(heights) - min(heights)) or 1.0
    filled = [1 + round((h - bottom) / span * (height * steps - 1)) for h in heights]
    marks = f"{high:.4g}", f"{low:.4g}"
    margin = max(8, *map(len, marks))
    lines = []
    for row in reversed(range(height)):
        cells = [min(max(f - row * steps, 0), steps) for f in filled]
        text = "".join(("#" if cell else " ") if plain else BLOCKS[cell] for cell in cells)
        mark = marks[0] if row == height - 1 else marks[1] if row == 0 else ""
        lines.append(f"{mark:>{margin}} | {text}".rstrip())
    return "\n".join(lines)


def _fit(values: Sequence[float], width: int) -> list[float]:
    """`values` as at most `width` columns of equal weight."""
    n = len(values)
    if n <= width:
        repeat = min(max(1, width // n), 8)
        return [value for value in values for _ in range(repeat)]
    edges = [n * column // width for column in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]


def save_picture(
    path: Path, epochs: Sequence[float], series: Mapping[str, Sequence[float]]
) -> bool:
    """One panel a series over epochs, as PNG; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(4.5 * len(series), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, values) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(1, len(series), place)
        axes.plot(epochs, values, marker=".")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True
