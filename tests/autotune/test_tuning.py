"""Tuning a small network: tasks, records, budget, interruptions; what records change."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest

pytest.importorskip("tvm")

import autotune
import tvm_cavs as cavs
from autotune.measure import LocalBench
from autotune.worker import Failed, Settings, Timing
from helpers.law import near, run
from helpers.paths import ROOT
from helpers.planted import LEAVE_OUT, LastRowLess, Perilous, fate_of, forgetful
from helpers.random_graphs import N_WORDS, random_tree
from schedules.choice import Bucket
from schedules.knobs import misfit, product_knobs
from schedules.records import Record, read_records, target_key
from schedules.target import make_target
from tvm_cavs.cli.export import TARGETS
from tvm_cavs.cli.main import main
from tvm_cavs.cli.shipped import shipped
from tvm_cavs.cli.tune import Tuning, kept_for_steps
from tvm_cavs.compiler import Compiler, Trial, Wrong
from tvm_cavs.compiler.trial.start import bits, poison
from tvm_cavs.compiler.trial.touched import touched
from tvm_cavs.errors import TuningError
from tvm_cavs.runs import load_config

pytestmark = pytest.mark.compiles
LOSS = cavs.loss.SoftmaxCrossEntropy()
TINY = (
    "data.n_train=24 data.n_dev=4 data.n_test=4 data.max_tokens=30 model.embedding=6 "
    "model.hidden=8 train.batch_size=12 tune.batches=2 executor.threads=1"
).split()


class FakeBench:
    """Times by a rule, at once. What it was asked for is written down."""

    asked: list
    width = 1
    rule = staticmethod(lambda knobs: 0.9)

    def __init__(self, _settings=None):
        self.asked = []
        FakeBench.latest = self

    def load(self, kernel):
        self.kernel = kernel

    def measure(self, candidates, best=None):
        for knobs in candidates:
            self.asked.append((self.kernel.workload, knobs))
            ratio = self.rule(knobs)
            if ratio is None:
                yield knobs, Failed("wrong: planted")
            else:
                yield knobs, Timing(1e-4 * ratio, ratio, ratio, 0.0, 50.0)

    def close(self):
        pass


def network(cache, **options):
    net = cavs.Network(cavs.nn.TreeLSTM(N_WORDS, 6, 8, 5))
    net.initialize(seed=3)
    net.hybridize("tvm", sharing=False, threads=1, cache=cache, **options)
    return net


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(5)
    few, many = ([random_tree(rng, 2, 9) for _ in range(n)] for n in (3, 60))
    return [cavs.batch(few), cavs.batch(many)]  # weights are read where they lie, and packed


@pytest.fixture(scope="module")
def steps(cache, batches):
    return autotune.Steps(network(cache, records=False), batches, LOSS)


@pytest.fixture(scope="module")
def tasks(steps):
    return autotune.tasks_of(steps)


@pytest.fixture(scope="module")
def two(tasks):
    """Two with many candidates, heavy whatever else the machine was doing."""
    found = [next(task for task in tasks if task.key.startswith(of)) for of in ("product", "outer")]
    return [replace(task, share=0.5) for task in found]


def tuner(steps, path, bench, budget=1e6, **clock):
    store = autotune.Store(path, steps.executor.compiler.target)
    made = autotune.Clock(budget, **clock)
    return autotune.Tuner(steps, store, bench, made, "a test")


def test_tasks_are_all_that_has_knobs_in_a_step(steps, tasks):
    families = {task.key.split()[0].split("_")[0] for task in tasks}
    assert families == {"product", "outer", "direct", "region"}
    assert len({(task.key, task.bucket) for task in tasks}) == len(tasks)
    assert 0.5 < sum(task.share for task in tasks) <= 1
    assert [task.seconds for task in tasks] == sorted((t.seconds for t in tasks), reverse=True)
    for task in tasks:
        assert str(task) == f"{task.key}, {task.bucket} rows"
        kernel = task.recorded(steps)
        assert len(kernel.calls) == task.calls
        assert all(call[0] in task.bucket for call in kernel.calls)


FAMILIES = ("product", "outer", "direct", "region")


@pytest.fixture(scope="module")
def plain():
    return Compiler("host", 1, cache=False, records=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_results_with_other_knobs(steps, tasks, plain, family, tmp_path):
    """On the calls of a real step; a candidate that leaves something out is noticed.

    The results that it does not make are in memory already, as the step has left them there.
    """
    task = next(task for task in tasks if task.key.startswith(family) and task.calls > 0)
    given = task.recorded(steps)
    trial = Trial(given, plain)
    others = tuner(steps, tmp_path / "r", FakeBench()).space(task).candidates[1:]
    for knobs in others[:: max(1, len(others) // 4)]:
        trial.check(knobs)
    for leave_out in LEAVE_OUT:
        with pytest.raises(Wrong, match="results differ"):
            forgetful(leave_out)(given, plain).check(others[0])


def test_poison_covers_all_that_a_step_replaces(steps, tasks, plain):
    """Nothing that a Tree-LSTM's kernels replace keeps what the step has left."""
    for task in {task.key: task for task in tasks}.values():
        trial, (replaced, _) = Trial(given := task.recorded(steps), plain), touched(given)
        for number, mask in replaced.items():
            dtype = trial.start[number].dtype
            found = bits(trial.start[number][mask])
            assert (found == bits(np.array(poison(dtype)))).all(), (str(task), number)


