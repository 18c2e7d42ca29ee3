"""Whole steps as tasks: what is free, what counts as right, and what records of them change."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

import autotune
import tvm_cavs as cavs
from autotune.whole_steps import Batches, StepTask, StepTrial
from autotune.worker import Failed, Timing
from helpers.law import near, run
from helpers.random_graphs import N_WORDS, random_tree
from schedules.choice import Bucket, bucket_of
from schedules.knobs import ALWAYS, BY_SIZE, NEVER, StepKnobs
from schedules.records import Record, read_records, step_key, target_key, write_records
from tvm_cavs.compiler import Compiler, Stepping, Wrong, step_knobs
from tvm_cavs.graph import Graph

pytestmark = pytest.mark.compiles
LOSS = cavs.loss.SoftmaxCrossEntropy()
THREADS = 3


def network(cache, records=False, threads=THREADS, sharing=False, cell=cavs.nn.TreeLSTM):
    net = cavs.Network(cell(N_WORDS, 6, 8, 5))
    net.initialize(seed=3)
    net.hybridize("tvm", sharing=sharing, threads=threads, cache=cache, records=records)
    return net


@pytest.fixture(scope="module")
def batches():
    """Of about 20, 20 and 600 vertices: two sizes, with weights where they lie and packed."""
    rng = np.random.default_rng(5)

    def batch(least: int) -> Graph:
        trees = [random_tree(rng, 2, 9)]
        while sum(tree.n_vertices for tree in trees) < least:
            trees.append(random_tree(rng, 2, 9))
        return cavs.batch(trees)

    found = [batch(17), batch(17), batch(520)]
    assert [bucket_of(each.n_vertices).first for each in found] == [16, 16, 512]
    return found


@pytest.fixture
def make(cache, batches):
    def made(loss=LOSS, **options):
        return autotune.Steps(network(cache, **options), batches, loss)

    return made


def free(task, compiler):
    """The knobs that have several values."""
    found = task.domains(compiler.machine)
    return {name: values for name, values in found.items() if len(values) > 1}


def test_steps_of_one_size_are_a_task(make):
    steps = make()
    few, many = sorted(autotune.step_tasks_of(steps), key=lambda task: task.bucket)
    assert (few.bucket, many.bucket) == (Bucket(16), Bucket(512))
    assert (few.numbers, many.numbers) == ((0, 1), (2,)) and few.calls == many.calls == 1
    assert few.share + many.share == pytest.approx(1.0) and few.seconds > 0
    assert few.key == many.key == steps.executor.stepping.key
    assert few.key.startswith("step TreeLSTM ") and few.key.endswith(" float32")
    assert few.default() == StepKnobs(THREADS, BY_SIZE)
    found = free(few, steps.executor.compiler)
    assert found == {"threads": (3, 1, 2), "direct": (BY_SIZE, NEVER, ALWAYS)}


def test_the_heaviest_comes_first(make):
    tasks = autotune.step_tasks_of(make())
    assert [task.seconds for task in tasks] == sorted((t.seconds for t in tasks), reverse=True)


def test_inference_packs_once_so_only_threads_are_free(make):
    (task, *_), compiler = autotune.step_tasks_of(make(None)), Compiler("host", THREADS, False)
    assert set(free(task, compiler)) == {"threads"}
    assert free(task, Compiler("host", 1, False)) == {}


def test_vertices_that_are_computed_once_count_once(cache):
    rng = np.random.default_rng(7)
    tree = random_tree(rng, 2, 9)
    steps = autotune.Steps(network(cache, sharing=True), [cavs.batch([tree] * 40)], LOSS)
    (task,) = autotune.step_tasks_of(steps)
    computed = steps.net.last_sharing.shared
    assert computed <= tree.n_vertices and computed in task.bucket


def test_networks_are_told_apart_by_their_programs(cache):
    """Training and inference too, and sizes; not by their numbers."""

    def key(net, loss=LOSS):
        return net.executor(loss).stepping.key

    one = network(cache)
    other = network(cache)
    other.initialize(seed=9)
    wide = cavs.Network(cavs.nn.TreeLSTM(N_WORDS, 6, 9, 5))
    wide.initialize()
    wide.hybridize("tvm", cache=cache)
    keys = [key(one), key(one, None), key(network(cache, cell=cavs.nn.TreeGRU)), key(wide)]
    assert key(other) == keys[0] and len(set(keys)) == 4
    assert (
        step_key("F", "text", "bf16") == step_key("F", "text", "bf16") != step_key("F", "t", "bf16")
    )


@pytest.mark.parametrize("loss", [LOSS, None], ids=["train", "infer"])
def test_all_candidates_keep_the_results(make, loss):
    steps = make(loss)
    for task in autotune.step_tasks_of(steps):
        trial = StepTrial(task, lambda: make(loss))
        values = task.domains(steps.executor.compiler.machine)
        for threads in values["threads"]:
            for direct in values["direct"]:
                trial.check(StepKnobs(threads, direct))


@pytest.mark.parametrize("name", ["loss", "gradient of U", "rows of the gradient of E"])
def test_a_candidate_with_other_results_is_none(make, name, monkeypatch):
    """Whatever differs, in the last batch only."""
    steps = make()
    task = max(autotune.step_tasks_of(steps), key=lambda task: len(task.numbers))
    bench, right = autotune.StepBench(make, steps.executor.compiler), autotune.Steps.results
    wrong = StepKnobs(1)

    def results(self, number):
        found = right(self, number)
        assert name in found, sorted(found)
        if self.executor.stepping.fixed == wrong and number == task.numbers[-1]:
            found[name] = found[name].copy()
            found[name].flat[-1] += 1
        return found

    monkeypatch.setattr(autotune.Steps, "results", results)
    bench.load(task)
    (_, good), (_, bad) = bench.measure([StepKnobs(2), wrong])
    assert isinstance(good, Timing) and good.ratio > 0 and good.peak > 0
    assert isinstance(bad, Failed)
    where = f"{name} of batch {task.numbers[-1]}"
    assert bad.reason == f"wrong: {where} is not what it is with {task.default()}"


def test_a_trial_runs_what_its_knobs_say(make, monkeypatch):
    """Batches of the task's size alone, and each as often as it is timed."""
    told, seen, step = [], [], autotune.Steps.run
    task = next(t for t in autotune.step_tasks_of(make()) if t.bucket == Bucket(16))
    trial = StepTrial(task, make)

    def noted(self, number):
        seen.append(number)
        return step(self, number)

    monkeypatch.setattr("tvm_cavs.executors.tvm.use_threads", told.append)
    monkeypatch.setattr(autotune.Steps, "run", noted)
    for knobs in (StepKnobs(2, NEVER), StepKnobs(1, ALWAYS)):
        ready = trial.ready(knobs)
        del seen[:], told[:]
        assert ready.seconds(3) > 0
        assert seen == [0, 1] * 3 and set(told) == {knobs.threads}
        executor = ready.steps.executor
        direct = executor.plan(ready.steps.batches[0]).passes is executor.loaded.direct
        assert direct == (knobs.direct == ALWAYS)


