"""Roles of buffers: what a buffer holds, and so how it is found. Its name is text for people."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, NoReturn

Key = str | int | tuple[str | int, ...]


class Role(str, Enum):
    """What a buffer holds; its key says of which child, field, input or parameter.

    The value is how the buffer's name begins in print. (A str, because those are hashed fast.)
    """

    # what a plan is made of, by name
    PLAN = "plan"
    # what kernels read of a batch's graphs
    CHILD = "child"  # rows of the children in slot `key`
    INDEX = "index"  # an integer input
    CHOICE = "choice"  # an integer input, 0 where it is absent: a row of a table
    INPUT = "pull"  # any other input
    PRESENT = "present"  # 1.0 where there is an input, else 0.0
    PARENT_POINTERS = "edges.pointers"  # where the slots of every row begin in PARENT_SLOTS
    PARENT_SLOTS = "edges.slots"  # the slots that every row fills in its parents
    VERTEX_KEYS = "dropout.vertices"
    # groups of rows with equal values of input `key`
    DISTINCT = "distinct"  # the values
    GROUP_POINTERS = "pointers"  # where the rows of every value begin in GROUP_ROWS
    GROUP_ROWS = "edges"
    GROUP_COUNTS = "counts"  # of every value; zeros between two batches
    # values of vertices
    STATE = "state"  # field `key`
    ADJOINT = "adjoint"  # gradients of field `key`, slot by slot of the parent
    SAVED = "save"
    PUSHED = "push"
    SCRATCH = "scratch"
    ROW_GRADIENT = "rows"  # of (parameter, input)
    ROW_SUM = "sum.rows"  # the same, those of equal rows added up
    # of the network: no batch changes their size
    PARAMETER = "param"  # in its shape
    FLAT_PARAMETER = "flat"  # the same memory as a vector
    GRADIENT = "grad"
    TOTAL = "total"  # a sum over vertices that is no part of one gradient
    PACKED = "pack"  # a weight operand as products read it
    UNPACKED = "net.pack"  # one that NumPy evaluates before it is packed
    NET_VALUE = "net"  # any other net-level value
    SITE_KEYS = "dropout.keys"


class BufferId:
    """The identity of a buffer. Of a role and a key there is one, so it is hashed as what it is.

    (A step looks up some 150 buffers. Hashing a tuple anew each time took 4 % of a small one.)
    """

    __slots__ = ("key", "role")
    role: Role
    key: Key
    _made: ClassVar[dict[tuple[Role, Key], BufferId]] = {}

    def __new__(cls, role: Role, key: Key = ()) -> BufferId:
        made = cls._made.get((role, key))
        if made is None:
            made = super().__new__(cls)
            object.__setattr__(made, "role", role)
            object.__setattr__(made, "key", key)
            made = cls._made.setdefault((role, key), made)  # the first one, if threads meet here
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a BufferId does not change, {name} neither; make another")

    def __reduce__(self) -> tuple[type[BufferId], tuple[Role, Key]]:
        return BufferId, (self.role, self.key)

    def __repr__(self) -> str:
        return f"BufferId({self.role!r}, {self.key!r})"

    def __str__(self) -> str:
        """The buffer's name."""
        parts = self.key if isinstance(self.key, tuple) else (self.key,)
        return ".".join(map(str, (self.role.value, *parts)))
