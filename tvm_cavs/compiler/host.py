"""The kernels that plan and call kernels, compiled for the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .compiler import Compiler
from .forms import Form
from .kernels.host import plan, routine, slices
from .kernels.loopnest import kernel


def _plain(emit: Callable[[], None], name: str) -> Any:
    return kernel(name, "plan", emit)


MAKERS: dict[str, Callable[[str], Any]] = {
    **{name: partial(_plain, emit) for name, emit in plan.KERNELS.items()},
    **{name: partial(_plain, emit) for name, emit in slices.KERNELS.items()},
    "routine": routine.make,
}


def host_kernels(compiler: Compiler) -> Mapping[str, Any]:
    """What a `Planner` calls, by name; compiled by `compiler`, or found in its cache."""
    forms = {
        name: Form(f"plan_{name}", 1, partial(MAKERS[name], f"plan_{name}"))
        for name in sorted(MAKERS)
    }
    compiler.compile(list(forms.values()))
    return {name: compiler.function(form.symbol) for name, form in forms.items()}
