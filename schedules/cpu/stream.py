"""Kernels bound by memory (packing, sums, planning, updates): vectors and tasks."""

from tvm.target import Target
from tvm.tirx import ForKind, PrimFunc

from ..loops import kernel_of, with_kinds

KERNELS = ("pack", "column_sum", "segment_sum", "plan", "update")
KINDS = {
    "task": ForKind.PARALLEL,
    "row": ForKind.UNROLLED,
    "vector": ForKind.UNROLLED,
    "lane": ForKind.VECTORIZED,
}


def stream(func: PrimFunc, target: Target) -> PrimFunc | None:
    """Claims the kernels that pass over memory once."""
    if target.kind.name != "llvm" or kernel_of(func) not in KERNELS:
        return None
    return with_kinds(func, KINDS)
