"""Sockets that listen: where, how many may be open, and how one is left without losing anybody."""

from __future__ import annotations

import ctypes
import resource
import socket
import struct
from dataclasses import dataclass

from ..errors import CavsError

RETURN, SO_ATTACH_FILTER = 0x06, 26  # of linux/bpf_common.h and asm-generic/socket.h
FILES = 128  # open ones that are no connections


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def let_connections_be_open(n_connections: int) -> None:
    """Let the process have files enough for so many connections, which are files.

    Raises:
        CavsError: the system allows it fewer.
    """
    n = n_connections + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise CavsError(
            f"{n_connections} connections need {n} open files, and this process may have {hard}. "
            f"Raise the limit (ulimit -Hn), or give --connections {max(1, hard - FILES)}."
        )
    if soft != resource.RLIM_INFINITY and soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


def bind(address: Address, n: int = 1) -> list[socket.socket]:
    """Sockets of this address; who connects gets to any of them.

    Raises:
        CavsError: the address cannot be had.
    """
    first = _bind(address, shared=False)
    if n == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()  # nobody else has it: what is shared, a second server could take part of
    return [_bind(Address(address.host, port), shared=True) for _ in range(n)]


def _bind(address: Address, shared: bool) -> socket.socket:
    """A socket of this address.

    It is made as one of TCP by name: only then asyncio lets it send small packets at once, without
    which each answer waits 40 ms for the client's acknowledgement.
    """
    made = None
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, place = found[0]
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(place)
    except OSError as error:
        if made is not None:
            made.close()
        raise CavsError(
            f"{address} cannot be had: {error.strerror or error}. Choose another one by --port or "
            "--host."
        ) from None
    return made


def drop_all(listening: socket.socket) -> None:
    """Let Linux drop whatever comes to this socket: who connects tries again in a second, and is
    then refused or answered by another server.

    So nobody can have connected between the last `accept` and the closing.
    """
    instruction = struct.pack("=HBBI", RETURN, 0, 0, 0)  # of Linux's packet filters: keep 0 bytes
    code = ctypes.create_string_buffer(instruction)
    listening.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(code))
    )


def accept_all(listening: socket.socket) -> list[socket.socket]:
    """All who have connected already, whom closing would reset; from now on nobody connects."""
    drop_all(listening)
    accepted = []
    while True:
        try:
            accepted.append(listening.accept()[0])
        except BlockingIOError:
            return accepted
