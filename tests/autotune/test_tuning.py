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
from schedules.records import read_records, target_key
from tvm_cavs.cli.export import TARGETS
from tvm_cavs.cli.main import main
from tvm_cavs.cli.shipped import shipped
from tvm_cavs.cli.tune import Tuning
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
