"""A tracker and servers of TVM's RPC on this machine, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from helpers.paths import ROOT
from tvm_cavs.compiler import Tracker

KEY = "a-device"
PORTS = 20  # that are tried, from a free one on
# What `python -m tvm.exec.rpc_tracker` and rpc_server start, without the process in between.
TRACKER = """
from tvm.rpc.tracker import PopenTrackerServerState as Tracker
made = Tracker("127.0.0.1", {port}, {port} + {ports}, silent=True)
print(made.port, flush=True)
made.thread.join()
"""
SERVER = """
from tvm.rpc.server import PopenRPCServerState as Server
tracker = "127.0.0.1", {tracker}
Server("127.0.0.1", {port}, {port} + {ports}, tracker_addr=tracker, key="{key}").thread.join()
"""


class Device:
    """A process group: a tracker, or a server with its sessions."""

    def __init__(self, code: str, again: bool = False) -> None:
        """`again`: what ends is started anew, as a device would be set up."""
        command = [sys.executable, "-c", code]
        if again:
            command = ["sh", "-c", 'while :; do "$@"; done', "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            start_new_session=True,
        )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something comes true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return true()


@contextmanager
def tracker() -> Iterator[Tracker]:
    device = Device(TRACKER.format(port=free_port(), ports=PORTS))
    try:
        assert device.process.stdout is not None
        yield Tracker("127.0.0.1", int(device.process.stdout.readline()), KEY, patience=3.0)
    finally:
        device.kill()


@contextmanager
def servers(tracker: Tracker, n: int, again: bool = False) -> Iterator[list[Device]]:
    """So many servers, registered."""
    code = {"tracker": tracker.port, "ports": PORTS, "key": tracker.key}
    devices = [Device(SERVER.format(port=free_port(), **code), again) for _ in range(n)]
    try:
        assert eventually(lambda: tracker.servers()[1] == n), "no server comes up"
        yield devices
    finally:
        for device in devices:
            device.kill()
        eventually(lambda: tracker.servers()[0] == 0)
