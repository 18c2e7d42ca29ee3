"""What tells a server to end or to load its model again: signals, or the process that minds it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket

from .engine import Engine
from .jobs import Refused
from .server import Server
from .service import RELOADS, Service

ENDS = (signal.SIGTERM, signal.SIGINT)
LOAD, TAKE, KEEP, END = "load", "take", "keep", "end"  # orders
READY, LOADED, FAILED = "ready", "loaded", "failed"  # and what is said to them
BROKEN, ENDING = 500, 503
LOG = logging.getLogger(__name__)


def obey_signals(server: Server) -> None:
    """Of a process that minds itself: SIGTERM and SIGINT end it, SIGHUP loads again."""
    loop = asyncio.get_running_loop()

    async def reload() -> None:
        try:
            LOG.warning("loaded %r again", await server.service.reload())
        except Refused as error:
            LOG.error("%s", error)

    for number in ENDS:
        loop.add_signal_handler(number, server.end)
    loop.add_signal_handler(signal.SIGHUP, lambda: server.begin(reload()))


def message(word: str, what: str = "") -> bytes:
    """A line of the channel between two processes."""
    return json.dumps([word, what]).encode() + b"\n"


def read_message(line: bytes) -> tuple[str, str]:
    """What `message` has written; ("", "") where the other process has gone."""
    if not line.endswith(b"\n"):
        return "", ""
    word, what = json.loads(line)
    return word, what


class Orders:
    """Those of the process that minds this one; `listen` is to be called in the server's loop.

    Loading takes two: every process loads, and only when all have, each takes what it has loaded.
    """

    def __init__(self, service: Service, channel: socket.socket) -> None:
        self._service, self._channel, self._parent = service, channel, os.getppid()
        self._loaded: Engine | None = None
        self._outcome: asyncio.Future[str] | None = None

    def listen(self, server: Server) -> None:
        """Say that requests are answered, and obey from now on."""
        server.begin(self._obey(server))

    async def reload(self) -> str:
        """Have the model loaded again, here and in all others.

        Returns:
            Its name.

        Raises:
            Refused: it was not, and stays the one it was.
        """
        if self._outcome is not None:
            raise Refused(RELOADS, "the model is being loaded again already")
        if self._service.is_ending or os.getppid() != self._parent:
            raise Refused(ENDING, "the server is ending")
        self._outcome = asyncio.get_running_loop().create_future()
        os.kill(self._parent, signal.SIGHUP)
        try:
            return await self._outcome
        finally:
            self._outcome = None

    async def _obey(self, server: Server) -> None:
        reader, writer = await asyncio.open_connection(sock=self._channel)
        writer.write(message(READY))
        while True:
            order, what = read_message(await reader.readline())
            if order == LOAD:
                writer.write(await self._load())
            elif order == TAKE:
                self._take()
            elif order == KEEP:
                self._settle(Refused(BROKEN, what))
            elif not server.service.is_ending:  # it says so, or has gone
                server.end()
            if not order:
                writer.close()
                return

    async def _load(self) -> bytes:
        try:
            self._loaded = await self._service.load()
        except Exception as error:  # whatever it is, the others have to know
            return message(FAILED, str(error))
        return message(LOADED, self._loaded.model.name)

    def _take(self) -> None:
        if self._loaded is not None:
            self._service.take(self._loaded)
            self._settle(None)

    def _settle(self, error: Refused | None) -> None:
        """All is as it will be; who has asked for it is told."""
        self._loaded = None
        if self._outcome is None or self._outcome.done():
            return
        if error is None:
            self._outcome.set_result(self._service.model.name)
        else:
            self._outcome.set_exception(error)
