"""Kinds: the specialised, split and lowered programs of every kind of vertex that has been seen.

Kinds whose programs for a stage are the same share it: a stage function has the set of kinds it
runs for.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from ..graph import Kind, kind_of
from ..language import Program
from ..runtime import Space
from ..transform import ALL, STAGES, Options, Programs, Stages, specialise, split
from .lowering.lower import lower
from .lowering.lowered import Lowered

MAX_SLOT_SETS = 8


@dataclass(frozen=True)
class Group:
    """A stage function and the kinds it runs for: member bool[n_kinds]."""

    stage: str
    lowered: Lowered
    member: np.ndarray


@dataclass
class Kinds:
    """All kinds of a network so far. Grows when a batch brings a new one.

    rank: int64[n_kinds], their order within a level.
    """

    programs: Programs
    pulls: tuple[str, ...]
    options: Options = ALL
    kinds: list[Kind] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=dict)  # mask -> kind
    stages: list[tuple[Stages, Stages | None]] = field(default_factory=list)
    forward: list[Group] = field(default_factory=list)
    backward: list[Group] = field(default_factory=list)
    rank: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))
    _members: dict[Space, np.ndarray] = field(default_factory=dict)
    _lowered: dict[str, Lowered] = field(default_factory=dict)

    def copy(self) -> Kinds:
        """The same kinds, which can grow on their own."""
        held = vars(self).items()
        grows = {k: v.copy() for k, v in held if isinstance(v, (dict, list))}
        made = copy(self)
        made.__dict__.update(grows)
        return made

    def learn(self, masks: Iterable[int]) -> bool:
        """Add the kinds of these masks; True if any was new.

        Interrupted or refused, it leaves the masks unknown: the next call does it again.

        Raises:
            TraceError: a stage of a new kind uses an op in a way that has no kernel.
        """
        new: dict[int, int] = {}
        joined, lazy = self.options.joined, self.options.lazy
        for m in (m for m in masks if m not in self.number):
            kind = self._promoted(kind_of(m, self.programs.arity, self.pulls))
            if kind not in self.kinds:
                both = self.programs.forward, self.programs.adjoint
                forward, adjoint = specialise(*both, kind, joined)
                backward = split(adjoint, lazy) if adjoint else None
                self.stages.append((split(forward, lazy), backward))
                self.kinds.append(kind)
            new[m] = self.kinds.index(kind)
        if new:
            self._regroup()
        self.number.update(new)
        return bool(new)

    def _promoted(self, kind: Kind) -> Kind:
        """Past MAX_SLOT_SETS sets of slots, a new one looks which children are there.

        Absent ones are zeros that are read and masked. Without specialisation all vertices do that.
        """
        sets = {k.slots for k in self.kinds if k.slots and not k.maybe}
        new = kind.slots and kind.slots not in sets
        if not self.options.kinds or (new and len(sets) >= MAX_SLOT_SETS):
            every = tuple(range(self.programs.arity))
            return Kind(every, kind.pulls, maybe=every)
        return kind

    def _regroup(self) -> None:
        """Kinds with equal stages share a group; with equal recurrent stages they are adjacent."""
        self.forward = self._groups([s for s, _ in self.stages])
        self.backward = self._groups([s for _, s in self.stages if s is not None])
        keys = [s.recurrent.key + (a.recurrent.key if a else "") for s, a in self.stages]
        order = sorted(range(len(keys)), key=lambda i: (keys.index(keys[i]), i))
        self._members.clear()
        self.rank = np.empty(len(keys), "int64")
        self.rank[order] = np.arange(len(keys))

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
        lines = [f"kind {i}: {k}" for i, k in enumerate(self.kinds)]
        for title, groups in (("forward", self.forward), ("backward", self.backward)):
            for g in groups:
                lines.append(f"{title} {g.stage}, kinds {np.flatnonzero(g.member).tolist()}")
                lines += str(g.lowered).splitlines()[1:]
        return "\n".join(lines)
