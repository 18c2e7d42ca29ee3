"""A library of two functions that lets MKL use its fastest kernels on a CPU that is not Intel's.

MKL, which pip's torch has inside, asks `mkl_serv_intel_cpu_true` before it takes AVX-512 kernels.
On an AMD EPYC (Zen 5) one thread multiplies 1024 x 1024 matrices at 100 GFLOP/s without an answer
and at 230 with one. MKL_ENABLE_INSTRUCTIONS and MKL_DEBUG_CPU_TYPE change nothing (MKL 2024.2);
oneDNN's own products (torch.ops.mkldnn) reach 210 to 240 but have no `out=`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ...errors import TargetError

SOURCE = """
int mkl_serv_intel_cpu(void) { return 1; }
int mkl_serv_intel_cpu_true(void) { return 1; }
"""
CHOICES = ("unlocked", "installed")


def is_locked(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """MKL would take slower kernels than this CPU can run."""
    return sys.platform == "linux" and cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()


def unlock(folder: Path) -> dict[str, str]:
    """Variables for the process of a peer; the library is built in `folder`.

    Raises:
        TargetError: there is no C compiler.
    """
    if not is_locked():
        return {}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise TargetError(
            "torch's MKL runs at half speed on this CPU, and unlocking it needs a C compiler (cc "
            "or gcc); install one, or compare with torch as it is: --mkl installed"
        )
    library = folder / "mkl_unlocked.so"
    source = folder / "mkl_unlocked.c"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}
