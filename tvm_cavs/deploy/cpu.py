"""Whether this machine can run a model's kernels: its instructions, before any is executed.

Asked of the operating system, as there is no LLVM here to ask.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DeployError

CPUINFO = Path("/proc/cpuinfo")
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
# LLVM's name of a feature -> Linux's, where they differ by more than dots, dashes and underscores
LINUX = {
    "lzcnt": "abm",
    "sse3": "pni",
    "bmi": "bmi1",
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
}
# what every CPU of an architecture has that runs Linux
BASE = {"x86_64": frozenset({"sse", "sse2"}), "aarch64": frozenset({"neon"})}
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64
REMEDY = "Export it for this machine: tvm-cavs export RUN --out DIR on it, or --target with less."


def require_cpu(architecture: str, instructions: Sequence[str]) -> None:
    """Refuses kernels that this machine cannot run.

    Args:
        architecture: as Linux calls it, such as "x86_64". instructions: LLVM's names of features.

    Raises:
        DeployError: another architecture, or instructions that are missing here, by name.
    """
    here = ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    if here != architecture:
        raise DeployError(f"the model is for {architecture}, and this machine is {here}. {REMEDY}")
    more = sorted(set(instructions) - BASE.get(architecture, frozenset()))
    have = features() if more else frozenset()
    lacking = [name for name in more if _plain(LINUX.get(name, name)) not in have]
    if lacking:
        raise DeployError(
            f"the model's kernels use instructions that this CPU lacks: {', '.join(lacking)}. "
            f"{REMEDY}"
        )
    if "amx-tile" in instructions and not _amx_allowed():
        raise DeployError(
            "the model's kernels use AMX, which the system does not let this process use. Export "
            "it with executor.precision=float32."
        )


def features() -> frozenset[str]:
    """What this CPU can do, as Linux lists it, in small letters and digits only.

    Raises:
        DeployError: the list cannot be read.
    """
    try:
        text = CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise DeployError(
            f"what this CPU can do is unknown: {CPUINFO} cannot be read ({error.strerror}). "
            "Exported models run on Linux."
        ) from None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(map(_plain, found[1].split() if found else ()))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _amx_allowed() -> bool:
    """Linux lets a process use AMX that asks, and then its threads and children."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0)
