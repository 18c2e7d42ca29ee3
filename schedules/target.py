"""Targets as users give them, and what a target can do.

`Target("llvm")` alone means plain x86-64, so the host's real CPU is asked for (`host.py`) and said
out loud.
"""

import json
import platform
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from tvm.target import Target, codegen

from .host import Caches, host_features, instructions, parse_caches
from .host import host_target as host_target


@dataclass(frozen=True)
class Simd:
    """The float32 vector unit of a CPU: lanes of a register, and how many registers are free.

    `bf16`: one instruction multiplies pairs of bfloat16 and adds them to float32 lanes. `amx`: one
    does so for registers of 16 rows x 64 bytes.
    """

    name: str
    lanes: int
    registers: int
    bf16: bool = False
    amx: bool = False


PRECISIONS = ("float32", "bf16")  # of the operands of products; sums are float32

# First match wins: (features that must all be there, unit). Any other CPU gets the last row's unit.
UNITS: tuple[tuple[tuple[str, ...], Simd], ...] = (
    (
        ("avx512f", "avx512bf16", "amx-tile", "amx-bf16"),
        Simd("AVX-512 with AMX", 16, 32, bf16=True, amx=True),
    ),
    (("avx512f", "avx512bf16"), Simd("AVX-512", 16, 32, bf16=True)),
    (("avx512f",), Simd("AVX-512", 16, 32)),
    (("avx2", "fma"), Simd("AVX2", 8, 16)),
    (("avx",), Simd("AVX", 8, 15)),  # without a fused multiply-add, one holds the product
    (("neon",), Simd("NEON", 4, 32)),
    ((), Simd("128-bit", 4, 15)),
)


def simd(target: Target) -> Simd:
    """The vector unit that code for `target` may use."""
    require_cpu(target)
    return _unit(str(target))


@lru_cache
def _unit(attributes: str) -> Simd:
    """The unit of a target by its text: LLVM takes half a millisecond to say what a CPU has."""
    target = Target(json.loads(attributes))
    return next(
        unit
        for features, unit in UNITS
        if not features or codegen.llvm_cpu_has_features(list(features), target)
    )


