"""The kernels that plan batches and call kernels, compiled for the host, whatever the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from . import plan_kernels, routine_kernel, slice_kernels
from .compile import Compiler
from .forms import Form
from .loopnest import kernel


def _plain(emit: Callable[[], None], name: str) -> Any:
    return kernel(name, "plan", emit)


MAKERS: dict[str, Callable[[str], Any]] = {
    **{name: partial(_plain, emit) for name, emit in plan_kernels.KERNELS.items()},
    **{name: partial(_plain, emit) for name, emit in slice_kernels.KERNELS.items()},
    "routine": routine_kernel.make,
}


def host_kernels(compiler: Compiler) -> Mapping[str, Any]:
    """What a `Planner` calls, by name; compiled by `compiler`, or found in its cache."""
    forms = {
        name: Form(f"plan_{name}", 1, partial(MAKERS[name], f"plan_{name}"))
        for name in sorted(MAKERS)
    }
    compiler.compile(list(forms.values()))
    return {name: compiler.function(form.symbol) for name, form in forms.items()}
