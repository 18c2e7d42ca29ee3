"""Jobs: what a request asks for, and what it gets; a job is done when all its graphs are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Outputs = dict[str, np.ndarray]


class Refused(Exception):
    """A request that gets no answer: the status of HTTP, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Answer:
    """Outputs by name, vertex after vertex; of `vertices` only, where not of all."""

    outputs: Outputs
    vertices: list[int] | None = None


@dataclass(eq=False)
class Job:
    """A request on its way.

    body: what was sent. lines: whether it is JSON lines. roots: whether only roots are answered.
    done: is called once, when `answers` or `error` is there.
    """

    body: bytes
    lines: bool
    roots: bool
    deadline: float
    done: Callable[[], None] = lambda: None
    arrived: float = field(default_factory=time.monotonic)
    objects: list[Any] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    single: bool = False
    error: Refused | None = None
    abandoned: bool = False
    n_left: int = -1

    @property
    def is_late(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.abandoned or time.monotonic() > self.deadline

    def refuse(self, error: Refused) -> None:
        """It gets no answer."""
        if self.error is None and self.n_left:
            self.error, self.n_left = error, 0
            self.done()

    def answer(self, number: int, answer: Answer) -> None:
        """One of its graphs is answered."""
        if self.error is None:
            self.answers[number] = answer
            self.n_left -= 1
            if not self.n_left:
                self.done()


@dataclass(frozen=True, eq=False)
class Item:
    """A graph of a job. wanted: the vertices that are answered, None for all."""

    job: Job
    number: int
    wanted: np.ndarray | None

    def answer(self, outputs: Outputs) -> None:
        """These are its outputs, at the wanted vertices."""
        vertices = None if self.wanted is None else self.wanted.tolist()
        self.job.answer(self.number, Answer(outputs, vertices))
