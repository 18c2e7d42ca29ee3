"""Parts of a server, without one: jobs, what of a cohort is left, who begins, and the metrics."""

import itertools
import os
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm_cavs.graph import Graph
from tvm_cavs.serve import app, bodies, engine, orders, reading, running, service
from tvm_cavs.serve.jobs import Answer, Item, Job, Refused
from tvm_cavs.serve.limits import Limits
from tvm_cavs.serve.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX, Metrics
from tvm_cavs.serve.reading import Cohort
from tvm_cavs.serve.running import LEAST, Levels, Whole, _Rest


def job_of(n: int) -> tuple[Job, list[int]]:
    """A job of n graphs, and a list that grows whenever it says that it is done."""
    rung: list[int] = []
    job = Job(b"", False, False, float("inf"), lambda: rung.append(1))
    job.answers, job.n_left = [None] * n, n
    return job, rung


@pytest.mark.parametrize("events", list(itertools.product("a!", repeat=4)), ids="".join)
def test_a_job_is_done_once(events: tuple[str, ...]) -> None:
    """Of graphs that are answered and errors, in any order, the first end counts."""
    job, rung = job_of(3)
    numbers, n_answered, error = iter((2, 0, 1, 1)), 0, None
    for event in events:
        over = error is not None or n_answered == 3
        if event == "a":
            if n_answered == 3:
                continue  # nobody answers more graphs than there are
            job.answer(next(numbers), Answer({}))
            n_answered += not over
        else:
            given = Refused(500, "no")
            job.refuse(given)
            error = error if over else given
        assert job.error is error
        assert len(rung) == (error is not None or n_answered == 3)
    assert sum(a is not None for a in job.answers) == n_answered


def test_a_job_that_was_not_read_may_be_refused() -> None:
    rung: list[int] = []
    job = Job(b"", False, False, float("inf"), lambda: rung.append(1))
    job.refuse(Refused(504, "late"))
    job.refuse(Refused(500, "no"))
    assert job.error is not None and job.error.status == 504 and len(rung) == 1


@pytest.mark.parametrize(
    ("deadline", "abandoned", "late"),
    [(float("inf"), False, False), (float("inf"), True, True), (0.0, False, True)],
)
def test_who_waits_no_more_is_late(deadline: float, abandoned: bool, late: bool) -> None:
    job = Job(b"", False, False, deadline, lambda: None, abandoned=abandoned)
    assert job.is_late == late


def cohort(job: Job, *sizes: int) -> Cohort:
    """Chains of these many vertices."""
    graphs = [Graph.from_sequence(n) for n in sizes]
    return Cohort([Item(job, i, None) for i in range(len(sizes))], graphs)


@pytest.mark.parametrize("seed", range(8))
def test_of_a_cohort_each_graph_is_finished_once_at_its_last_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, int(rng.integers(1, 7))).tolist()
    rest, done, left = _Rest(cohort(job_of(9)[0], *sizes)), 0, set(range(len(sizes)))
    while left:
        assert rest.n_left == len(left)
        done += int(rng.integers(1, 4))
        found = rest.finished(done)
        assert sorted(found) == sorted(i for i in left if sizes[i] <= done)
        left -= set(found)
    assert rest.n_left == 0 and rest.finished(99) == []


