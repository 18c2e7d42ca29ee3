"""A server as a process of its own, on a free port of this machine."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT


@dataclass(frozen=True)
class Server:
    """port: where it listens. process: it."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection on which nothing has been sent."""
        made = socket.create_connection(("127.0.0.1", self.port))
        made.settimeout(20)
        return made


@contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """A server that has started; it is ended afterwards, if it has not ended itself."""
    command = [sys.executable, "-m", "tvm_cavs", "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            found = re.search(r"at http://127\.0\.0\.1:(\d+)$", process.stdout.readline().strip())
            assert found, process.stderr.read()
            yield Server(int(found[1]), process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
