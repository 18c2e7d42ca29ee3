"""Spaces and searches: each candidate once, small spaces whole, the best of large ones found."""

import random
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import pytest

from autotune.search import EXHAUSTIVE, PATIENCE, evolutionary, exhaustive, method
from autotune.space import Space


@dataclass(frozen=True)
class Toy:
    """Three knobs of a kernel that nobody has."""

    SHARED: ClassVar[tuple[str, ...]] = ("width",)

    width: int = 2
    depth: int = 0
    flag: bool = False


def space(width=(2, 1, 4), depth=(0,), usable=lambda knobs: knobs):
    return Space(Toy(), {"width": width, "depth": depth, "flag": (False, True)}, usable)


def searched(given, cost):
    """What a search measures, in order, as a tuner would call it."""
    _, search = method(given)
    measured, generator = {given.default: 1.0}, random.Random(0)
    while (knobs := search(given, measured, generator)) is not None:
        assert knobs not in measured
        measured[knobs] = cost(knobs)
    return measured


def test_a_space_prints_and_has_every_usable_candidate_once():
    whole = space(usable=lambda knobs: None if knobs.width == 4 and knobs.flag else knobs)
    assert whole.candidates[0] == Toy()
    assert len(set(whole.candidates)) == len(whole.candidates) == 5
    assert str(whole) == "5 candidates: width 2/1/4, flag False/True"


def test_a_small_space_is_measured_whole():
    small = space()
    assert method(small) == ("exhaustive", exhaustive)
    assert set(searched(small, lambda _: 2.0)) == set(small.candidates)


def test_a_large_space_is_searched_from_the_best_on():
    large = space(depth=tuple(range(100)))
    assert len(large.candidates) > EXHAUSTIVE and method(large) == ("evolutionary", evolutionary)
    found = searched(large, lambda k: 0.5 + abs(k.depth - 70) / 100 + (k.width != 4) * 0.1)
    best = min(found, key=found.get)
    assert best.width == 4 and found[best] < 0.7
    assert len(found) < len(large.candidates)


@pytest.mark.parametrize(("width", "n"), [((2, 1, 4), 100), (tuple(range(2, 2 * PATIENCE)), 1)])
def test_every_shared_knob_is_tried_before_all_else(width, n):
    """Patience begins when all are."""
    large = space(width, depth=tuple(range(n)))
    found = list(searched(large, lambda _: 2.0))
    assert tuple(knobs.width for knobs in found[: len(width)]) == width


def test_a_search_ends_where_nothing_is_better():
    large = space(depth=tuple(range(1000)))
    found = searched(large, lambda _: 2.0)
    assert PATIENCE < len(found) <= PATIENCE + 2


def test_failures_are_no_parents():
    large = space(depth=tuple(range(100)))
    found = searched(large, lambda k: inf if k.width == 1 else 0.9)
    assert sum(knobs.width == 1 for knobs in found) < len(found) / 2


def differing(one, other):
    return [name for name in vars(one) if getattr(one, name) != getattr(other, name)]


def test_what_is_near_differs_in_one_knob_and_what_is_drawn_in_two_at_most():
    large = space(depth=(0, 1, 2, 3), usable=lambda k: None if k.depth == 3 and k.flag else k)
    generator, drawn = random.Random(1), set()
    for knobs in large.candidates:
        near = large.near(knobs)
        assert near.keys() == {"width", "depth", "flag"}
        for name, found in near.items():
            wanted = {each for each in large.candidates if differing(each, knobs) == [name]}
            assert len(found) == len(wanted) and set(found) == wanted
        for _ in range(30):
            made = large.mutated(knobs, generator)
            assert made is None or (made in large.candidates and len(differing(made, knobs)) < 3)
            drawn |= set() if made is None else {tuple(differing(made, knobs))}
    pairs = {("width", "depth"), ("width", "flag"), ("depth", "flag")}
    assert pairs <= drawn and None not in large.candidates


def test_after_the_shared_knobs_comes_what_is_near_the_best():
    large, best = space(depth=tuple(range(100))), Toy(width=4)
    measured = dict.fromkeys(large.by_shared(), 2.0) | {Toy(): 1.0, best: 0.5}
    for seed in range(20):
        found = evolutionary(large, measured, random.Random(seed))
        assert len(differing(found, best)) == 1 and found not in measured


def test_where_all_that_is_near_is_measured_two_knobs_change():
    """Whatever cannot be had is drawn again."""
    depths = tuple(range(20))
    given = space(depth=depths, usable=lambda k: None if k.flag and k.depth % 2 else k)
    best = [Toy(), Toy(depth=2)]
    near = [k for each in best for found in given.near(each).values() for k in found]
    measured = dict.fromkeys(near, 2.0)
    for each in best:  # the last ones, so PATIENCE has not run out
        measured.pop(each, None)
        measured[each] = 0.5
    found = [evolutionary(given, measured, random.Random(seed)) for seed in range(20)]
    ranked = sorted(measured, key=lambda k: (measured[k], repr(k)))
    assert None not in found and len(set(found)) > 5 and not measured.keys() & set(found)
    for knobs in found:
        assert min(len(differing(knobs, each)) for each in ranked[:4]) <= 2


def test_the_candidate_for_shared_knobs_is_the_one_nearest_to_the_default():
    whole = space(depth=(0, 1), usable=lambda k: None if k.width == 4 and not k.flag else k)
    assert list(whole.by_shared()) == [Toy(), Toy(width=1), Toy(width=4, flag=True)]


def test_a_search_goes_on_as_long_as_it_finds_better_ones():
    """PATIENCE counts from the last better one."""
    large = space(depth=tuple(range(1000)))
    calls = []

    def cost(knobs):
        calls.append(knobs)
        return 0.5 if len(calls) == PATIENCE - 2 else 2.0

    found = searched(large, cost)
    assert len(found) == 1 + 2 * PATIENCE - 2


def test_a_search_that_found_no_draw_does_not_end_by_chance():
    """What differs from the best in three knobs is left: no draw reaches it, so it comes in order.
    Else the same command would measure a little more in every call.
    """
    given = space(width=(2, 1, 4), depth=tuple(range(20)))
    best = [Toy(depth=depth) for depth in range(4)]
    far = [k for k in given.candidates if all(len(differing(k, each)) == 3 for each in best)]
    measured = {k: 1.0 for k in given.candidates if k not in far and k not in best}
    measured |= dict.fromkeys(best, 0.5)  # the last ones, so PATIENCE has not run out
    for seed in range(20):
        assert evolutionary(given, measured, random.Random(seed)) == far[0]
    assert evolutionary(given, dict.fromkeys(given.candidates, 1.0), random.Random(0)) is None
