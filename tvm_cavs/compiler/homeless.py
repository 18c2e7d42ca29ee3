"""TVM, imported: without torch, which takes longer than TVM, and without a home if there is none.

It asks for a home folder as it is imported, and keeps nothing of ours there.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import TargetError
from ..ffi import without_torch
from ..versions import not_installed

XDG = "XDG_CACHE_HOME"


def import_tvm() -> None:
    """Import TVM, also for a user who has no home: in a container, a number without a name.

    Raises:
        TargetError: it is not installed.
    """
    try:
        Path.home()
        has_home = True
    except RuntimeError:
        has_home = XDG in os.environ
    if not has_home:
        os.environ[XDG] = os.devnull  # where nothing can be kept
    try:
        with without_torch():
            import tvm  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "tvm":
            raise
        raise TargetError(not_installed("apache-tvm")) from None
    finally:
        if not has_home:
            del os.environ[XDG]


import_tvm()
