"""A server at one socket: it answers until it is told to end, and loses nobody then."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from .connection import Connection
from .service import Service
from .sockets import accept_all
from .sweep import Sweep

SWEEP = 1.0  # seconds between two looks at the connections
LINGER = 0.5  # seconds in which who is connected may still ask, when nobody can connect
KEPT = 5  # seconds for which a connection without a request stays open


class Server:
    """Answers at a socket, in one event loop.

    Args:
        listening: bound; it is closed at the end.
    """

    def __init__(self, service: Service, app: ASGIApp, listening: socket.socket) -> None:
        self.service, self._listening = service, listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
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
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, begun: Callable[[Server], None]) -> None:
        """Serve until `end`.

        Args:
            begun: is called when requests are answered; uvicorn's own signal handlers are set then.
        """
        beside = asyncio.create_task(self._beside(begun))
        try:
            await self._server.serve([self._listening])
        finally:
            beside.cancel()
            await self.service.end()

    def begin(self, task: Coroutine[Any, Any, None]) -> None:
        """Let this run beside what is answered."""
        made = asyncio.create_task(task)
        self._tasks.add(made)
        made.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        """Answer what has come in, and take no more; asked twice: at once."""
        if self.service.is_ending:
            self._server.should_exit = self._server.force_exit = True
        else:
            self.service.is_ending = True
            self.begin(self._end())

    async def _beside(self, begun: Callable[[Server], None]) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        begun(self)
        sweep = Sweep(self.service.limits.body_seconds)
        while True:
            await asyncio.sleep(SWEEP)
            sweep(self._server.server_state.connections)

    async def _end(self) -> None:
        """Let no request be lost: not of who does not know yet, has just connected, or is asking.

        For a while all goes on, but answers say that their connection closes, and `readyz` that
        others should be asked. Then nobody can connect; who is connected may ask for a moment more.
        """
        await asyncio.sleep(self.service.limits.drain)
        accepted = accept_all(self._listening)
        for each in self._server.servers:
            each.close()
        for connection in accepted:
            await self._serve_connection(connection)
        await asyncio.sleep(LINGER)
        self._server.should_exit = True

    async def _serve_connection(self, connection: socket.socket) -> None:
        server, config = self._server, self._server.config

        def protocol() -> Any:
            return config.http_protocol_class(  # type: ignore[call-arg,operator]
                config=config, server_state=server.server_state, app_state=server.lifespan.state
            )

        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
