"""Settings of the executor that tuning leaves to the user -> how a step's time changes with them.

Records change no result beyond the last bits, so they are applied by themselves. Rounding operands
does; and whether equal vertices are computed once also decides how much memory a run takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from ..errors import TargetError, TraceError
from ..runs import say

SECONDS = 6.0  # for each, about
FASTER = 0.98  # a step's time by that before, up to which it is called faster
NOTES = {
    ("sharing", True): "equal subgraphs are always computed once",
    ("sharing", False): "equal subgraphs are never looked for",
    ("precision", "bf16"): "operands of products are rounded, so train with both and compare",
}


def open_settings(tuning: Any) -> Iterator[tuple[str, Any]]:
    """Those that the config leaves open, with values that would change how its batches run."""
    given, steps = tuning.config.executor, tuning.before
    if given.sharing is None:
        shares = [steps.net.shared(graph, steps.loss)[1] is not None for graph in steps.batches]
        yield from (("sharing", value) for value in (True, False) if shares.count(value) == 0)
    if given.precision is None:
        yield "precision", "bf16"


def compare_settings(tuning: Any, after: Any, console: Console, stop: Any) -> None:
    """Say how long a step takes with each, in pairs with `after`, steps with all that was found.

    What the network (dropout, where equal vertices differ) or the CPU cannot do is left out.
    """
    for name, value in open_settings(tuning):
        if stop.requested():
            return
        try:
            steps = tuning.after(**{name: value})
        except (TraceError, TargetError):
            continue
        pair = tuning.tools.pair(after, steps, stop.requested, SECONDS)
        faster = "faster: " if pair.ratio <= FASTER and pair.high < 1 else ""
        said = f"{value}".lower()
        say(
            console,
            f"{faster}executor.{name}={said} takes {pair.ratio:.3f} of that time "
            f"({pair.low:.3f} to {pair.high:.3f}); {NOTES[name, value]}",
        )
