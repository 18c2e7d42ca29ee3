"""The best loop an expert writes for an LSTM on sequences in PyTorch, by hand both ways.

The word product of all steps is one product before the loop. The longest sequences come first, so
the states of the step before are a slice and each step adds one product to its gates in place.
The gradient of U is one product at the end, with the states before each row gathered once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from .plan import ChainPlan, plan_chains
from .store import Buffers, Manual, index, tensors

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


class ManualVarLSTM(Manual):
    """Parameters as `nn.LSTM` of tvm_cavs has them; gates are i, o, f, u while they are here."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        p = tensors(parameters)
        self.hidden = n = p["V"].shape[0]
        self.order = torch.cat([torch.arange(g * n, (g + 1) * n) for g in (0, 1, 3, 2)])
        self.p = p | {name: p[name][..., self.order].contiguous() for name in ("W", "U", "b")}
        self.buffer = Buffers()

    def parameters(self) -> dict[str, np.ndarray]:
        """As they were given, in the order they were given."""
        return {  # the order of the gates is its own inverse: two change places
            name: (values[..., self.order] if name in ("W", "U", "b") else values).numpy()
            for name, values in self.p.items()
        }

    def _plan(self, graphs: Sequence[Graph]) -> ChainPlan:
        return plan_chains(graphs)

    def _forward(self, plan: ChainPlan) -> None:
        p, n, b, rows, sizes = self.p, self.hidden, self.buffer, len(plan.row), plan.sizes
        self.x = torch.index_select(p["E"], 0, index(plan.words), out=b("x", rows, len(p["W"])))
        self.gates = torch.addmm(p["b"], self.x, p["W"], out=b("gates", rows, 4 * n))
        self.h, self.c, self.tanh_c = (b(name, rows, n) for name in ("h", "c", "tanh_c"))
        h_before, c_before = None, None
        for gates, sigmoids, h, c, tanh_c in zip(
            self.gates.split(sizes),
            self.gates[:, : 3 * n].split(sizes),
            *(all_.split(sizes) for all_ in (self.h, self.c, self.tanh_c)),
            strict=True,
        ):
            if h_before is not None:
                gates.addmm_(h_before[: len(h)], p["U"])
            sigmoids.sigmoid_()
            i, o, f, u = gates.split(n, 1)
            torch.mul(i, u.tanh_(), out=c)
            if c_before is not None:
                c.addcmul_(f, c_before[: len(c)])
            torch.mul(o, torch.tanh(c, out=tanh_c), out=h)
            h_before, c_before = h, c

    def _backward(self, plan: ChainPlan, dh: Tensor) -> None:
        n, b, sizes = self.hidden, self.buffer, plan.sizes
        self.d_gates = b("d_gates", len(plan.row), 4 * n)
        dc_all = b("dc", sizes[0], n).zero_()
        u_t = self.p["U"].t()
        d_steps, c_steps = dh.split(sizes), self.c.split(sizes)
        steps = zip(
            d_steps,
            self.gates.split(sizes),
            self.d_gates.split(sizes),
            self.gates[:, : 3 * n].split(sizes),
            self.d_gates[:, : 3 * n].split(sizes),
            self.tanh_c.split(sizes),
            [None, *c_steps[:-1]],
            [None, *d_steps[:-1]],
            strict=True,
        )
        for g, gates, d_gates, sigmoids, d_sigmoids, tanh_c, c_before, g_before in reversed(
            list(steps)
        ):
            (i, o, f, u), (di, do, df, du) = gates.split(n, 1), d_gates.split(n, 1)
            dc = dc_all[: len(g)]
            torch.mul(g, tanh_c, out=do)
            torch.mul(g, o, out=g)
            dc.add_(tanh_backward(g, tanh_c, grad_input=g))
            torch.mul(dc, u, out=di)
            torch.mul(dc, i, out=du)
            if c_before is None:
                df.zero_()
            else:
                torch.mul(dc, c_before[: len(g)], out=df)
                dc.mul_(f)
            sigmoid_backward(d_sigmoids, sigmoids, grad_input=d_sigmoids)
            tanh_backward(du, u, grad_input=du)
            if g_before is not None:
                g_before[: len(g)].addmm_(d_gates, u_t)

    def _update(self, plan: ChainPlan, _dh: Tensor, rate: float) -> None:
        p, b = self.p, self.buffer
        dx = torch.mm(self.d_gates, p["W"].t(), out=b("dx", *self.x.shape))
        p["E"].index_add_(0, index(plan.words), dx, alpha=-rate)
        p["W"].addmm_(self.x.t(), self.d_gates, alpha=-rate)
        before = index(plan.before)
        h_before = torch.index_select(
            self.h, 0, before, out=b("h_before", len(before), self.hidden)
        )
        p["U"].addmm_(h_before.t(), self.d_gates[plan.sizes[0] :], alpha=-rate)
        p["b"].sub_(self.d_gates.sum(0), alpha=rate)
