"""Asking for the next row of a region while one is computed, so that it is near by then.

A row reads and writes up to twenty stretches of memory, some at places that only an index names: no
processor guesses them. Where the next cache is far, half of the time of a region was waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx.script import builder as T

from ...lowering.region import Line, Load, Shape
from ..loopnest import LINE, int64, loop, prefetch, prefetch_read
from .row import Index, Row, flat


def ask_for_next(row: Row, shape: Shape, lines: Sequence[Line]) -> Callable[[Index], None] | None:
    """What asks, given an element's index, for a vector's worth of what these lines read and write.

    Of the next row; None if nothing is to be asked for. What a view or a broadcast reads is left
    out, and so are arrays of which one element belongs to a row.
    """
    if not row.coming:
        return None
    loads = [
        load
        for line in lines
        for load, own in zip(line.args, line.shapes, strict=True)
        if isinstance(load, Load) and own == shape and _is_by_row(row, load)
    ]
    stores = [(s.array, s.column) for line in lines for s in line.stores]
    arrays = row.spec.arrays

    def ask(index: Index) -> None:
        position = flat(index, shape)
        with loop(-(-row.lanes // LINE), "vector") as v:
            for load in dict.fromkeys(loads):
                at = row.coming[load.array]
                if load.index is not None:
                    at = row.buffers[load.index][row.coming[load.index]].astype("int64")
                place = position + load.column + v * LINE
                prefetch_read(row.buffers[load.array][at, place])
            for array, column in dict.fromkeys(stores):
                if arrays[array].ld:
                    prefetch(row.buffers[array][row.coming[array], position + column + v * LINE])

    return ask


def _is_by_row(row: Row, load: Load) -> bool:
    array = row.spec.arrays[load.array]
    return array.ld > 0 and (array.by_row or load.index is not None)


def ask_for_slots(row: Row, line: Line) -> None:
    """Asks for what the next row's first parent wrote for it; a vertex of a tree has one."""
    if not row.coming:
        return
    slots, pointers, edges = (a.array for a in line.args if isinstance(a, Load))
    (width,), arity = line.shape, int64(line["arity"])
    first, last = (
        T.bind(row.buffers[pointers][row.coming[pointers] + end].astype("int64")) for end in (0, 1)
    )
    with T.If(first < last), T.Then():
        slot = T.bind(row.buffers[edges][first].astype("int64"))
        with loop(-(-width // LINE)) as v:
            prefetch_read(row.buffers[slots][slot // arity, slot % arity * width + v * LINE])
