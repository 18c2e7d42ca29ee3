"""Steps: kernel calls on named buffers, and what is done around them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ...language import Program
from ...runtime import Buffer, BufferId, Space, space_of
from .region import Region
from .specs import ColumnSum, Outer, Piece, Product, operands


@dataclass(frozen=True)
class Place:
    """Where a value lies: a buffer's columns from `column` on, in row order or through an index."""

    buffer: Buffer
    column: int = 0
    index: Buffer | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel by its specification; equal specifications are one kernel."""

    kind: str
    spec: Product | Outer | ColumnSum | Region

    @property
    def name(self) -> str:
        """The kernel's symbol: its kind and a hash of its specification."""
        return f"{self.kind}_{hashlib.sha256(repr(self.spec).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Step:
    """One kernel call of a stage: called as kernel(n, start of each of `starts`..., buffers...).

    After n a product is told the level, a weight gradient whether it adds.
    """

    kernel: Kernel
    starts: tuple[Space, ...]
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Weights:
    """The right operand of a product: value %index of `program`, packed into `buffer`."""

    buffer: BufferId
    program: Program
    index: int
    k: int
    n_columns: int


@dataclass(frozen=True)
class Spot:
    """Where a sum over vertices is added up: from (row, column) on in a buffer of ld columns.

    A vector has ld 0 and row 0.
    """

    buffer: BufferId
    ld: int
    row: int = 0
    column: int = 0


@dataclass(frozen=True)
class Gradient:
    """One contribution to a parameter: value %index of `program`, as far as `totals` make it up.

    What other sums it is made of are added to the parameter's gradient where they belong.
    """

    parameter: str
    program: Program
    index: int
    totals: tuple[tuple[int, BufferId], ...]  # call number of a total -> buffer
    count: int = 1  # how often the program adds it

    @property
    def key(self) -> tuple[str | BufferId, ...]:
        """Equal keys are one contribution, whichever kinds of vertices add to it."""
        buffers = (buffer for _, buffer in self.totals)
        return self.parameter, identity(self.program, self.index), *buffers


def identity(program: Program, i: int) -> str:
    """Hash of how value %i is computed, independent of numbering."""
    known: dict[int, str] = {}

    def of(k: int) -> str:
        if k not in known:
            c = program.calls[k]
            text = f"{c.op}({', '.join(map(of, c.args))}; {c.attrs})"
            known[k] = hashlib.sha256(text.encode()).hexdigest()[:12]
        return known[k]

    return of(i)


class Slots:
    """Numbers buffers for the pieces of one kernel."""

    def __init__(self) -> None:
        self.sources: list[Buffer] = []
        self.indices: list[Buffer] = []

    def number(self, place: Place) -> tuple[int, int | None]:
        """Slots of a place's buffer and of its index vector, None where it has none."""
        index = None if place.index is None else _position(self.indices, place.index)
        return _position(self.sources, place.buffer), index

    def parameters(self, pieces: tuple[Piece, ...]) -> tuple[tuple[Space, ...], tuple[Buffer, ...]]:
        """Starts and buffers in the order of the kernel's parameters."""
        needs = operands(pieces)
        starts = [space_of(self.sources[s]) for s in needs.starts]
        starts += [space_of(self.indices[s]) for s in needs.indices]
        buffers = [self.sources[s] for s, _ in needs.sources] + [
            self.indices[s] for s in needs.indices
        ]
        return tuple(starts), tuple(buffers)


def _position(items: list[Buffer], item: Buffer) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)
