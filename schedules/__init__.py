# A part of tvm_cavs. This line tells it from other packages of the same name.
"""Schedules: how each kernel runs on each kind of target. Imports tvm only.

A kernel arrives as a PrimFunc without a schedule. The rules of its target are asked in order; a
rule answers the scheduled function (a PrimFunc, or a Schedule that holds one), or None for "not
mine". A kernel that no rule claims is reported, never left to TVM's default lowering in silence.
"""

from collections.abc import Callable

from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.target import Target
from tvm.tirx import PrimFunc

from . import cpu, gpu
from .loops import SCHEDULED
from .pipeline import pipeline as pipeline
from .target import describe as describe
from .target import host_target as host_target
from .target import make_target as make_target

Rule = Callable[[PrimFunc, Target], "PrimFunc | Schedule | None"]

RULES: dict[str, tuple[Rule, ...]] = {"llvm": cpu.RULES, "cuda": gpu.RULES}


def rules_for(target: Target) -> tuple[Rule, ...]:
    """The rules of a target's kind, in the order in which they are asked.

    Raises:
        ValueError: a kind that has no list of rules.
    """
    kind = target.kind.name
    if kind not in RULES:
        raise ValueError(
            f"no schedule rules for targets of kind {kind!r}; kinds: {', '.join(RULES)}"
        )
    return RULES[kind]


def schedule_function(func: PrimFunc, target: Target) -> PrimFunc | None:
    """The function as the first rule that claims it schedules it, or None."""
    for rule in rules_for(target):
        answer = rule(func, target)
        if answer is None:
            continue
        if isinstance(answer, Schedule):
            (answer,) = answer.mod.functions.values()
        return answer.with_attr(SCHEDULED, rule.__name__)
    return None


def schedule(mod: IRModule, target: Target) -> tuple[IRModule, tuple[str, ...]]:
    """Every kernel of `mod` scheduled, and the names of those that no rule claimed."""
    functions, unclaimed = {}, []
    for name, func in mod.functions.items():
        done = schedule_function(func, target) if isinstance(func, PrimFunc) else func
        if done is None:
            unclaimed.append(name.name_hint)
        functions[name] = func if done is None else done
    return IRModule(functions), tuple(unclaimed)
