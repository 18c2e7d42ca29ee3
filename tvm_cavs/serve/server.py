"""The server's process: its port, its signals, and connections that lead nowhere."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop

from ..errors import CavsError
from .app import make_app
from .connection import Connection
from .jobs import Refused
from .service import Service

RETURN, SO_ATTACH_FILTER = 0x06, 26  # of linux/bpf_common.h and asm-generic/socket.h
ENDS = (signal.SIGTERM, signal.SIGINT)
FILES = 128  # open ones that are no connections
SWEEP = 1.0  # seconds between two looks at the connections
LINGER = 0.5  # seconds in which who is connected may still ask, when nobody can connect
KEPT = 5  # seconds for which a connection without a request stays open
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def run(
    service: Service,
    address: Address,
    token: str | None = None,
    started: Callable[[Address], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer what has come in, and return. SIGHUP reloads.

    Args:
        started: is told the address, with the port that was found for port 0.

    Raises:
        CavsError: the address cannot be had.
    """
    _let_files_be_open(service.limits.connections + FILES)
    uvloop.run(_serve(service, address, token, started))


def _let_files_be_open(n: int) -> None:
    """Let the process have so many files open; connections are files.

    Raises:
        CavsError: the system allows it fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise CavsError(
            f"{n - FILES} connections need {n} open files, and this process may have {hard}. Raise "
            f"the limit (ulimit -Hn), or give --connections {max(1, hard - FILES)}."
        )
    if soft != resource.RLIM_INFINITY and soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


async def _serve(
    service: Service, address: Address, token: str | None, started: Callable[[Address], None]
) -> None:
    config = uvicorn.Config(
        make_app(service, token),
        host=address.host,
        port=address.port,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=service.limits.connections,
        timeout_keep_alive=KEPT,
        timeout_graceful_shutdown=int(service.limits.seconds) + 1,
    )
    server = uvicorn.Server(config)
    try:
        listening = bind(address)
        beside = asyncio.create_task(_beside(service, server, listening, address, started))
        try:
            await server.serve([listening])
        finally:
            beside.cancel()
    finally:
        await service.end()


def bind(address: Address) -> socket.socket:
    """A socket of this address.

    It is made as one of TCP by name: only then asyncio lets it send small packets at once, without
    which each answer waits 40 ms for the client's acknowledgement.

    Raises:
        CavsError: the address cannot be had.
    """
    made = None
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, place = found[0]
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
    except OSError as error:
        if made is not None:
            made.close()
        raise CavsError(
            f"{address} cannot be had: {error.strerror or error}. Choose another one by --port or "
            "--host."
        ) from None
    return made


async def _beside(
    service: Service,
    server: uvicorn.Server,
    listening: socket.socket,
    address: Address,
    started: Callable[[Address], None],
) -> None:
    """Once the server runs: take its signals, say where it is, sweep."""
    while not server.started:
        await asyncio.sleep(0.01)
    _take_signals(service, server, listening)
    started(Address(address.host, listening.getsockname()[1]))
    sweep = Sweep(service.limits.body_seconds)
    while True:
        await asyncio.sleep(SWEEP)
        sweep(server.server_state.connections)


def _take_signals(service: Service, server: uvicorn.Server, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def begin(task: Coroutine[Any, Any, None]) -> None:
        made = asyncio.create_task(task)
        tasks.add(made)
        made.add_done_callback(tasks.discard)

    def end() -> None:
        if service.is_ending:  # asked twice: at once
            server.should_exit = server.force_exit = True
        else:
            service.is_ending = True
            begin(_end(service, server, listening))

    async def reload() -> None:
        try:
            LOG.warning("loaded %r again", await service.reload())
        except Refused as error:
            LOG.error("%s", error)

    for number in ENDS:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: begin(reload()))


async def _end(service: Service, server: uvicorn.Server, listening: socket.socket) -> None:
    """Let no request be lost: not of who does not know yet, has just connected, or is asking.

    For a while all goes on, but answers say that their connection closes, and `readyz` that others
    should be asked. Then nobody can connect; who is connected may still ask for a moment.
    """
    await asyncio.sleep(service.limits.drain)
    accepted = _accept(listening)
    for each in server.servers:
        each.close()
    for connection in accepted:
        await _serve_connection(server, connection)
    await asyncio.sleep(LINGER)
    server.should_exit = True


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


def _accept(listening: socket.socket) -> list[socket.socket]:
    """All who have connected already, whom closing would reset; from now on nobody connects."""
    drop_all(listening)
    accepted = []
    while True:
        try:
            accepted.append(listening.accept()[0])
        except BlockingIOError:
            return accepted


async def _serve_connection(server: uvicorn.Server, connection: socket.socket) -> None:
    config = server.config

    def protocol() -> Any:
        return config.http_protocol_class(  # type: ignore[call-arg,operator]
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )

    connection.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)


class Sweep:
    """Closes connections whose client does not go on: with a head that does not end, or an answer
    that is not taken in.

    Args:
        seconds: how long a client may rest.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Any, tuple[tuple[Any, ...], float]] = {}

    def __call__(self, connections: Any) -> None:
        now, known, self._since = time.monotonic(), self._since, {}
        for connection in list(connections):
            state = _waits_for(connection)
            if state is None:
                continue
            before, since = known.get(connection, (None, now))
            since = since if before == state else now
            if now - since > self._seconds:
                connection.transport.abort()
            else:
                self._since[connection] = state, since


def _waits_for(connection: Any) -> tuple[Any, ...] | None:
    """What a connection has waited for, if it is its client's turn; equal while it waits."""
    cycle, unsent = connection.cycle, connection.transport.get_write_buffer_size()
    if unsent:
        return id(cycle), "unsent", unsent
    if cycle is None or (cycle.response_complete and connection.timeout_keep_alive_task is None):
        return id(cycle), "head"
    return None