def test_networks_of_candidates_that_are_done_are_forgotten(make):
    (task, *_) = autotune.step_tasks_of(make())
    trial = StepTrial(task, make)
    one, two, three = (StepKnobs(n) for n in (1, 2, 3))
    assert task.default() == three
    kept = trial.ready(one).steps
    trial.ready(two)
    trial.keep(one)
    assert set(trial._made) == {one, three} and trial.ready(one).steps is kept


def written(path: Path, executor, *found: tuple[int, StepKnobs]) -> str:
    """Records of buckets and the knobs that won there."""
    key, target = executor.stepping.key, target_key(executor.compiler.target)
    records = [Record(key, target, Bucket(bucket), knobs, 1e-4, 0.5) for bucket, knobs in found]
    write_records(path, records)
    return str(path)


def test_what_was_measured_runs_in_its_bucket_and_the_default_elsewhere(
    cache, batches, tmp_path, monkeypatch
):
    usual = network(cache)
    executor = usual.executor(LOSS)
    path = written(tmp_path / "records.json", executor, (512, StepKnobs(2, ALWAYS)))
    tuned = network(cache, records=path)
    stepping = tuned.executor(LOSS).stepping
    for rows in (512, 1023):
        assert stepping.knobs(rows) == StepKnobs(2, ALWAYS)
    for rows in (1, 511, 1024):
        assert stepping.knobs(rows) == stepping.default == StepKnobs(THREADS, BY_SIZE)
    told = []
    monkeypatch.setattr("tvm_cavs.executors.tvm.use_threads", told.append)
    for batch, threads in zip(batches, (3, 3, 2), strict=True):
        want = run(usual, LOSS, batch)
        told.clear()
        got = run(tuned, LOSS, batch)
        assert set(told) == {THREADS, threads}  # inference is another network
        for one, other in zip(want, got, strict=True):
            for name, values in one.items():
                near(other[name], values, name, 1e-5)
    plan = tuned.executor(LOSS).plan(batches[2])
    assert plan.passes is tuned.executor(LOSS).loaded.direct


