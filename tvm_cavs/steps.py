"""What lowering gives: steps that call kernels on named buffers, and what is done around them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .listing import listing
from .operands import Piece, operands
from .plan import Space
from .products import Outer, Product
from .program import Program
from .regions import Region
from .roles import BufferId, Key, Role
from .sums import ColumnSum

ALL, STATE, EDGES, SCRATCH = Space("all"), Space("state"), Space("edges"), Space("scratch")


@dataclass(frozen=True)
class Buffer:
    """Memory a stage uses: [rows, ld], or a vector if ld is 0.

    `role` and `key` say what it holds; `space` says how many rows. None: the buffer is net-level,
    no batch changes its size.
    """

    role: Role
    key: Key
    ld: int
    space: Space | None
    dtype: str = "float32"

    @property
    def id(self) -> BufferId:
        """What finds its memory."""
        return BufferId(self.role, self.key)

    @property
    def name(self) -> str:
        """For people only."""
        return str(self.id)


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
    """One kernel call of a stage: called as kernel(n, start of each of `starts`..., buffers...)."""

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


@dataclass(frozen=True)
class RowGradient:
    """Contributions to rows of a parameter, which the input `pull` names.

    buffer: float32[vertices with the input, width]. n_rows: of the parameter.
    """

    parameter: str
    pull: str
    buffer: BufferId
    width: int
    n_rows: int


@dataclass(frozen=True)
class Lowered:
    """A stage ready to compile: steps in order, and what they need."""

    program: Program
    steps: tuple[Step, ...]
    weights: tuple[Weights, ...]
    gradients: tuple[Gradient, ...]
    row_gradients: tuple[RowGradient, ...]
    net_values: tuple[tuple[BufferId, int], ...]  # buffers that NumPy fills with net-level values

    @property
    def buffers(self) -> dict[BufferId, Buffer]:
        """All buffers."""
        return {b.id: b for s in self.steps for b in s.buffers}

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces whose starts the steps take."""
        return tuple(dict.fromkeys(s for step in self.steps for s in step.starts))

    def __str__(self) -> str:
        return listing(f"stage {self.program.name}", self.steps)


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


def index_buffer(pull: str) -> Buffer:
    """The vector with an integer input of the vertices that have it."""
    return Buffer(Role.INDEX, pull, 0, Space("pull", pull), "int32")


def space_of(buffer: Buffer) -> Space:
    """The space of a buffer that has one."""
    assert buffer.space is not None, buffer
    return buffer.space


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
