"""Names of what benchmarks can be told, without what runs them: that brings TVM along."""

from __future__ import annotations

from typing import Any

from ..transform import SWITCHES

WORKLOADS = ("treelstm", "treefc", "varlstm", "lm", "sst", "listops", "chain")  # bench.WORKLOADS
CLOCKS = ("wall", "cpu")  # keys of bench.CLOCKS

FULL, OVERLAP = "full", "overlap"
SETTINGS: dict[str, dict[str, Any]] = {
    FULL: {},
    **{name: {"without": (name,)} for name in SWITCHES},
    "sharing": {"sharing": False},
    OVERLAP: {},
}

"""What a network is hybridized with to leave an optimisation out; OVERLAP is how it is run."""

OFF = tuple(name for name in SETTINGS if name != FULL)


def measurable(clock: str) -> tuple[str, ...]:
    """Those of OFF that a clock can tell; in CPU time not OVERLAP, which saves waiting, no work."""
    return tuple(name for name in OFF if name != OVERLAP or clock == "wall")
