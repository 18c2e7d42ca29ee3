"""The texts of a profile whose every time is known, to the letter."""

from dataclasses import replace

import pytest

from tvm_cavs.graph.kind import Kind
from tvm_cavs.profiling import profiler
from tvm_cavs.profiling.occupancy import Level, runs, table
from tvm_cavs.profiling.profiler import KernelCall, Recording
from tvm_cavs.profiling.report import KernelSpan, Line, Profile
from tvm_cavs.profiling.tape import Span, Tape
from tvm_cavs.profiling.timeline import trace

MS = 1e-3
LEAF, INNER = Kind((), ("word",)), Kind((0, 1), ())
LINES = (
    Line("forward", "eager", "region", "of 3 lines", 1, 90, 1 * MS, 0),
    Line("forward", "recurrent", "product", "4 x 8", 20, 600, 8 * MS, 600 * 640000),
    Line("backward", "recurrent", "product", "8 x 4", 5, 40, 2 * MS, 40 * 640000),
    Line("backward", "lazy", "outer", "8 x 4", 1, 40, 4 * MS, 40 * 640000),
    Line("backward", "lazy", "column_sum", "", 2, 40, 0.5 * MS, 0),
)
FOUND = Profile(
    title="a training step: 3 graphs, 3 levels, vertices: 90",
    lines=LINES,
    phases={"planning": 3 * MS, "update": 0.5 * MS},
    step_seconds=20 * MS,
    levels=(
        Level(0, 60, 3, 0, (LEAF,)),
        Level(1, 20, 3, 2, (INNER, Kind((0,), ("word",)))),
        Level(2, 10, 2, 1, (INNER,)),
    ),
    memory={f"state.{k}": size for k, size in enumerate((500, 7e6, 1e6, 3e6, 2e6, 4e6))},
    spans=(Span("step", 10.0, 10.02), Span("planning", 10.001, 10.004)),
    kernels=(
        KernelSpan(Span("kernel", 10.004, 10.005), 0, None, 90),
        KernelSpan(Span("kernel", 10.006, 10.007), 1, 1, 20),
        KernelSpan(Span("kernel", 10.007, 10.009), 1, 1, 10),
        KernelSpan(Span("kernel", 10.010, 10.010), 2, 1, 10),
    ),
    gflop_per_s=100.0,
)
SUMMARY = """\
a training step: 3 graphs, 3 levels, vertices: 90
       ms  share  calls  GFLOP/s  part of the step
   10.000  50.0%     25     41.0  products, which gather their rows
    4.000  20.0%      1      6.4  weight gradients
    3.000  15.0%                  planning
    1.000   5.0%      1           elementwise
    0.500   2.5%      2           sums over vertices
    0.500   2.5%                  update
    1.000   5.0%                  rest: Python between the above
   20.000 100.0%                  the step, timed as a whole
           21.8% of the floor: 0.4352 GFLOP of products at 100 GFLOP/s"""
REST = """
       ms  share  calls  GFLOP/s   rows  kernel
    8.000  40.0%     20     48.0    600  forward recurrent product 4 x 8
    4.000  20.0%      1      6.4     40  backward lazy outer 8 x 4
    2.000  10.0%      5     12.8     40  backward recurrent product 8 x 4
    1.000   5.0%      1              90  forward eager region of 3 lines
    0.500   2.5%      2              40  backward lazy column_sum

    level    vertices calls of graphs  each  why not more together
        0          60     -         3    20  no child to wait for: at once
        1          20     2         3  6.67  children, word differ
        2          10     1         2     5  others are lower

buffers: 17.0 MB; the largest:
      7.0 MB  state.1
      4.0 MB  state.5
      3.0 MB  state.3
      2.0 MB  state.4
      1.0 MB  state.2"""


def test_the_text_of_a_profile() -> None:
    assert FOUND.summary() == SUMMARY
    assert str(FOUND) == SUMMARY + "\n" + REST
    assert (FOUND.seconds, FOUND.gflop) == (pytest.approx(19 * MS), 0.4352)
    without = replace(FOUND, gflop_per_s=None).summary().splitlines()
    assert without == SUMMARY.splitlines()[:-1]
    some = replace(FOUND, lines=LINES[1:2], phases={}).summary().splitlines()
    assert [line[34:].strip() for line in some[2:-2]] == [
        "products, which gather their rows",
        "rest: Python between the above",
    ]


def test_long_names_are_cut_so_that_lines_fit_a_terminal() -> None:
    long = "x" * 99
    kinds = Kind((0,), (long,)), Kind((0,), ())
    found = replace(
        FOUND,
        lines=(replace(LINES[0], note=long),),
        phases={long: MS},
        levels=(Level(0, 9, 3, 0, (LEAF,)), Level(1, 8, 3, 2, kinds)),
        memory={long: 1},
    )
    wide = [line for line in str(found).splitlines() if "xx" in line]
    assert [len(line) for line in wide] == [80] * 4  # a phase, a kernel, a level, a buffer


def test_the_trace_of_a_profile() -> None:
    events = [e for e in trace(FOUND)["traceEvents"] if e["ph"] == "X"]
    told = [(e["name"], e["cat"], e["tid"], e["ts"], e["dur"]) for e in events]
    assert told == [
        ("step", "part", 1, 0.0, 20000.0),
        ("planning", "part", 1, 1000.0, 3000.0),
        ("forward eager", "level", 2, 4000.0, 1000.0),
        ("region of 3 lines", "kernel", 2, 4000.0, 1000.0),
        ("forward level 1", "level", 2, 6000.0, 3000.0),
        ("product 4 x 8", "kernel", 2, 6000.0, 1000.0),
        ("product 4 x 8", "kernel", 2, 7000.0, 2000.0),
        ("backward level 1", "level", 2, 10000.0, 0.0),
        ("product 8 x 4", "kernel", 2, 10000.0, 0.0),
    ]
    where = {"direction": "forward", "stage": "recurrent", "level": 1}
    assert [e["args"] for e in events] == [
        *({}, {}, {"calls": 1}),
        {"direction": "forward", "stage": "eager", "rows": 90},
        {"calls": 2},
        {**where, "rows": 20, "GFLOP/s": 12.8},
        {**where, "rows": 10, "GFLOP/s": 3.2},
        {"calls": 1},
        {**where, "direction": "backward", "rows": 10},  # it took no time that the clock tells
    ]


