"""Stepping: the rows of a batch -> how many threads run it, and whether its weights are packed."""

from __future__ import annotations

from ..transform import Programs
from .machine import Machine
from .target_rules import StepKnobs, bucket_of, step_key, step_knobs


class Stepping:
    """What was measured of a network's whole steps, else what the target's defaults say.

    Attributes:
        key: the network's in records. default: what runs where nothing was measured.
        fixed: what runs instead of all that, while it is measured.
    """

    def __init__(self, machine: Machine, programs: Programs) -> None:
        name = programs.forward.name.partition(" ")[0]
        text = f"{programs.forward}\n{programs.adjoint}"
        self.key = step_key(name, text, machine.precision)
        self.default = step_knobs(machine.target)
        self.fixed: StepKnobs | None = None
        self._measured = machine.step(self.key)

    def knobs(self, n_rows: int) -> StepKnobs:
        """Those of a batch that runs so many rows, 1 or more."""
        if self.fixed is not None:
            return self.fixed
        if not self._measured:
            return self.default
        return self._measured.get(bucket_of(n_rows), self.default)
