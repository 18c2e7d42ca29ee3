"""Which executors there are: name -> what makes one, loaded when it is first used.

The built-in ones are entry points like those of any other package.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import TargetError
from ..language import Parameter
from ..transform import Programs
from .protocol import Executor

Factory = Callable[..., Executor]  # (programs, parameters, **options)
GROUP = "tvm_cavs.executors"  # of entry points; those of this package need not be installed
BUILT_IN = (
    EntryPoint("reference", "tvm_cavs.executors.reference:ReferenceExecutor", GROUP),
    EntryPoint("tvm", "tvm_cavs.executors.tvm:TvmExecutor", GROUP),
)
_REGISTERED: dict[str, Callable[[], Factory]] = {e.name: e.load for e in BUILT_IN}


def register(name: str, load: Callable[[], Factory]) -> None:
    """Offer an executor under `name`; `load` imports it when it is first used.

    Packages can do the same with an entry point in the group `tvm_cavs.executors`.
    """
    _REGISTERED[name] = load


def names() -> list[str]:
    """All executors that can be chosen."""
    return sorted({*_REGISTERED, *(e.name for e in entry_points(group=GROUP))})


def factory(name: str) -> Factory:
    """The executor called `name`.

    Raises:
        TargetError: there is none.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]()
    for e in entry_points(group=GROUP):
        if e.name == name:
            return e.load()  # type: ignore[no-any-return]
    raise TargetError(f"executor {name!r}: expected one of {', '.join(names())}")


def check_options(name: str, make: Factory, options: Mapping[str, Any]) -> None:
    """The executor takes these options.

    Raises:
        TargetError: it does not.
    """
    taken = list(inspect.signature(make).parameters.values())[2:]
    known = [p.name for p in taken if p.kind is not p.VAR_KEYWORD]
    unknown = [o for o in options if o not in known]
    if unknown and len(known) == len(taken):
        raise TargetError(
            f"executor {name!r} has no option {', '.join(unknown)}; "
            f"expected {', '.join(known) or 'none'}"
        )


def check_parameters(programs: Programs, parameters: Mapping[str, Parameter]) -> None:
    """Every parameter the programs read exists and has data."""
    for _, c in programs.forward.select("param"):
        _ = parameters[c["name"]].data