def test_what_leaves_something_out_is_never_recorded_as_measured(steps, tasks, plain, tmp_path):
    """Through the worker and into the file: kernels whose last row is not computed are faster."""
    path = tmp_path / "records.json"
    settings = Settings(dict(plain.target.export()), 1, "float32", 60.0, LastRowLess)
    bench, found = LocalBench(settings), []
    chosen = [next(task for task in tasks if task.key.startswith(of)) for of in FAMILIES]
    try:
        for task in chosen:
            run = tuner(steps, path, bench).run([replace(task, share=0.5)])
            found += [at.record for at in islice(run, 3) if at.record]
    finally:
        bench.close()
    records, _ = read_records(path)
    assert {r.key for r in records} == {r.key for r in found} and len(found) == 2 * len(FAMILIES)
    for record in records:
        assert record.seconds is None and "wrong: " in record.failed, str(record)


def test_a_tuning_goes_on_after_what_hangs_and_what_crashes(steps, two, plain, tmp_path):
    """Each is recorded as failed, costs its time, and what comes after it is measured."""
    path, timeout = tmp_path / "records.json", 10.0
    settings = Settings(dict(plain.target.export()), 1, "float32", timeout, Perilous)
    bench, seen = LocalBench(settings), []
    try:
        for at in tuner(steps, path, bench).run(two[:1]):
            seen += [at.record] if at.record else []
            if {fate_of(record.knobs) for record in seen[:-1]} == {"runs", "hangs", "crashes"}:
                break
    finally:
        bench.close()
    assert [r.key for r in sorted(read_records(path)[0], key=lambda r: r.date)] == [
        record.key for record in seen
    ]
    reasons = {"hangs": "no answer within 10 s", "crashes": "its process ended with exit code -11"}
    for record in seen:
        assert record.failed == reasons.get(fate_of(record.knobs), ""), str(record)


def test_nothing_is_measured_twice(steps, two, tmp_path):
    path, first, second = tmp_path / "records.json", FakeBench(), FakeBench()
    seen = [at for at in tuner(steps, path, first).run(two) if at.record]
    assert [at.record.knobs for at in seen] == [knobs for _, knobs in first.asked]
    assert len(set(first.asked)) == len(first.asked) > 2
    found, notes = read_records(path)
    assert len(found) == len(first.asked) and notes == []
    assert {r.origin for r in found} == {"a test"}
    assert {r.target for r in found} == {target_key(steps.executor.compiler.target)}
    assert [at for at in tuner(steps, path, second).run(two) if at.record] == []
    assert second.asked == []


def test_several_candidates_are_measured_at_once(steps, two, tmp_path):
    """Each of them once, as many as the bench takes, and as soon as one is done it is recorded."""

    class Wide(FakeBench):
        width = 5
        sizes = []

        def measure(self, candidates, best=None):
            self.sizes.append(len(candidates))
            return reversed(list(super().measure(candidates, best)))

    path, bench = tmp_path / "records.json", Wide()
    list(tuner(steps, path, bench).run(two))
    assert len(set(bench.asked)) == len(bench.asked) == len(read_records(path)[0])
    assert set(bench.sizes[:-1]) - {5} <= set(range(1, 5)) and bench.sizes[0] == 5


