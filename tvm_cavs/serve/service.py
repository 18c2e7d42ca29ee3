"""Service: requests -> answers, by the model of the moment; another one can take its place."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from pathlib import Path

from ..deploy import Model, load
from ..errors import CavsError
from .engine import BATCHING as BATCHING
from .engine import LEVELS, Engine, share_the_interpreter
from .jobs import Job, Refused
from .limits import Limits
from .metrics import Metrics
from .waiting import Bell, timeout

LATE, ENDING, FAILED, RELOADS = 504, 503, 500, 409
LOG = logging.getLogger(__name__)


class Service:
    """What stands behind the server, for one event loop.

    Args:
        folder: of the exported model, which is loaded now, and again by `reload`.

    Raises:
        DeployError: there is no such model.
    """

    def __init__(
        self, folder: str | Path, limits: Limits | None = None, batching: str = LEVELS
    ) -> None:
        self.folder, self.limits, self.metrics = Path(folder), limits or Limits(), Metrics()
        self._batching = batching
        self._engine = self._make()
        self._old: set[asyncio.Task[None]] = set()
        self._bell = Bell()
        self._reloads = False
        self.n_open = 0
        self.is_ending = False
        self.since = time.time()
        share_the_interpreter()

    def _make(self) -> Engine:
        return Engine(load(self.folder), self.limits, self.metrics, self._batching)

    @property
    def model(self) -> Model:
        """The one that answers what comes in now."""
        return self._engine.model

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._engine.is_alive and not self.is_ending

    async def answer(self, body: bytes, lines: bool, roots: bool, began: float) -> Job:
        """Let a request's graphs run.

        Args:
            began: when the request came in, by `time.monotonic`.

        Returns:
            The job, done; with `answers`.

        Raises:
            Refused: it gets none.
        """
        done = asyncio.get_running_loop().create_future()
        deadline = began + self.limits.seconds
        job = Job(body, lines, roots, deadline, partial(self._bell.ring, done))
        self._engine.submit(job)
        try:
            async with timeout(deadline - time.monotonic()):
                await done
        except asyncio.TimeoutError:
            raise Refused(
                LATE, f"there was no answer within {self.limits.seconds:g} seconds"
            ) from None
        finally:
            job.abandoned = True
        if job.error is not None:
            raise job.error
        self.metrics.add("graphs_total", len(job.answers))
        return job

    async def reload(self) -> Model:
        """Load the folder again, beside the model that answers; then that one answers no more.

        What it has been given it finishes.

        Raises:
            Refused: the folder holds no model, and the old one stays; or this is going on already.
        """
        if self._reloads:
            raise Refused(RELOADS, "the model is being loaded again already")
        self._reloads = True
        try:
            made = await asyncio.to_thread(self._make)
        except (CavsError, OSError) as error:
            self.metrics.add("reloads_total", label='result="failed"')
            LOG.error("the model was not loaded again: %s", error)
            raise Refused(FAILED, f"the model stays the one it was: {error}") from None
        finally:
            self._reloads = False
        self._engine, old = made, self._engine
        self.metrics.add("reloads_total", label='result="done"')
        ending = asyncio.create_task(asyncio.to_thread(old.end))
        self._old.add(ending)
        ending.add_done_callback(self._old.discard)
        return made.model

    async def end(self) -> None:
        """Finish what has been taken, and take no more."""
        self.is_ending = True
        await asyncio.to_thread(self._engine.end)
        await asyncio.gather(*self._old)

    def text(self) -> str:
        """The metrics."""
        return self.metrics.text(
            {
                "waiting_requests": ("Requests that wait unread.", self._engine.n_waiting),
                "open_requests": ("Requests that are being answered.", self.n_open),
                "start_time_seconds": ("When the server started.", self.since),
            }
        )
