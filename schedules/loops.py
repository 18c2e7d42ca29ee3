"""Roles of loops: how a kernel without a schedule tells the rules what each of its loops is for.

A workload is a nest of serial loops, each with a role: `task` (independent parts of the work),
`row` and `vector` (rows and vectors of a register tile), `lane` (elements of a vector). A rule
decides what becomes of each role; `with_kinds` carries that out in one pass over the kernel.
"""

from collections.abc import Mapping

import tvm_ffi
from tvm import tirx
from tvm.tirx import For, ForKind, PrimFunc

ROLE = "tvm_cavs.loop"  # annotation of a loop: one of the roles
KERNEL = "tvm_cavs.kernel"  # attribute of a function: which workload it is
SCHEDULED = "tvm_cavs.rule"  # attribute of a scheduled function: the rule that claimed it
ROLES = ("task", "row", "vector", "lane")


def kernel_of(func: PrimFunc) -> str | None:
    """The workload's name, or None for a function that is none of ours."""
    name = func.attrs.get(KERNEL) if func.attrs else None
    return None if name is None else str(name)


def with_kinds(func: PrimFunc, kinds: Mapping[str, ForKind]) -> PrimFunc:
    """The function with every loop of a role in `kinds` made that kind, and roles removed."""

    def change(loop: For) -> For:
        role = loop.annotations.get(ROLE)
        if role is None:
            return loop
        kind = kinds.get(str(role), ForKind.SERIAL)
        return For(loop.loop_var, loop.min, loop.extent, kind, loop.body)

    body = tvm_ffi.structural_map(func.body, [(For, change)])
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
