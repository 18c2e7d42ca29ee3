"""Texts of what is compiled, and short digests of them, for golden files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import schedules
from tvm_cavs.expressions import Expression
from tvm_cavs.runtime import CompiledGroup, Executable


def digest(parts: object) -> str:
    """Eight digits; an iterable of texts counts as one text."""
    text = parts if isinstance(parts, str) else "\n".join(map(str, parts))  # type: ignore[call-overload]
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def compiled_text(compiled: Executable, direct: Iterable[CompiledGroup] = ()) -> str:
    """All that is handed to the runtime, line by line; kernels by their symbols."""
    lines: list[str] = []
    sides = {"forward": compiled.forward, "backward": compiled.backward, "direct": direct}
    for side, groups in sides.items():
        for g in groups:
            member = np.flatnonzero(g.member).tolist()
            lines.append(f"{side} {g.stage} of {member}, {g.most_rows} rows, packs {g.packs}")
            lines.append(f"  starts of {g.spaces}")
            lines += [f"  {step}" for step in g.steps]
    kept: dict[str, Mapping[Any, Any]] = {
        "pack": compiled.packs,
        "rows of": compiled.row_sums,
        "grows": compiled.buffers,
        "fixed": compiled.fixed,
        "members of": {s: np.flatnonzero(m).tolist() for s, m in compiled.members.items()},
    }
    for what, held in kept.items():
        lines += [f"{what} {key}: {value}" for key, value in held.items()]
    lines.append(f"totals {compiled.totals}, cleared {compiled.cleared}, {compiled.n_parts} parts")
    for v in compiled.net_values:
        lines.append(f"net {v.buffer} {v.shape}: {expression_text(v.value)}")
    for g in compiled.gradients:
        lines.append(
            f"gradient of {g.parameter}: {g.count} times {expression_text(g.value)}, {g.blocks}"
        )
    return "\n".join(lines)


def expression_text(expression: Expression | None) -> str:
    """Its lines; of functions, whose places in memory are always others, the names of their ops."""
    if expression is None:
        return "nothing"
    return "; ".join(f"{n.op}{n.args} {dict(n.attrs)} {n.shape} {n.leaf}" for n in expression.lines)


def kernel_text(func: Any, target: Any) -> str:
    """A kernel as the target's rules schedule it.

    TVM gives numbers of rows, which have no name, names in an order that is another each time.
    """
    done = schedules.schedule_function(func, target)
    assert done is not None, func
    text = str(done)
    unnamed = set(re.findall(r"^(v(?:_\d+)?) = TypeVar", text, re.MULTILINE))
    return re.sub(r"\bv(_\d+)?\b", lambda m: "rows" if m[0] in unnamed else m[0], text)
