"""What a process holds that outlives a test: open files and processes it has started."""

import gc
import os
from contextlib import suppress
from pathlib import Path

PYTHONS_OWN = "multiprocessing.resource_tracker", "multiprocessing.forkserver"  # until it ends


def held() -> dict[str, str]:
    """Descriptors and child processes, each with what it is: a file, a socket, a command.

    Files of installed packages are their own affair: matplotlib keeps its fonts open. So are pipes,
    as Python keeps some to processes of its own.
    """
    found: dict[str, str] = {}
    gc.collect()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            file = os.readlink(f"/proc/self/fd/{number}")
            if not file.startswith("pipe:") and "site-packages" not in file:
                found[f"descriptor {number}"] = file
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                found[f"process {child}"] = _command(child)
    return {
        what: name for what, name in found.items() if not any(own in name for own in PYTHONS_OWN)
    }


def _command(process: str) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return text or "ended, and not waited for"
    return "gone"
