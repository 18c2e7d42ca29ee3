"""The best loop an expert writes for a binary Tree-LSTM in PyTorch, forward and backward by hand.

Gates of an inner vertex lie side by side as i, o, f_left, f_right, u, so that one sigmoid and one
tanh do a level. Children are gathered into one buffer [n, 2 * hidden] that is kept: the gradient of
U is one product with it at the end. A parent writes its children's gradients there in turn, and a
child reads its own by index: no addition into a place twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from .plan import TreePlan, plan_trees
from .store import Buffers, Manual, index, tensors

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


class ManualTreeLSTM(Manual):
    """Parameters as `nn.TreeLSTM` has them, gates regrouped while they are here."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        p = tensors(parameters)
        self.hidden = n = p["V"].shape[0]
        i, o, u, left, right = range(5)
        self.order = torch.cat([torch.arange(g * n, (g + 1) * n) for g in (i, o, left, right, u)])
        self.p = p | {
            "leaf": p["W"][:, : 3 * n].contiguous(),  # no forget gates where there is no child
            "U": p["U"][:, self.order].contiguous(),
            "b": p["b"][self.order].contiguous(),
        }
        self.buffer = Buffers()

    def parameters(self) -> dict[str, np.ndarray]:
        """As they were given, in the order they were given."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(back))
        given = self.p | {"U": self.p["U"][:, back], "b": self.p["b"][back]}
        given["W"] = torch.cat([given.pop("leaf"), given["W"][:, 3 * self.hidden :]], 1)
        return {name: values.numpy() for name, values in given.items()}

    def _plan(self, graphs: Sequence[Graph]) -> TreePlan:
        return plan_trees(graphs)

    def _forward(self, plan: TreePlan) -> None:
        n, p, h_width = len(plan.row), self.p, self.hidden
        leaves, *levels = plan.sizes
        b = self.buffer
        self.h, self.c, self.tanh_c = (b(name, n, h_width) for name in ("h", "c", "tanh_c"))
        self.x = torch.index_select(
            p["E"], 0, index(plan.words), out=b("x", leaves, p["E"].shape[1])
        )
        bias = torch.cat([p["b"][: 2 * h_width], p["b"][4 * h_width :]])
        self.leaf = torch.addmm(bias, self.x, p["leaf"], out=b("leaf", leaves, 3 * h_width))
        self.leaf[:, : 2 * h_width].sigmoid_()
        i, o, u = self.leaf.split(h_width, 1)
        c = torch.mul(i, u.tanh_(), out=self.c[:leaves])
        torch.mul(o, torch.tanh(c, out=self.tanh_c[:leaves]), out=self.h[:leaves])
        self._levels(plan, levels)

    def _levels(self, plan: TreePlan, levels: list[int]) -> None:
        inner, n = sum(levels), self.hidden
        b, u_weight, bias = self.buffer, self.p["U"], self.p["b"]
        self.gates = b("gates", inner, 5 * n)
        self.below, self.c_below = b("below", inner, 2 * n), b("c_below", inner, 2 * n)
        twice = [2 * size for size in levels]
        for child, below, c_below, below_2, c_2, gates, all_sigmoid, h, c, tanh_c in zip(
            index(plan.child).split(twice),
            self.below.view(-1, n).split(twice),
            self.c_below.view(-1, n).split(twice),
            self.below.split(levels),
            self.c_below.split(levels),
            self.gates.split(levels),
            self.gates[:, : 4 * n].split(levels),
            *(all_[plan.sizes[0] :].split(levels) for all_ in (self.h, self.c, self.tanh_c)),
            strict=True,
        ):
            torch.index_select(self.h, 0, child, out=below)
            torch.index_select(self.c, 0, child, out=c_below)
            torch.addmm(bias, below_2, u_weight, out=gates)
            all_sigmoid.sigmoid_()
            i, o, left, right, u = gates.split(n, 1)
            c_left, c_right = c_2.split(n, 1)
            torch.mul(i, u.tanh_(), out=c).addcmul_(left, c_left).addcmul_(right, c_right)
            torch.mul(o, torch.tanh(c, out=tanh_c), out=h)

    def _backward(self, plan: TreePlan, dh: Tensor) -> None:
        n, b = self.hidden, self.buffer
        leaves, *levels = plan.sizes
        places = len(plan.child) + 1
        self.d_below, self.dc_below = b("d_below", places, n), b("dc_below", places, n)
        self.d_below[0], self.dc_below[0] = 0.0, 0.0  # what a root reads
        self.d_gates, self.d_leaf = b("d_gates", sum(levels), 5 * n), b("d_leaf", leaves, 3 * n)
        self.add = b("add", max(plan.sizes), n)
        slot, dc, u_t = index(plan.slot), b("dc", len(plan.row), n), self.p["U"].t()
        grid = (-1, 2, n)
        inner = zip(
            *(all_[leaves:].split(levels) for all_ in (slot, dh, dc, self.tanh_c)),
            *(all_.split(levels) for all_ in (self.gates, self.d_gates)),
            *(all_[:, : 4 * n].split(levels) for all_ in (self.gates, self.d_gates)),
            *(
                all_[:, 2 * n : 4 * n].view(grid).split(levels)
                for all_ in (self.gates, self.d_gates)
            ),
            dc[leaves:].unsqueeze(1).split(levels),
            self.c_below.view(grid).split(levels),
            self.dc_below[1:].view(grid).split(levels),
            self.d_below[1:].view(-1, 2 * n).split(levels),
            strict=True,
        )
        for (
            *states,
            sigmoids,
            d_sigmoids,
            forget,
            d_forget,
            dc_2,
            c_2,
            dc_below,
            d_below,
        ) in reversed(list(inner)):
            u, du = self._backward_states(*states)
            torch.mul(dc_2, c_2, out=d_forget)
            torch.mul(dc_2, forget, out=dc_below)
            sigmoid_backward(d_sigmoids, sigmoids, grad_input=d_sigmoids)
            tanh_backward(du, u, grad_input=du)
            torch.mm(states[-1], u_t, out=d_below)
        self._backward_leaves(slot[:leaves], dh[:leaves], dc[:leaves])

    def _backward_leaves(self, slot: Tensor, dh: Tensor, dc: Tensor) -> None:
        tanh_c, n = self.tanh_c[: len(dh)], self.hidden
        u, du = self._backward_states(slot, dh, dc, tanh_c, self.leaf, self.d_leaf)
        d_sigmoids = self.d_leaf[:, : 2 * n]
        sigmoid_backward(d_sigmoids, self.leaf[:, : 2 * n], grad_input=d_sigmoids)
        tanh_backward(du, u, grad_input=du)

    def _backward_states(
        self,
        slot: Tensor,
        dh: Tensor,
        dc: Tensor,
        tanh_c: Tensor,
        gates: Tensor,
        d_gates: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Complete `dh`, whose logits' part is there, and `dc`; then i, o and u, still activated.

        Returns u and its gradient.
        """
        dh.add_(torch.index_select(self.d_below, 0, slot, out=self.add[: len(dh)]))
        torch.index_select(self.dc_below, 0, slot, out=dc)
        i, o, *_, u = gates.split(self.hidden, 1)
        di, do, *_, du = d_gates.split(self.hidden, 1)
        torch.mul(dh, tanh_c, out=do)
        torch.mul(dh, o, out=dh)
        dc.add_(tanh_backward(dh, tanh_c, grad_input=dh))
        torch.mul(dc, u, out=di)
        torch.mul(dc, i, out=du)
        return u, du

    def _update(self, plan: TreePlan, _dh: Tensor, rate: float) -> None:
        p, n = self.p, self.hidden
        dx = torch.mm(self.d_leaf, p["leaf"].t(), out=self.buffer("dx", *self.x.shape))
        p["E"].index_add_(0, index(plan.words), dx, alpha=-rate)
        p["leaf"].addmm_(self.x.t(), self.d_leaf, alpha=-rate)
        p["U"].addmm_(self.below.t(), self.d_gates, alpha=-rate)
        db = self.d_gates.sum(0)
        db_leaf = self.d_leaf.sum(0)
        db[: 2 * n].add_(db_leaf[: 2 * n])
        db[4 * n :].add_(db_leaf[2 * n :])
        p["b"].sub_(db, alpha=rate)