def test_two_tunings_of_one_file_lose_nothing(steps, two, tmp_path):
    """Each writes what the other has written meanwhile."""
    path = tmp_path / "records.json"
    one, other = (tuner(steps, path, FakeBench()).run(two[n : n + 1]) for n in (0, 1))
    for _ in range(3):  # the first of each is no measurement
        next(one), next(other)
    found, _ = read_records(path)
    assert len(found) == 4 and len({(r.kernel, r.bucket) for r in found}) == 2


def test_the_budget_ends_a_tuning_between_two_candidates(steps, two, tmp_path):
    ticks = iter(range(10**6))
    bench = FakeBench()
    made = tuner(steps, tmp_path / "r", bench, budget=20, now=lambda: float(next(ticks))).run(two)
    assert list(made)[-1].left <= 0 or len(bench.asked) < 20
    assert 0 < len(bench.asked) < 20


def test_what_failed_is_recorded_as_failed_and_never_chosen(steps, two, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeBench, "rule", staticmethod(lambda knobs: None))
    path = tmp_path / "records.json"
    list(tuner(steps, path, FakeBench()).run(two[:1]))
    found, _ = read_records(path)
    assert found and all(r.failed == "wrong: planted" and r.seconds is None for r in found)
    chosen = Compiler("host", 1, cache=False, records=path).tuned
    assert chosen.choose(two[0].key, lambda: None) == chosen.choose("other", lambda: None)


def test_records_change_kernels_and_no_result(steps, tasks, batches, cache, tmp_path, monkeypatch):
    """Candidates picked at random win in every kernel: other symbols, the same outputs."""
    monkeypatch.setattr("autotune.tuning.LEAST_SHARE", 0.0)
    monkeypatch.setattr("autotune.search.PATIENCE", 2)
    path, bench = tmp_path / "records.json", FakeBench()
    bench.rule = lambda knobs: 0.5 + crc32(repr(knobs).encode()) % 97 / 400
    list(tuner(steps, path, bench).run(tasks))
    tuned = network(cache, records=str(path))
    for batch in batches:
        usual, changed = run(steps.net, LOSS, batch), run(tuned, LOSS, batch)
        for one, other in zip(usual, changed, strict=True):
            for name, values in one.items():
                near(other[name], values, name, 1e-5)
    symbols = [set(net.executor(LOSS).compiler._functions) for net in (steps.net, tuned)]
    assert len(symbols[1] - symbols[0]) > 4


