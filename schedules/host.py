"""The machine this process runs on, found by its features: what LLVM is told beyond a model's name.

A virtual machine may hide the model (LLVM calls a Sapphire Rapids "rocketlake") or some of its
instructions. So the features themselves are asked for, and a target carries those in which the CPU
differs from the model that LLVM names.
"""

import ctypes
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import tvm_ffi
from tvm.target import Target, codegen

# Features that decide which instructions kernels may hold; what else LLVM lists is tuning, or for
# systems.
INSTRUCTIONS: tuple[str, ...] = (
    "avx",
    "fma",
    "f16c",
    "bmi",
    "lzcnt",
    "popcnt",
    "movbe",
    "sse",
    "ssse",
    "amx",
)
INSTRUCTIONS += ("neon", "sve", "bf16", "dotprod", "fullfp16", "i8mm")
VERSIONS = "avx10."  # a number for features that LLVM lists one by one as well; Linux lists none
SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
DARWIN = ("hw.perflevel0.l1dcachesize", "hw.perflevel0.l2cachesize", "hw.l3cachesize")


@dataclass(frozen=True)
class Caches:
    """Bytes of the data caches that one core sees; 0 for one that is unknown or absent."""

    l1: int = 0
    l2: int = 0
    l3: int = 0

    def __str__(self) -> str:
        return " ".join(f"{name}={size >> 10}K" for name, size in vars(self).items() if size)


def parse_caches(text: str) -> Caches:
    """What `str` of caches says, such as "l1=32K l2=512K"; sizes that are no numbers are unknown.

    It stands in a target's attribute `model`, where anybody may have written something else.
    """
    found = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return Caches(**{name: bytes_of(found.get(name, "")) for name in ("l1", "l2", "l3")})


def bytes_of(size: str) -> int:
    """Bytes of a size such as "512K", "1M" or "4096"; 0 where it is no size."""
    digits, unit = (size[:-1], UNITS[size[-1]]) if size[-1:] in UNITS else (size, 1)
    return int(digits) * unit if digits.isascii() and digits.isdigit() else 0


def host_caches() -> Caches:
    """The caches of this machine, as far as its system names them."""
    return _of_darwin() if platform.system() == "Darwin" else of_linux(SYSFS)


def of_linux(folder: Path) -> Caches:
    """Caches as the kernel lists them; those for instructions only do not count."""
    found: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
        except (OSError, UnicodeDecodeError):
            continue
        if kind != "Instruction" and f"l{level}" in ("l1", "l2", "l3"):
            found[f"l{level}"] = bytes_of(size)
    return Caches(**found)


def _of_darwin() -> Caches:
    """Caches of the fast cores; names that this system does not have are 0."""
    libc, sizes = ctypes.CDLL(None), []
    for name in DARWIN:
        value, length = ctypes.c_int64(0), ctypes.c_size_t(8)
        failed = libc.sysctlbyname(
            name.encode(), ctypes.byref(value), ctypes.byref(length), None, ctypes.c_size_t(0)
        )
        sizes.append(0 if failed else value.value)
    return Caches(*sizes)


def host_features() -> dict[str, bool]:
    """What LLVM finds that this CPU and its system can do, by LLVM's names: CPUID, or auxval.

    Where the CPU has AMX, the system is asked to let this process use it; what it refuses counts as
    not there.
    """
    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    features = {str(name): bool(has) for name, has in found.items()}
    if features.get("amx-tile") and not amx_allowed():
        features |= dict.fromkeys((name for name in features if name.startswith("amx")), False)
    return features


@lru_cache
def amx_allowed() -> bool:
    """Whether this process and its children may use AMX from now on. Linux asks that one asks.

    Its registers are 8 KiB, which signal handlers have to have room for: a process with small
    stacks for signals is refused, and so is every one where the system knows no AMX.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0)


def differences(model: str, features: dict[str, bool]) -> list[str]:
    """A target's `mattr`: instructions that a CPU has and the model named `model` has not ("+"),
    and the other way round ("-").
    """
    implied = instructions(Target({"kind": "llvm", "mcpu": model}))
    ours = {name: has for name, has in features.items() if _decides(name)}
    more = sorted(f"+{name}" for name, has in ours.items() if has and name not in implied)
    return more + sorted(f"-{name}" for name in implied if not ours.get(name, True))


def instructions(target: Target) -> set[str]:
    """The features of a target that decide which instructions its code may hold."""
    features = map(str, codegen.llvm_get_cpu_features(target))
    return set(filter(_decides, features))


def _decides(feature: str) -> bool:
    return feature.startswith(INSTRUCTIONS) and not feature.startswith(VERSIONS)


def host_target(n_threads: int | None = None) -> Target:
    """This machine: LLVM for the CPU found, `n_threads` cores (default: all we may run on).

    `mattr` holds the features in which it differs from its model, `model` its caches.

    Raises:
        ValueError: fewer than one thread.
    """
    if n_threads is None:
        n_threads = usable_cores()
    if n_threads < 1:
        raise ValueError(f"threads is {n_threads}; it must be 1 or more")
    model, caches = str(codegen.llvm_get_system_cpu()), str(host_caches())
    attributes: dict[str, object] = {"kind": "llvm", "mcpu": model, "num-cores": n_threads}
    more = differences(model, host_features())
    attributes |= {"mattr": more} if more else {}
    attributes |= {"model": caches} if caches else {}
    return Target(attributes)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
