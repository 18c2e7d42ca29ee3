"""The versions this package works with, checked when it is imported.

apache-tvm's wheel does not bound the version of apache-tvm-ffi, so an upgrade of some other package
can leave a pair that loads and later ends in a segmentation fault. Better to say so at once.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .errors import TargetError

VERSION = "0.1.0"  # of this package; setup.cfg reads it here
REQUIRED = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}  # as in setup.cfg


def not_installed(package: str) -> str:
    """What to say where a package is missing that only an exported model does without."""
    return (
        f"{package} is not installed: this installation of tvm_cavs answers from exported models "
        "only. To train, compile, tune and export: pip install 'tvm_cavs[train]'"
    )


def check_versions() -> None:
    """Compare what is installed with what is required; a package that is absent is not used.

    Raises:
        TargetError: another version is installed; the message has the command that mends it.
    """
    for package, wanted in REQUIRED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if found != wanted:
            pins = " ".join(f"{p}=={v}" for p, v in REQUIRED.items())
            raise TargetError(
                f"{package} {found} is installed; tvm_cavs needs exactly {wanted} (other pairs do "
                f"not load, or crash later). Run: pip install {pins}"
            )
