"""What the hand-written loops share: buffers that are reused, and the classifier with its loss.

Nothing here is traced by autograd. A product that ends in a parameter adds to it at once
(`W.addmm_(a.T, g, alpha=-lr)`): the update costs no pass of its own, and no gradient is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph

Parameters = dict[str, Tensor]


class Buffers:
    """float32 buffers by name, each as large as the largest batch seen."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, columns: int) -> Tensor:
        """An uninitialised float32[rows, columns]; the same memory every time."""
        n = rows * columns
        if name not in self._flat or self._flat[name].numel() < n:
            self._flat[name] = torch.empty(n)
        return self._flat[name][:n].view(rows, columns)


def tensors(parameters: Mapping[str, np.ndarray]) -> Parameters:
    """Copies that torch may change."""
    return {name: torch.from_numpy(values.copy()) for name, values in parameters.items()}


def index(values: np.ndarray) -> Tensor:
    """An index vector, not copied."""
    return torch.from_numpy(values)


def logits_of(h: Tensor, p: Parameters, row: np.ndarray) -> np.ndarray:
    """Logits in the order of the batch's vertices: float32[n, n_classes]."""
    logits = torch.addmm(p["d"], h, p["V"])
    return logits.index_select(0, index(row)).float().numpy()


def classify(h: Tensor, labels: np.ndarray, p: Parameters, rate: float, dh: Tensor) -> float:
    """The summed loss of all rows; writes its gradient by `h` to `dh` and updates V and d."""
    log = torch.log_softmax(torch.addmm(p["d"], h, p["V"]), 1)
    label = index(labels).unsqueeze(1)
    loss = -log.gather(1, label).sum().item()
    g = log.exp_()
    g.scatter_add_(1, label, torch.full((1, 1), -1.0).expand(len(g), 1))
    torch.mm(g, p["V"].t(), out=dh)
    p["V"].addmm_(h.t(), g, alpha=-rate)
    p["d"].sub_(g.sum(0), alpha=rate)
    return loss


class Manual:
    """A loop by hand: plans a batch, runs the levels, updates; a cell gives the three passes."""

    p: Parameters
    h: Tensor
    hidden: int
    buffer: Buffers

    def infer(self, graphs: Sequence[Graph]) -> np.ndarray:
        """Logits of all vertices: float32[n, n_classes]."""
        plan = self._plan(graphs)
        self._forward(plan)
        return logits_of(self.h, self.p, plan.row)

    def train(self, graphs: Sequence[Graph], lr: float) -> float:
        """One step; the loss before it."""
        plan = self._plan(graphs)
        rate = lr / len(graphs)
        self._forward(plan)
        dh = self.buffer("dh", len(plan.row), self.hidden)
        loss = classify(self.h, plan.labels, self.p, rate, dh)
        self._backward(plan, dh)
        self._update(plan, dh, rate)
        return loss

    def _plan(self, graphs: Sequence[Graph]) -> Any:
        raise NotImplementedError

    def _forward(self, plan: Any) -> None:
        raise NotImplementedError

    def _backward(self, plan: Any, dh: Tensor) -> None:
        raise NotImplementedError

    def _update(self, plan: Any, dh: Tensor, rate: float) -> None:
        raise NotImplementedError
