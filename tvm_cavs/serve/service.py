"""Service: requests -> answers, by the model of the moment; another one can take its place."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from ..deploy import Model, load
from ..errors import CavsError
from .engine import BATCHING as BATCHING
from .engine import LEVELS, Engine
from .jobs import Job, Refused
from .limits import Limits
from .metrics import Metrics
from .waiting import timeout

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
        self,
        folder: str | Path,
        limits: Limits | None = None,
        batching: str = LEVELS,
        metrics: Metrics | None = None,
    ) -> None:
        self.folder, self.limits = Path(folder), limits or Limits()
        self.metrics = metrics or Metrics()
        self._batching = batching
        self._engine = self._make()
        self._old: set[asyncio.Task[None]] = set()
        self._loads = False
        self.is_ending = False

    def _make(self) -> Engine:
        return Engine(load(self.folder), self.limits, self.metrics, self._batching)

    @property
    def model(self) -> Model:
        """The one that answers what comes in now."""
        return self._engine.model

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._engine.is_open and not self.is_ending

    async def answer(self, body: bytes, lines: bool, roots: bool, began: float) -> Job:
        """Let a request's graphs run.

        Args:
            began: when the request came in, by `time.monotonic`.

        Returns:
            The job, done; with `answers`.

        Raises:
            Refused: it gets none.
        """
        deadline = began + self.limits.seconds
        job = Job(body, lines, roots, deadline)
        done = self._engine.submit(job)
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

    async def load(self) -> Engine:
        """Another engine with what the folder holds now; it answers from `take` on.

        Raises:
            Refused: the folder holds no model; or this is going on already.
        """
        if self._loads:
            raise Refused(RELOADS, "the model is being loaded again already")
        self._loads = True
        try:
            return await asyncio.to_thread(self._make)
        except (CavsError, OSError) as error:
            raise Refused(FAILED, f"the model stays the one it was: {error}") from None
        finally:
            self._loads = False

    def take(self, engine: Engine) -> None:
        """Let this one answer what comes in; the one before finishes what it has been given."""
        self._engine, old = engine, self._engine
        ending = asyncio.create_task(old.end())
        self._old.add(ending)
        ending.add_done_callback(self._old.discard)

    def load_now(self) -> Engine:
        """As `load`, where no event loop runs; `begin_with` takes it.

        Raises:
            CavsError: the folder holds no model.
        """
        try:
            return self._make()
        except (CavsError, OSError) as error:
            raise CavsError(f"the model stays the one it was: {error}") from None

    def begin_with(self, engine: Engine) -> None:
        """Let this one answer; the one before has been asked nothing."""
        self._engine = engine

    async def reload(self) -> str:
        """Load the folder again, beside the model that answers; then that one answers no more.

        Returns:
            The model's name.

        Raises:
            Refused: as `load` does; the model stays the one it was.
        """
        try:
            self.take(await self.load())
        except Refused as error:
            if error.status != RELOADS:
                self.metrics.add("reloads_total", label='result="failed"')
            raise
        self.metrics.add("reloads_total", label='result="done"')
        return self.model.name

    async def end(self) -> None:
        """Finish what has been taken, and take no more."""
        self.is_ending = True
        await self._engine.end()
        await asyncio.gather(*self._old)
