"""Values that a network has once: weight operands and gradients as rectangles of parameters.

Slices, concatenations and transposes of parameters move no numbers: they say which rectangle of
which parameter lies where. `flatten` reads that off, so that a weight operand is packed straight
from the parameters and a weight gradient is added straight to them. Any other net-level expression
is evaluated by NumPy, once per step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...language import Program


@dataclass(frozen=True)
class Rectangle:
    """`rows` and `columns` of value %leaf lie at (row, column) of the result, maybe transposed."""

    leaf: int
    row: int
    column: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Extent in the result."""
        n = (self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])
        return n[::-1] if self.transposed else n


def extent(shape: tuple[int, ...]) -> tuple[int, int]:
    """A vector counts as one row."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def flatten(program: Program, i: int, leaves: str, sums: bool = False) -> list[Rectangle] | None:
    """The rectangles of calls of op `leaves` that make up value %i; None if it is made otherwise.

    With `sums`, additions are allowed: the rectangles are meant to be added up.
    """
    c = program.calls[i]
    if c.op == leaves and 1 <= len(c.type.shape) <= 2:
        n_rows, n_columns = extent(c.type.shape)
        return [Rectangle(i, 0, 0, (0, n_rows), (0, n_columns))]
    if c.op == "full" and c["value"] == 0.0:
        return []
    if c.op not in ("slice", "concat", "transpose") and not (sums and c.op == "add"):
        return None
    parts = [flatten(program, a, leaves, sums) for a in c.args]
    known = [p for p in parts if p is not None]
    if len(known) != len(parts):
        return None
    if c.op == "add":
        same = all(program.calls[a].type.shape == c.type.shape for a in c.args)
        return [r for p in known for r in p] if same else None
    if c.op == "transpose":
        return [
            replace(r, row=r.column, column=r.row, transposed=not r.transposed) for r in known[0]
        ]
    axis = c["axis"] + (2 - len(c.type.shape))
    if c.op == "slice":
        return [s for r in known[0] if (s := _clip(r, axis, c["start"], c["stop"])) is not None]
    out, at = [], 0
    for a, rectangles in zip(c.args, known, strict=True):
        out += [
            replace(r, row=r.row + at) if axis == 0 else replace(r, column=r.column + at)
            for r in rectangles
        ]
        at += extent(program.calls[a].type.shape)[axis]
    return out


def _clip(r: Rectangle, axis: int, start: int, stop: int) -> Rectangle | None:
    """The part of a rectangle in [start, stop) along an axis of the result, moved to begin at 0."""
    first = r.row if axis == 0 else r.column
    low, high = max(start, first), min(stop, first + r.shape[axis])
    if low >= high:
        return None
    along_rows = (axis == 0) != r.transposed
    begin = (r.rows if along_rows else r.columns)[0]
    cut = (begin + low - first, begin + high - first)
    r = replace(r, rows=cut) if along_rows else replace(r, columns=cut)
    return replace(r, row=low - start) if axis == 0 else replace(r, column=low - start)


def merged(rectangles: Iterable[Rectangle]) -> list[Rectangle]:
    """The same with as few rectangles as joining neighbours makes them."""
    out: list[Rectangle] = []
    for r in rectangles:
        pairs = ((k, _join(other, r) or _join(r, other)) for k, other in enumerate(out))
        found = next(((k, both) for k, both in pairs if both is not None), None)
        if found is None:
            out.append(r)
        else:
            k, both = found
            out = merged([*out[:k], *out[k + 1 :], both])
    return out


def _join(a: Rectangle, b: Rectangle) -> Rectangle | None:
    """Both as one rectangle, if b goes on where a ends, in the result and in the leaf."""
    below = (a.row + a.shape[0], a.column) == (b.row, b.column)
    beside = (a.row, a.column + a.shape[1]) == (b.row, b.column)
    if (a.leaf, a.transposed) != (b.leaf, b.transposed) or not (below or beside):
        return None
    if below != a.transposed and a.rows[1] == b.rows[0] and a.columns == b.columns:
        return replace(a, rows=(a.rows[0], b.rows[1]))
    if below == a.transposed and a.columns[1] == b.columns[0] and a.rows == b.rows:
        return replace(a, columns=(a.columns[0], b.columns[1]))
    return None
