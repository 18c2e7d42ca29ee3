"""Waiting in an event loop: for so long at most, and for what other threads do."""

from __future__ import annotations

import asyncio
import sys
from threading import Lock

if sys.version_info >= (3, 11):
    from asyncio import timeout as timeout
else:
    from async_timeout import timeout as timeout


class Bell:
    """Tells an event loop that futures are done, once for all that are done at a time: waking it
    takes longer than most of what it does for one.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._done: list[asyncio.Future[None]] = []

    def ring(self, future: asyncio.Future[None]) -> None:
        """This one is done; any thread may say so."""
        with self._lock:
            is_first = not self._done
            self._done.append(future)
        if is_first:
            future.get_loop().call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for future in done:
            if not future.done():  # whoever waited may have gone
                future.set_result(None)
