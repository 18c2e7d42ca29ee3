"""Products and weight gradients: the accumulators stay in registers.

Rows and vectors of the register tile are unrolled and its lanes vectorised; the tile is in scope
"local", so LLVM keeps all of it in vector registers over the reduction. Tasks, the independent
parts that a layout with threads has cut, run in parallel.
"""

from tvm.target import Target
from tvm.tirx import ForKind, PrimFunc

from ..loops import kernel_of, with_kinds

KERNELS = ("product", "outer")
KINDS = {
    "task": ForKind.PARALLEL,
    "row": ForKind.UNROLLED,
    "vector": ForKind.UNROLLED,
    "lane": ForKind.VECTORIZED,
}


def register_tile(func: PrimFunc, target: Target) -> PrimFunc | None:
    """Claims the kernels that have a register tile."""
    if target.kind.name != "llvm" or kernel_of(func) not in KERNELS:
        return None
    return with_kinds(func, KINDS)