@pytest.mark.parametrize(("text", "words"), [("{", "no records"), ('{"schema": 7}', "schema 7")])
def test_corrupted_records_are_said_and_defaults_run(text, words, batches, steps, cache, tmp_path):
    path = tmp_path / "records.json"
    path.write_text(text)
    net = network(cache, records=str(path))
    with pytest.warns(UserWarning, match=words):
        found = run(net, LOSS, batches[0])
    for one, other in zip(found, run(steps.net, LOSS, batches[0]), strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.fixture
def command(cache, tmp_path, monkeypatch):
    """Runs `tvm-cavs tune` in this process, with times made up."""
    monkeypatch.setenv("TVM_CAVS_CACHE", str(cache))
    monkeypatch.setattr(autotune, "bench_of", FakeBench)
    path = tmp_path / "records.json"

    def call(*more):
        return main(["tune", "demo", *TINY, f"tune.records={path}", *more])

    return call, path


def test_ctrl_c_keeps_what_was_measured_and_the_next_call_goes_on(command, capsys, monkeypatch):
    call, path = command

    def third(knobs):
        if len(FakeBench.latest.asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.9

    monkeypatch.setattr(FakeBench, "rule", staticmethod(third))
    assert call() == 130
    first = FakeBench.latest.asked
    assert len(first) == len(read_records(path)[0]) == 3
    shown = capsys.readouterr().out
    assert "kernels, microseconds of a step" in shown and str(path) in shown
    monkeypatch.setattr(FakeBench, "rule", staticmethod(lambda knobs: 1.5))
    assert call("tune.budget=2s") == 0
    # one record for each: nothing was measured twice
    kernels, _ = parted(read_records(path)[0])
    assert len(kernels) == 3 + len(FakeBench.latest.asked)
    shown = capsys.readouterr().out
    assert "a whole step:" in shown and "before" in shown and "target: " in shown


def test_whole_steps_come_after_kernels_and_are_measured_once(command, capsys, monkeypatch):
    """In the time that is kept for them, with the kernels that were found."""
    call, path = command
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(FakeBench, "rule", staticmethod(lambda knobs: 1.5))
    assert call("tune.budget=30s") == 0
    kernels, steps = parted(read_records(path)[0])
    assert steps and max(r.date for r in kernels) < min(r.date for r in steps)
    assert {type(r.knobs).__name__ for r in steps} == {"StepKnobs"}
    assert all(r.failed == "" and r.ratio > 0 and r.knobs.threads == 1 for r in steps)
    assert len({(r.bucket, r.knobs) for r in steps}) == len(steps)
    shown = capsys.readouterr().out
    assert "of the time of all kernels" in shown and "of the time of all steps" in shown
    table = shown[shown.index("kernels, microseconds") :]
    assert f"{steps[0].kernel} " in table
    assert call("tune.budget=30s") == 0
    assert parted(read_records(path)[0]) == (kernels, steps)


def parted(records):
    """Of kernels, and of whole steps."""
    steps = [r for r in records if r.kernel.startswith("step ")]
    return [r for r in records if r not in steps], steps


@pytest.mark.parametrize(
    ("budget", "seconds"), [(4.0, 2.0), (20.0, 10.0), (60.0, 10.0), (100.0, 15.0), (300.0, 45.0)]
)
def test_whole_steps_have_time_in_a_small_budget_too(budget, seconds):
    assert kept_for_steps(budget) == seconds


def test_a_part_of_the_budget_is_kept(steps, two, tmp_path):
    """Kernels end that much earlier, whatever their share."""
    ticks = iter(range(10**6))
    bench, clock = FakeBench(), {"now": lambda: float(next(ticks))}
    made = tuner(steps, tmp_path / "r", bench, budget=1000, **clock)
    last = list(made.run([replace(task, share=0.01) for task in two], reserve=980))[-1]
    assert 970 < last.left <= 981 and bench.asked


def test_a_bench_that_gives_up_ends_the_command_with_what_was_measured(
    command, capsys, monkeypatch
):
    call, path = command

    def gives_up(knobs):
        if len(FakeBench.latest.asked) == 3:
            raise TuningError("no server is left")
        return 0.9

    monkeypatch.setattr(FakeBench, "rule", staticmethod(gives_up))
    assert call() == 1
    shown = capsys.readouterr()
    assert "no server is left" in shown.err and len(read_records(path)[0]) == 2
    assert "kernels, microseconds of a step" in shown.out and str(path) in shown.out


def test_a_killed_tuning_leaves_whole_records_and_no_process(cache, tmp_path):
    path = tmp_path / "records.json"
    command = [sys.executable, "-m", "tvm_cavs", "tune", "demo", *TINY, f"tune.records={path}"]
    given = os.environ | {"PYTHONPATH": str(ROOT), "TVM_CAVS_CACHE": str(cache)}
    process = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if path.exists() and len(read_records(path)[0]) > 1:
                break
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(n) for n in children.read_text().split()] if children.exists() else []
    finally:
        process.kill()
        process.wait()
    found, notes = read_records(path)
    assert len(found) > 1 and notes == []
    assert json.loads(path.read_text())["schema"] == 1
    for _ in range(300):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.1)
    assert not [w for w in workers if Path(f"/proc/{w}").exists()]