@pytest.mark.parametrize("small", [NEVER, ALWAYS])
def test_nothing_is_compiled_after_prepare_whatever_size_reads_weights_where_they_lie(
    small, cache, batches, tmp_path
):
    executor = network(cache).executor(LOSS)
    large = ALWAYS if small == NEVER else NEVER
    found = [(16, StepKnobs(2, small)), (512, StepKnobs(2, large))]
    others = [n for n in (1 << i for i in range(12)) if n not in (16, 512)]
    found += [(n, StepKnobs(2, NEVER)) for n in others]  # as many as graphs, for one
    assert not any(batch.n_graphs in Bucket(n) for batch in batches for n in (16, 512))
    net = network(cache, records=written(tmp_path / "records.json", executor, *found))
    net.prepare(batches, LOSS)
    executor = net.executor(LOSS)
    before = executor.loaded
    assert before.direct is not None
    plans = [executor.plan(batch, ahead=True) for batch in batches]
    assert [plan.passes is before.direct for plan in plans] == [
        direct == ALWAYS for direct in (small, small, large)
    ]
    assert executor.loaded is before


def test_records_of_more_threads_than_there_are_say_so(cache, tmp_path):
    executor = network(cache).executor(LOSS)
    path = written(tmp_path / "records.json", executor, (512, StepKnobs(THREADS + 1)))
    with pytest.warns(UserWarning, match=r"used: StepKnobs\(threads=4, .* on 3 thread\(s\)"):
        assert network(cache, records=path).executor(LOSS).stepping.knobs(600).threads == THREADS


def test_records_of_steps_come_back_as_they_were(cache, tmp_path):
    executor = network(cache).executor(LOSS)
    path = Path(written(tmp_path / "records.json", executor, (16, StepKnobs(1, NEVER))))
    (record,), notes = read_records(path)
    assert not notes and record.knobs == StepKnobs(1, NEVER)
    assert record.kernel == executor.stepping.key


def test_defaults_are_all_threads_of_the_target():
    for n in (1, 2, 7):
        compiler = Compiler("host", n, cache=False, records=False)
        assert step_knobs(compiler.target) == StepKnobs(n, BY_SIZE)


def test_a_step_task_is_what_its_bench_loads(make):
    steps = make()
    task = autotune.step_tasks_of(steps)[0]
    assert isinstance(task, StepTask) and task.recorded(steps) is task


def test_steps_that_give_another_loss_raise(make):
    """`check` alone, without the bench around it."""
    steps = make()
    task = autotune.step_tasks_of(steps)[0]
    trial = StepTrial(task, make)
    trial._expected = {name: values + 1 for name, values in trial._expected.items()}
    with pytest.raises(Wrong, match=r" is not what it is with StepKnobs\(threads=3, "):
        trial.check(StepKnobs(1))


@pytest.fixture
def clock(monkeypatch):
    """A clock that steps move."""
    now = [0.0]
    made = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("autotune.whole_steps.time", made)
    return now


class Timed:
    """Batches of so many vertices, whose steps take seconds that are made up, one after another."""

    def __init__(self, clock, *batches):
        self.batches, self.seconds = [n for n, _ in batches], [list(s) for _, s in batches]
        self.clock, self.loss, self.ran = clock, None, []
        self.executor = SimpleNamespace(
            stepping=SimpleNamespace(key="step F", default=StepKnobs(1))
        )

    def n_rows(self, number):
        assert self.ran[-1] == number, "it is known when the batch has just run"
        return self.batches[number]

    def run(self, number):
        self.ran.append(number)
        self.clock[0] += self.seconds[number].pop(0)


