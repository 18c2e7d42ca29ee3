"""What a run says of itself, each number found again by hand: events, statuses, lines, tables."""

import fcntl
import io
import itertools
import json
import math
import os
import re
import signal
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from helpers.runs import Silent, config
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.errors import CavsError, ConfigError, TrainingError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.runs import loop, pace, profile_run, report, runlock, runlog
from tvm_cavs.runs import run as of_run
from tvm_cavs.runs.fingerprints import changes, fingerprint
from tvm_cavs.runs.loop import fit
from tvm_cavs.runs.process import Stop
from tvm_cavs.runs.report import metrics_table, print_curves
from tvm_cavs.runs.run import resume, start
from tvm_cavs.runs.runlock import RunLock
from tvm_cavs.runs.runlog import new_folder, read_events
from tvm_cavs.training.checkpoint import load_checkpoint

COMPILING, EVALUATING = 100.0, 50.0  # seconds


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still unless it is moved; `saves`: when what was saved."""
    held = SimpleNamespace(now=0.0, saves=[], evaluate=loop.evaluate, save=loop.save, saving=0.0)
    time = SimpleNamespace(perf_counter=lambda: held.now, monotonic=lambda: held.now)
    monkeypatch.setattr(loop, "time", time)
    monkeypatch.setattr(of_run, "time", time)
    monkeypatch.setattr(loop, "STEPS_PER_EVENT", 3)
    monkeypatch.setattr(pace, "RECENT_STEPS", 3)

    def evaluate(*given, **named):
        held.now += EVALUATING
        return held.evaluate(*given, **named)

    def save(run, name=runlog.LAST):
        held.saves.append((name, run.progress.step))
        held.save(run, name)
        held.now += held.saving

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "save", save)
    return held


def watched(run, clock, a_graph=(1.0,)):
    """[loss, labels, graphs] of every step; how long they take for a graph, in turn, in seconds."""
    steps, forward, step = [], run.net.run_loss, run.trainer.step

    def run_loss(loss, graph):
        made = forward(loss, graph)
        steps.append([float(made), made.n_labels, graph.n_graphs])
        return made

    def update(n):
        clock.now += n * a_graph[len(steps) % len(a_graph)] if len(steps) > 1 else COMPILING
        return step(n)

    run.net.run_loss, run.trainer.step = run_loss, update
    return steps


def mean(steps):
    return sum(loss for loss, _, _ in steps) / sum(labels for _, labels, _ in steps)


def test_every_number_that_a_run_tells(tmp_path, clock):
    """20 examples in batches of 6, so 4 steps an epoch: 100 s (compiling), 12, 6, 4, 6, 12, ..."""
    schedule = {"name": "cosine", "settings": {"n_steps": 24}}
    given = config(epochs=3, schedule=schedule, warmup=5, checkpoint_seconds=10, lr=0.01)
    run = start(given, tmp_path)
    steps, statuses, display = watched(run, clock, (2.0, 1.0)), [], Silent()
    display.status = statuses.append
    fit(run, display, Stop(), age=lambda: 7.25)
    spent = [0] + [n * (1, 2)[k % 2] for k, (_, _, n) in enumerate(steps)][1:]
    assert [graphs for _, _, graphs in steps] == 3 * [6, 6, 6, 2]

    events = read_events(tmp_path)
    kinds = [(e["event"], e["step"]) for e in events]
    wanted = [("start", 1), ("step", 3), ("epoch", 4), ("step", 6), ("epoch", 8), ("step", 9)]
    assert kinds == [*wanted, ("step", 12), ("epoch", 12), ("test", 12)]
    assert events[0]["seconds"] == 7.25 and display.lines[0] == "first step after 7.2 s"
    dev = {e["step"]: e["dev"] for e in events if e["event"] == "epoch"}
    lines = iter(display.lines[1:])
    best = -1.0
    for event in events[1:-1]:
        n, is_epoch = event["step"], event["event"] == "epoch"
        epoch = -(-n // 4)
        before = 4 * (epoch - 1)
        seconds = sum(spent[:n]) + EVALUATING * (epoch - 1 + is_epoch)
        assert (event["epoch"], event["seconds"]) == (epoch, seconds)
        factor = (1 + math.cos(math.pi * n / 24)) / 2 * min(1, (n + 1) / 5)
        assert event["lr"] == pytest.approx(0.01 * factor)
        loss = mean(steps[before:n] if is_epoch else steps[max(0, n - 3) : n])
        assert event["train_loss"] == pytest.approx(loss)
        if is_epoch:
            speed = (20 if before else 14) / sum(spent[before:n])  # the first step compiles
            assert (event["whole"], event["samples_per_s"]) == (True, round(speed, 1))
            values = event["dev"]
            better = values["accuracy"] > best
            best = max(best, values["accuracy"])
            minutes, rest = divmod(seconds, 60)
            metrics = "".join(f"  {name} {value:.4f}" for name, value in values.items())
            assert next(lines) == (
                f"epoch {epoch}  {int(minutes)}:{int(rest):02}  loss {loss:.4g}  1 samples/s"
                f"{metrics}{'  *' * better}"
            )
    assert best == max(values["accuracy"] for values in dev.values())
    assert events[-1]["epoch"] == run.progress.best_epoch

    rate = 0.0
    for n, status in enumerate(statuses, start=1):
        assert (status.epoch, status.n_epochs) == (-(-n // 4), 3)
        assert (status.batch, status.n_batches) == ((n - 1) % 4 + 1, 4)
        assert status.loss == pytest.approx(mean(steps[max(0, n - 3) : n]))
        now = steps[n - 1][2] / spent[n - 1] if n > 1 else 0.0
        rate = 0.9 * rate + 0.1 * now if n > 2 else now
        assert status.samples_per_s == pytest.approx(rate)
        left = 60 - sum(graphs for _, _, graphs in steps[:n])
        assert status.seconds_left == pytest.approx(left / rate if n > 1 else 0.0)

    bests = [step for name, step in clock.saves if name == runlog.BEST]
    wanted = [4 * epoch for epoch in sorted({1, run.progress.best_epoch})]
    assert bests[0] == 4 and bests[-1] == wanted[-1]
    # ten seconds after the last one, and at the end of every epoch
    assert [step for name, step in clock.saves if name == runlog.LAST] == [
        *(1, 2, 4, 4, 6, 8, 8, 10, 12, 12)
    ]


@pytest.mark.parametrize(("limit", "left"), [(15, [0.0, 9.0, 3.0, 1.0]), (12, [0.0, 6.0, 0.0])])
def test_what_time_is_left_is_the_limits(tmp_path, clock, limit, left):
    run = start(config(epochs=3, max_seconds=limit), tmp_path)
    statuses, display = [], Silent()
    watched(run, clock)
    display.status = statuses.append
    outcome = fit(run, display, Stop())
    assert [status.seconds_left for status in statuses] == left
    assert outcome.reason == f"train.max_seconds = {limit} used up"


def test_compiling_and_what_passes_between_two_calls_is_no_training_time(tmp_path, clock):
    """The folder is in use while it trains, and of an epoch that goes on all batches count."""
    run, stop, statuses = start(config(epochs=1), tmp_path), Stop(), []
    prepare = run.net.prepare

    def slowly(batches, loss=None):
        clock.now += COMPILING if loss else 0
        prepare(batches, loss)

    def after_step(status):
        statuses.append((status.batch, status.n_batches))
        stop.signal = signal.SIGINT if status.batch == 2 else None
        with pytest.raises(CavsError, match="in use by process"):
            RunLock(tmp_path)

    run.net.prepare = slowly
    watched(run, clock)
    assert fit(run, Silent(after_step), stop).interrupted
    clock.now += 1000
    assert not fit(run, Silent(after_step), Stop()).interrupted
    assert statuses == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert run.progress.seconds == 6 + 2 + EVALUATING  # of steps 2 and 4; 1 and 3 are first ones


def test_what_was_asked_to_stop_before_it_began_does_nothing(tmp_path):
    run = start(config(), tmp_path)
    run.net.prepare = run.trainer.step = None
    outcome = fit(run, Silent(), Stop(signal.SIGTERM))
    assert (outcome.reason, outcome.interrupted) == ("stopped after step 0", True)


def test_speed_is_that_of_steps(tmp_path, clock):
    """What is saved at the end of an epoch takes training time, and makes none of it slower."""
    run, clock.saving = start(config(epochs=2, checkpoint_seconds=1e9), tmp_path), 30.0
    watched(run, clock)
    fit(run, Silent(), Stop())
    first, second = (e for e in read_events(tmp_path) if e["event"] == "epoch")
    assert (first["samples_per_s"], second["samples_per_s"]) == (1.0, 1.0)
    n_saved = clock.saves.index((runlog.LAST, 4)) + 1
    assert second["seconds"] == 14 + 20 + 2 * EVALUATING + 30 * n_saved


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize("asked", [True, False])
def test_one_step_of_a_process_is_profiled_and_is_no_training_time(
    tmp_path, clock, monkeypatch, begun, asked
):
    profiled, stop = [], Stop()

    def profile_step(run, display, n_graphs):
        profiled.append((run.progress.step, n_graphs))
        clock.now += 1000

    def after_step(status):
        stop.signal = signal.SIGINT if status.batch == begun else None

    monkeypatch.setattr(loop, "profile_step", profile_step)
    monkeypatch.setattr(loop, "PROFILED_STEP", 2)
    run = start(config(epochs=2), tmp_path)
    if begun:
        fit(run, Silent(after_step), stop)
    run.config = run.config.model_copy(update={"profile": asked})
    seconds, run.progress.seconds = run.progress.seconds, 0.0
    watched(run, clock)
    fit(run, Silent(), Stop())
    assert profiled == ([(begun + 2, 6 if not begun else 2)] if asked else [])
    assert run.progress.seconds < 1000 and seconds < 1000


def test_an_epoch_cut_short_has_no_star(tmp_path, clock):
    run, display = start(config(epochs=3, max_seconds=7), tmp_path), Silent()
    watched(run, clock)
    fit(run, display, Stop())
    (event,) = [e for e in read_events(tmp_path) if e["event"] == "epoch"]
    assert not event["whole"] and display.lines[-1].endswith("  (cut short)")


def test_the_step_that_is_profiled_is_the_last_one(tmp_path, monkeypatch):
    run, asked, display = start(config(batch_size=3), tmp_path), [], Silent()
    told = SimpleNamespace(summary=lambda: "a\nb")
    monkeypatch.setattr(profile_run, "profile", lambda *given: asked.append(given) or told)
    monkeypatch.setattr(profile_run, "to_json", lambda found: "{}")
    batches = list(run.loader.batches(0))
    run.progress.epoch_examples = 9
    profile_run.profile_step(run, display, 3)
    ((net, graphs, loss, trainer),) = asked
    assert (net, loss, trainer) == (run.net, run.loss, run.trainer)
    for name, field in batch(graphs).inputs.items():
        assert np.array_equal(field.values, batches[2].inputs[name].values)
    assert (tmp_path / "trace.json").read_text() == "{}" and display.lines == [
        *("a", "b", f"kernels and levels: {tmp_path / 'profile.txt'}"),
        f"timeline, for ui.perfetto.dev: {tmp_path / 'trace.json'}",
    ]


@pytest.mark.parametrize(("size", "more"), [(8, ""), (9, ", ... 9 in all")])
def test_eight_examples_are_named(tmp_path, size, more):
    run = start(config(batch_size=size), tmp_path)
    with run.net.parameters()["W"].writing() as weight:
        weight[:] = np.nan
    first = ", ".join(str(i) for i in run.loader.parts(0)[0][:8])
    with pytest.raises(TrainingError) as error:
        fit(run, Silent(), Stop())
    assert f"batch 1, training examples {first}{more}): the loss is nan" in str(error.value)


def test_dropout_goes_on_as_it_was_seeded(tmp_path):
    stop = Stop()

    def after_step(status):
        stop.signal = 2

    fit(start(config(seed=3), tmp_path), Silent(after_step), stop)
    again = resume(tmp_path, ["train.seed=4"])
    assert (again.net.dropout_seed, again.net.step, again.loader.seed) == (3, 1, 3)
    assert again.config.train.seed == 4
    assert load_checkpoint(tmp_path / runlog.LAST).progress.dropout_seed == 3


def test_folders_are_numbered_on(tmp_path):
    made = []
    for _ in range(4):
        made.append(new_folder(tmp_path / "demo").name)
        (tmp_path / made[-1] / "config.yaml").touch()
    assert made == ["demo", "demo-2", "demo-3", "demo-4"]


def test_a_table_has_a_row_a_split_and_shares_in_percent():
    split = {"root_binary_accuracy": 0.12346, "mse": 0.000123456, "answer_accuracy": 1.0}
    made = metrics_table({"dev": split, "test": {**split, "mse": math.nan}}, "title")
    cells = [[*column.cells] for column in made.columns]
    assert [column.header for column in made.columns[1:]] == [k.replace("_", " ") for k in split]
    shares = (["12.35 %"] * 2, ["0.00012346", "nan"], ["100.00 %"] * 2)
    assert cells == [["dev", "test"], *shares]


def event(what, epoch, step, loss, **more):
    return {"event": what, "epoch": epoch, "step": step, "train_loss": loss, **more}


@pytest.mark.parametrize(
    ("losses", "scale"), [((20.0, 1.0), ""), ((20.5, 1.0), " (logarithmic)"), ((20.5, 0.0), "")]
)
def test_curves_are_of_steps_where_there_are_any(losses, scale, tmp_path, capsys, monkeypatch):
    """And of the epochs that were measured; what is not finite is null in the file."""
    first, last = losses
    said = [
        event("step", 1, 50, first),
        event("epoch", 1, 60, 7.0, dev={"mse": 0.5, "root_mse": 4.0}),
        event("step", 2, 100, math.nan),
        event("epoch", 2, 120, 9.0, dev={"mse": math.inf, "root_mse": 5.0}),
        event("step", 3, 150, last),
        event("epoch", 3, 180, 8.0, dev={"mse": 0.25, "root_mse": 6.0}),
    ]
    for each in said:
        runlog.append(tmp_path, each)
    assert [e["train_loss"] for e in read_events(tmp_path)][2] is None
    drawn = []
    monkeypatch.setattr(report, "save_picture", lambda *given: drawn.append(given) or True)
    print_curves(Console(width=100), tmp_path, "mse")
    text = capsys.readouterr().out
    assert text.endswith(f"\nlearning curve: {tmp_path / 'curve.png'}\n")
    series = {"training loss": [7.0, 8.0], "dev mse": [0.5, 0.25]}
    assert drawn == [(tmp_path / "curve.png", [1, 3], series)]
    assert f"training loss over steps{scale}\n" in text
    loss, dev = (part.splitlines() for part in text.lstrip("\n").split("\n\n")[:2])
    assert f" {first:.4g} |" in loss[1] and f" {last:.4g} |" in loss[6]
    assert dev[0] == "dev mse over epochs" and " 0.5 |" in dev[1] and " 0.25 |" in dev[6]


def test_curves_of_a_run_of_few_steps_are_of_its_epochs(tmp_path, capsys, monkeypatch):
    """One number is no curve; of what cannot be drawn nothing is said."""
    drawn = []
    monkeypatch.setattr(report, "save_picture", lambda *given: drawn.append(given[1:]))
    for epoch, loss in enumerate((5.0, 3.0), start=1):
        dev = {"root_mse": 1.0} if epoch == 1 else {}
        runlog.append(tmp_path, event("epoch", epoch, epoch, loss, dev=dev))
        print_curves(Console(width=100), tmp_path, "mse")
        text = capsys.readouterr().out
        assert ("|" in text) == (epoch == 2) and "dev mse" not in text and "curve:" not in text
    assert " 5 |" in text and " 3 |" in text
    assert drawn[-1] == ([1, 2], {"training loss": [5.0, 3.0]})
    print_curves(Console(width=100), tmp_path, "root_mse")
    assert "dev root_mse" not in capsys.readouterr().out
    assert drawn[-1] == ([1], {"training loss": [5.0], "dev root_mse": [1.0]})


@pytest.mark.parametrize("width", [25, 40, 100])
def test_curves_fit_the_terminal_and_its_letters(width, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save_picture", lambda *_: False)
    for epoch in range(1, 61):
        runlog.append(tmp_path, event("epoch", epoch, epoch, 1.0 / epoch, dev={"mse": epoch}))
    for encoding, block in (("ascii", "#"), ("utf-8", "█")):
        shown = io.TextIOWrapper(io.BytesIO(), encoding)
        print_curves(Console(file=shown, width=width), tmp_path, "mse")
        shown.flush()
        text = shown.buffer.getvalue().decode(encoding)
        columns = max(20, min(60, width - 12))
        assert max(len(line) for line in text.splitlines() if "|" in line) == columns + 11
        assert text.count(block) > 2 * columns


@pytest.mark.parametrize("encoding", ["no-such-encoding", "latin-1"])
def test_letters_that_a_terminal_may_not_have_are_not_printed(encoding, tmp_path, monkeypatch):
    """Nor where nobody knows which letters it has."""
    monkeypatch.setattr(report, "save_picture", lambda *_: False)
    for epoch in range(1, 4):
        runlog.append(tmp_path, event("epoch", epoch, epoch, 1.0 / epoch, dev={"mse": epoch}))
    console = Console(file=io.StringIO(), width=60)
    monkeypatch.setattr(Console, "encoding", encoding)
    print_curves(console, tmp_path, "mse")
    shown = console.file.getvalue()
    assert "#" in shown and shown.isascii()


@pytest.mark.parametrize(
    ("error", "why"),
    [(OSError(28, "No space left"), "No space left"), (RuntimeError("no font"), "no font")],
)
def test_why_there_is_no_picture(error, why, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(report, "save_picture", fail)
    print_curves(Console(width=200), tmp_path, "mse")
    said = f"\nno learning curve: {tmp_path / 'curve.png'}: {why}\n"
    assert capsys.readouterr().out == said


def test_numbers_that_are_none_are_null_wherever_they_are():
    made = runlog.to_json({"a": [math.nan, (math.inf, {"b": -math.inf})], "c": 1})
    assert json.loads(made) == {"a": [None, [None, {"b": None}]], "c": 1}


def test_a_rewound_log_ends_with_the_step_of_its_checkpoint(tmp_path):
    for step in range(1, 5):
        runlog.append(tmp_path, event("step", 1, step, 1.0))
    runlog.rewind(tmp_path, 3)
    assert [e["step"] for e in read_events(tmp_path)] == [1, 2, 3]
    assert list(itertools.islice(read_events(tmp_path, 1), 2)) == read_events(tmp_path)[:1]


def test_data_that_differ_in_anything_have_other_fingerprints():
    def told(*graphs):
        return fingerprint(Dataset.from_graphs(graphs))

    x, chain = [[0.0], [1.0]], Graph.from_sequence
    graphs = chain(2, {"x": x}), chain(3, {"x": [[2.0], [3.0], [4.0]]})
    others = [
        told(*graphs),
        told(*graphs[::-1]),
        told(graphs[0]),
        told(chain(2, {"y": x}), graphs[1].with_inputs({"y": [[2.0], [3.0], [4.0]]})),
        told(chain(2, {"x": [None, [1.0]]}), graphs[1]),  # which holds zeros, too
        told(chain(2, {"x": [[0.0], [1.5]]}), graphs[1]),
        told(Graph.from_children([[], []], {"x": x}), graphs[1]),
        told(Graph.from_children([[], [None]], {"x": x}), graphs[1]),
        told(
            chain(2, {"x": x, "y": x}),
            graphs[1].with_inputs({"x": graphs[1].inputs["x"], "y": [[1.0]] * 3}),
        ),
    ]
    assert len(set(others)) == len(others) and told(*graphs) == others[0]
    assert others[0].startswith("2 graphs, 5 vertices, digest ")


def test_what_has_changed_is_told_by_split():
    assert changes({"train": "a", "dev": "b"}, {"train": "a", "test": "c"}) == [
        "  dev: b before, absent now",
        "  test: absent before, c now",
    ]


def test_a_folder_that_was_let_go_is_held_again(tmp_path):
    lock = RunLock(tmp_path)
    for _ in range(2):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        said = re.escape(f"the run {tmp_path} is in use by {holder}. Wait")
        with pytest.raises(CavsError, match=said):
            RunLock(tmp_path)
        lock.release()
        RunLock(tmp_path).release()
        lock.acquire()
        lock.acquire()
    lock.release()
    lock.release()


def test_a_lock_that_was_dropped_is_let_go(tmp_path):
    RunLock(tmp_path)
    RunLock(tmp_path).release()


def test_who_holds_a_folder_may_be_unknown_and_so_may_locks(tmp_path, monkeypatch):
    with open(tmp_path / runlock.LOCK, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CavsError, match=r"in use by another process\. Wait"):
            RunLock(tmp_path)

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runlock.fcntl, "flock", no_locks)
    with pytest.raises(CavsError, match=r"run\.lock cannot be locked: No locks available"):
        RunLock(tmp_path)


def test_a_warm_up_has_to_end_before_the_run_does(tmp_path):
    """3 epochs of 4 steps."""
    what = r"warmup = 13 steps, but the run has 12 \(3 epochs of 4 batches\)"
    with pytest.raises(ConfigError, match=what):
        start(config(warmup=13), new_folder(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"warmup = 12 steps, but the run has 12 \("):
        start(config(warmup=12), new_folder(tmp_path / "run"))
    start(config(warmup=11), new_folder(tmp_path / "run")).lock.release()


def test_another_account_of_the_best_begins_with_no_bad_epochs(tmp_path):
    run = start(config(epochs=1), tmp_path)
    fit(run, Silent(), Stop())
    run.progress.n_bad_epochs = 3
    of_run.save(run)
    again = resume(tmp_path, ["train.early_stop.metric=root_accuracy"])
    progress = again.progress
    assert (progress.best_value, progress.best_epoch, progress.n_bad_epochs) == (None, 0, 0)
