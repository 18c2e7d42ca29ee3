"""When values are there: conditions mean what their sets say, for every vertex there can be."""

import itertools
import random
from collections.abc import Iterator
from functools import reduce

import pytest

from tvm_cavs.language.program import Builder
from tvm_cavs.language.value import Type
from tvm_cavs.transform.absence import (
    ALWAYS,
    NEVER,
    Need,
    Presence,
    Runs,
    absent_ranges,
    common,
    cut,
    overall,
    presences,
    reach,
)
from tvm_cavs.transform.masks import guarded

NEEDS: tuple[Need, ...] = (0, 1, "word", "label")


def subsets(of: tuple[Need, ...] = NEEDS) -> Iterator[frozenset[Need]]:
    for n in range(len(of) + 1):
        yield from map(frozenset, itertools.combinations(of, n))


def drawn(seed: int, n: int) -> list[Presence]:
    """Conditions, those that always and never hold among them."""
    generator, every = random.Random(seed), list(subsets())
    made = [Presence(frozenset(generator.sample(every, k=1 + i % 3))) for i in range(n)]
    return [ALWAYS, NEVER, *made]


@pytest.mark.parametrize("seed", range(3))
def test_and_or_and_what_is_given_hold_where_they_say(seed: int) -> None:
    for p, q in itertools.product(drawn(seed, 6), repeat=2):
        for has in subsets():
            assert (p | q).holds(has) == (p.holds(has) or q.holds(has))
            assert (p & q).holds(has) == (p.holds(has) and q.holds(has))
        assert (p | q) | p == p | q and (p & q) & p == p & q  # of equal ones there is one


@pytest.mark.parametrize("seed", range(3))
def test_what_is_given_is_what_is_open(seed: int) -> None:
    """Of vertices that have some things for sure and others maybe, in the terms of the latter."""
    for p in drawn(seed, 8):
        for sure, maybe in itertools.product(subsets(), repeat=2):
            open_ = p.given(sure, maybe)
            for more in subsets(tuple(maybe)):
                assert open_.holds(more) == p.holds(sure | more)
            assert not any(needs & sure for needs in open_.any_of)


def test_who_asks_for_a_number_reads_zeros() -> None:
    p, q = Presence(frozenset({frozenset({0})})), Presence(frozenset({frozenset({1})}))
    either, both = p | q, p & q
    wanted = {
        either: ("add", "sub", "maximum", "minimum", "concat"),
        both: ("mul", "matmul", "outer", "pick", "one_hot", "embedding", "total_rows"),
        p: ("over", "neg", "tanh", "relu", "abs", "sqrt", "sum", "max", "total", "dropout")
        + ("slice", "reshape", "transpose"),
        ALWAYS: ("div", "exp", "log", "sigmoid", "softmax", "log_softmax", "greater", "equal"),
    }
    for found, ops in wanted.items():
        assert [op for op in ops if reach(op, [p, q]) != found] == []
    assert reach("where", [ALWAYS, p, q]) == either and reach("where", [p, NEVER, q]) == q


@pytest.mark.parametrize("op", ["sum", "max"])
def test_rows_of_a_matrix_are_reduced_each_by_itself(op: str) -> None:
    b = Builder("F")
    x, y = (b.call("pull", name=name, type=Type((n, 3))) for n, name in ((2, "x"), (1, "y")))
    b.call(op, b.call("concat", x, y, axis=0), keep=False)
    *_, found = presences(b.finish())
    assert [(n, p.holds({"x"}), p.holds({"y"})) for n, p in found] == [
        (2, True, False),
        (1, False, True),
    ]


@pytest.mark.parametrize(
    ("axis", "stop", "rows"), [(0, 3, [(1, "x"), (1, "y")]), (1, 2, [(2, "x"), (1, "y")])]
)
def test_a_slice_of_rows_has_fewer_of_them_and_one_of_columns_all(
    axis: int, stop: int, rows: list[tuple[int, str]]
) -> None:
    b = Builder("F")
    x, y = (b.call("pull", name=name, type=Type((n, 3))) for n, name in ((2, "x"), (1, "y")))
    b.call("slice", b.call("concat", x, y, axis=0), axis=axis, start=1, stop=stop)
    *_, found = presences(b.finish())
    assert [(n, [what for what in "xy" if p.holds({what})]) for n, p in found] == [
        (n, [what]) for n, what in rows
    ]


def spread(runs: Runs) -> list[Presence]:
    """The condition of every element."""
    return [p for n, p in runs for _ in range(n)]


def test_ranges_are_cut_and_found_element_by_element() -> None:
    p, q = Presence(frozenset({frozenset({0})})), Presence(frozenset({frozenset({1})}))
    runs: Runs = ((2, p), (1, q), (3, ALWAYS), (1, p))
    other: Runs = ((3, q), (4, NEVER))
    whole = spread(runs)
    for start, stop in itertools.combinations(range(8), 2):
        made = cut(runs, start, stop)
        assert spread(made) == whole[start:stop]
        assert all(a[1] != b[1] for a, b in itertools.pairwise(made))
    assert common([runs, other]) == [(0, 2), (2, 3), (3, 6), (6, 7)] and common([]) == [(0, 1)]
    assert overall(runs) == ALWAYS and overall(other) == q
    assert cut(((1, p), (2, p), (2, q), (1, q), (1, p)), 0, 6) == ((3, p), (3, q))
    for has in ((), (0,), (1,), (0, 1)):
        gone = [i for a, b in absent_ranges(runs, has) for i in range(a, b)]
        assert gone == [i for i, each in enumerate(whole) if not each.holds(has)]
    assert absent_ranges(runs, ()) == [(0, 3), (6, 7)]  # neighbours are one range


@pytest.mark.parametrize("op", ["add", "mul"])
def test_conditions_are_asked_for_in_one_order_whatever_their_hashes(op: str) -> None:
    """So the kernels of a kind are the same in every process."""
    names, b = "abcdef", Builder("F")
    pulled = [b.call("pull", name=name, type=Type((3,))) for name in reversed(names)]
    some = reduce(lambda x, y: b.call(op, x, y), pulled)
    b.call("push", b.call("mul", some, some), name="y")
    made = guarded(b.finish(), {}, (), names)
    ((last, _),) = made.select("push")
    asked = made.calls[last - 1]
    assert asked.op == "where"
    order, todo = [], [asked.args[0]]
    while todo:
        c = made.calls[todo.pop()]
        todo += c.args
        order += [c["name"]] if c.op == "present" else []
    assert "".join(order[::-1]) == names
