"""Steps -> what is shown of them while a run trains: the speed and loss of the last ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..training import Progress

RECENT_STEPS = 50  # whose mean loss is shown


@dataclass
class Pace:
    """The speed of training in this process: of the last steps, and of the epoch."""

    age: Callable[[], float | None]
    recent: float = 0.0
    n_examples: int = 0
    seconds: float = 0.0
    n_steps: int = 0

    def add(self, n_examples: int, seconds: float) -> None:
        """Count one step; the first one of a process compiles, so it says nothing about speed."""
        self.n_steps += 1
        if self.n_steps == 1:
            return
        self.n_examples += n_examples
        self.seconds += seconds
        now = n_examples / max(seconds, 1e-9)
        self.recent = now if not self.recent else 0.9 * self.recent + 0.1 * now

    def take(self) -> float:
        """Examples a second since the last call."""
        rate = self.n_examples / self.seconds if self.seconds else 0.0
        self.n_examples, self.seconds = 0, 0.0
        return rate


def count_recent(progress: Progress, loss: float, n_labels: int) -> None:
    """Remember one step's loss, a sum over labels; forget those long ago."""
    progress.recent_loss.append(loss)
    progress.recent_labels.append(n_labels)
    if len(progress.recent_loss) > RECENT_STEPS:
        del progress.recent_loss[0], progress.recent_labels[0]


def recent_loss(progress: Progress) -> float:
    """The mean loss per label of the last steps."""
    return sum(progress.recent_loss) / max(1, sum(progress.recent_labels))
