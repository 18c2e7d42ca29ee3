"""Kinds: what a vertex has, as bits, and the vertices whose programs are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from .graph import Graph


@dataclass(frozen=True, order=True)
class Kind:
    """Which inputs a vertex has: slots that hold a child, and names it can pull.

    `maybe` are those of `slots` and `pulls` that may be absent: the programs of such a wide kind
    look and mask.
    """

    slots: tuple[int, ...]
    pulls: tuple[str, ...]
    maybe: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        slots, pulls = self._shown(self.slots), self._shown(self.pulls)
        children = f"children {','.join(slots)}" if slots else "no child"
        return f"{children}; {', '.join(pulls) or 'no input'}"

    def _shown(self, names: Iterable[int | str]) -> list[str]:
        return [f"{name}?" if name in self.maybe else f"{name}" for name in names]


MASK_BITS = 62
MAX_LOOKUP_BITS = 16  # of masks that are looked up in a table


def masks(graph: Graph, arity: int, pulls: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What every vertex has, int64[n] bits: slots, then pulls; and int32[n, arity] children or -1.

    Raises:
        GraphError: more slots and inputs than an int64 has bits.
    """
    check_bits(arity, len(pulls))
    first = graph.child_ptr[:-1, None]
    at = first + np.arange(arity, dtype=graph.child_ptr.dtype)
    children = np.full((graph.n_vertices, arity), -1, "int32")
    valid = at < graph.child_ptr[1:, None]
    children[valid] = graph.child[at[valid]]
    bits = (children >= 0) @ (1 << np.arange(arity))
    for j, name in enumerate(pulls):
        bits = bits + (graph.inputs[name].present.astype("int64") << (arity + j))
    return bits, children


def check_bits(arity: int, n_pulls: int) -> None:
    """What a vertex has fits into an integer.

    Raises:
        GraphError: it does not.
    """
    if arity + n_pulls > MASK_BITS:
        raise GraphError(
            f"{arity} slots and {n_pulls} inputs: expected at most {MASK_BITS} together; "
            "binarise the graphs, or join inputs that are always present together into one vector"
        )


def kind_of(mask: int, arity: int, pulls: Sequence[str]) -> Kind:
    """The Kind that the bits of a mask stand for."""
    slots = tuple(k for k in range(arity) if mask >> k & 1)
    return Kind(slots, tuple(name for j, name in enumerate(pulls) if mask >> (arity + j) & 1))
