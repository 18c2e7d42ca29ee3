"""What `tvm-cavs tune` says while it measures and when it has, of times made up."""

import io
import platform
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm")

from rich.console import Console

from tvm_cavs.cli import tune
from tvm_cavs.errors import CavsError, TuningError
from tvm_cavs.runs.config import load_config
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.schema import RunConfig

pytestmark = pytest.mark.compiles


OTHER = "x86_64" if platform.machine() == "aarch64" else "aarch64"


@dataclass
class Knobs:
    rows: int = 4
    wide: bool = True


@dataclass(frozen=True)
class Task:
    key: str = "product"
    bucket: int = 64
    share: float = 0.25
    SORT: str = "kernels"

    def __str__(self):
        return f"{self.key} of {self.bucket}"


def line(before, after, knobs=None):
    return SimpleNamespace(task=Task(), before=before, after=after, knobs=knobs)


def console():
    return Console(file=io.StringIO(), width=200)


def test_a_table_has_a_row_a_kernel():
    made = tune.table([line(10.0, 5.0, Knobs()), line(3.25, 3.25)])
    cells = [[*column.cells] for column in made.columns]
    assert [column.header for column in made.columns] == (
        ["kernel", "rows", "before", "after", "ratio", "knobs"]
    )
    sides = ["left", "right", "right", "right", "right", "left"]
    assert [column.justify for column in made.columns] == sides
    assert list(zip(*cells, strict=True)) == [
        ("product", "64", "10.0", "5.0", "0.500", "rows=4 wide=True"),
        ("product", "64", "3.2", "3.2", "1.000", "default"),
    ]


def test_where_candidates_run():
    tuning = object.__new__(tune.Tuning)
    tuning.tracker, tuning.bench = None, SimpleNamespace(width=2)
    assert tuning.place == "this machine"
    tuning.tracker = "a:9190/KEY"
    assert tuning.place == "2 server(s) of a:9190/KEY"


