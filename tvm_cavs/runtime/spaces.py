"""Spaces: which rows a buffer has; and buffers, described."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .roles import BufferId, Key, Role


@dataclass(frozen=True)
class Space:
    """Rows of a buffer: those of the vertices of some kinds, in plan order.

    what: "all" vertices; "state", all after a first row of zeros (what an absent child reads);
    "edges", vertices with a child; "slot" / "pull", vertices with that slot or input, and those of
    kinds that may have it; "save", the kinds that save the value; "scratch", rows of the segment
    that is running; "parts", a row for each part of a kernel's rows that runs at the same time as
    others, whatever the batch.
    """

    what: str
    key: str | int = ""

    @property
    def base(self) -> int:
        return 1 if self.what == "state" else 0


ALL, STATE, EDGES, SCRATCH = Space("all"), Space("state"), Space("edges"), Space("scratch")
PARTS = Space("parts")
OF_NO_KIND = frozenset({SCRATCH, PARTS})  # their rows are not those of vertices


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

    @cached_property
    def id(self) -> BufferId:
        """What finds its memory."""
        return BufferId(self.role, self.key)

    @property
    def name(self) -> str:
        """For people only."""
        return str(self.id)


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


def index_buffer(pull: str) -> Buffer:
    """The vector with an integer input of the vertices that have it, or may: -1 where absent."""
    return Buffer(Role.INDEX, pull, 0, Space("pull", pull), "int32")


def choice_buffer(pull: str) -> Buffer:
    """The same with 0 where it is absent, so that a table can be read with it."""
    return Buffer(Role.CHOICE, pull, 0, Space("pull", pull), "int32")


def space_of(buffer: Buffer) -> Space:
    """The space of a buffer that has one."""
    assert buffer.space is not None, buffer
    return buffer.space