def test_steps_of_a_device_elsewhere_run_here(cache, monkeypatch):
    """Their kernels are compiled for the device and measured there; the network runs here."""
    monkeypatch.setenv("TVM_CAVS_CACHE", str(cache))
    monkeypatch.setattr(autotune, "bench_of", FakeBench)
    name = "x86-64-v3" if platform.machine() == "aarch64" else "aarch64"
    target = json.dumps(TARGETS[name])
    given = [*TINY, f"executor.target={target}", "tune.rpc=127.0.0.1:9190/KEY"]
    tuning = Tuning(load_config(shipped()["demo"], given))
    assert tuning.compiler.target.attrs["mtriple"] == TARGETS[name]["mtriple"]
    assert tuning.machine is tuning.compiler.machine
    assert str(tuning.before.executor.compiler.target) == str(Compiler("host", 1, False).target)


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_what_is_tuned_and_where_records_go(mode, cache, tmp_path, monkeypatch):
    """`tune.records` is asked first, then `executor.records`."""
    monkeypatch.setenv("TVM_CAVS_CACHE", str(cache))
    monkeypatch.setattr(autotune, "bench_of", FakeBench)
    path, other = (tmp_path / name for name in ("a.json", "b.json"))
    given = [*TINY, f"tune.mode={mode}", f"executor.records={other}"]
    tuning = Tuning(load_config(shipped()["demo"], given))
    assert (tuning.before.loss is not None) == (mode == "train")
    assert tuning.path == other
    assert Tuning(load_config(shipped()["demo"], [*given, f"tune.records={path}"])).path == path


def test_an_executor_without_kernels_is_refused(capsys):
    assert main(["tune", "demo", "executor.name=reference"]) == 1
    assert "has no kernels to tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tune.budget=soon", "tune.budget = 'soon'"),
        ("tune.budget=xs", "a time such as 300s"),
        ("tune.budget=0", "greater than 0"),
        ("tune.bugdet=3", "did you mean tune.budget?"),
    ],
)
def test_bad_settings_name_the_key(given, words, capsys):
    assert main(["tune", "demo", given]) == 1
    assert words in capsys.readouterr().err


# ---- with nothing compiled: tasks, times and the clock are made up ----

ELSEWHERE = make_target({"kind": "llvm", "mcpu": "znver3", "num-cores": 1})
BF16 = make_target({"kind": "llvm", "mcpu": "sapphirerapids", "num-cores": 2})


class MadeUp(autotune.Task):
    """A product's task; it is measured as it is."""

    SORT = "made up"

    def recorded(self, steps):
        return self


def made_up(n, share, target=ELSEWHERE, precision="float32"):
    def default(**given):
        return product_knobs(target, 300, 450, precision, **given)

    return MadeUp(f"product 300x45{n} {precision}", Bucket(64), default, share, share, 10 + n)


class TimedBench:
    """Every candidate takes a second; `timing`: of the n-th one."""

    def __init__(self, timing, width=1):
        self.timing, self.width, self.now = timing, width, 0.0
        self.loaded, self.asked = [], []

    def load(self, recorded):
        self.loaded.append(recorded)

    def measure(self, candidates, best=None):
        for knobs in candidates:
            self.now += 1.0
            self.asked.append((self.loaded[-1], knobs, best))
            yield knobs, self.timing(len(self.asked) - 1)


def better_and_better(n):
    return Timing(1e-4, 1 / (2 + n), 0.9, 0.01, 50.0)


def timed(path, bench, budget=1e6, target=ELSEWHERE):
    """A tuner for a machine that is not the one where steps run."""
    steps = SimpleNamespace(executor=None)
    clock = autotune.Clock(budget, lambda: bench.now)
    machine = SimpleNamespace(target=target)
    store = autotune.Store(path, target)
    return autotune.Tuner(steps, store, bench, clock, "a test", machine=machine)