@pytest.mark.parametrize("most", [1, 5, 6, 100])
def test_what_begins_together_is_what_fits_or_one(most: int) -> None:
    """First come, first served; nothing begins before what ran is finished."""

    class Model:
        def answers(self, graphs: list[Graph]) -> list[dict[str, np.ndarray]]:
            return [{"y": np.full((g.n_vertices, 1), g.n_vertices)} for g in graphs]

    model: Any = Model()
    metrics = Metrics()
    whole = Whole(model, most, metrics)
    job, rung = job_of(20)
    sizes = [(2, 1), (3,), (9,), (1,), (5, 1), (1,)]
    waiting = deque(cohort(job, *each) for each in sizes)
    for number, item in enumerate(item for c in waiting for item in c.items):
        object.__setattr__(item, "number", number)
    job.n_left = n_graphs = sum(map(len, sizes))
    began: list[int] = []
    while waiting:
        before = [c.n_vertices for c in waiting]
        taken = whole.take(waiting)
        n = len(taken)
        assert [c.n_vertices for c in taken] == before[:n] and len(waiting) == len(before) - n
        assert n == 1 or sum(before[:n]) <= most
        assert n == len(before) or sum(before[: n + 1]) > most
        whole.begin(taken)
        assert not whole.is_idle and whole.take(waiting) == []
        whole.step()
        assert whole.is_idle
        began.append(n)
    assert sum(began) == len(sizes) and len(rung) == 1
    flat = [n for each in sizes for n in each]
    found = [a.outputs["y"][:, 0].tolist() for a in job.answers[:n_graphs] if a is not None]
    assert found == [[n] * n for n in flat]
    assert metrics.count("vertices_total") == sum(flat)
    assert metrics.mean("batch_graphs") == pytest.approx(n_graphs / len(began))
    assert metrics.mean("batch_vertices") == pytest.approx(sum(flat) / len(began))
    whole.begin([cohort(job, 2, 3)])
    assert [item.number for item in whole.give_up()] == [0, 1] and whole.is_idle


@pytest.mark.parametrize("n_running", [0, 3, 10])
def test_levels_begin_as_long_as_there_is_room(n_running: int) -> None:
    """First come, first served, up to the last row."""
    arena = SimpleNamespace(n_running=n_running, n_vertices=10)
    model: Any = SimpleNamespace(arena=lambda n: arena)
    for sizes in itertools.product((1, 3, 7, 10), repeat=3):
        waiting: Any = deque(SimpleNamespace(part=SimpleNamespace(n_rows=n)) for n in sizes)
        wanted = max(k for k in range(4) if n_running + sum(sizes[:k]) <= 10)
        taken = Levels(model, Limits(), Metrics()).take(waiting)
        assert [c.part.n_rows for c in taken if c.part] == list(sizes[:wanted])
        assert len(waiting) == 3 - wanted


class ArenaOfSteps:
    """Runs one level, of two vertices, of all that has joined; a step takes so many seconds a
    vertex.
    """

    n_vertices, n_running = 1000, 0

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0
        self.running: list[Any] = []
        self.asked: list[int] = []

    def join(self, part: list[int]) -> Any:
        levels = [sum(n > k for n in part) for k in range(max(part))]

        class Joined:
            done = 0
            is_done = property(lambda joined: joined.done == len(levels))

        joined = Joined()
        self.running.append((joined, levels))
        return joined

    def step(self, most: int) -> tuple[list[Any], int]:
        self.asked.append(most)
        n = 2 * sum(levels[joined.done] for joined, levels in self.running)
        self.now += self.seconds * n
        went = [joined for joined, _ in self.running]
        for joined in went:
            joined.done += 1
        self.running = [each for each in self.running if not each[0].is_done]
        return went, n

    def clear(self) -> None:
        self.running = []