def require_precision(target: Target, precision: str) -> None:
    """Refuses a precision of products that is unknown, or that `target` has no instruction for.

    Raises:
        ValueError: it is neither "float32" nor "bf16", or "bf16" without AVX512_BF16.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and not simd(target).bf16:
        raise ValueError(
            f"precision=bf16 needs the CPU feature AVX512_BF16 (its instruction vdpbf16ps), which "
            f"target {target.attrs.get('mcpu', 'generic CPU')} ({simd(target).name}) does not "
            "have. Use precision=float32"
        )


def threads(target: Target) -> int:
    """Threads that kernels for `target` are made for: its num-cores, else 1."""
    return max(1, int(target.attrs.get("num-cores", 1)))


def make_target(given: str | dict[str, object] | Target, n_threads: int | None = None) -> Target:
    """A target from "host", a kind or a dictionary of TVM's target attributes.

    `n_threads`, where given, replaces num-cores.

    Raises:
        ValueError: a kind that no rules exist for, or attributes that TVM refuses.
    """
    if isinstance(given, str) and given == "host":
        return host_target(n_threads)
    try:
        target = given if isinstance(given, Target) else Target(given)
        if n_threads is not None and target.kind.name == "llvm":
            target = Target({**target.export(), "num-cores": n_threads})
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f'{given!r} is not a TVM target: {reason}. Use "host", or a dictionary such as '
            '{"kind": "llvm", "mcpu": "haswell", "num-cores": 2}'
        ) from error
    require_cpu(target)
    require_triple(target)
    require_model(target)
    return target


# As LLVM spells them in a triple. Of any other it makes no machine, and ends the process if asked.
KNOWN = re.compile(
    r"x86_64|amd64|i[3-6]86|aarch64(_be)?|arm64|arm(eb)?|armv(6|6m|7|7a|7em|7m|7s|8|8a)|thumb|"
    r"riscv(32|64)|(ppc|powerpc)(64)?(le)?|mips(64)?(el)?|s390x|loongarch64|wasm(32|64)"
)


def require_triple(target: Target) -> None:
    """Refuses a triple whose architecture LLVM does not know.

    Raises:
        ValueError: an unknown mtriple.
    """
    triple = str(target.attrs.get("mtriple") or "")
    wanted = triple.partition("-")[0]
    if triple and not KNOWN.fullmatch(wanted):
        raise ValueError(
            f"mtriple is {triple!r:.60}, and LLVM knows no architecture {wanted!r:.60}; expected a "
            "triple such as x86_64-linux-gnu or aarch64-linux-gnu"
        )


def require_model(target: Target) -> None:
    """Refuses a CPU model that LLVM does not know, which it would take for a generic one.

    Raises:
        ValueError: an unknown mcpu; the message offers the nearest.
    """
    model = target.attrs.get("mcpu")
    triple = target.attrs.get("mtriple") or codegen.llvm_get_system_triple()
    if model is None or codegen.llvm_is_valid_cpu(str(model), str(triple)):
        return
    known = [str(name) for name in codegen.llvm_get_cpu_archlist(target)]
    near = ", ".join(get_close_matches(str(model), known)) or "none"
    raise ValueError(
        f"LLVM {codegen.llvm_version_major()} knows no CPU {str(model)!r} for {triple}; near: "
        f'{near}. Use target "host" for this machine ({codegen.llvm_get_system_cpu()})'
    )


def require_cpu(target: Target) -> None:
    """Refuses a target that is not an LLVM CPU.

    Raises:
        ValueError: any other kind.
    """
    if target.kind.name != "llvm":
        raise ValueError(
            f"no schedule rules for a target of kind {target.kind.name!r}; kinds with rules: "
            '"llvm" (CPUs). Use target "host"'
        )


def architecture(target: Target) -> str:
    """What code for `target` runs on: "x86_64", "aarch64", ..., as Linux calls it."""
    triple = str(target.attrs.get("mtriple") or codegen.llvm_get_system_triple())
    wanted = triple.partition("-")[0]
    return ARCHITECTURES.get(wanted, wanted)


ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


def require_host(target: Target) -> None:
    """Refuses a target whose code this machine cannot run: it would end in an illegal instruction.

    Raises:
        ValueError: another architecture, or instructions that this CPU does not have.
    """
    here, wanted = platform.machine(), architecture(target)
    model = target.attrs.get("mcpu", "generic CPU")
    if wanted != ARCHITECTURES.get(here, here):
        raise ValueError(
            f"target {model} is for {wanted}, and this machine is {here}: its kernels cannot run "
            'here. Use target "host"'
        )
    have = host_features()  # and AMX is asked for, if it is there
    lacking = sorted(f for f in instructions(target) if not have.get(f, True))
    if lacking:
        raise ValueError(
            f"target {model} has instructions that this CPU ({codegen.llvm_get_system_cpu()}) "
            f'lacks: {", ".join(lacking)}. Use target "host"'
        )


def caches(target: Target) -> Caches:
    """The caches that a target names; those of this machine where it is "host"."""
    return parse_caches(str(target.attrs.get("model") or ""))


def describe(target: Target) -> str:
    """One line for people: CPU, what it has beyond its model, vector unit, caches, threads."""
    unit, near = simd(target), caches(target)
    features = _mattr(target)
    model = " ".join([str(target.attrs.get("mcpu", "generic CPU")), *features])
    sizes = f" caches {near}," if str(near) else ""
    refused = ", AMX is not to be had here" if "-amx-tile" in features else ""
    return (
        f"{model}, {unit.name} ({unit.lanes} float32 lanes, {unit.registers} registers){refused},"
        f"{sizes} {threads(target)} thread(s)"
    )


def _mattr(target: Target) -> list[str]:
    return [str(each) for each in target.attrs.get("mattr") or ()]
