"""Kernels that plan a batch and run its slices, said again in a few lines of NumPy: oracles."""

from collections.abc import Iterator

import numpy as np

from tvm_cavs.runtime.tables import COUNT, GROUP, RECURRENT, SLICE_COLUMNS

Cells = tuple[np.ndarray, np.ndarray, np.ndarray]  # level, kind, count


def sort(
    level: np.ndarray, mask: np.ndarray, lookup: np.ndarray, kind_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Cells]:
    """As `host.plan.sort`: row, order, the kind of every row, the cells."""
    key = level * len(kind_of) + lookup[mask]
    order = np.argsort(key, kind="stable")
    cell, count = np.unique(key, return_counts=True)
    at_level, rank = np.divmod(cell, len(kind_of))
    return np.argsort(order), order, kind_of[lookup[mask[order]]], (at_level, kind_of[rank], count)


def segments(
    cells: Cells,
    base: np.ndarray,
    stage: np.ndarray,
    member: np.ndarray,
    uses: np.ndarray,
    spaces: np.ndarray,
) -> Iterator[np.ndarray]:
    """As `host.slices.segments`: the slices of one group after the other."""
    level, kind, count = cells
    end = base[:, None] + np.cumsum(spaces[:, kind] * count, axis=1)
    first = end - spaces[:, kind] * count
    for g in range(len(member)):
        c = np.flatnonzero(member[g, kind])
        joined = (np.diff(first[uses[g]][:, c]) == count[c][:-1]).all(axis=0)
        joined &= (stage[g] != RECURRENT) | (np.diff(level[c]) == 0)
        begin = np.flatnonzero(np.append(True, ~joined))[: len(c)]
        size = np.add.reduceat(count[c], begin) if len(c) else count[c]
        b = c[begin]
        yield np.stack([0 * b, level[b], size, 0 * b + g, *first[:, b]], axis=1)


def routine(
    slices: np.ndarray,
    groups: np.ndarray,
    parts: np.ndarray,
    steps: np.ndarray,
    forms: np.ndarray,
    moves: np.ndarray,
    frames: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
    """As `host.routine.routine`, for slices in order: the object and the frame of every call."""
    for row in slices:
        g, n, most = row[GROUP], row[COUNT], parts[row[GROUP]]
        for offset in range(0, n, most):
            part = np.append(row[:SLICE_COLUMNS], row[SLICE_COLUMNS:] + offset)
            part[COUNT] = min(most, n - offset)
            for form, last, move, end, frame, n_args in steps[groups[g] : groups[g + 1]]:
                _, _, kernel = forms[form:last][forms[form:last, 0] <= part[COUNT]][-1]
                word, column = moves[move:end].T
                frames[word] = part[column]
                yield kernel, frames[frame : frame + 2 * n_args].reshape(-1, 2).copy()
