"""The names of systems -> what runs a workload, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from ...graph import Graph
from .level import Level
from .manual_treefc import ManualTreeFC
from .manual_treelstm import ManualTreeLSTM
from .manual_varlstm import ManualVarLSTM
from .packed import Packed


class System(Protocol):
    """A network in PyTorch that starts from the parameters of tvm_cavs."""

    def parameters(self) -> dict[str, np.ndarray]:
        """By name, of the shapes that tvm_cavs has."""
        ...

    def infer(self, graphs: Sequence[Graph]) -> np.ndarray:
        """Logits in the order of the batch's vertices: float32[n_vertices, n_classes]."""
        ...

    def train(self, graphs: Sequence[Graph], lr: float) -> float:
        """Update by plain SGD, gradients divided by the number of graphs; the loss before that."""
        ...


Parameters = Mapping[str, np.ndarray]
MANUAL: dict[str, Callable[[Parameters], System]] = {
    "treelstm": ManualTreeLSTM,
    "treefc": ManualTreeFC,
    "varlstm": ManualVarLSTM,
    "lm": ManualVarLSTM,
}
STEP = 1024.0  # a power of two: dividing by it rounds nothing
COMPILED = {"level": False, "compile": True}


def make(system: str, workload: str, parameters: Parameters) -> System:
    """The system of this name (see PEERS) with its own copy of the parameters."""
    if system == "manual":
        return MANUAL[workload](parameters)
    if system == "module":
        return Packed(parameters)
    return Level(workload, parameters, compiled=COMPILED[system])


def gradients(system: System, graphs: Sequence[Graph]) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and, by name, the gradients of one batch, found from what one large step changes.

    Small gradients would be lost in the rounding of weights that change little. The system is of
    no use afterwards.
    """
    before = {name: values.copy() for name, values in system.parameters().items()}
    loss = system.train(graphs, STEP * len(graphs))
    after = system.parameters()
    return loss, {name: (values - after[name]) / STEP for name, values in before.items()}