def levels_of(arena: ArenaOfSteps, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Levels:
    """Each output is the rows it was asked for."""
    monkeypatch.setattr(running.time, "monotonic", lambda: arena.now)
    model: Any = SimpleNamespace(
        arena=lambda n: arena, outputs_of=lambda arena, joined, rows: {"y": rows}
    )
    return Levels(model, Limits(), metrics)


def begun(job: Job, first: int, *sizes: int) -> Cohort:
    """Chains of these many vertices, whose rows are their numbers in the job."""
    found = cohort(job, *sizes)
    for k, item in enumerate(found.items):
        object.__setattr__(item, "number", first + k)
        found.rows.append(np.array([first + k]))
    found.part = sizes  # type: ignore[assignment]
    return found


def test_levels_answer_each_graph_in_the_step_of_its_last_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And count the graphs and vertices of every step."""
    arena, metrics, (job, rung) = ArenaOfSteps(1e-6), Metrics(), job_of(5)
    levels = levels_of(arena, metrics, monkeypatch)
    assert levels.is_idle
    levels.begin([begun(job, 0, 1, 3), begun(job, 2, 2)])
    graphs: list[int] = []
    for step, answered in enumerate([[0], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]):
        if step == 1:
            levels.begin([begun(job, 3, 1, 3)])
        assert not levels.is_idle
        levels.step()
        assert [i for i, answer in enumerate(job.answers) if answer] == answered
        graphs.append((3, 4, 2, 1)[step])
        assert metrics.count("vertices_total") == 2 * sum(graphs)
        assert metrics.mean("batch_vertices") == pytest.approx(2 * np.mean(graphs))
        assert metrics.mean("batch_graphs") == pytest.approx(np.mean(graphs))
    assert levels.is_idle and len(rung) == 1
    assert [a.outputs["y"].tolist() for a in job.answers if a] == [[i] for i in range(5)]


def test_what_is_given_up_is_not_run_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    arena, (job, _) = ArenaOfSteps(1e-6), job_of(3)
    levels = levels_of(arena, Metrics(), monkeypatch)
    levels.begin([begun(job, 0, 1, 3), begun(job, 2, 2)])
    levels.step()
    assert [item.number for item in levels.give_up()] == [0, 1, 2]
    assert levels.is_idle and arena.running == []


@pytest.mark.parametrize(("seconds", "settles"), [(1e-6, 500), (2e-6, 250), (1e-3, LEAST)])
def test_a_step_has_vertices_for_half_a_millisecond(
    seconds: float, settles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the last steps were; one that took long by chance is soon forgotten."""
    arena, (job, _) = ArenaOfSteps(seconds), job_of(1)
    levels = levels_of(arena, Metrics(), monkeypatch)
    levels.begin([begun(job, 0, 99)])
    for _ in range(60):
        levels.step()
    assert arena.asked[0] == LEAST and sorted(arena.asked) == arena.asked
    assert settles - 1 <= arena.asked[-1] <= settles
    arena.seconds *= 5
    levels.step()
    levels.step()
    assert max(LEAST, settles / 2 - 1) <= arena.asked[-1] <= max(LEAST, settles / 2)


def test_only_wanted_vertices_are_answered() -> None:
    class Model:
        def answers(self, graphs: list[Graph]) -> list[dict[str, np.ndarray]]:
            return [{"y": np.arange(g.n_vertices)} for g in graphs]

    model: Any = Model()
    whole, (job, _) = Whole(model, 9, Metrics()), job_of(2)
    given = cohort(job, 4, 3)
    given.items[0] = Item(job, 0, np.array([3, 1]))
    whole.begin([given])
    whole.step()
    one, other = job.answers
    assert one is not None and one.outputs["y"].tolist() == [3, 1] and one.vertices == [3, 1]
    assert other is not None and other.outputs["y"].tolist() == [0, 1, 2]
    assert other.vertices is None


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_histogram_counts_what_is_at_most_each_end(name: str) -> None:
    """A value at an end counts for it, as Prometheus has it; the last one holds all."""
    metrics, ends = Metrics(), HISTOGRAMS[name][1]
    values = [*ends, *(e * 1.0001 for e in ends), 0.0]
    metrics.observe(name)
    metrics.observe(name, *values[:5])
    for value in values[5:]:
        metrics.observe(name, value)
    lines = metrics.text().splitlines()
    buckets = [line for line in lines if line.startswith(f"{PREFIX}_{name}_bucket")]
    for end, line in zip([*ends, float("inf")], buckets, strict=True):
        shown = "+Inf" if end == float("inf") else str(end)
        n = sum(value <= end for value in values)
        assert line == f'{PREFIX}_{name}_bucket{{le="{shown}"}} {n}'
    assert f"{PREFIX}_{name}_count {len(values)}" in lines
    total = next(line for line in lines if line.startswith(f"{PREFIX}_{name}_sum "))
    assert float(total.split()[1]) == pytest.approx(sum(values))
    assert metrics.mean(name) == pytest.approx(np.mean(values))


def test_counters_and_values_of_now() -> None:
    metrics = Metrics()
    metrics.add("graphs_total", 3)
    metrics.add("graphs_total")
    metrics.add("requests_total", label='status="200"')
    metrics.add("requests_total", 2, label='status="503"')
    metrics.add("open_requests", 3)
    metrics.add("open_requests", -1)
    metrics.set("start_time_seconds", 1.5)
    lines = metrics.text().splitlines()
    for line in (
        f"{PREFIX}_graphs_total 4",
        f"{PREFIX}_steps_total 0",
        f'{PREFIX}_requests_total{{status="200"}} 1',
        f'{PREFIX}_requests_total{{status="503"}} 2',
        f"# TYPE {PREFIX}_open_requests gauge",
        f"{PREFIX}_open_requests 2",
        f"{PREFIX}_start_time_seconds 1.5",
        f"# HELP {PREFIX}_open_requests {GAUGES['open_requests']}",
    ):
        assert lines.count(line) == 1
    assert (metrics.count("graphs_total"), metrics.count("vertices_total")) == (4, 0)
    assert metrics.count("requests_total", 'status="503"') == 2
    for name in (*COUNTERS, *HISTOGRAMS):
        kind = "counter" if name in COUNTERS else "histogram"
        assert lines.count(f"# TYPE {PREFIX}_{name} {kind}") == 1
    assert metrics.text().endswith("\n") and metrics.mean("step_seconds") == 0


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (lambda metrics: metrics.add("graphs_total", 2), "graphs_total 4"),
        (lambda metrics: metrics.observe("step_seconds", 0.5), "step_seconds_count 2"),
    ],
)
def test_of_threads_that_count_at_once_none_is_lost(count: Any, line: str) -> None:
    """The second one comes between the reading of a number and its writing."""
    metrics = Metrics()
    numbers, second = metrics._own, threading.Thread(target=count, args=(metrics,))

    class Numbers:
        def __getitem__(self, place: int) -> float:
            found = numbers[place]
            if second.ident is None:
                second.start()
                second.join(0.05)  # which may have to wait
            return found

        def __setitem__(self, place: int, value: float) -> None:
            numbers[place] = value

    metrics._own = Numbers()  # type: ignore[assignment]
    count(metrics)
    second.join()
    assert f"{PREFIX}_{line}" in metrics.text().splitlines()


