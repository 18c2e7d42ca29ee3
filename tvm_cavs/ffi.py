"""tvm_ffi and TVM, imported without torch.

Both import torch, if it is installed, in case somebody hands them its tensors. That takes longer
than all else that a command imports. Whoever uses torch here has imported it before, and then it
stays, or does so afterwards; tensors then go from one to the other as those of any library do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

TORCH = "torch"


@contextmanager
def without_torch() -> Iterator[None]:
    """Meanwhile, torch cannot be imported, unless it has been.

    On Windows nothing is kept from it: there tvm_ffi has to import it first.
    """
    if TORCH in sys.modules or sys.platform == "win32":
        yield
        return
    sys.modules[TORCH] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        yield
    finally:
        del sys.modules[TORCH]


with without_torch():
    import tvm_ffi  # noqa: F401
