"""A tracker of TVM's RPC: how many servers are registered under a key, and sessions with them.

TVM's own client waits for a tracker and for a server as long as it takes. Here all waiting ends.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tvm import rpc
from tvm.rpc import base
from tvm.rpc.base import TrackerCode

ANSWER_SECONDS = 5.0  # of a tracker
BUSY_SECONDS = 600.0  # that servers are registered and all are in use
PAUSE = 0.2


class NoServerError(Exception):
    """There is nothing to measure on; the message says what was looked for, and the remedy."""


@dataclass(frozen=True)
class Tracker:
    """Where the tracker is, and the key under which its servers are registered.

    patience: seconds without a server, after which there is none: one may be starting anew.
    """

    host: str
    port: int
    key: str
    patience: float = 15.0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.key}"

    def servers(self) -> tuple[int, int]:
        """How many are registered, and how many of them are free.

        Raises:
            NoServerError: the tracker does not answer.
        """
        try:
            with _connection(self) as asking:
                found = _ask(asking, [TrackerCode.SUMMARY])[1]
        except OSError as error:
            raise NoServerError(
                f"the RPC tracker at {self.host}:{self.port} does not say what it has ({error}). "
                "Start it again"
            ) from None
        known = sum(each.get("key") == f"server:{self.key}" for each in found["server_info"])
        return known, found["queue_info"].get(self.key, {}).get("free", 0)


@dataclass(frozen=True)
class Session:
    """A session with a server at `address`."""

    remote: Any
    address: tuple[str, int]

    def alive(self) -> bool:
        """Whether the server still answers in it."""
        try:
            self.remote.get_function("tvm.rpc.server.workpath")
        except Exception:  # TVM has several for a connection that is gone
            return False
        return True

    def reachable(self) -> bool:
        """Whether somebody still listens where the server did."""
        try:
            socket.create_connection(self.address, ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


def session(tracker: Tracker, seconds: float, wanted: Callable[[], bool]) -> Session:
    """A session with the next server that is free, which ends it after so many seconds.

    Args:
        wanted: whether to go on waiting for one.

    Raises:
        NoServerError: the tracker does not answer, has no server, or all stay in use.
    """
    begin = seen = time.monotonic()
    while wanted():
        known, free = tracker.servers()
        if free and (found := _request(tracker, seconds)) is not None:
            return found
        if known:
            seen = time.monotonic()
        elif time.monotonic() - seen > tracker.patience:
            raise NoServerError(no_server(tracker))
        if time.monotonic() - begin > BUSY_SECONDS:
            break
        time.sleep(PAUSE)
    raise NoServerError(
        f"all RPC servers of {tracker} have been in use for {BUSY_SECONDS:g} s. Start more, or "
        "wait until others have finished"
    )


def no_server(tracker: Tracker) -> str:
    """What to say if there is none."""
    return (
        f"no RPC server is registered as {tracker.key!r} at the tracker {tracker.host}:"
        f"{tracker.port}. Start one on the device: python -m tvm.exec.rpc_server --host 127.0.0.1 "
        f"--tracker {tracker.host}:{tracker.port} --key {tracker.key}"
    )


def _request(tracker: Tracker, seconds: float) -> Session | None:
    """A session with the server that the tracker names; None if it names none or that is gone."""
    try:
        with _connection(tracker) as asking:
            code, (host, port, key) = _ask(asking, [TrackerCode.REQUEST, tracker.key, "", 1])
        if code != TrackerCode.SUCCESS:
            return None
        return Session(rpc.connect(host, port, key, seconds), (host, port))
    except (OSError, RuntimeError):
        return None


@contextmanager
def _connection(tracker: Tracker) -> Iterator[socket.socket]:
    address = tracker.host, tracker.port
    try:
        asking = socket.create_connection(address, ANSWER_SECONDS)
    except OSError as error:
        raise NoServerError(
            f"no RPC tracker answers at {tracker.host}:{tracker.port} ({error}). Start one: python "
            f"-m tvm.exec.rpc_tracker --host 127.0.0.1 --port {tracker.port}"
        ) from None
    with asking:
        asking.settimeout(ANSWER_SECONDS)
        magic = struct.pack("<i", base.RPC_TRACKER_MAGIC)
        answer = b""
        with suppress(OSError):
            asking.sendall(magic)
            answer = base.recvall(asking, len(magic))
        if answer != magic:
            raise NoServerError(
                f"what answers at {tracker.host}:{tracker.port} is no RPC tracker. Give tune.rpc "
                "the address at which python -m tvm.exec.rpc_tracker says that it listens"
            )
        yield asking


def _ask(asking: socket.socket, message: list[Any]) -> Any:
    base.sendjson(asking, message)
    return base.recvjson(asking)
