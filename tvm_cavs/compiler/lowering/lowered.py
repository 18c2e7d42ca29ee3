"""A lowered stage: steps in order, and what they need. It prints."""

from __future__ import annotations

from dataclasses import dataclass

from ...language import Program
from ...runtime import Buffer, BufferId, RowGradient, Space
from .listing import listing
from .steps import Gradient, Step, Weights


@dataclass(frozen=True)
class Lowered:
    """A stage ready to compile: steps in order, and what they need."""

    program: Program
    steps: tuple[Step, ...]
    weights: tuple[Weights, ...]
    gradients: tuple[Gradient, ...]
    row_gradients: tuple[RowGradient, ...]
    net_values: tuple[tuple[BufferId, int], ...]  # buffers that NumPy fills with net-level values

    @property
    def buffers(self) -> dict[BufferId, Buffer]:
        """All buffers."""
        return {b.id: b for s in self.steps for b in s.buffers}

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces whose starts the steps take."""
        return tuple(dict.fromkeys(s for step in self.steps for s in step.starts))

    def __str__(self) -> str:
        return listing(f"stage {self.program.name}", self.steps)
