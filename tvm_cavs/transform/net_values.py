"""Net-level values: what there is one of for the whole network, computed by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..language import OPS, Program


def net_value(
    program: Program, i: int, leaf: Callable[[int], Any], done: dict[int, Any] | None = None
) -> Any:
    """Net-level value %i by NumPy, float32; `leaf(i)` gives parameters and totals."""
    done = {} if done is None else done
    if i not in done:
        c = program.calls[i]
        if c.op in ("param", "total"):
            done[i] = leaf(i)
        elif c.op == "full":
            done[i] = np.full(c.type.shape, c["value"], "float32")
        else:
            compute = OPS[c.op].numpy
            assert compute is not None, c.op
            args = [net_value(program, a, leaf, done) for a in c.args]
            with np.errstate(all="ignore"):  # infinities and NaN are values like others
                done[i] = np.asarray(compute(*args, **dict(c.attrs)), "float32")
    return done[i]