def test_what_processes_count_is_added_up_and_outlives_them() -> None:
    """Each has a row. A successor goes on with that of one that ended, which answers nothing."""
    metrics = Metrics(2)
    metrics.set("processes", 2)
    for row in (0, 1, 0):
        child = os.fork()
        if not child:
            metrics.use(row)
            metrics.add("graphs_total", 10**row)
            metrics.add("open_requests", 3)
            metrics.observe("step_seconds", 0.5 * row)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    metrics.add("graphs_total", 1000)
    assert metrics.count("graphs_total") == 1012 and metrics.count("open_requests") == 6
    assert metrics.mean("step_seconds") == pytest.approx(0.5 / 3)
    lines = metrics.text().splitlines()
    assert f"{PREFIX}_step_seconds_count 3" in lines and f"{PREFIX}_processes 2" in lines
    metrics.use(1)
    assert metrics.count("graphs_total") == 1012 and metrics.count("open_requests") == 3


@pytest.mark.parametrize("module", [app, bodies, engine, orders, reading, service])
def test_every_status_of_ours_can_be_counted(module: Any) -> None:
    metrics = Metrics()
    found = {n for name, n in vars(module).items() if name.isupper() and isinstance(n, int)}
    statuses = {n for n in found if 400 <= n < 600}
    assert statuses
    for status in statuses:
        metrics.add("requests_total", label=f'status="{status}"')
        assert metrics.count("requests_total", f'status="{status}"') == 1
