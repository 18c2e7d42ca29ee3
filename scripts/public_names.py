"""Says which public names have no docstring, or no place in docs/reference.

    python scripts/public_names.py

Public is what `tvm_cavs`, its `data`, `deploy` and `nn` export, and what a user reaches through
a class of these: its methods and properties.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import tvm_cavs

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
# A module whose own names are public is a package (it exports), or one of these (they define).
EXPORT, DEFINE = ("data", "deploy", "nn"), ("init", "loss")


def public_names() -> Iterator[tuple[str, Any]]:
    """Every public name under `tvm_cavs`, with its object."""
    yield from exported(tvm_cavs, "tvm_cavs")
    for name in EXPORT:
        yield from exported(getattr(tvm_cavs, name), f"tvm_cavs.{name}")
    for name in DEFINE:
        module = getattr(tvm_cavs, name)
        for key, value in exported(module, f"tvm_cavs.{name}"):
            if getattr(value, "__module__", None) == module.__name__:
                yield key, value


def exported(module: ModuleType, path: str) -> Iterator[tuple[str, Any]]:
    """The public names of a module, without modules; `__all__` if it has one."""
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        if not name.startswith("_") and not isinstance(value, ModuleType):
            yield f"{path}.{name}", value


def members(path: str, cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    for name, value in vars(cls).items():
        method = isinstance(value, (FunctionType, staticmethod, classmethod, property))
        if not name.startswith("_") and method:
            yield f"{path}.{name}", getattr(cls, name)


def documented(value: Any) -> bool:
    """It has a docstring, its own or of the method that it overrides; not one made by dataclass."""
    made = isinstance(value, type) and (value.__doc__ or "").startswith(f"{value.__name__}(")
    own = value.__doc__ if isinstance(value, type) else inspect.getdoc(value)
    return bool(own) and not made


def undocumented() -> list[str]:
    """Public classes, functions, methods and properties without a docstring."""
    found = []
    for path, value in public_names():
        if isinstance(value, type):
            found += [p for p, member in members(path, value) if not documented(member)]
        if isinstance(value, (type, FunctionType)) and not documented(value):
            found.append(path)
    return sorted(found)


def not_in_the_reference() -> list[str]:
    """Public names that no page of the reference has."""
    pages = "\n".join(p.read_text(encoding="utf-8") for p in sorted(REFERENCE.glob("*.md")))
    named = set(re.findall(r"^::: (\S+)$|`(tvm_cavs\.[\w.]+)`", pages, flags=re.M))
    shown = {name for pair in named for name in pair if name}
    return sorted(path for path, _ in public_names() if path not in shown)


def main() -> int:
    bad = [f"{name}: no docstring" for name in undocumented()]
    bad += [f"{name}: on no page of docs/reference" for name in not_in_the_reference()]
    print("\n".join(bad) if bad else f"{len(list(public_names()))} public names are documented")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