@pytest.mark.parametrize("reserve", [0.0, 40.0])
def test_a_task_has_its_part_of_the_time_and_some_in_any_case(reserve, tmp_path):
    """A part of what is left; tasks that hardly matter have none."""
    shares = (0.5, 0.3, 0.18, 0.01, 0.001)
    tasks = [made_up(n, share) for n, share in enumerate(shares)]
    bench = TimedBench(better_and_better)
    seen = list(timed(tmp_path / "r", bench, 99 + reserve).run(tasks, reserve))
    n_measured = [sum(task is t for task, _, _ in bench.asked) for t in tasks]
    assert n_measured == [50, 30, 18, 1, 0] and bench.loaded == tasks[:4]
    assert {(at.number, at.n_tasks) for at in seen} == {(n, 4) for n in range(4)}
    for n, task in enumerate(tasks[:4]):
        mine = [at for at in seen if at.task is task]
        assert [at.measured for at in mine] == list(range(n_measured[n] + 1))
        assert mine[0].record is None and mine[0].best == 1.0
        assert all(at.record.ratio == at.best for at in mine[1:])
        assert [at.left - mine[-1].left for at in mine[::-1]] == list(range(len(mine)))
    few = TimedBench(better_and_better)
    list(timed(tmp_path / "f", few, 10 + reserve).run([tasks[3], tasks[0]], reserve))
    assert [task for task, _, _ in few.asked] == [tasks[3]] * 5 + [tasks[0]] * 5


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_the_last_candidates_are_measured_though_more_would_fit(width, tmp_path, monkeypatch):
    def search(space, measured, generator):
        return next((knobs for knobs in space.candidates[:8] if knobs not in measured), None)

    monkeypatch.setattr(autotune.tuning, "method", lambda space: ("a test", search))
    bench = TimedBench(better_and_better, width)
    list(timed(tmp_path / "r", bench).run([made_up(0, 1.0)]))
    assert len({knobs for _, knobs, _ in bench.asked}) == len(bench.asked) == 7


def test_candidates_run_beside_the_best_so_far(tmp_path):
    """Which is of this task; the default, which runs in any case, is none."""
    ratios = [1.5, 0.9, 0.95, 0.7, 0.8, 0.75]
    bench = TimedBench(lambda n: Timing(1e-4, ratios[n % 6], 0.5, 0.0, 50.0))
    for task in (made_up(0, 0.5), made_up(1, 0.5)):
        del bench.asked[:]
        list(islice(timed(tmp_path / "r", bench).run([task]), 7))
        knobs = [k for _, k, _ in bench.asked]
        beside = [None, None, knobs[1], knobs[1], knobs[3], knobs[3]]
        assert [best for _, _, best in bench.asked] == beside


@pytest.mark.parametrize(
    ("ratio", "to_best", "expected"),
    [(0.7, 1.1, 0.88), (0.95, 1.1, 0.95), (0.7, 0.9, 0.7), (0.7, 1.0, 0.8)],
)
def test_a_ratio_is_the_worse_of_two_unless_the_best_is_beaten(ratio, to_best, expected, tmp_path):
    """Straight to the default, and by way of the best, which was at 0.8."""
    several = iter([Timing(1e-4, 0.8, 0.8, 0.0, 50.0), Timing(1e-4, ratio, to_best, 0.0, 50.0)])
    bench = TimedBench(lambda n: next(several))
    *_, last = islice(timed(tmp_path / "r", bench).run([made_up(0, 1.0)]), 3)
    assert last.record.ratio == pytest.approx(expected)


