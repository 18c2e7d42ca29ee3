"""Engine: jobs -> answered jobs, turn after turn, of which each reads some and runs one step.

Turns are taken in the event loop itself as long as they are short. Another thread would have to be
woken, and then the two would wait for each other's interpreter lock: for a small graph that takes
longer than its kernels. What comes in meanwhile waits in the sockets, and is in the next turn. Long
turns are taken by a thread, so that the loop can go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..deploy import Model
from ..errors import OutOfMemoryError
from .jobs import Job, Refused
from .limits import Limits
from .metrics import Metrics
from .reading import Cohort, Reader, parse
from .running import Levels, Runner, Whole

LEVELS, WHOLE, ONE = "levels", "whole", "one"
BATCHING = (LEVELS, WHOLE, ONE)
READY = 2  # cohorts that have been read and wait
TOGETHER = 32  # graphs that are read together: most of what can be saved, and the first soon run
FEW = 64 << 10  # bytes that are read within a few milliseconds, whatever they are
SHORT = 0.002  # seconds of a step for which others wait
RECENT = 16  # steps, by which the next one is judged
BUSY, LATE, BROKEN = 503, 504, 500
LOG = logging.getLogger(__name__)


class Engine:
    """Answers jobs with one model, for one event loop.

    Args:
        batching: one of `BATCHING`.

    Raises:
        OutOfMemoryError: there is no memory for the limits' vertices.
    """

    def __init__(
        self, model: Model, limits: Limits, metrics: Metrics, batching: str = LEVELS
    ) -> None:
        self.model, self._limits, self._metrics = model, limits, metrics
        self._together = 1 if batching == ONE else TOGETHER
        self._most = 1 if batching == ONE else limits.batch
        levels = Levels(model, limits, metrics) if batching == LEVELS else None
        self._runner: Runner = levels or Whole(model, self._most, metrics)
        self._reader = Reader(model, None if levels is None else levels.arena)
        self._jobs: deque[Job] = deque()
        self._cohorts: deque[Cohort] = deque()
        self._steps: deque[float] = deque([SHORT], RECENT)  # seconds; the first is not known
        self._done: list[asyncio.Future[None]] = []
        self._turns: asyncio.Task[None] | None = None
        self._ends = False

    @property
    def is_open(self) -> bool:
        """Whether it takes jobs."""
        return not self._ends

    def submit(self, job: Job) -> asyncio.Future[None]:
        """Take a job.

        Returns:
            What is done when the job is.

        Raises:
            Refused: too many wait already, or it ends.
        """
        if self._ends:
            raise Refused(BUSY, "the server is ending")
        if len(self._jobs) >= self._limits.waiting:
            raise Refused(
                BUSY,
                f"{len(self._jobs)} requests wait already, as many as this server lets wait. "
                "Try again in a second.",
            )
        done = asyncio.get_running_loop().create_future()
        job.done = partial(self._done.append, done)
        self._jobs.append(job)
        self._metrics.add("waiting_requests")
        if self._turns is None:
            self._turns = asyncio.create_task(self._take_turns())
        return done

    async def end(self) -> None:
        """Take no more jobs, and wait until all are done."""
        self._ends = True
        if self._turns is not None:
            await self._turns

    async def _take_turns(self) -> None:
        """Until there is nothing to do."""
        try:
            while self._jobs or self._cohorts or not self._runner.is_idle:
                if self._jobs and len(self._cohorts) < READY:
                    taken = self._take_jobs()
                    await _do(partial(self._read, taken), sum(len(j.body) for j in taken) <= FEW)
                if self._cohorts or not self._runner.is_idle:
                    await _do(self._step, max(self._steps) < SHORT)
                self._tell()
                await asyncio.sleep(0)  # what has come in meanwhile
        finally:
            self._turns = None

    def _tell(self) -> None:
        """Those who wait for what is done now."""
        for future in self._done:
            if not future.done():  # whoever waited may have gone
                future.set_result(None)
        self._done.clear()

    def _take_jobs(self) -> list[Job]:
        taken = [self._jobs.popleft() for _ in range(min(self._together, len(self._jobs)))]
        self._metrics.add("waiting_requests", -len(taken))
        return taken

    def _read(self, taken: list[Job]) -> None:
        """Make cohorts of jobs."""
        try:
            jobs = [job for job in taken if self._is_read(job)]
            self._cohorts += self._reader.read(jobs, self._most)
        except Exception as error:  # a mistake of ours must not end the server
            self._break(taken, error)

    def _is_read(self, job: Job) -> bool:
        """Parse it, if somebody still waits for it; otherwise, and if it is no graph, refuse it."""
        if job.is_late:
            job.refuse(Refused(LATE, "it waited too long, and was not begun"))
            return False
        try:
            parse(job, self._limits)
        except Refused as error:
            job.refuse(error)
            return False
        return True

    def _step(self) -> None:
        now = time.monotonic()
        try:
            self._begin(now)
            self._runner.step()
        except Exception as error:  # of kernels, or a mistake of ours
            self._break([item.job for item in self._runner.give_up()], error)
        seconds = time.monotonic() - now
        self._steps.append(seconds)
        self._metrics.add("steps_total")
        self._metrics.observe("step_seconds", seconds)

    def _begin(self, now: float) -> None:
        """Let all of what was read that there is room for run from this step on."""
        taken = self._runner.take(self._cohorts)
        for cohort in taken:
            jobs = dict.fromkeys(item.job for item in cohort.items)
            self._metrics.observe("queue_seconds", *(now - job.arrived for job in jobs))
            self._metrics.observe("graph_levels", *(g.n_levels for g in cohort.graphs))
        self._runner.begin(taken)

    def _break(self, jobs: list[Job], error: Exception) -> None:
        """Jobs that an error has ended; the next ones are not touched."""
        status = BUSY if isinstance(error, OutOfMemoryError) else BROKEN
        LOG.error("%d requests were given up", len(jobs), exc_info=error)
        for job in dict.fromkeys(jobs):
            job.refuse(Refused(status, f"the model could not be run: {error}"))


async def _do(act: Callable[[], None], here: bool) -> None:
    """In the event loop, or in a thread while the loop goes on."""
    if here:
        act()
    else:
        await asyncio.to_thread(act)
