"""One process at a time in the folder of a run.

The kernel holds the lock (flock) and lets it go when the process ends, however that ends, so none
can be left behind by a kill. The file says who holds it, for the message only.
"""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from pathlib import Path
from typing import IO

from ..errors import CavsError

LOCK = "run.lock"


class RunLock:
    """The lock of a run's folder, held from the beginning.

    Raises:
        CavsError: another process (or another Run of this one) holds it; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] | None = None
        self.path = folder / LOCK
        self.acquire()

    def acquire(self) -> None:
        """Take the lock again after `release`; nothing happens where it is held."""
        if self._file is not None:
            return
        try:
            file = open(self.path, "a+", encoding="utf-8")
        except OSError as error:
            raise CavsError(
                f"the run's folder {self.path.parent} cannot be written: {error.strerror}. "
                "Check that it exists and is writable, or set folder=PATH."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            if not isinstance(error, BlockingIOError):
                raise CavsError(
                    f"{self.path} cannot be locked: {error.strerror}. Two runs in one folder lose "
                    "each other's parameters; set folder=PATH on a file system with locks."
                ) from error
            raise CavsError(
                f"the run {self.path.parent} is in use by {holder}. Wait until it ends, stop it, "
                "or set folder=PATH to another folder."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        weakref.finalize(self, file.close)  # a run that is dropped lets go, without a warning

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
