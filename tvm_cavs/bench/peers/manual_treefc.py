"""The best loop an expert writes for Tree-FC in PyTorch, forward and backward by hand.

As for the Tree-LSTM (`manual_treelstm`): children gathered into one buffer that is kept, so that
the gradient of U is one product; gradients handed down in slots. ReLU goes in place both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from .plan import TreePlan, plan_trees
from .store import Buffers, Manual, index, tensors

relu_backward = torch.ops.aten.threshold_backward.grad_input


class ManualTreeFC(Manual):
    """Parameters as `nn.TreeFC` has them."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        self.p = tensors(parameters)
        self.hidden = self.p["V"].shape[0]
        self.buffer = Buffers()

    def parameters(self) -> dict[str, np.ndarray]:
        """As they were given, in the order they were given."""
        return {name: values.numpy() for name, values in self.p.items()}

    def _plan(self, graphs: Sequence[Graph]) -> TreePlan:
        return plan_trees(graphs)

    def _forward(self, plan: TreePlan) -> None:
        p, n, b = self.p, self.hidden, self.buffer
        leaves, *levels = plan.sizes
        self.x = torch.index_select(
            p["E"], 0, index(plan.words), out=b("x", leaves, p["E"].shape[1])
        )
        self.h = b("h", len(plan.row), n)
        torch.addmm(p["b"], self.x, p["W"], out=self.h[:leaves]).relu_()
        self.below = b("below", sum(levels), 2 * n)
        twice = [2 * size for size in levels]
        for child, below, below_2, h in zip(
            index(plan.child).split(twice),
            self.below.view(-1, n).split(twice),
            self.below.split(levels),
            self.h[leaves:].split(levels),
            strict=True,
        ):
            torch.index_select(self.h, 0, child, out=below)
            torch.addmm(p["b"], below_2, p["U"], out=h).relu_()

    def _backward(self, plan: TreePlan, dh: Tensor) -> None:
        """`dh` becomes the gradient before the ReLU."""
        n, b = self.hidden, self.buffer
        sizes = plan.sizes
        d_below = b("d_below", len(plan.child) + 1, n)
        d_below[0] = 0.0  # what a root reads
        add = b("add", max(sizes), n)
        inner = [*d_below[1:].view(-1, 2 * n).split(sizes[1:])]
        levels = zip(
            index(plan.slot).split(sizes),
            dh.split(sizes),
            self.h.split(sizes),
            [None, *inner],
            strict=True,
        )
        u_t = self.p["U"].t()
        for place, g, h, below in reversed(list(levels)):
            g.add_(torch.index_select(d_below, 0, place, out=add[: len(g)]))
            relu_backward(g, h, 0, grad_input=g)
            if below is not None:
                torch.mm(g, u_t, out=below)

    def _update(self, plan: TreePlan, dh: Tensor, rate: float) -> None:
        p = self.p
        d_leaf, d_inner = dh.split([plan.sizes[0], len(dh) - plan.sizes[0]])
        dx = torch.mm(d_leaf, p["W"].t(), out=self.buffer("dx", *self.x.shape))
        p["E"].index_add_(0, index(plan.words), dx, alpha=-rate)
        p["W"].addmm_(self.x.t(), d_leaf, alpha=-rate)
        p["U"].addmm_(self.below.t(), d_inner, alpha=-rate)
        p["b"].sub_(dh.sum(0), alpha=rate)
