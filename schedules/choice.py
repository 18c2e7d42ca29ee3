"""Measured candidates of one kernel -> which of them runs at how many rows.

A candidate was measured in alternation with the default knobs, and counts by their ratio: clocks
move, ratios do not. Shared knobs (see `knobs.py`) have to be the same for every number of rows, so
they are chosen first, by what they cost over all buckets together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any, Protocol

from .knobs import Knobs

MARGIN = 0.02  # a candidate must be so much faster than the default, and by its spread


@dataclass(frozen=True, order=True)
class Bucket:
    """Row counts from `first` to `last` that are measured together: first is a power of two."""

    first: int

    @property
    def last(self) -> int:
        """The largest row count."""
        return 2 * self.first - 1

    def __contains__(self, n_rows: int) -> bool:
        return self.first <= n_rows <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == 1 else f"{self.first}-{self.last}"


def bucket_of(n_rows: int) -> Bucket:
    """The bucket that a row count of 1 or more lies in."""
    return Bucket(1 << (n_rows.bit_length() - 1))


@dataclass(frozen=True)
class Chosen:
    """Knobs of one kernel: the shared ones, and all of them for some buckets of rows."""

    shared: tuple[tuple[str, int], ...] = ()
    by_rows: tuple[tuple[Bucket, Any], ...] = ()


UNTUNED = Chosen()
Shared = tuple[tuple[str, int], ...]  # names and values


class Candidate(Protocol):
    """What is known of one set of knobs in one bucket, see `records.Record`."""

    @property
    def bucket(self) -> Bucket: ...
    @property
    def knobs(self) -> Knobs: ...
    @property
    def ratio(self) -> float: ...
    @property
    def default_seconds(self) -> float: ...
    @property
    def spread(self) -> float: ...


def shared_of(knobs: Knobs) -> Shared:
    """The knobs that all row counts share."""
    return tuple((name, getattr(knobs, name)) for name in knobs.SHARED)


def only(knobs: Knobs) -> Chosen:
    """These knobs for every row count up to 2^40."""
    return Chosen(shared_of(knobs), tuple((Bucket(1 << i), knobs) for i in range(40)))


def choose(default: Callable[..., Knobs], candidates: Sequence[Candidate]) -> Chosen:
    """The fastest shared knobs over all buckets, and the fastest others in each.

    Shared knobs that were not measured in every bucket are out of the question. Where no candidate
    is faster than the default by a margin, the default stays.

    Args:
        default: the default knobs, given the shared ones; without them, the default's own.
    """
    usual = default()
    buckets = sorted({c.bucket for c in candidates})
    best: dict[tuple[Shared, Bucket], Candidate] = {}
    for c in sorted(candidates, key=lambda c: (c.ratio, repr(c.knobs))):
        best.setdefault((shared_of(c.knobs), c.bucket), c)
    own = shared_of(usual)
    weight = {b: median(c.default_seconds for c in candidates if c.bucket == b) for b in buckets}

    def cost(shared: Shared) -> float:
        if shared != own and any((shared, b) not in best for b in buckets):
            return inf
        found = ((weight[b], best.get((shared, b))) for b in buckets)
        return sum(w * (1.0 if c is None else _worth(c, usual, shared == own)) for w, c in found)

    options = {shared for shared, _ in best}
    shared = min(options | {own}, key=lambda s: (cost(s), s != own, s))
    if cost(shared) > (1 - MARGIN) * cost(own):
        shared = own
    chosen = ((b, best.get((shared, b))) for b in buckets)
    own_is_better = shared == own
    found = tuple(
        (b, c.knobs)
        for b, c in chosen
        if c is not None and not (own_is_better and _worth(c, usual, True) == 1.0)
    )
    return Chosen(() if own_is_better else shared, found)


def _worth(candidate: Candidate, usual: Knobs, else_default: bool) -> float:
    """Its time by the default's, which also runs instead where that is possible and as fast."""
    gain = 1 - candidate.ratio
    if candidate.knobs != usual and gain > max(MARGIN, candidate.spread):
        return candidate.ratio
    return 1.0 if else_default else max(1.0, candidate.ratio)
