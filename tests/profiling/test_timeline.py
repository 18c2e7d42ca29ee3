"""A timeline is a well-formed trace: typed, sorted, nested, named."""

import json
from dataclasses import replace

import pytest

from tvm_cavs.graph.kind import Kind
from tvm_cavs.profiling.occupancy import Level
from tvm_cavs.profiling.report import KernelSpan, Line, Profile
from tvm_cavs.profiling.tape import Span, Tape
from tvm_cavs.profiling.timeline import KERNELS, PARTS, to_json, trace

START = 1000.0
US = 1e-6


def span(name: str, first: float, last: float) -> Span:
    """Times in microseconds since the step began."""
    return Span(name, START + first * US, START + last * US)


def kernel(line: int, level: int | None, rows: int, first: float, last: float) -> KernelSpan:
    return KernelSpan(span("kernel", first, last), line, level, rows)


PROFILE = Profile(
    title="a training step: 2 graphs",
    lines=(
        Line("forward", "eager", "region", "of 3 lines", 1, 9, 2e-6, 0),
        Line("forward", "recurrent", "product", "4 x 8", 2, 6, 5e-6, 6 * 2 * 4 * 8),
        Line("backward", "recurrent", "product", "8 x 4", 1, 4, 5e-6, 4 * 2 * 4 * 8),
    ),
    phases={"planning": 10 * US},
    step_seconds=100 * US,
    levels=(Level(0, 9, 2, 0, (Kind((), ()),)),),
    memory={"state.h": 64},
    spans=(
        span("planning", 2, 12),
        span("forward pass", 2, 40),
        span("backward pass", 45, 80),
        span("step", 0, 90),
    ),
    kernels=(
        kernel(0, None, 9, 13, 15),
        kernel(1, 1, 4, 16, 20),
        kernel(1, 2, 2, 21.0004, 24.0006),
        kernel(2, 2, 4, 50, 55),
    ),
)


def complete(data: dict) -> list[dict]:  # type: ignore[type-arg]
    return [e for e in data["traceEvents"] if e["ph"] == "X"]


def assert_well_formed(data: dict) -> None:  # type: ignore[type-arg]
    """What viewers need: types, times from zero on, order of start, proper nesting in each row."""
    assert {e["ph"] for e in data["traceEvents"]} == {"M", "X"}
    last, open_ends = 0.0, dict[int, list[float]]()
    for e in complete(data):
        assert isinstance(e["name"], str) and e["name"] and isinstance(e["args"], dict)
        assert all(isinstance(e[key], float) for key in ("ts", "dur"))
        assert all(isinstance(e[key], int) for key in ("pid", "tid"))
        assert e["ts"] >= last and e["dur"] >= 0
        last, ends = e["ts"], open_ends.setdefault(e["tid"], [])
        while ends and ends[-1] <= e["ts"] + 1e-4:
            ends.pop()
        assert not ends or e["ts"] + e["dur"] <= ends[-1] + 1e-4, e
        ends.append(e["ts"] + e["dur"])


def test_events_are_sorted_and_nested() -> None:
    data = json.loads(to_json(PROFILE))
    assert_well_formed(data)
    rows = [(e["tid"], e["name"], e["ts"], e["dur"]) for e in complete(data)]
    assert rows[:4] == [
        (PARTS, "step", 0.0, 90.0),
        (PARTS, "forward pass", 2.0, 38.0),
        (PARTS, "planning", 2.0, 10.0),
        (KERNELS, "forward eager", 13.0, 2.0),
    ]
    assert (KERNELS, "product 4 x 8", 21.0, 3.001) in rows, "to a nanosecond"
    names = [name for row, name, _, _ in rows if row == KERNELS]
    assert names == [
        *("forward eager", "region of 3 lines"),
        *("forward level 1", "product 4 x 8", "forward level 2", "product 4 x 8"),
        *("backward level 2", "product 8 x 4"),
    ]


def test_the_checker_finds_an_overlap() -> None:
    data = trace(PROFILE)
    complete(data)[1]["dur"] = 89.0
    with pytest.raises(AssertionError, match="forward pass"):
        assert_well_formed(data)


def test_rows_and_process_have_names() -> None:
    found = trace(PROFILE)
    assert found["displayTimeUnit"] == "ms"
    named = [e for e in found["traceEvents"] if e["ph"] == "M"]
    assert [(e["name"], e["tid"], e["args"]) for e in named] == [
        ("process_name", 0, {"name": "tvm_cavs"}),
        ("thread_name", PARTS, {"name": "step"}),
        ("thread_sort_index", PARTS, {"sort_index": PARTS}),
        ("thread_name", KERNELS, {"name": "kernels by level"}),
        ("thread_sort_index", KERNELS, {"sort_index": KERNELS}),
    ]


def test_a_kernel_says_what_it_did() -> None:
    kernels = [e for e in complete(trace(PROFILE)) if e["cat"] == "kernel"]
    assert kernels[0]["args"] == {"direction": "forward", "stage": "eager", "rows": 9}
    second = {"direction": "forward", "stage": "recurrent", "rows": 4, "level": 1}
    assert kernels[1]["args"] == second | {"GFLOP/s": round(4 * 2 * 4 * 8 / 4e-6 / 1e9, 1)}
    lowest = replace(PROFILE, kernels=(kernel(1, 0, 4, 16, 20),))
    level, only = [e for e in complete(trace(lowest)) if e["tid"] == KERNELS]
    assert level["name"] == "forward level 0" and only["args"]["level"] == 0


def test_a_tape_remembers_what_ran() -> None:
    tape = Tape()

    def work(n: int, more: int = 0) -> int:
        return n + more

    timed = tape.timed("work", work)
    others = [tape.timed(name, work) for name in ("work again", "wor", "Work", "")]
    assert timed(1, more=2) == 3 and timed(2) == 2
    assert [other(3) for other in others] == [3] * 4
    assert tape.named("work") == tape.spans[:2] and tape.named("rest") == []
    assert tape.seconds("work") == sum(s.end - s.start for s in tape.spans[:2]) > 0
