"""Regions: rows in parallel tasks, the elements of a row in vectors."""

from tvm.target import Target
from tvm.tirx import ForKind, PrimFunc

from ..loops import kernel_of, with_kinds


def region(func: PrimFunc, target: Target) -> PrimFunc | None:
    """Claims the kernels that compute rows element by element."""
    if target.kind.name != "llvm" or kernel_of(func) != "region":
        return None
    return with_kinds(func, {"task": ForKind.PARALLEL, "lane": ForKind.VECTORIZED})