def test_what_measures_is_for_this_config():
    """Another seed of training searches in another order."""
    tuning = object.__new__(tune.Tuning)
    tuning.tools = SimpleNamespace(Tuner=lambda *given: given)
    tuning.compiler = SimpleNamespace(described="a CPU")
    tuning.config = SimpleNamespace(train=SimpleNamespace(seed=17))
    tuning.before, tuning.store, tuning.machine = "steps", "store", "machine"
    made = tuning.tuner("bench", "clock")
    origin = "tvm-cavs tune, a CPU"
    assert made == ("steps", "store", "bench", "clock", origin, 17, "machine")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["executor.name=reference"], "executor reference has no kernels to tune; expected execut"),
        ([f"executor.target={{kind: llvm, mtriple: {OTHER}-linux-gnu}}"], "cannot run here"),
        (["executor.precision=bf16", "tune.rpc=127.0.0.1:1/K"], "over RPC only float32 is measur"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_data_are_read(given, said, tmp_path, monkeypatch):
    def build_data(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(tune, "build_data", build_data)
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(CavsError, match=said):
        tune.Tuning(load_config(tmp_path / "a.yaml", given))


def test_a_stranger_called_autotune_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "autotune.py").write_text("raise ZeroDivisionError")
    for name in [name for name in sys.modules if name.partition(".")[0] == "autotune"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CavsError, match="its package 'autotune', .*but `import autotune` finds"):
        tune.Tuning(RunConfig())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("signal", [None, 2])
@pytest.mark.parametrize("tracker", [None, "a:1/KEY"])
def test_steps_are_measured_after_kernels_where_there_is_a_choice(
    signal, tracker, fails, monkeypatch
):
    """Not on servers and not after a signal; what measured kernels is closed however they end."""
    n_ways = {"alone": 1, "two": 2, "ten": 10}
    tools = SimpleNamespace(
        Clock=lambda budget: f"{budget} s",
        step_tasks_of=lambda steps: [f"{each} of {steps}" for each in n_ways],
        StepBench=lambda after, compiler: f"whole steps of {after()} on {compiler}",
    )
    closed, followed = [], []
    tuning = SimpleNamespace(
        tools=tools,
        tracker=tracker,
        compiler="this CPU",
        after=lambda: "all",
        config=SimpleNamespace(tune=SimpleNamespace(budget=100.0)),
        bench=SimpleNamespace(close=lambda: closed.append(len(followed))),
        tuner=lambda bench, timer: SimpleNamespace(
            given=(bench, timer),
            space=lambda task: SimpleNamespace(candidates=range(n_ways[task.split()[0]])),
        ),
    )

    def follow(tuning, tuner, tasks, console, stop, reserve=0.0):
        followed.append((tuner.given, tasks, reserve))
        if fails:
            raise TuningError("none could be measured")

    monkeypatch.setattr(tune, "follow", follow)
    kept = 0.0 if tracker else tune.kept_for_steps(100.0)
    first = ((tuning.bench, "100.0 s"), ["a", "b"], kept)
    ways = ["two of all", "ten of all"]
    if fails:
        with pytest.raises(TuningError):
            tune.measure(tuning, ["a", "b"], console(), Stop(signal))
        assert (followed, closed) == ([first], [1])
        return
    found = tune.measure(tuning, ["a", "b"], console(), Stop(signal))
    assert closed == [1]
    if tracker or signal:
        assert (found, followed) == (["a", "b"], [first])
        return
    then = (("whole steps of all on this CPU", "100.0 s"), ways, 0.0)
    assert (found, followed) == (["a", "b", *ways], [first, then])


@pytest.mark.parametrize(
    ("budget", "kept"), [(1000.0, 150.0), (100.0, 15.0), (60.0, 10.0), (20.0, 10.0), (8.0, 4.0)]
)
def test_a_part_of_the_time_is_kept_for_whole_steps(budget, kept):
    assert tune.kept_for_steps(budget) == pytest.approx(kept)


@pytest.mark.parametrize("ends", ["well", "by an error", "before it begins"])
def test_what_the_command_says_and_shows(ends, tmp_path, monkeypatch, capsys):
    """What was measured is shown, however it ends; the notes on records are said before."""
    did = []

    def measure(tuning, tasks, console, stop):
        did.append(("measure", tasks))
        if ends == "by an error":
            raise TuningError("none could be measured")
        return [*tasks, "more"]

    made = SimpleNamespace(
        compiler=SimpleNamespace(described="a CPU"),
        place="this machine",
        store=SimpleNamespace(notes=["an old record", "another one"]),
        before="steps",
        machine="machine",
        tools=SimpleNamespace(tasks_of=lambda *given: [*given]),
    )
    stop = Stop(2 if ends == "before it begins" else None)
    monkeypatch.setattr(tune, "Tuning", lambda config: made)
    monkeypatch.setattr(tune, "measure", measure)
    monkeypatch.setattr(tune, "summarise", lambda t, tasks, *_: did.append(("show", tasks)))
    monkeypatch.setattr(tune, "stop_on_signal", lambda: nullcontext(stop))
    (tmp_path / "a.yaml").write_text("")
    tasks = ["steps", "machine"]
    if ends == "by an error":
        with pytest.raises(TuningError):
            tune.main([str(tmp_path / "a.yaml")])
        assert did == [("measure", tasks), ("show", tasks)]
    elif ends == "well":
        assert tune.main([str(tmp_path / "a.yaml")]) == 0
        assert did == [("measure", tasks), ("show", [*tasks, "more"])]
    else:
        assert tune.main([str(tmp_path / "a.yaml")]) == 130
        assert did == [("show", tasks)]
    said = ["target: a CPU; measured on this machine", "an old record", "another one"]
    assert capsys.readouterr().out.splitlines()[-3:] == said


def progress(**more):
    given = {"left": 61.0, "task": Task(), "number": 0, "n_tasks": 3, "measured": 2, "best": 0.9}
    return SimpleNamespace(**given | {"record": None} | more)


def test_what_is_said_while_it_measures():
    """A task, what is better than the best of it so far, what failed; nothing after a signal."""
    record, failed = (SimpleNamespace(knobs="k", failed=why) for why in ("", "it crashed"))
    stop, shown = Stop(), console()

    def run(tasks, reserve):
        assert (tasks, reserve) == (["a task"], 1.5)
        yield progress()
        yield progress(record=record, best=0.9)
        yield progress(record=failed, best=0.9)
        yield progress(record=record, best=0.8, left=-1.0)
        yield progress(number=1, best=1.0)
        stop.signal = 2
        yield progress(record=record, best=0.95)
        pytest.fail("it was asked to stop")

    tuner = SimpleNamespace(run=run, space=lambda task: "a space")
    tuning = SimpleNamespace(tools=SimpleNamespace(method=lambda space: ("at random", None)))
    tune.follow(tuning, tuner, ["a task"], shown, stop, 1.5)
    of_a_task = "product of 64, 25.0 % of the time of all kernels"
    assert shown.file.getvalue().splitlines() == [
        f"[1/3] {of_a_task}",
        "  at random, a space; 2 known; 1:01 left",
        "  no candidate: k: it crashed",
        "  0.800 of the default: k; 0:00 left",
        f"[2/3] {of_a_task}",
        "  at random, a space; 2 known; 1:01 left",
        "  0.950 of the default: k; 1:01 left",
    ]


@pytest.mark.parametrize(
    ("ratio", "low", "slower"),
    [(0.9, 0.8, False), (1.02, 1.01, False), (1.03, 1.0, False), (1.03, 1.01, True)],
)
def test_what_whole_steps_have_come_to(ratio, low, slower, monkeypatch):
    """Slower is said of what is surely so."""
    pair = SimpleNamespace(before=0.002, after=0.001, ratio=ratio, low=low, high=1.5)
    monkeypatch.setattr(tune, "put_table", lambda made: None)
    others = []
    monkeypatch.setattr(tune, "compare_settings", lambda *given: others.append(given))
    stop, shown = Stop(), console()
    asked, lines = [], iter([None, line(2.0, 1.0)])
    tools = SimpleNamespace(
        line=lambda task, store: next(lines), pair=lambda *given: asked.append(given) or pair
    )
    tuning = SimpleNamespace(
        tools=tools, store=None, path="p", tracker=None, before="b", after=lambda: "a"
    )
    tune.summarise(tuning, ["one", "two"], shown, stop)
    text = shown.file.getvalue()
    assert asked == [("b", "a", stop.requested)]
    assert others == [(tuning, "a", shown, stop)]
    numbers = f"{ratio:.3f} in pairs (quartiles {low:.3f} to 1.500)"
    assert f"a whole step: 2.00 ms before, 1.00 ms after; {numbers}\n" in text
    assert ("slower: tune again" in text and "or delete p, or" in text) == slower


@pytest.mark.parametrize("signal", [None, 2])
@pytest.mark.parametrize("tracker", [None, "a:1/KEY"])
@pytest.mark.parametrize("n_lines", [0, 1])
def test_whole_steps_are_compared_where_they_run(signal, tracker, n_lines, monkeypatch):
    """Not on servers, not after a signal, and not where nothing was measured."""
    tables, shown = [], console()
    monkeypatch.setattr(tune, "put_table", tables.append)

    def pair(*_):
        raise ZeroDivisionError

    tools = SimpleNamespace(line=lambda task, store: line(2.0, 1.0), pair=pair)
    tuning = SimpleNamespace(
        tools=tools, store=None, path="p", tracker=tracker, before=None, after=lambda: None
    )
    try:
        tune.summarise(tuning, ["task"] * n_lines, shown, Stop(signal))
        compared = False
    except ZeroDivisionError:
        compared = True
    assert compared == (n_lines == 1 and signal is None and tracker is None)
    text = shown.file.getvalue()
    assert text.startswith("records: p\n") and len(tables) == n_lines
    assert ("nothing was measured" in text) == (n_lines == 0)
