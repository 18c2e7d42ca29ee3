"""Options: which optimisations the TVM executor leaves out, to measure what each is worth.

Every switch keeps the meaning: outputs and gradients still equal the reference. Nothing is left out
unless it is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import TargetError

SWITCHES: dict[str, str] = {
    "kinds": "every vertex runs as if all its slots had a child; an absent one is zeros that are "
    "read (inputs are still told apart: no row of a table stands for an absent word)",
    "joined": "no products are put together: every gate is one of its own, also where a wide one "
    "was written, since slicing it is what lets dead gates vanish",
    "lazy": "what could wait until all levels are done, weight gradients above all, runs level by "
    "level",
    "fusion": "every operation between products is a kernel of its own and leaves its result in "
    "memory",
    "gather": "operands that are gathered, or put together from several pieces, are copied to one "
    "buffer before the product reads them",
    "direct": "weights are packed for every batch of training, also for one of few vertices",
}


@dataclass(frozen=True)
class Options:
    """The optimisations of SWITCHES, each on unless it is left out."""

    kinds: bool = True
    joined: bool = True
    lazy: bool = True
    fusion: bool = True
    gather: bool = True
    direct: bool = True


ALL = Options()


def leaving_out(names: Iterable[str]) -> Options:
    """All optimisations but these.

    Raises:
        TargetError: a name that is not in SWITCHES.
    """
    given = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in given if name not in SWITCHES]
    if unknown:
        raise TargetError(
            f"without={given}: there is no optimisation {', '.join(map(repr, unknown))}; "
            f"expected some of {', '.join(SWITCHES)}"
        )
    return Options(**dict.fromkeys(given, False))
