"""Widening: which sets of children and inputs are kinds of their own, and which share a wide one.

A kind of its own leaves out the products of what its vertices lack; it costs kernel calls of its
own on every level, and their compilation. Of k independent inputs there are 2^k sets. So every set
is specialised while there are few. Past MAX_KINDS, inputs become *maybe*: whether a vertex has one
tells no kinds apart, and where it is absent, zeros are read and masked. First go all inputs whose
absence saves less than a kernel call costs; then, until the kinds fit, the others, from the one
that saves least on.

What becomes of inputs depends on which masks were seen and not on their order: masks only add
kinds, so what is maybe stays it. Of the sets of slots the first MAX_SLOT_SETS are specialised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_

from ..graph import Kind, kind_of

MAX_SLOT_SETS = 8
MAX_KINDS = 32
LEAST_SAVED = 1 << 14  # multiplications of a vertex: about a microsecond, as a kernel call


@dataclass(frozen=True)
class Widening:
    """Which kind a vertex is of.

    pulls: the inputs that F reads. specialised: whether any set of slots is. slot_sets: those that
    are, in the order in which they came. maybe: the inputs that tell no kinds apart.
    """

    arity: int
    pulls: tuple[str, ...]
    specialised: bool = True
    slot_sets: tuple[tuple[int, ...], ...] = ()
    maybe: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Of a mask, those that tell no kinds apart because their inputs are maybe."""
        return sum(self._bit(name) for name in self.maybe)

    def kind(self, mask: int) -> Kind:
        """The kind of the vertices with this mask."""
        kind = kind_of(mask | self.bits, self.arity, self.pulls)
        if self.specialised and (not kind.slots or kind.slots in self.slot_sets):
            return replace(kind, maybe=self.maybe)
        every = tuple(range(self.arity))
        return Kind(every, kind.pulls, (*every, *self.maybe))

    def n_kinds(self, masks: Collection[int]) -> int:
        """How many kinds there are of vertices with these masks."""
        return len({self.kind(mask) for mask in masks})

    def reason(self, n_kinds: int) -> str:
        """Why there are wide kinds, in one line, and how many kinds there are with them."""
        plural = "kinds are" if n_kinds > 1 else "kind is"
        return (
            f"with every set of inputs there would be more than {MAX_KINDS} kinds of vertices, so "
            f"{', '.join(self.maybe)} read zeros where absent; {n_kinds} {plural} compiled"
        )

    def seeing(self, masks: Collection[int], saved: Callable[[str], int]) -> Widening:
        """The same after these masks, among which are all that were seen before.

        Args:
            saved: multiplications that a vertex need not do if it lacks an input.
        """
        found = replace(self, slot_sets=self._specialised_sets(masks))
        if not self.maybe and found.n_kinds(masks) <= MAX_KINDS:
            return found
        some, every = reduce(or_, masks), reduce(and_, masks)
        differ = [p for p in self.pulls if self._bit(p) & some & ~every]
        for name in sorted(differ, key=saved):
            if saved(name) >= LEAST_SAVED and found.n_kinds(masks) <= MAX_KINDS:
                break
            now = (*found.maybe, name)
            found = replace(found, maybe=tuple(p for p in self.pulls if p in now))
        return found

    def _specialised_sets(self, masks: Collection[int]) -> tuple[tuple[int, ...], ...]:
        if not self.specialised:
            return ()
        came = (kind_of(mask, self.arity, self.pulls).slots for mask in masks)
        sets = dict.fromkeys((*self.slot_sets, *(s for s in came if s)))
        return tuple(sets)[:MAX_SLOT_SETS]

    def _bit(self, name: str) -> int:
        return 1 << (self.arity + self.pulls.index(name))
