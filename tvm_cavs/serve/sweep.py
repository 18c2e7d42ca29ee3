"""Connections that lead nowhere, and are closed."""

from __future__ import annotations

import time
from typing import Any


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
