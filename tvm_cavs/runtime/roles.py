"""Roles of buffers: what a buffer holds, and so how it is found. Its name is text for people."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

Key = str | int | tuple[str | int, ...]


class Role(str, Enum):
    """What a buffer holds; its key says of which child, field, input or parameter.

    The value is how the buffer's name begins in print. (A role is a str because those are hashed
    fast: buffers are looked up some fifty times a batch.)
    """

    # what a plan is made of, by name
    PLAN = "plan"
    # what kernels read of a batch's graphs
    CHILD = "child"  # rows of the children in slot `key`
    INDEX = "index"  # an integer input
    INPUT = "pull"  # any other input
    PARENT_POINTERS = "edges.pointers"  # where the slots of every row begin in PARENT_SLOTS
    PARENT_SLOTS = "edges.slots"  # the slots that every row fills in its parents
    VERTEX_KEYS = "dropout.vertices"
    # groups of rows with equal values of input `key`
    DISTINCT = "distinct"  # the values
    GROUP_POINTERS = "pointers"  # where the rows of every value begin in GROUP_ROWS
    GROUP_ROWS = "edges"
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


class BufferId(NamedTuple):
    """The identity of a buffer: equal ones are one buffer."""

    role: Role
    key: Key = ()

    def __str__(self) -> str:
        """The buffer's name."""
        parts = self.key if isinstance(self.key, tuple) else (self.key,)
        return ".".join(map(str, (self.role.value, *parts)))
