"""Timeline: the recorded step of a profile -> a trace that Perfetto and chrome://tracing open.

The format is the Trace Event Format's JSON object: complete events ("ph": "X") with `ts` and `dur`
in microseconds, on two rows. One shows the parts of the step, the other its kernels inside levels.
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from .report import KernelSpan, Line, Profile

PROCESS = 1
PARTS, KERNELS = 1, 2  # the rows; the numbers are threads to the format
ROWS = {PARTS: "step", KERNELS: "kernels by level"}


def trace(profile: Profile) -> dict[str, Any]:
    """The trace as JSON data: events in the order of their start, an outer one before an inner."""
    begin = min(s.start for s in profile.spans)
    events = [
        _event(PARTS, s.name, "part", s.start - begin, s.end - begin, {}) for s in profile.spans
    ]
    events += _kernels(profile, begin)
    events.sort(key=lambda e: (e["ts"], -e["dur"]))
    return {
        "traceEvents": [*_names(), *events],
        "displayTimeUnit": "ms",
        "otherData": {"title": profile.title},
    }


def to_json(profile: Profile) -> str:
    """The text of a trace file."""
    return json.dumps(trace(profile))


def _names() -> Iterator[dict[str, Any]]:
    """What the process and its rows are called, and their order."""
    yield _metadata("process_name", 0, {"name": "tvm_cavs"})
    for row, name in ROWS.items():
        yield _metadata("thread_name", row, {"name": name})
        yield _metadata("thread_sort_index", row, {"sort_index": row})


def _metadata(what: str, row: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": PROCESS, "tid": row, "args": args}


def _event(
    row: int, name: str, category: str, start: float, end: float, args: dict[str, Any]
) -> dict[str, Any]:
    """A complete event; times in seconds since the trace began."""
    ts, stop = _microseconds(start), _microseconds(end)
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": ts,
        "dur": round(stop - ts, 3),
        "pid": PROCESS,
        "tid": row,
        "args": args,
    }


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _kernels(profile: Profile, begin: float) -> Iterator[dict[str, Any]]:
    """Every kernel, and around those of one stage and level an event of their own."""

    def where(k: KernelSpan) -> tuple[str, str, int | None]:
        line = profile.lines[k.line]
        return line.direction, line.stage, k.level

    for (direction, stage, level), found in groupby(profile.kernels, where):
        inside = list(found)
        name = f"{direction} {stage}" if level is None else f"{direction} level {level}"
        first, last = inside[0].span.start - begin, inside[-1].span.end - begin
        yield _event(KERNELS, name, "level", first, last, {"calls": len(inside)})
        for k in inside:
            line = profile.lines[k.line]
            args = _args(k, line)
            times = k.span.start - begin, k.span.end - begin
            yield _event(KERNELS, f"{line.kernel} {line.note}".rstrip(), "kernel", *times, args)


def _args(k: KernelSpan, line: Line) -> dict[str, Any]:
    """What is shown when a kernel is clicked."""
    args: dict[str, Any] = {"direction": line.direction, "stage": line.stage, "rows": k.rows}
    if k.level is not None:
        args["level"] = k.level
    if line.flop and k.span.seconds > 0:
        args["GFLOP/s"] = round(line.flop / line.rows * k.rows / k.span.seconds / 1e9, 1)
    return args
