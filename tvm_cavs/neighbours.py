"""A package that is installed beside this one -> that it is ours, before anything of it runs.

`schedules` and `autotune` are names of the top level. A user's own file schedules.py, or another
distribution's package, can stand before ours on the path, or have been written over it.
"""

from __future__ import annotations

from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from .errors import TargetError

MARK = "# A part of tvm_cavs."  # the first line of a package that is ours
REINSTALL = "Install tvm_cavs again: pip install --force-reinstall --no-deps WHEEL (or its folder)"


def check_neighbour(name: str) -> None:
    """The package `name` that an import would find lies beside tvm_cavs and is its own.

    Nothing of the package is imported.

    Raises:
        TargetError: it is absent or another one; the message names both files and the remedy.
    """
    ours = Path(__file__).resolve().parents[1] / name / "__init__.py"
    spec = find_spec(name)  # in sys.modules first, as an import does
    if spec is None or not ours.exists():
        raise TargetError(f"tvm_cavs needs its package {name!r}, and {ours} is absent. {REINSTALL}")
    found = _file(spec)
    if found != ours:
        raise TargetError(
            f"tvm_cavs needs its package {name!r}, {ours}, but `import {name}` finds {found}. "
            "Rename or uninstall that, or take its folder off PYTHONPATH and sys.path."
        )
    if not _source(spec).startswith(MARK):
        raise TargetError(
            f"{found} is not the package {name!r} of tvm_cavs ({__file__}): another distribution "
            f"of that name has been installed over it. Uninstall that. {REINSTALL}"
        )


def _file(spec: ModuleSpec) -> Path:
    """The file of a package, or the first folder of one that has no `__init__.py`."""
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return Path(places[0]).resolve()


def _source(spec: ModuleSpec) -> str:
    """The text of the package's `__init__.py`; "" where there is only its byte code."""
    assert isinstance(spec.loader, InspectLoader), "a file that lies where ours does"
    return spec.loader.get_source(spec.name) or ""
