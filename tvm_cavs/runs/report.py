"""An outcome and a run's events -> what is printed at the end: a table and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .curve import draw, save_picture
from .runlog import read_events


def metrics_table(metrics: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One row a split, one column a metric."""
    names = list(next(iter(metrics.values())))
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for split, values in metrics.items():
        table.add_row(split, *(_text(name, values[name]) for name in names))
    return table


def _text(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.5g}"


def print_curves(console: Console, folder: Path, metric: str) -> None:
    """Training loss over steps and a dev metric over epochs; also as curve.png where possible."""
    events = read_events(folder)
    steps = [event for event in events if event["event"] == "step"]
    epochs = [event for event in events if event["event"] == "epoch"]
    plain = not _can_show_blocks(console)
    width = max(20, min(60, console.width - 12))
    epochs = [event for event in epochs if event["train_loss"] is not None]
    measured = [event for event in epochs if event["dev"].get(metric) is not None]
    losses = [e["train_loss"] for e in steps or epochs if e["train_loss"] is not None]
    log = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
    title = "training loss over steps" + (" (logarithmic)" if log else "")
    if len(losses) > 1:
        say(console, f"\n{title}\n{draw(losses, width, plain=plain, log=log)}")
    if len(measured) > 1:
        values = [event["dev"][metric] for event in measured]
        say(console, f"\ndev {metric} over epochs\n{draw(values, width, plain=plain)}")
    try:
        saved = save_picture(folder / "curve.png", *_series(epochs, measured, metric))
    except (OSError, RuntimeError) as error:  # the run itself is done, and kept
        why = (error.strerror if isinstance(error, OSError) else None) or error
        say(console, f"\nno learning curve: {folder / 'curve.png'}: {why}")
        return
    if saved:
        say(console, f"\nlearning curve: {folder / 'curve.png'}")


def _series(
    epochs: list[dict[str, Any]], measured: list[dict[str, Any]], metric: str
) -> tuple[list[float], dict[str, list[float]]]:
    rows = measured or epochs
    series = {"training loss": [row["train_loss"] for row in rows]}
    if measured:
        series[f"dev {metric}"] = [row["dev"][metric] for row in rows]
    return [row["epoch"] for row in rows], series


def _can_show_blocks(console: Console) -> bool:
    try:
        "▁█".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(console: Console, text: str) -> None:
    """One line as it is: neither coloured nor folded, so that it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
