"""What tuning has come to, of steps whose times are made up."""

import itertools
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm")

from autotune import report
from autotune.report import LEAST_ROUNDS, MOST_ROUNDS, STEP_SECONDS, WARM_UP, line, pair
from autotune.tasks import Task
from schedules.choice import Bucket
from schedules.knobs import ProductKnobs
from schedules.records import Record


class Steps:
    """Two batches, the second of which takes three times as long; `rounds`: of the first."""

    batches = ("few", "many")

    def __init__(self, now, rounds, log, name):
        self.now, self.log, self.name = now, log, name
        self.rounds = itertools.chain([100.0] * WARM_UP, itertools.cycle(rounds))

    def run(self, number):
        if number == 0:
            self.seconds = next(self.rounds)
            self.log.append(self.name)
        self.now[0] += self.seconds * (1, 3)[number]


@pytest.fixture
def made(monkeypatch):
    """Steps before and after, and in which order they ran."""
    now, log = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    monkeypatch.setattr(report, "time", clock)

    def make(before, after):
        return Steps(now, before, log, "before"), Steps(now, after, log, "after")

    return make, log


def test_steps_are_compared_in_pairs_of_rounds(made):
    """Medians over rounds of a step, and of ratios within a round."""
    make, log = made
    seconds = STEP_SECONDS / 4 / 2 / LEAST_ROUNDS * 1.1  # so that a few rounds take long enough
    ratios = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    scale = [1, 4, 1, 2, 1, 8, 1, 1]
    before = [seconds * s for s in scale]
    found = pair(*make(before, [b * r for b, r in zip(before, ratios, strict=True)]))
    n = log.count("before") - WARM_UP
    assert LEAST_ROUNDS <= n == log.count("after") - WARM_UP < MOST_ROUNDS
    assert log[: 2 * WARM_UP] == ["before"] * WARM_UP + ["after"] * WARM_UP
    turns = [log[i : i + 2] for i in range(2 * WARM_UP, len(log), 2)]
    assert turns == [["after", "before"] if k % 2 == 0 else ["before", "after"] for k in range(n)]
    taken = sorted((ratios * MOST_ROUNDS)[:n])
    assert found.ratio == pytest.approx(
        sorted(taken)[n // 2] if n % 2 else sum(taken[n // 2 - 1 : n // 2 + 1]) / 2
    )
    assert found.low == pytest.approx(taken[n // 4])
    assert found.high == pytest.approx(taken[-1 - n // 4])
    # a step takes (1 + 3) / 2 of the first one's time
    assert found.before == pytest.approx(2 * seconds)
    assert found.low <= found.ratio <= found.high and found.after < 2 * found.before


def test_rounds_end_where_that_is_asked_for_or_at_the_most(made):
    make, log = made
    pair(*make([1e-9], [1e-9]))
    assert log.count("before") == WARM_UP + MOST_ROUNDS
    log.clear()
    found = pair(*make([1.0], [2.0]), stop=lambda: True)
    assert log.count("before") == WARM_UP + 1
    log.clear()
    rounds = LEAST_ROUNDS + 2  # a round takes (1 + 3) * (1 + 2) seconds
    assert pair(*make([1.0], [2.0]), seconds=12.0 * rounds - 1.0) == found
    assert log.count("before") == WARM_UP + rounds
    assert (found.before, found.after, found.ratio, found.low, found.high) == (2, 4, 2, 2, 2)


def test_quartiles_are_those_of_all_rounds(made):
    make, _ = made
    ratios = [1 + k * 17 % MOST_ROUNDS / 100 for k in range(MOST_ROUNDS)]
    found = pair(*make([1e-3], [1e-3 * ratio for ratio in ratios]))
    n, taken = MOST_ROUNDS, sorted(ratios)
    assert len(set(taken)) == n > 30 and n % 4 == 1
    expected = [taken[n // 4], taken[n // 2], taken[3 * n // 4]]
    assert [found.low, found.ratio, found.high] == pytest.approx(expected, rel=1e-6)


USUAL, FAST, WIDE = ProductKnobs(1, 4, 8), ProductKnobs(1, 4, 16), ProductKnobs(2, 4, 8)


def said(*records):
    """Before, after and knobs of a task at 8 to 15 rows; `records`: rows, knobs, ratio."""
    found = [
        Record("k", "t", Bucket(rows), knobs, 1e-4 * ratio * n, ratio, failed=failed)
        for n, (rows, knobs, ratio, *more) in enumerate(records, 1)
        for failed in [more[0] if more else ""]
    ]
    task = Task("k", Bucket(8), lambda **_: USUAL, 1.0, 1.0, 1)
    made = line(task, SimpleNamespace(about=lambda key: found if key == "k" else []))
    return made and (made.task is task, made.before, made.after, made.knobs)


@pytest.mark.parametrize(
    ("records", "before", "after", "knobs"),
    [
        ([(8, FAST, 0.5)], 100, 50, FAST),
        ([(8, FAST, 0.5), (8, USUAL, 1.0), (8, FAST, 0.1, "wrong")], 150, 75, FAST),
        ([(8, FAST, 1.5)], 100, 100, None),
        # faster, but in another bucket it costs more, and its panels are the same for all
        ([(8, WIDE, 0.9), (1, WIDE, 9.0)], 100, 100, None),
        ([(1, FAST, 0.2), (8, FAST, 0.5), (8, WIDE, 0.9)], 250, 125, FAST),
    ],
)
def test_a_task_before_and_after_is_what_its_records_choose(records, before, after, knobs):
    """Microseconds of the default in its bucket, and of the knobs that will run there."""
    found = said(*records)
    assert found == (True, pytest.approx(before), pytest.approx(after), knobs)


def test_nothing_is_said_of_what_was_not_measured():
    assert said() is None and said((1, FAST, 0.5)) is None and said((8, FAST, 0.5, "bad")) is None
