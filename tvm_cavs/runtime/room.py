"""Room: memory for a batch in the buffers of a workspace, which only grow."""

from __future__ import annotations

from operator import le

import numpy as np

from ..graph import Graph
from .batch_inputs import OF_BATCH
from .batch_memory import Batch
from .executable import Executable
from .memory import GROWTH, HostMemory
from .memory_limit import check_room
from .needs import ENDLESS
from .roles import BufferId, Role
from .slices import Spaces
from .spaces import OF_NO_KIND, PARTS, SCRATCH, space_of

OF_WEIGHTS = frozenset({Role.PACKED, Role.UNPACKED, Role.NET_VALUE})  # shared by all workspaces


class Layout:
    """Which buffers a workspace has; made once for what has been compiled.

    fixed: shape and dtype of those that no batch changes. growing: the others. space_of: the number
    of each one's space; scratch and parts come after all spaces.
    """

    def __init__(self, compiled: Executable, spaces: Spaces) -> None:
        fixed = compiled.fixed.items()
        self.fixed: dict[BufferId, tuple[tuple[int, ...], str]] = {
            buffer: form for buffer, form in fixed if buffer.role not in OF_WEIGHTS
        }
        self.growing = [b for b in compiled.buffers.values() if b.role not in OF_BATCH]
        at = {**spaces.number, SCRATCH: len(spaces.names), PARTS: len(spaces.names) + 1}
        self.space_of = [at[space_of(b)] for b in self.growing]
        self.row_bytes = [max(b.ld, 1) * np.dtype(b.dtype).itemsize for b in self.growing]
        self.n_spaces, self.n_parts, self.width = len(at), compiled.n_parts, spaces.width


class Room:
    """How many rows the growing buffers have.

    Args:
        memory: where they lie.
    """

    def __init__(self, layout: Layout, memory: HostMemory) -> None:
        self._layout, self._memory = layout, memory
        self._rows = np.full(len(layout.growing), -1)
        self._held = [-1] * layout.n_spaces  # the rows of every space for which there is room

    def make(self, batch: Batch) -> None:
        """Let the buffers hold a batch.

        Raises:
            OutOfMemoryError: they would take more than may be taken; nothing has changed.
        """
        counts = *batch.counts.tolist(), batch.cut.most_rows, self._layout.n_parts
        if all(map(le, counts, self._held)):
            return
        wanted = np.array(counts)[self._layout.space_of]
        growing = (wanted > self._rows).nonzero()[0]
        spare = self._check(wanted, batch.plan.graph)
        for i in growing:
            b = self._layout.growing[i]
            self._memory.rows(b.id, int(wanted[i]), b.ld, b.dtype, spare)
            self._rows[i] = len(self._memory.read(b.id))
        self._held = [ENDLESS] * self._layout.n_spaces
        for space, n in zip(self._layout.space_of, self._rows.tolist(), strict=True):
            self._held[space] = min(self._held[space], n)

    def _check(self, wanted: np.ndarray, graph: Graph) -> bool:
        """Refuse a batch for which there is no memory; whether there is some to spare."""
        buffers, row_bytes = self._layout.growing, self._layout.row_bytes
        rows = np.maximum(wanted, self._rows).tolist()
        sizes = {b.name: n * size for b, n, size in zip(buffers, rows, row_bytes, strict=True)}
        fixed = sum(sizes[b.name] for b in buffers if b.space in OF_NO_KIND)
        held = sum(max(n, 0) * size for n, size in zip(self._rows.tolist(), row_bytes, strict=True))
        sizes["copies of outputs"] = sum(sizes[b.name] for b in buffers if b.role is Role.PUSHED)
        need = sum(sizes.values())
        what = f"a batch of {graph.n_vertices:,} vertices in {graph.n_graphs:,} graphs"
        most = check_room(what, sizes, held, lambda most: what_fits(graph, need, fixed, most))
        return most is None or need * GROWTH <= most


def what_fits(graph: Graph, need: int, fixed: int, most: int) -> str:
    """The batch that needs `most` bytes where `graph` needs `need`, which is more.

    Of these, `fixed` may be the same for a smaller batch.
    """
    part = most / need
    if most > fixed:
        part = min(part, (most - fixed) / (need - fixed))
    vertices, graphs = int(graph.n_vertices * part), int(graph.n_graphs * part)
    if not graphs:
        return (
            f"About {vertices:,} vertices fit, less than one such graph: make graphs smaller, or "
            "the model narrower (fewer classes, a smaller hidden size)."
        )
    return f"A batch of {vertices:,} vertices, about {graphs:,} such graphs, fits."