def test_times_of_a_trace_are_microseconds_to_the_nanosecond() -> None:
    spans = (Span("step", 1.0, 1.000_009), Span("planning", 1.000_001_1001, 1.000_003_3001))
    events = trace(replace(FOUND, spans=spans, kernels=()))["traceEvents"]
    assert [(e["ts"], e["dur"]) for e in events if e["ph"] == "X"] == [(0.0, 9.0), (1.1, 2.2)]


def test_neighbours_alike_share_a_line() -> None:
    """Up to a factor of two in size, whatever lies between; and as many calls, for one reason."""
    sizes = (100, 50, 70, 49, 25, 13, 12)
    found = [Level(k, n, 4 if k < 5 else 3, 1, (INNER,)) for k, n in enumerate(sizes)]
    cut = [[level.number for level in run] for run in runs(found)]
    assert cut == [[0, 1, 2], [3, 4], [5, 6]]
    other = [replace(found[3], calls=2), replace(found[3], kinds=(INNER, LEAF))]
    assert all(len(runs([found[3], each])) == 2 for each in other)
    assert table(found)[1:] == [
        "      0-2     100..70     1         4  18.3  these graphs have no more",
        "      3-4      49..25     1         4  9.25  these graphs have no more",
        "      5-6      13..12     1         3  4.17  others are lower",
    ]
    ends = [found[0], replace(found[5], graphs=3), replace(found[6], graphs=2)]
    assert table(ends)[2] == "      5-6      13..12     1      3..2     5  others are lower"


def test_what_kinds_of_a_level_differ_in() -> None:
    kinds = LEAF, INNER, Kind((0, 1), ("word", "label")), Kind((), ("label",))

    def differ(*these: int) -> str:
        return Level(1, 1, 1, 2, tuple(kinds[k] for k in these)).differ

    assert [differ(0), differ(0, 1), differ(1, 2), differ(0, 3), differ(0, 2), differ(1, 2, 3)] == [
        *("", "children, word", "label, word", "label, word", "children, label"),
        "children, label, word",
    ]


class Part:
    """A step of a stage, as far as lines tell of it."""

    def __init__(self, kind: str, flop_per_row: int) -> None:
        self.kind, self.note, self.flop_per_row = kind, "4 x 8", flop_per_row


def recording(seconds: float, times: tuple[float, ...]) -> Recording:
    """A step of this length whose kernels take these times, a second apart; the last one is of
    the backward pass.
    """
    around, kernels, at = Tape(), Tape(), 1.0
    for each in times:
        kernels.spans.append(Span("kernel", at, at + each))
        at += each + 1
    last = kernels.spans[-1].start
    around.spans += [
        Span(profiler.LIST, 0.5, 1.0),
        Span(profiler.FORWARD, 0.25, last - 0.75),
        Span(profiler.LIST, last - 0.25, last),
        Span(profiler.BACKWARD, last - 0.375, at - 0.5),
        Span(profiler.PLAN, 0.0, 0.25 * seconds),
        Span(profiler.STEP, 0.0, seconds),
    ]
    return Recording(around, kernels, None, [])  # type: ignore[arg-type]


def test_lines_are_medians_of_sums_over_the_calls_of_a_step() -> None:
    first, second = Part("product", 10), Part("region", 0)
    calls = [
        KernelCall("forward", "recurrent", first, 1, 5),  # type: ignore[arg-type]
        KernelCall("forward", "recurrent", second, 1, 5),  # type: ignore[arg-type]
        KernelCall("forward", "recurrent", first, 2, 3),  # type: ignore[arg-type]
        KernelCall("backward", "recurrent", first, 2, 3),  # type: ignore[arg-type]
    ]
    times = ((1.0, 2.0, 4.0, 8.0), (2.0, 3.0, 5.0, 1.0), (64.0, 1.0, 1.0, 9.0))
    recordings = [recording(k + 1.0, each) for k, each in enumerate(times)]
    for each, seconds in zip(recordings, (0.0, 2.0, 1.0), strict=True):  # one took no time
        each.around.spans.append(Span(profiler.PACK, 0.0, seconds))
    lines, line_of = profiler._lines(calls, recordings)
    assert line_of == [0, 1, 0, 2]
    where = "recurrent", "product", "4 x 8"
    assert lines == (
        Line("forward", *where, 2, 8, 7.0, 80),
        Line("forward", "recurrent", "region", "4 x 8", 1, 5, 2.0, 0),
        Line("backward", *where, 1, 3, 8.0, 30),
    )
    found = profiler._phases(recordings)
    assert found[profiler.PLAN] == 0.5
    # from where the backward pass begins to its first kernel, and from its last one to its end
    assert found[profiler.ASSEMBLY] == 0.125 + 0.5
    assert found[profiler.OUTPUTS] == 0.25 and found.keys() == {
        profiler.PLAN,
        profiler.PACK,
        profiler.OUTPUTS,
        profiler.ASSEMBLY,
    }
    assert found[profiler.PACK] == 1.0
