"""Data -> a short text per split, by which a run that resumes knows its data again."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from ..data import Dataset


def fingerprint(dataset: Dataset) -> str:
    """Counts, and a digest of structure and inputs: equal for equal graphs in the same order."""
    graphs = dataset.graphs
    names = sorted(graphs[0].inputs)
    columns = [[g.child_ptr for g in graphs], [g.child for g in graphs]]
    for name in names:
        columns.append([g.inputs[name].values for g in graphs])
        columns.append([g.inputs[name].present for g in graphs])
    value = zlib.crc32(repr(names).encode())
    for arrays in columns:
        joined = np.ascontiguousarray(np.concatenate(arrays))
        value = zlib.crc32(joined.reshape(-1).view(np.uint8).data, value)
    return f"{len(dataset)} graphs, {dataset.n_vertices} vertices, digest {value:08x}"


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for every split that is not as it was."""
    return [
        f"  {split}: {before.get(split, 'absent')} before, {now.get(split, 'absent')} now"
        for split in dict.fromkeys([*before, *now])
        if before.get(split) != now.get(split)
    ]
