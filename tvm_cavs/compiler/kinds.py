"""Kinds: the specialised, split and lowered programs of every kind of vertex that has been seen.

Kinds whose programs for a stage are the same share it: a stage function has the set of kinds it
runs for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from ..graph import Kind
from ..language import Program
from ..runtime import Space
from ..transform import (
    ALL,
    STAGES,
    Options,
    Programs,
    Stages,
    multiplications_saved,
    specialise,
    split,
)
from .lowering.lower import lower
from .lowering.lowered import Lowered
from .widening import Widening

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """A stage function and the kinds it runs for: member bool[n_kinds]."""

    stage: str
    lowered: Lowered
    member: np.ndarray


@dataclass
class Kinds:
    """All kinds of a network so far. They change when a batch brings a new set of inputs.

    number: kinds by mask, where the bits in `maybe` are set. rank: int64[n_kinds], their order
    within a level. widening: which sets of inputs are which kind.
    """

    programs: Programs
    pulls: tuple[str, ...]
    options: Options = ALL
    kinds: list[Kind] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=dict)
    stages: list[tuple[Stages, Stages | None]] = field(default_factory=list)
    forward: list[Group] = field(default_factory=list)
    backward: list[Group] = field(default_factory=list)
    rank: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))
    _members: dict[Space, np.ndarray] = field(default_factory=dict)
    _lowered: dict[str, Lowered] = field(default_factory=dict)
    _saved: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.widening = Widening(self.programs.arity, self.pulls, self.options.kinds)

    @property
    def maybe(self) -> int:
        """The bits of masks that tell no kinds apart."""
        return self.widening.bits

    def of_mask(self, mask: int) -> int:
        """The number of the kind of vertices with this mask, which has been learned."""
        return self.number[mask | self.maybe]

    def copy(self) -> Kinds:
        """The same, which can grow on its own: learning puts new lists in place of these."""
        return copy(self)

    def learn(self, masks: Iterable[int]) -> bool:
        """Add the kinds of these masks; True if any mask was new.

        Interrupted or refused, it leaves the masks unknown: the next call does it again.

        Raises:
            TraceError: a stage of a new kind uses an op in a way that has no kernel.
        """
        seen = list(dict.fromkeys((*self.number, *(m | self.maybe for m in masks))))
        if len(seen) == len(self.number):
            return False
        widening = self.widening.seeing(seen, self._multiplications_saved)
        kind_of = {m | widening.bits: widening.kind(m) for m in seen}
        kinds = list(dict.fromkeys(kind_of.values()))
        known = dict(zip(self.kinds, self.stages, strict=True))
        stages = [known[k] if k in known else self._stages_of(k) for k in kinds]
        if widening.maybe != self.widening.maybe:
            _log.info("%s: %s", self.programs.forward.name, widening.reason(len(kinds)))
        vars(self).update(
            widening=widening,
            kinds=kinds,
            number={mask: kinds.index(kind) for mask, kind in kind_of.items()},
            stages=stages,
            forward=self._groups([s for s, _ in stages]),
            backward=self._groups([s for _, s in stages if s is not None]),
            rank=_ranks(stages),
            _members={},
        )
        return True

    def _multiplications_saved(self, pull: str) -> int:
        if pull not in self._saved:
            self._saved[pull] = multiplications_saved(self.programs, pull)
        return self._saved[pull]

    def _stages_of(self, kind: Kind) -> tuple[Stages, Stages | None]:
        joined, lazy = self.options.joined, self.options.lazy
        forward, adjoint = specialise(self.programs.forward, self.programs.adjoint, kind, joined)
        return split(forward, lazy), split(adjoint, lazy) if adjoint else None

    def _groups(self, stages: list[Stages]) -> list[Group]:
        groups = []
        for which in STAGES:
            found: dict[str, list[int]] = {}
            for i, s in enumerate(stages):
                if getattr(s, which).calls:
                    found.setdefault(getattr(s, which).key, []).append(i)
            for members in found.values():
                member = np.zeros(len(stages), bool)
                member[members] = True
                lowered = self._lower(getattr(stages[members[0]], which))
                groups.append(Group(which, lowered, member))
        return groups

    def _lower(self, program: Program) -> Lowered:
        if program.key not in self._lowered:
            self._lowered[program.key] = lower(program, self.programs.arity, self.options)
        return self._lowered[program.key]

    def members(self, space: Space) -> np.ndarray:
        """The kinds that have rows in a space: bool[n_kinds]."""
        if space not in self._members:
            self._members[space] = self._find_members(space)
        return self._members[space]

    def _find_members(self, space: Space) -> np.ndarray:
        match space.what:
            case "edges":
                return np.array([bool(k.slots) for k in self.kinds])
            case "slot":
                return np.array([space.key in k.slots for k in self.kinds])
            case "pull":
                return np.array([space.key in k.pulls for k in self.kinds])
            case "save":
                return np.array([self._saves(i, str(space.key)) for i in range(len(self.kinds))])
        return np.ones(len(self.kinds), bool)

    def _saves(self, i: int, name: str) -> bool:
        both = [s for s in self.stages[i] if s is not None]
        return any(c["name"] == name for s in both for part in s for _, c in part.select("save"))

    def describe(self) -> str:
        """The kinds and the steps of every stage, for people."""
        lines = [self.widening.reason(len(self.kinds))] if self.widening.maybe else []
        lines += [f"kind {i}: {k}" for i, k in enumerate(self.kinds)]
        for title, groups in (("forward", self.forward), ("backward", self.backward)):
            for g in groups:
                lines.append(f"{title} {g.stage}, kinds {np.flatnonzero(g.member).tolist()}")
                lines += str(g.lowered).splitlines()[1:]
        return "\n".join(lines)


def _ranks(stages: Sequence[tuple[Stages, Stages | None]]) -> np.ndarray:
    """The order of kinds within a level: those with equal recurrent stages are adjacent."""
    keys = [s.recurrent.key + (a.recurrent.key if a else "") for s, a in stages]
    order = sorted(range(len(keys)), key=lambda i: (keys.index(keys[i]), i))
    ranks = np.empty(len(keys), "int64")
    ranks[order] = np.arange(len(keys))
    return ranks
