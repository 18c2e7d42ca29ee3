"""Workloads: the kernels of compiled steps as measuring sees them, with keys and free knobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..language import Parameter
from ..runtime import CompiledGroup, Role
from .compiler import Compiler
from .direct import rectangle_of
from .forms import Form, direct_forms, forms
from .kinds import Group
from .lowering.region import Region
from .lowering.specs import DirectWeights, Outer, Product
from .lowering.steps import Kernel, Step
from .machine import Machine
from .target_rules import (
    UNTUNED,
    Chosen,
    Knobs,
    direct_key,
    direct_knobs,
    is_narrow,
    is_narrow_outer,
    only,
    outer_key,
    outer_knobs,
    product_key,
    product_knobs,
    region_knobs,
    simd,
)


@dataclass(frozen=True)
class Workload:
    """A kernel that a step calls. `weights`: of a product, where they lie if they are not packed.

    `by_level`: it may run level by level, so that it sees few rows and many.
    """

    kernel: Kernel
    by_level: bool = True
    weights: DirectWeights | None = None

    @property
    def packs(self) -> bool:
        """Whether it reads packed weights, the last but one of its arguments."""
        return isinstance(self.kernel.spec, Product) and self.weights is None


Defaults = tuple[str, Callable[..., Knobs]]  # key in records; default knobs, given shared ones


def defaults(machine: Machine, workload: Workload) -> Defaults | None:
    """A workload's key and its default knobs; None if nothing about it is free."""
    spec, target = workload.kernel.spec, machine.target
    if isinstance(spec, Region):
        return workload.kernel.name, partial(region_knobs, target)
    if not isinstance(spec, (Product, Outer)):
        return None
    k, n, precision = spec.k, spec.n_columns, machine.operand_precision(spec.k)
    if workload.weights is not None:
        transposed = workload.weights.transposed
        return direct_key(k, n, transposed), partial(direct_knobs, target, n, transposed)
    if isinstance(spec, Outer):
        if is_narrow_outer(simd(target), k, n, precision):
            return None
        return outer_key(k, n, precision), partial(outer_knobs, target, k, n, precision)
    if is_narrow(target, k, n, precision):
        return None
    return product_key(k, n, precision), partial(product_knobs, target, k, n, precision)


def forms_with(machine: Machine, workload: Workload, knobs: Knobs | None) -> list[Form]:
    """Its forms with these knobs at any number of rows; None: with the target's defaults."""

    def choose(_key: str, _default: Callable[..., Any]) -> Chosen:
        return UNTUNED if knobs is None else only(knobs)

    fixed = replace(machine, choose=choose)
    if workload.weights is not None:
        return direct_forms(fixed, workload.kernel, workload.weights, workload.by_level)
    return forms(fixed, workload.kernel, workload.by_level)


def workloads(
    stages: Sequence[Group],
    groups: Sequence[CompiledGroup],
    compiler: Compiler,
    parameters: Mapping[str, Parameter],
) -> list[list[Workload]]:
    """The workload of every compiled step of every group, in their order.

    Args:
        stages: as they were before they were compiled to `groups`.
    """
    found = []
    for stage, group in zip(stages, groups, strict=True):
        by_level, mine = stage.stage == "recurrent", []
        for step, compiled in zip(stage.lowered.steps, group.steps, strict=True):
            direct = step.kernel.kind == "product" and compiled.buffers[-2].role is Role.PARAMETER
            weights = _weights(step, stage, compiler, parameters) if direct else None
            mine.append(Workload(step.kernel, by_level, weights))
        found.append(mine)
    return found


def _weights(
    step: Step, stage: Group, compiler: Compiler, parameters: Mapping[str, Parameter]
) -> DirectWeights:
    (operand,) = (w for w in stage.lowered.weights if w.buffer == step.buffers[-2].id)
    place = rectangle_of(operand, compiler, parameters)
    assert place is not None, "a product that reads a parameter"
    return place[1]
