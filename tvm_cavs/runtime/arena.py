"""Arena: batches run side by side, level by level; others join between two levels.

The one idea: a kernel takes whole buffers and the integers at which its rows begin, and finds
children by their rows of state. So the vertices of several batches that are ready at the same time
are rows of one slice, wherever their children lie. Values of vertices are kept for as long as the
batch runs, everything else for one step. After "cellular batching" of Gao et al. 2018 (BatchMaker).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..graph import Graph, ranges
from .batch_inputs import OF_BATCH
from .executable import Executable
from .memory import Both, HostMemory
from .part import FILLED, Part, make_part
from .passes import Passes
from .plan import CELL_BUFFERS
from .planner import Planner, Ranks
from .roles import BufferId, Role
from .room import Layout
from .slices import SLICE_ORDER, SLICES, Spaces
from .spaces import PARTS, STATE, Buffer, space_of
from .workspace import Workspace

BASES = BufferId(Role.PLAN, "bases")
SPARE = 2  # places for so many times the vertices that may run: the rest is room to append


@dataclass(eq=False)
class Joined:
    """A part that runs. first: its first place in the arena. done: levels that have been run."""

    part: Part
    first: int
    done: int = 0

    @property
    def begin(self) -> int:
        """The place of the first vertex that has not been run."""
        return self.first + (self.part.ends[self.done - 1] if self.done else 0)

    def end(self, level: int) -> int:
        """The place after the last vertex of the levels before `level`, or of all."""
        return self.first + self.part.ends[min(level, len(self.part.ends)) - 1]

    @property
    def is_done(self) -> bool:
        return self.done >= len(self.part.ends)


class Arena:
    """Memory in which batches run side by side, for one thread at a time.

    Every vertex of a batch has a place, where what is known of it is kept, and once it has been run
    a row of state. Both are given in turn; when they are used up, those of batches that run are
    moved to the front.

    Args:
        compiled: what runs. ranks: the order of its kinds. weights: their memory.
        outputs: the buffers that are answers. n_vertices: the most that run at the same time.

    Raises:
        OutOfMemoryError: there is no memory for so many.
    """

    def __init__(
        self,
        compiled: Executable,
        spaces: Spaces,
        planner: Planner,
        ranks: Ranks,
        layout: Layout,
        passes: Passes,
        weights: HostMemory,
        outputs: Sequence[BufferId],
        n_vertices: int,
    ) -> None:
        self.n_vertices, self.n_running = n_vertices, 0
        self._spaces, self._planner, self._ranks = spaces, planner, ranks
        self._plans = HostMemory()  # of `part`, which another thread may call
        self._memory, workspace = HostMemory(), Workspace(layout, weights)
        self._workspace = workspace.memory
        self._width = layout.width
        self._n_places = SPARE * n_vertices
        given = [b for b in compiled.buffers.values() if b.role in OF_BATCH]
        unknown = [b.name for b in given if b.role not in FILLED | {Role.CHILD}]
        assert not unknown, f"of training: {unknown}"
        self._filled = [b for b in given if b.role in FILLED]
        self._children = [b for b in given if b.role is Role.CHILD]
        self._allocate(layout, given)
        states = [b for b in layout.growing if b.space == STATE]
        self._states = [self._workspace.read(b.id) for b in states]
        self._outputs = {id: self._workspace.read(id) for id in outputs}
        self._both, self._frames = Both(self._memory, self._workspace), passes.frames()
        self._member = {s: np.from_dlpack(m).astype(bool) for s, m in spaces.members.items()}
        self._base = np.array([s.base for s in spaces.names], "int64")
        self._bases = self._memory.fixed(BASES, self._base.shape, "int64")
        self._state = spaces.number[STATE]
        self._make_places()
        self.clear()

    def _allocate(self, layout: Layout, given: Sequence[Buffer]) -> None:
        """All buffers at their full size, so that none moves later."""
        n = self.n_vertices
        for b in given:
            self._memory.rows(b.id, n, b.ld, b.dtype)
        for b in layout.growing:
            space = space_of(b)
            rows = self._n_places + 1 if space == STATE else layout.n_parts if space == PARTS else n
            self._workspace.rows(b.id, rows, b.ld, b.dtype)

    def _make_places(self) -> None:
        n = self._n_places
        self._rank_of_kind = self._ranks.ranks.astype("int64")
        self._kind_of_rank = np.argsort(self._ranks.ranks)
        self._level = np.zeros(n, "int64")
        self._rank = np.zeros(n, "int64")
        self._below = np.zeros((n, self._planner.arity), "int64")
        self._row = np.full(n + 1, -1, "int64")  # the last one is that of an absent child
        buffers = [(b.id, self._memory.read(b.id)) for b in self._filled]
        buffers += list(self._outputs.items())
        self._kept = {id: np.zeros((n, *rows.shape[1:]), rows.dtype) for id, rows in buffers}

    def clear(self) -> None:
        """Forget all that runs."""
        self._running: list[Joined] = []
        self._n_used = self._n_rows = self.n_running = 0

    def part(self, graph: Graph) -> Part:
        """Plan a batch; one thread at a time, which may be another than that of the rest.

        Raises:
            UnknownKindsError: some of its vertices are of kinds without a rank.
        """
        return make_part(self._planner.plan(graph, self._plans, self._ranks), self._filled)

    def fits(self, part: Part) -> bool:
        """Whether there is room for a part now."""
        return self.n_running + part.n_rows <= self.n_vertices

    def join(self, part: Part) -> Joined:
        """Let a part run beside the others from the next step on; it `fits`."""
        n = part.n_rows
        assert self.fits(part), f"{self.n_running} + {n} vertices of {self.n_vertices}"
        if self._n_used + n > self._n_places:
            self._close_ranks()
        first, self._n_used = self._n_used, self._n_used + n
        here = slice(first, self._n_used)
        self._level[here] = part.level
        self._rank[here] = self._rank_of_kind[part.kind]
        self._below[here] = np.where(part.children < 0, -1, part.children + first)
        self._row[here] = -1
        for id, values in part.values.items():
            self._kept[id][here] = values
        made = Joined(part, first)
        self._running.append(made)
        self.n_running += n
        return made

    def step(self, least: int = 1) -> tuple[list[Joined], int]:
        """Run the next level of all parts, or more of them if one has fewer vertices than `least`.

        Returns:
            Those that went on, and how many vertices were run.
        """
        went = self._running
        places, levels = self._ready(least)
        if self._n_rows + len(places) > self._n_places:
            self._compact()
        n_levels = int(levels[-1]) + 1
        self._run(places, levels, n_levels)
        for id, rows in self._outputs.items():
            self._kept[id][places] = rows[: len(places)]
        for joined in self._running:
            joined.done += n_levels
        self.n_running -= sum(j.part.n_rows for j in self._running if j.is_done)
        self._running = [j for j in self._running if not j.is_done]
        return went, len(places)

    def read(self, joined: Joined, output: BufferId, rows: np.ndarray) -> np.ndarray:
        """A copy of an output at some rows of a part, which have been run; before others join."""
        return self._kept[output].take(rows + joined.first, axis=0)

    def _ready(self, least: int) -> tuple[np.ndarray, np.ndarray]:
        """The places that are run next, sorted by level and kind, and their levels from 0 on."""
        running = self._running
        begin = np.array([j.begin for j in running])
        n_levels = 0
        while True:
            n_levels += 1
            end = np.array([j.end(j.done + n_levels) for j in running])
            count = end - begin
            n = int(count.sum())
            if n >= least or all(j.done + n_levels >= len(j.part.ends) for j in running):
                break
        places = ranges(begin, count)
        levels = self._level[places] - np.array([j.done for j in running]).repeat(count)
        order = (levels * self._ranks.n_kinds + self._rank[places]).argsort(kind="stable")
        return places[order], levels[order]

    def _run(self, places: np.ndarray, levels: np.ndarray, n_levels: int) -> None:
        """Give places rows of state, write what kernels read of them, and call these."""
        n, memory = len(places), self._memory
        rank = self._rank[places]
        self._row[places] = np.arange(self._n_rows, self._n_rows + n)
        self._fill(places, self._kind_of_rank[rank])
        key = levels * self._ranks.n_kinds + rank
        end = np.append(np.flatnonzero(key[1:] != key[:-1]) + 1, n)
        count = end.copy()
        count[1:] -= end[:-1]
        first = end - count
        columns = levels[first], self._kind_of_rank[rank[first]], count
        for cell, values in zip(CELL_BUFFERS, columns, strict=True):
            memory.rows(cell, len(values), 0, "int64")
            memory.write(cell, values)
        bases = memory.read(BASES)
        bases[:] = self._base
        bases[self._state] += self._n_rows
        cut = self._spaces.cut_cells(len(count), n_levels, self._bases, memory)
        self._n_rows += n
        order, slices = memory.tensor(SLICE_ORDER), memory.tensor(SLICES)
        self._frames.run(self._both, *cut.place("forward"), self._width, order, slices)

    def _fill(self, places: np.ndarray, kinds: np.ndarray) -> None:
        below = self._row[self._below[places]]
        below += 1
        for b in self._children:
            held = self._member[space_of(b)][kinds]
            rows = below[held, int(str(b.key))]
            self._memory.write(b.id, rows)
        for b in self._filled:
            held = self._member[space_of(b)][kinds]
            self._memory.write(b.id, self._kept[b.id][places[held]])

    def _compact(self) -> None:
        """Move the state of batches that run to the front."""
        places = ranges(*self._places())
        places = places[self._row[places] >= 0]
        rows = self._row[places] + 1
        for state in self._states:
            state[1 : len(rows) + 1] = state[rows]
        self._row[places] = np.arange(len(rows))
        self._n_rows = len(rows)

    def _close_ranks(self) -> None:
        """Move the places of batches that run to the front."""
        first, count = self._places()
        places = ranges(first, count)
        n = len(places)
        moved = np.full(self._n_places + 1, -1, "int64")
        moved[places] = np.arange(n)
        for kept in (self._level, self._rank, self._row, *self._kept.values()):
            kept[:n] = kept[places]
        self._below[:n] = moved[self._below[places]]
        for joined, to in zip(self._running, count.cumsum() - count, strict=True):
            joined.first = int(to)
        self._n_used = n

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the batches that run begin, and how many vertices they have."""
        firsts = [j.first for j in self._running], [j.part.n_rows for j in self._running]
        first, count = (np.array(each, "int64") for each in firsts)
        return first, count
