"""PyTorch's own LSTM on packed sequences: no loop of the user's at all.

Its gates are i, f, u, o where those of tvm_cavs are i, o, u, f, and it has two biases, of which one
stays zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...graph import Graph
from .plan import ChainPlan, plan_chains
from .store import index, logits_of, tensors


class Packed:
    """Parameters as `nn.LSTM` of tvm_cavs has them."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        p = tensors(parameters)
        n = p["V"].shape[0]
        self.order = torch.cat([torch.arange(g * n, (g + 1) * n) for g in (0, 3, 2, 1)])
        self.lstm = torch.nn.LSTM(p["W"].shape[0], n)
        with torch.no_grad():
            self.lstm.weight_ih_l0.copy_(p["W"][:, self.order].t())
            self.lstm.weight_hh_l0.copy_(p["U"][:, self.order].t())
            self.lstm.bias_ih_l0.copy_(p["b"][self.order])
            self.lstm.bias_hh_l0.zero_().requires_grad_(False)
        self.p = {name: p[name] for name in ("E", "V", "d")}

    @property
    def _dense(self) -> list[Tensor]:
        lstm = self.lstm
        return [
            *(self.p["V"], self.p["d"]),
            *(lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0),
        ]

    def parameters(self) -> dict[str, np.ndarray]:
        """As they were given, in the order they were given."""
        _, _, w, u, b = (values.detach() for values in self._dense)
        back = {"W": w.t()[:, self.order], "U": u.t()[:, self.order], "b": b[self.order]}
        return {name: values.detach().numpy() for name, values in (self.p | back).items()}

    def infer(self, graphs: Sequence[Graph]) -> np.ndarray:
        """Logits of all vertices: float32[n, n_classes]."""
        plan = plan_chains(graphs)
        with torch.no_grad():
            h = self._run(plan, self.p["E"].index_select(0, index(plan.words)))
            return logits_of(h, self.p, plan.row)

    def train(self, graphs: Sequence[Graph], lr: float) -> float:
        """One step; the loss before it."""
        plan = plan_chains(graphs)
        words, rate = index(plan.words), lr / len(graphs)
        for values in self._dense:
            values.requires_grad_()
        x = self.p["E"].index_select(0, words).requires_grad_()
        with torch.enable_grad():
            logits = torch.addmm(self.p["d"], self._run(plan, x), self.p["V"])
            loss = torch.nn.functional.cross_entropy(logits, index(plan.labels), reduction="sum")
            loss.backward()
        with torch.no_grad():
            self.p["E"].index_add_(0, words, x.grad, alpha=-rate)
            for values in self._dense:
                values.add_(values.grad, alpha=-rate)
                values.grad = None
        return loss.item()

    def _run(self, plan: ChainPlan, x: Tensor) -> Tensor:
        """The h of all rows, which are in the order of a packed sequence: float32[n, hidden]."""
        packed, _ = self.lstm(PackedSequence(x, torch.tensor(plan.sizes)))
        return packed.data
