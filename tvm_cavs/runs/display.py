"""What a run shows while it trains: a bar on a terminal, plain lines when piped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Status:
    """Where training stands; `loss` is the epoch's mean per label so far."""

    epoch: int
    n_epochs: int
    batch: int
    n_batches: int
    loss: float
    samples_per_s: float
    seconds_left: float

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}/{self.n_epochs}  batch {self.batch}/{self.n_batches}  "
            f"loss {self.loss:.4g}  {self.samples_per_s:.0f} samples/s  "
            f"{clock(self.seconds_left)} left"
        )


class Display(Protocol):
    """Where a run reports to."""

    def status(self, status: Status) -> None:
        """After every step."""
        ...

    def line(self, text: str) -> None:
        """One line that stays."""
        ...


class Lasting:
    """A text file that a run outlives, in place of sys.stdout.

    When it cannot be written any more (`| head` has ended, the disk of a log is full), what follows
    is dropped and the run goes on: what it learns is in its folder, not in what it prints.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with self._lost_at_worst():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lost_at_worst():
            self._file.flush()

    @contextmanager
    def _lost_at_worst(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())  # also for what is buffered still
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def open_console() -> Console:
    """Standard output, as a console that a run outlives."""
    return Console(file=cast(TextIO, Lasting(sys.stdout)))


class Plain:
    """One status line in ten seconds; for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic() + PLAIN_SECONDS

    def status(self, status: Status) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            self.line(str(status))

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar of the epoch below the lines; its parts give way on narrow terminals."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("compiling", total=None, facts="")

    def status(self, status: Status) -> None:
        facts = [
            f"loss {status.loss:.4g}",
            f"{status.samples_per_s:.0f} samples/s",
            f"{clock(status.seconds_left)} left",
        ]
        n_facts = 3 if self._progress.console.width >= 72 else 2
        self._progress.update(
            self._task,
            total=status.n_batches,
            completed=status.batch,
            description=f"epoch {status.epoch}/{status.n_epochs}",
            facts="  ".join(facts[:n_facts]),
        )

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def show(console: Console) -> Iterator[Display]:
    """The display that suits the console, while training runs."""
    if not console.is_terminal:
        yield Plain(console)
        return
    columns: list[TextColumn | BarColumn] = [TextColumn("{task.description}")]
    if console.width >= 60:
        columns.append(BarColumn(bar_width=min(24, console.width // 5)))
    columns.append(TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        yield Bar(progress)


def clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
