"""Engine: jobs -> answered jobs, by two threads: one reads bodies, the other runs graphs.

Reading is Python and running is kernels, which let other threads go on. Between them cohorts wait,
not more than keep kernels busy; all other jobs wait unread, and cost only their bytes. Where
nothing runs, the thread that would run reads as well: waking another takes longer than a small
graph.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from threading import Condition, Lock, Thread

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
BUSY, LATE, BROKEN = 503, 504, 500
LOG = logging.getLogger(__name__)


class Engine:
    """Answers jobs with one model.

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
        levels = Levels(model, limits, metrics) if batching == LEVELS else None
        most = 1 if batching == ONE else limits.batch
        self._runner: Runner = levels or Whole(model, most, metrics)
        self._reader = Reader(model, None if levels is None else levels.arena)
        self._lock = Lock()
        self._may_read, self._may_run = Condition(self._lock), Condition(self._lock)
        self._jobs: deque[Job] = deque()
        self._cohorts: deque[Cohort] = deque()
        self._reads = self._rests = self._ends = False
        self._threads = [
            Thread(target=self._read_all, name="reader", daemon=True),
            Thread(target=self._run_all, name="runner", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_waiting(self) -> int:
        """Jobs that have not been read."""
        return len(self._jobs)

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return all(thread.is_alive() for thread in self._threads) and not self._ends

    def submit(self, job: Job) -> None:
        """Take a job, whose `done` will be called.

        Raises:
            Refused: too many wait already.
        """
        with self._lock:
            if self._ends or len(self._jobs) >= self._limits.waiting:
                raise Refused(
                    BUSY,
                    f"{len(self._jobs)} requests wait already, as many as this server lets wait. "
                    "Try again in a second.",
                )
            self._jobs.append(job)
            (self._may_run if self._rests else self._may_read).notify()

    def end(self) -> None:
        """Take no more jobs, and wait until all are done."""
        with self._lock:
            self._ends = True
            self._may_read.notify()
            self._may_run.notify()
        for thread in self._threads:
            thread.join()

    def _read_all(self) -> None:
        while True:
            with self._lock:
                while not (self._can_read and len(self._cohorts) < READY):
                    if self._ends and not self._jobs:
                        return
                    self._may_read.wait()
                taken = self._take_jobs()
            self._read(taken)

    @property
    def _can_read(self) -> bool:
        return bool(self._jobs) and not self._reads

    def _take_jobs(self) -> list[Job]:
        """Those that are read now; one thread reads at a time."""
        self._reads = True
        return [self._jobs.popleft() for _ in range(min(self._together, len(self._jobs)))]

    def _read(self, taken: list[Job]) -> None:
        """Make cohorts of jobs, and give each away as soon as it is there."""
        try:
            self._make_cohorts(taken)
        except Exception as error:  # a mistake of ours must not end the server
            self._break(taken, error)
        finally:
            with self._lock:
                self._reads = False
                if self._jobs or self._ends:
                    self._may_read.notify()
                if self._ends:
                    self._may_run.notify()

    def _make_cohorts(self, taken: list[Job]) -> None:
        jobs = []
        for job in taken:
            if job.is_late:
                job.refuse(Refused(LATE, "it waited too long, and was not begun"))
                continue
            try:
                parse(job, self._limits)
                jobs.append(job)
            except Refused as error:
                job.refuse(error)
        most = 1 if self._together == 1 else self._limits.batch
        for cohort in self._reader.read(jobs, most):
            with self._lock:
                self._cohorts.append(cohort)
                self._may_run.notify()

    def _run_all(self) -> None:
        while True:
            with self._lock:
                while self._runner.is_idle and not self._cohorts and not self._can_read:
                    if self._ends and not self._jobs and not self._reads:
                        return
                    self._rests = True
                    self._may_run.wait()
                    self._rests = False
                reads = self._runner.is_idle and not self._cohorts
                jobs = self._take_jobs() if reads else []
                taken = self._runner.take(self._cohorts)
                if self._can_read:
                    self._may_read.notify()
            if jobs:
                self._read(jobs)
                continue
            try:
                self._run(taken)
            except Exception as error:  # of kernels, or a mistake of ours
                self._break([item.job for item in self._runner.give_up()], error)

    def _run(self, taken: list[Cohort]) -> None:
        now = time.monotonic()
        for cohort in taken:
            jobs = dict.fromkeys(item.job for item in cohort.items)
            self._metrics.observe("queue_seconds", *(now - job.arrived for job in jobs))
            self._metrics.observe("graph_levels", *(g.n_levels for g in cohort.graphs))
        self._runner.begin(taken)
        self._runner.step()
        self._metrics.add("steps_total")
        self._metrics.observe("step_seconds", time.monotonic() - now)

    def _break(self, jobs: list[Job], error: Exception) -> None:
        """Jobs that an error has ended; the next ones are not touched."""
        status = BUSY if isinstance(error, OutOfMemoryError) else BROKEN
        LOG.error("%d requests were given up", len(jobs), exc_info=error)
        for job in dict.fromkeys(jobs):
            job.refuse(Refused(status, f"the model could not be run: {error}"))


def share_the_interpreter() -> None:
    """Let Python's threads take turns often: a kernel that ends waits for the one that reads."""
    sys.setswitchinterval(0.0005)
