"""Limits: what a server takes at most, so that no client can take all of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Sizes and times.

    Attributes:
        body: bytes of a request. graphs: of a request. vertices: of a graph.
        batch: vertices that run at the same time; a graph may have as many.
        waiting: requests that have not begun to run.
        seconds: from a request's first byte to its answer. body_seconds: until its body is there;
            as long may a client take to send the head, or to take in some of the answer.
        connections: open ones.
        drain: seconds in which a server that is ending still takes requests.
    """

    body: int = 2 << 20
    graphs: int = 256
    vertices: int = 4096
    batch: int = 4096
    waiting: int = 512
    seconds: float = 30.0
    body_seconds: float = 10.0
    connections: int = 1024
    drain: float = 1.0

    def __post_init__(self) -> None:
        if self.vertices > self.batch:
            raise ConfigError(
                f"a graph may have {self.vertices} vertices, and {self.batch} may run at the same "
                "time; expected no more in a graph. Raise --batch, or lower --vertices."
            )
