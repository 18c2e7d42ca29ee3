"""Graph -> a 64-bit digest of every vertex and all that is below it.

A digest depends on nothing else, so it is found once for the graphs of a data set, and those of a
batch are put together from them. It is a Merkle hash, one vectorised pass from the leaves up.
"""

from __future__ import annotations

import numpy as np

from .graph import Graph
from .levels import ranges

Names = tuple[str, ...]
_EMPTY = np.uint64(0x2545F4914F6CDD1D)
_ROUNDS = ((32, 0xD6E8FEB86659FD93), (29, 0x9E3779B97F4A7C15))


def find_digests(graph: Graph, names: Names) -> np.ndarray:
    """uint64[n_vertices]: equal for equal vertices, almost surely different for others.

    They are kept with the graphs that the batch was made of.
    """
    memo = graph.memo
    if names not in memo.digests:
        if memo.forest is not None:
            memo.digests[names] = find_digests(memo.forest.graph, names)[memo.rows]
        elif any(names not in part.memo.digests for part in memo.parts) or not memo.parts:
            memo.digests[names] = _from_the_leaves_up(graph, names)
            ends = np.cumsum([part.n_vertices for part in memo.parts]).tolist()
            for part, end in zip(memo.parts, ends, strict=True):
                mine = memo.digests[names][end - part.n_vertices : end]
                part.memo.digests.setdefault(names, mine)
        else:
            found = [part.memo.digests[names] for part in memo.parts]
            memo.digests[names] = np.concatenate(found)
    return memo.digests[names]


def bits_of(values: np.ndarray) -> np.ndarray:
    """The bits of int32[n, ...] or float32[n, ...]: uint32[n], or uint32[n, width] of wide ones."""
    bits = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint32)
    return bits[:, 0] if bits.shape[1] == 1 else bits


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint64[...] in place, one to one: every bit of the result depends on all."""
    for shift, factor in _ROUNDS:
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(32)
    return x


def _factors(n: int, of: int) -> np.ndarray:
    """Random odd numbers, uint64[n], the same always; different ones for each `of`."""
    return _mix(np.arange(1, n + 1, dtype=np.uint64) + np.uint64(of << 32)) | np.uint64(1)


def _from_the_leaves_up(graph: Graph, names: Names) -> np.ndarray:
    """From the leaves up: a vertex's digest mixes its inputs and the digests in its slots."""
    widths = np.diff(graph.child_ptr)
    own = widths.astype(np.uint64)
    for j, name in enumerate(names):
        field = graph.inputs[name]
        bits = bits_of(field.values).reshape(graph.n_vertices, -1).astype(np.uint64)
        factors = _factors(bits.shape[1], j + 1)
        value = (bits[:, 0] + factors[0]) * factors[0] if bits.shape[1] == 1 else bits @ factors
        own += _mix(value) * field.present
    found = np.append(_mix(own.copy()), _EMPTY)  # an empty slot (-1) reads the last
    order = np.argsort(graph.level, kind="stable")
    order = order[widths[order] > 0]
    width = widths[order].astype(np.int64)
    ends = width.cumsum()
    slots = ranges(graph.child_ptr[order], width)
    child = graph.child[slots]
    factors = _factors(int(width.max(initial=0)), 0)
    factor = factors[slots - graph.child_ptr[order].astype(np.int64).repeat(width)]
    bounds = np.searchsorted(graph.level[order], np.arange(graph.n_levels + 1))
    first = np.append(ends - width, len(slots))
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if a < b:
            s, t = int(first[a]), int(first[b])
            below = found[child[s:t]] * factor[s:t]
            vertices = order[a:b]
            found[vertices] = _mix(np.add.reduceat(below, first[a:b] - s) + own[vertices])
    return found[:-1]
