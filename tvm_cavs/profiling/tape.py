"""Tape: functions that write down when they ran."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Span:
    """Something that ran: `start` and `end` in seconds of `time.perf_counter`."""

    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Tape:
    """Spans in the order in which they ended."""

    spans: list[Span] = field(default_factory=list)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which from now on leaves a span each time it runs."""

        def run(*args: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **named)
            self.spans.append(Span(name, start, time.perf_counter()))
            return result

        return run

    def named(self, name: str) -> list[Span]:
        """All spans of one name."""
        return [s for s in self.spans if s.name == name]

    def seconds(self, name: str) -> float:
        """The time of all spans of one name."""
        return sum(s.seconds for s in self.named(name))