@pytest.mark.parametrize("failed", [False, True])
def test_a_record_says_all_that_was_measured(failed, tmp_path):
    """Of the machine that the bench measures on."""
    answer = Failed("wrong: it is") if failed else Timing(3e-4, 0.5, 0.6, 0.07, 55.0)
    task = made_up(3, 1.0)
    bench = TimedBench(lambda n: answer)
    _, at = islice(timed(tmp_path / "r", bench).run([task]), 2)
    (found,), notes = read_records(tmp_path / "r")
    assert found == at.record and not notes and found.knobs == bench.asked[0][1]
    assert (found.kernel, found.bucket, found.calls) == (task.key, task.bucket, 13)
    assert (found.target, found.origin) == (target_key(ELSEWHERE), "a test")
    measured = found.seconds, found.ratio, found.spread, found.peak, found.failed
    assert measured == (
        (None, 1.0, 0.0, 0.0, "wrong: it is") if failed else (3e-4, 0.5, 0.07, 55.0, "")
    )
    assert found.date[:2] == "20" and found.date.endswith("+00:00")
    assert at.best == (1.0 if failed else 0.5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_candidates_are_what_the_machine_of_the_bench_can_have(precision, tmp_path):
    """For the precision of the kernel; their blocks are made to fit."""
    tuner = timed(tmp_path / "r", TimedBench(better_and_better), target=BF16)
    space = tuner.space(made_up(0, 1.0, BF16, precision))
    assert len(space.candidates) > 11 and space.candidates[0] == space.default
    for knobs in space.candidates:
        assert misfit(knobs, BF16, precision) is None and knobs.block % knobs.height == 0


def test_a_tuning_is_the_same_each_time(tmp_path):
    def asked(name):
        bench = TimedBench(better_and_better)
        list(islice(timed(tmp_path / name, bench).run([made_up(0, 0.5), made_up(1, 0.5)]), 40))
        return [knobs for _, knobs, _ in bench.asked]

    assert asked("one") == asked("two")


def record(date, ratio=0.5, kernel="product 300x450 float32", target=ELSEWHERE, rows=64, **more):
    knobs = replace(product_knobs(ELSEWHERE, 300, 450, "float32"), **more)
    return Record(kernel, target_key(target), Bucket(rows), knobs, 1e-4, ratio, date=date)


def test_a_store_gives_a_kernels_records_in_the_order_of_measuring(tmp_path):
    """Those that are added too; what is about others stays in the file."""
    path = tmp_path / "records.json"
    foreign, other = record("0", target=BF16), record("1", kernel="product 9x9 float32")
    store = autotune.Store(path, ELSEWHERE)
    assert store.about(other.kernel) == [] and not path.exists()
    for each in (foreign, other, record("4", 0.1), record("3", 0.2, ahead=4)):
        store.add(each)
    again = autotune.Store(path, ELSEWHERE)
    (note,) = again.notes
    assert note.startswith("1 record(s) are for another target")
    late = record("2", 0.3, ahead=8)
    again.add(late)
    newer = record("5", 0.4)  # takes the place of the first
    again.add(newer)
    assert [r.date for r in again.about(late.kernel)] == ["2", "3", "5"]
    assert [r.date for r in again.about(other.kernel)] == ["1"]
    found, notes = read_records(path)
    assert sorted(r.date for r in found) == ["0", "1", "2", "3", "5"] and not notes


def test_a_store_sees_another_file_of_one_size_and_one_time(tmp_path):
    path, other = tmp_path / "records.json", tmp_path / "other.json"
    store = autotune.Store(path, ELSEWHERE)
    store.add(record("1", kernel="product 8x8 float32"))
    autotune.Store(other, ELSEWHERE).add(record("1", kernel="product 9x9 float32"))
    was = path.stat()
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert other.stat().st_size == was.st_size
    os.replace(other, path)
    store.add(record("1", kernel="product 7x7 float32"))
    kernels = [r.kernel for r in read_records(path)[0]]
    assert sorted(kernels) == [f"product {n}x{n} float32" for n in (7, 8, 9)]


def test_a_store_reads_again_only_what_another_process_has_written(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(autotune.store, "read_records", lambda p: read.append(p) or read_records(p))
    path = tmp_path / "records.json"
    one, other = (autotune.Store(path, ELSEWHERE) for _ in range(2))
    del read[:]
    one.add(record("1"))
    one.add(record("2", ahead=4))
    assert not read
    other.add(record("3", ahead=8))
    one.add(record("4", rows=1))
    assert len(read) == 2 and len(read_records(path)[0]) == 4


def test_a_file_that_cannot_be_written_is_said_by_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    store = autotune.Store(tmp_path / "file" / "records.json", ELSEWHERE)
    with pytest.raises(
        TuningError, match=r"kept in .*file/records\.json: File exists\. .*tune\.records=PATH"
    ):
        store.add(record("1"))


class Looked:
    """Steps whose calls are made up: `calls[step]` are (workload, rows, seconds in three looks)."""

    def __init__(self, *calls):
        self.calls, self.batches, self.log = calls, range(len(calls)), []
        compiler = SimpleNamespace(machine="here")
        self.executor = SimpleNamespace(compiler=compiler)

    def run(self, number):
        self.log.append(("run", number))

    def watched(self, number):
        look = sum(each == ("look", number) for each in self.log)
        self.log.append(("look", number))
        return [
            autotune.tasks.Called(w, rows, seconds[look % 3], (w, rows))
            for w, rows, seconds in self.calls[number]
        ]


def test_a_task_is_a_kernels_calls_in_a_bucket_and_its_heaviest_step(monkeypatch):
    """Each call counts with the shortest of its times; what has no knobs counts as a part only."""
    machines = []

    def defaults(machine, workload):
        machines.append(machine)
        return None if workload == "no knobs" else (f"key {workload[0]}", lambda: workload)

    monkeypatch.setattr(autotune.tasks, "defaults", defaults)
    steps = Looked(
        [
            ("a1", 8, (9, 1, 5)),
            ("b1", 8, (4, 4, 2)),
            ("a2", 9, (2, 3, 4)),
            ("no knobs", 1, (5, 5, 5)),
        ],
        [("a1", 15, (1, 2, 3)), ("a1", 16, (8, 8, 8)), ("a1", 8, (2, 2, 2)), ("a2", 8, (1, 1, 1))],
    )
    found = autotune.tasks_of(steps, "there")
    assert set(machines) == {"there"}
    assert steps.log[:2] == [("run", 0), ("run", 1)] and len(steps.log) == 2 + 2 * 3
    total = 1 + 2 + 2 + 5 + 1 + 8 + 2 + 1
    said = [(t.key, t.bucket.first, t.seconds, t.calls, t.workload, t.step) for t in found]
    assert said == [
        ("key a", 16, 8, 1, "a1", 1),
        ("key a", 8, 1 + 2 + 1 + 2 + 1, 2, "a1", 1),
        ("key b", 8, 2, 1, "b1", 0),
    ]
    assert [t.share for t in found] == pytest.approx([8 / total, 7 / total, 2 / total])
    monkeypatch.setattr(autotune.tasks, "recorded_of", lambda *given: given)
    assert found[1].recorded(steps) == ("a1", [("a1", 15), ("a1", 8)], "here")
    assert steps.log[-1] == ("look", 1)
    autotune.tasks_of(steps)
    assert machines[-1] == "here"


def test_looking_at_a_step_changes_nothing(steps):
    """No count of steps, which dropout follows; and an error leaves nobody who looks."""
    steps.net.step = 7
    steps.watched(0)
    assert steps.net.step == 7 and steps.executor.observer is None
    with pytest.raises(IndexError):
        steps.watched(99)
    assert steps.executor.observer is None


def test_results_stay_when_other_steps_run(steps):
    """Copies of all gradients, the rows of a table in order."""
    one = steps.results(0)
    kept = {name: values.copy() for name, values in one.items()}
    steps.results(1)
    assert {f"gradient of {name}" for name in steps.net.parameters()} < set(one)
    for name, values in one.items():
        np.testing.assert_array_equal(values, kept[name], err_msg=name)
    (rows,) = (name for name in one if name.startswith("rows of the gradient"))
    table = name = rows.removeprefix("rows of the ")
    steps.run(0)
    grad = steps.net.parameters()[table.removeprefix("gradient of ")].grad
    assert (np.diff(one[rows]) > 0).all() and sorted(grad.rows) == one[rows].tolist()
    for row, values in zip(one[rows], one[name], strict=True):
        np.testing.assert_array_equal(values, grad.values[grad.rows.tolist().index(row)])


def test_what_failed_is_infinitely_slow_to_a_search(tmp_path, monkeypatch):
    """Also where that was recorded before; what was measured stands in the order of measuring."""
    seen = []

    def search(space, measured, generator):
        seen.append(list(measured.items()))
        return next(knobs for knobs in space.candidates if knobs not in measured)

    monkeypatch.setattr(autotune.tuning, "method", lambda space: ("a test", search))
    answers = [
        Failed("wrong"),
        Timing(1e-4, 0.9, 0.9, 0.0, 50.0),
        Timing(1e-4, 0.5, 0.5, 0.0, 50.0),
    ]
    bench, task = TimedBench(lambda n: answers[n % 3]), made_up(0, 1.0)
    for _ in range(2):
        list(islice(timed(tmp_path / "r", bench).run([task]), 4))
    knobs = [task.default(), *(k for _, k, _ in bench.asked)]
    ratios = [1.0, *[float("inf"), 0.9, 0.5] * 2]
    assert seen == [list(zip(knobs, ratios, strict=True))[:n] for n in (1, 2, 3, 4, 5, 6)]
