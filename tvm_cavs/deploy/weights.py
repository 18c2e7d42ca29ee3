"""Weights of a loaded model: its parameters, and what kernels read of them.

The one idea: they are made together and never changed. Other parameters are other Weights, which
take the place of these by one assignment. So a call sees either all old or all new values, and a
backward pass those of its forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import aligned
from ..errors import DeployError, ShapeError
from ..given import parameter_values
from ..runtime import HostMemory, WeightMemory, parameter_memory
from .program import Deployed
from .tensors import buffer_name


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters, packed for inference and, once it was wanted, for the backward pass.

    arrays: by name, float32. stored: of the exporter's parameters what else they make, by the name
    of its buffer; None of others, for which it is computed.
    """

    arrays: Mapping[str, np.ndarray]
    stored: Mapping[str, np.ndarray] | None
    forward: WeightMemory
    backward: WeightMemory | None = None

    @staticmethod
    def of(
        arrays: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray] | None, program: Deployed
    ) -> Weights:
        """Those of parameters that are aligned and nobody else's."""
        return Weights(arrays, stored, _filled(program, parameter_memory(arrays), stored))

    def for_backward(self, program: Deployed) -> Weights:
        """The same, packed for the backward pass too."""
        if self.backward is not None:
            return self
        return replace(self, backward=_filled(program, self.forward.memory, self.stored))

    def changed(self, given: Any, program: Deployed, backward: Deployed | None) -> Weights:
        """Those where some parameters have other values.

        Args:
            given: values by name. program, backward: of inference and of the backward pass.

        Raises:
            ShapeError: they do not fit; all that do not are named.
            DeployError: what is computed of parameters was not exported.
        """
        if program.values and not program.executable.net_values:
            raise DeployError(
                "this model was exported by a version of tvm_cavs that stored what it computes of "
                "its parameters, and not how. Export it again to change them."
            )
        made = Weights.of({**self.arrays, **_checked(self.arrays, given)}, None, program)
        if self.backward is None or backward is None:
            return made
        return made.for_backward(backward)


def _filled(
    program: Deployed, beneath: HostMemory, stored: Mapping[str, np.ndarray] | None
) -> WeightMemory:
    made = WeightMemory(program.executable, beneath)
    if stored is None:
        made.evaluate()
    else:
        for buffer in program.values:
            if buffer in made.memory:
                made.memory.write(buffer, stored[buffer_name(buffer)])
    made.pack()
    return made


def _checked(arrays: Mapping[str, np.ndarray], given: Any) -> dict[str, np.ndarray]:
    """Aligned copies of values by name that fit the parameters `arrays`."""
    if not isinstance(given, Mapping):
        raise ShapeError(
            f"set_parameters: expected values by the names of parameters, given {given!r:.60}"
        )
    found, problems = {}, []
    for name, values in given.items():
        try:
            found[name] = _copied(arrays, name, values)
        except ShapeError as error:
            problems.append(f"  {error}")
    if problems:
        raise ShapeError("set_parameters: nothing has changed.\n" + "\n".join(problems))
    return found


def _copied(arrays: Mapping[str, np.ndarray], name: Any, values: Any) -> np.ndarray:
    if name not in arrays:
        raise ShapeError(f"no parameter is called {name!r:.60}; there are {', '.join(arrays)}")
    made = aligned(arrays[name].shape)
    made[...] = parameter_values(f"parameter {name}", values, made.shape)
    return made
