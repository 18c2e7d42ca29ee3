"""What recorded calls write, by the specification of their kernel: element for element.

A specification says which rows and columns a call replaces, or adds to. Whether it reads some of
them first it does not say: `start.py` finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..lowering.region import Line, Load, Region, View
from ..lowering.specs import Outer, Product, operands
from .calls import Arguments, Recorded, Slot

Masks = dict[int, np.ndarray]  # by an array's number: bool of its shape


@dataclass(frozen=True)
class Write:
    """A rectangle of array number `slot` that a call writes. adds: it adds to what is there."""

    slot: int
    where: tuple[slice, ...]
    adds: bool = False


def _slot(argument: int | Slot) -> int:
    assert isinstance(argument, Slot), "a tensor stands here"
    return argument.number


def _number(argument: int | Slot) -> int:
    assert isinstance(argument, int), "a whole number stands here"
    return argument


def _some(first: int, count: int) -> slice:
    return slice(first, first + count)


def _product(spec: Product, call: Arguments) -> Iterator[Write]:
    """f(n, turn, start_c, ..., W, C)"""
    n, start = _number(call[0]), _number(call[2])
    assert not spec.cover, "a step's products write their own columns"
    where = _some(start, n), _some(spec.column, spec.n_columns)
    yield Write(_slot(call[-1]), where, spec.accumulate)


def _outer(spec: Outer, call: Arguments) -> Iterator[Write]:
    """f(n, adds, ..., C[, c])"""
    *_, place = call if spec.sums is None else call[:-1]
    adds = _number(call[1]) > 0
    where = _some(spec.row, spec.k), _some(spec.column, spec.n_columns)
    yield Write(_slot(place), where, adds)
    if spec.sums is not None:
        yield Write(_slot(call[-1]), (_some(spec.sums, spec.n_columns),), adds=True)


def _region(spec: Region, call: Arguments) -> Iterator[Write]:
    """f(n, start of each by-row array..., arrays...)"""
    n, slots = _number(call[0]), call[-len(spec.arrays) :]
    by_row = [i for i, array in enumerate(spec.arrays) if array.by_row]
    starts = dict(zip(by_row, call[1 : 1 + len(by_row)], strict=True))
    for line in spec.lines:
        for store in line.stores:
            rows = _some(_number(starts[store.array]), n)
            wide = spec.arrays[store.array].ld > 0
            where = (rows, _some(store.column, line.size)) if wide else (rows,)
            yield Write(_slot(slots[store.array]), where)


WRITES: Mapping[type, Callable[[Any, Arguments], Iterator[Write]]] = {
    Product: _product,
    Outer: _outer,
    Region: _region,
}


def touched(recorded: Recorded) -> tuple[Masks, Masks]:
    """The elements that calls replace, and those that they add to before they replace them."""
    spec = recorded.workload.kernel.spec
    replaced: Masks = {}
    added: Masks = {}
    for call in recorded.calls:
        for write in WRITES[type(spec)](spec, call):
            array = recorded.arrays[write.slot]
            for side, part in zip(array.shape, write.where, strict=True):
                assert 0 <= part.start <= part.stop <= side, f"{write} is not in {array.shape}"
            for masks in (replaced, added):
                masks.setdefault(write.slot, np.zeros(array.shape, "bool"))
            mine, other = (added, replaced) if write.adds else (replaced, added)
            mine[write.slot][write.where] |= ~other[write.slot][write.where]
    return replaced, added


def places(recorded: Recorded) -> set[int]:
    """Arrays of whole numbers that are read: such a number may say where something lies."""
    spec = recorded.workload.kernel.spec
    if isinstance(spec, Region):
        slots = recorded.calls[0][-len(spec.arrays) :]
        read = {_slot(slots[number]) for line in spec.lines for number in _reads(line)}
    else:
        read = set(range(len(recorded.arrays)))
    return {number for number in read if recorded.arrays[number].dtype.kind in "iu"}


def _reads(line: Line) -> Iterator[int]:
    """The arrays that a line reads, by their numbers in the region."""
    for operand in line.args:
        while isinstance(operand, View):
            operand = operand.base
        if isinstance(operand, Load):
            yield operand.array
            if operand.index is not None:
                yield operand.index


def rooms(recorded: Recorded) -> set[int]:
    """Arrays that hold results of a row only while a call runs, in as many rows as parts run."""
    spec = recorded.workload.kernel.spec
    if not isinstance(spec, Region):
        return set()
    first = len(spec.arrays)
    return {_slot(call[room.array - first]) for call in recorded.calls for room in spec.rooms}


def sources(recorded: Recorded) -> set[int]:
    """Arrays of numbers that a product or a weight gradient multiplies, if it writes no part."""
    spec = recorded.workload.kernel.spec
    if not isinstance(spec, (Product, Outer)):
        return set()
    pieces = spec.pieces if isinstance(spec, Product) else (*spec.left, *spec.right)
    needs = operands(pieces)
    first = (3 if isinstance(spec, Product) else 2) + len(needs.starts) + len(needs.indices)
    some = slice(first, first + len(needs.sources))
    found = {_slot(each) for call in recorded.calls for each in call[some]}
    return found - set(touched(recorded)[0])
