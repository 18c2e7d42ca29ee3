"""A square block of numbers, transposed in vector registers.

Each row is loaded once, and log2 n steps exchange elements between pairs of the n rows: two inside
of groups of four elements, in the order that vector units have instructions for, then whole groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from ..loopnest import Expr

GROUP = 4  # elements of the smallest vector
# What an exchange takes of a group of one row (elements 0 to 3) and that of another (4 to 7).
LOW, HIGH = (0, 4, 1, 5), (2, 6, 3, 7)  # elements in turn
FIRST, SECOND = (0, 1, 4, 5), (2, 3, 6, 7)  # pairs in turn


def transposed(rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a block: n vectors of n elements each, n being 4, 8 or 16."""
    n, made = len(rows), list(rows)
    for i in range(0, n, GROUP):
        made[i : i + GROUP] = _groups_transposed(rows[i : i + GROUP], n)
    distance = GROUP
    while distance < n:
        for i in (i for i in range(n) if not i & distance):
            pair = made[i], made[i + distance]
            made[i], made[i + distance] = (_groups_of(*pair, n, distance, odd) for odd in (0, 1))
        distance *= 2
    return made


def _groups_transposed(rows: Sequence[Expr], n: int) -> list[Expr]:
    """Every group of four elements of four rows is a block of 4 x 4: all of them, transposed."""
    a, b, c, d = rows
    halves = [(_in_order(a, b, n, half), _in_order(c, d, n, half)) for half in (LOW, HIGH)]
    return [_in_order(*pair, n, order) for pair in halves for order in (FIRST, SECOND)]


def _in_order(a: Expr, b: Expr, n: int, order: Sequence[int]) -> Expr:
    """Of every group of a and that of b the elements in this order."""
    places = [(i // GROUP * n) + i % GROUP for i in order]
    return _picked(a, b, [group + place for group in range(0, n, GROUP) for place in places])


def _groups_of(a: Expr, b: Expr, n: int, distance: int, odd: int) -> Expr:
    """Of the runs of `distance` elements of a, then of b in turn: those at even or odd places."""
    runs = range(odd * distance, n, 2 * distance)
    return _picked(a, b, [row + run + e for run in runs for row in (0, n) for e in range(distance)])


def _picked(a: Expr, b: Expr, places: Sequence[int]) -> Expr:
    """The elements at these places of a followed by b."""
    return T.bind(tirx.Shuffle([a, b], [tirx.IntImm("int32", place) for place in places]))