def test_a_size_weighs_what_its_steps_take_at_their_quickest(clock):
    """The first run of each compiles, and counts for nothing."""
    given = (9, (50, 4, 2, 3)), (100, (50, 5, 5, 5)), (15, (50, 2, 8, 1))
    found = autotune.step_tasks_of(Timed(clock, *given))
    assert [(t.bucket.first, t.seconds, t.numbers, t.calls) for t in found] == [
        (64, 5, (1,), 1),
        (8, 3, (0, 2), 1),
    ]
    assert [t.share for t in found] == [5 / 8, 3 / 8] and not any(t.trains for t in found)


def test_seconds_are_the_mean_of_repeats_and_batches(clock):
    """Of one step, of any batch of the task's."""
    steps = Timed(clock, (9, (1, 2, 6)), (9, (1, 3, 5)))
    assert Batches(steps, (0, 1)).seconds(3) == 3 and steps.ran == [0, 1] * 3


def test_a_bench_races_each_candidate_with_the_best_of_its_own_task(monkeypatch):
    """Networks of others are forgotten, and what a machine can do is measured once."""
    log = []

    class Trial:
        def __init__(self, task, make):
            self.task = task

        def keep(self, *knobs):
            log.append(("keep", *knobs))

    monkeypatch.setattr("autotune.whole_steps.StepTrial", Trial)
    monkeypatch.setattr("autotune.whole_steps.peak", lambda given: log.append(given) or "probe")
    monkeypatch.setattr("autotune.whole_steps.measure", lambda trial, *given: (trial.task, *given))
    bench = autotune.StepBench(None, "compiler")
    for task in ("one", "other"):
        bench.load(task)
        found = list(bench.measure(["a", "b"], "best"))
        assert found == [(knobs, (task, knobs, "best", "probe")) for knobs in "ab"]
    assert log == ["compiler", *[("keep", "a", "best"), ("keep", "b", "best")] * 2]
    bench.close()
    assert bench._trial is None


@pytest.mark.parametrize(("off", "right"), [(5e-5, True), (2e-4, False)])
def test_results_may_differ_by_rounding_of_the_largest(off, right):
    """Infinite and missing numbers have to be where they were."""
    want = np.array([4.0, 0.0, np.nan, np.inf], "float32")
    for got in (want + np.float32(4 * off), np.array([4.0, 0.0, 1.0, np.inf], "float32")):
        task = SimpleNamespace(numbers=(0,), default=lambda: 1)
        trial = StepTrial.__new__(StepTrial)
        trial._task, trial._expected = task, {"h of batch 0": want}
        trial._results = lambda knobs, got=got: {"h of batch 0": got}
        if right and np.isnan(got[2]):
            trial.check(2)
        else:
            with pytest.raises(Wrong, match="h of batch 0 is not what it is with 1"):
                trial.check(2)


class Text(str):
    """A program of a function and its loss."""

    name = "F with a loss"


def test_a_network_has_records_of_its_own_programs_and_precision():
    """What runs is what is being measured, else what was, else the default."""
    target, asked = Compiler("host", 2, cache=False, records=False).target, []

    def stepping(forward="f", adjoint="a", precision="float32"):
        machine = SimpleNamespace(
            precision=precision,
            target=target,
            step=lambda key: asked.append(key) or {Bucket(4): StepKnobs(1, NEVER)},
        )
        return Stepping(machine, SimpleNamespace(forward=Text(forward), adjoint=adjoint))

    made = [stepping(), stepping("g"), stepping(adjoint="b"), stepping(adjoint=None)]
    made.append(stepping(precision="bf16"))
    assert [each.key for each in made] == asked and len(set(asked)) == 5
    first, last = made[0], made[-1]
    assert stepping().key == first.key and last.key.endswith(" bf16")
    assert first.key.startswith("step F ") and len(first.key.split()) == 4
    assert first.knobs(4) == first.knobs(7) == StepKnobs(1, NEVER)
    assert first.knobs(3) == first.knobs(8) == StepKnobs(2, BY_SIZE)
    first.fixed = StepKnobs(2, ALWAYS)
    assert first.knobs(4) == first.knobs(8) == first.fixed
