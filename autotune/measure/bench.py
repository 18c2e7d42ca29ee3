"""What measures candidates, wherever they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tvm_cavs.compiler import Recorded

from ..worker import Failed, Settings, Timing
from .local import LocalBench
from .over_rpc import RpcBench


class Bench(Protocol):
    """Measures candidates of one kernel at a time. To be closed."""

    @property
    def width(self) -> int:
        """Candidates that it measures at the same time."""

    def load(self, recorded: Recorded) -> None:
        """Candidates are of this kernel from now on.

        Raises:
            TuningError: even the default cannot be run.
        """

    def measure(
        self, candidates: Sequence[Any], best: Any = None
    ) -> Iterator[tuple[Any, Timing | Failed]]:
        """Candidates with their times beside the default's and that of the best so far, in the
        order in which they are done.

        Raises:
            TuningError: nothing can be measured any more; what was not answered was not measured.
        """

    def close(self) -> None:
        """End all processes."""


def bench_of(settings: Settings) -> Bench:
    """What measures with these settings.

    Raises:
        TuningError: the tracker does not answer, or has no server.
    """
    return LocalBench(settings) if settings.tracker is None else RpcBench(settings)
