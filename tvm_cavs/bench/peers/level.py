"""The loop a good PyTorch user writes: one cell call a level on all its vertices, with autograd.

A cell is a plain function, so that `torch.compile` can take it as it is: what it gathers, its
products and gates are one graph of a symbolic number of rows. Words are looked up outside: autograd
sees their vectors, and the rows of the table that were touched are updated by index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...graph import Graph
from .plan import ChainPlan, TreePlan, plan_chains, plan_trees
from .store import Parameters, index, logits_of, tensors

State = tuple[Tensor, ...]  # what a vertex publishes, h first
Cell = Callable[..., State]


def tree_lstm_leaf(p: Parameters, x: Tensor) -> State:
    """Three gates of a vertex without children."""
    n = p["V"].shape[0]
    i, o, u = torch.addmm(p["b"][: 3 * n], x, p["W"][:, : 3 * n]).chunk(3, 1)
    c = torch.sigmoid(i) * torch.tanh(u)
    return torch.sigmoid(o) * torch.tanh(c), c


def tree_lstm_inner(p: Parameters, h: Tensor, c: Tensor) -> State:
    """Five gates on two children's states side by side."""
    c_left, c_right = c.chunk(2, 1)
    i, o, u, left, right = torch.addmm(p["b"], h, p["U"]).chunk(5, 1)
    new = torch.sigmoid(i) * torch.tanh(u)
    new = new + torch.sigmoid(left) * c_left + torch.sigmoid(right) * c_right
    return torch.sigmoid(o) * torch.tanh(new), new


def tree_fc_leaf(p: Parameters, x: Tensor) -> State:
    """A layer on a word."""
    return (torch.relu(torch.addmm(p["b"], x, p["W"])),)


def tree_fc_inner(p: Parameters, h: Tensor) -> State:
    """A layer on two children's states side by side."""
    return (torch.relu(torch.addmm(p["b"], h, p["U"])),)


def lstm_first(p: Parameters, gates: Tensor) -> State:
    """The first step of a sequence, from its word's gates."""
    i, o, u, _ = gates.chunk(4, 1)
    c = torch.sigmoid(i) * torch.tanh(u)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_step(p: Parameters, gates: Tensor, h: Tensor, c: Tensor) -> State:
    """A later step, from its word's gates and the state before."""
    i, o, u, f = torch.addmm(gates, h, p["U"]).chunk(4, 1)
    new = torch.sigmoid(i) * torch.tanh(u) + torch.sigmoid(f) * c
    return torch.sigmoid(o) * torch.tanh(new), new


def run_tree(plan: TreePlan, p: Parameters, x: Tensor, leaf: Cell, inner: Cell) -> Tensor:
    """The h of all rows: float32[n, hidden]. Every level reads the table of those before it."""
    tables = leaf(p, x)
    for child in index(plan.child).split([2 * n for n in plan.sizes[1:]]):
        below = (t.index_select(0, child).view(-1, 2 * t.shape[1]) for t in tables)
        new = inner(p, *below)
        tables = tuple(torch.cat(pair) for pair in zip(tables, new, strict=True))
    return tables[0]


def run_chain(plan: ChainPlan, p: Parameters, x: Tensor, first: Cell, step: Cell) -> Tensor:
    """The h of all rows: float32[n, hidden]. The word product is done for all steps at once."""
    gates, *later = torch.addmm(p["b"], x, p["W"]).split(plan.sizes)
    state = first(p, gates)
    all_h = [state[0]]
    for gates in later:
        state = step(p, gates, *(before[: len(gates)] for before in state))
        all_h.append(state[0])
    return torch.cat(all_h)


CELLS: dict[str, tuple[Callable[..., TreePlan | ChainPlan], Callable[..., Tensor], Cell, Cell]] = {
    "treelstm": (plan_trees, run_tree, tree_lstm_leaf, tree_lstm_inner),
    "treefc": (plan_trees, run_tree, tree_fc_leaf, tree_fc_inner),
    "varlstm": (plan_chains, run_chain, lstm_first, lstm_step),
    "lm": (plan_chains, run_chain, lstm_first, lstm_step),
}


@functools.cache
def compiled_cell(cell: Cell) -> Cell:
    """The cell for any number of rows; compiled once, whatever the parameters."""
    made: Cell = torch.compile(cell, dynamic=True)
    return made


class Level:
    """A workload's network, level by level.

    Args:
        workload: a name in CELLS. parameters: of the network of tvm_cavs, by name.
        compiled: give the cell to `torch.compile`, for any number of rows.
    """

    def __init__(
        self, workload: str, parameters: Mapping[str, np.ndarray], compiled: bool = False
    ) -> None:
        self._plan, self._run, *cells = CELLS[workload]
        if compiled:
            cells = [compiled_cell(cell) for cell in cells]
        self._cells = cells
        self.p = tensors(parameters)
        self._dense = [values for name, values in self.p.items() if name != "E"]

    def parameters(self) -> dict[str, np.ndarray]:
        """As they were given, in the order they were given."""
        return {name: values.detach().numpy() for name, values in self.p.items()}

    def infer(self, graphs: Sequence[Graph]) -> np.ndarray:
        """Logits of all vertices: float32[n, n_classes]."""
        plan = self._plan(graphs)
        with torch.no_grad():
            x = self.p["E"].index_select(0, index(plan.words))
            h = self._run(plan, self.p, x, *self._cells)
            return logits_of(h, self.p, plan.row)

    def train(self, graphs: Sequence[Graph], lr: float) -> float:
        """One step; the loss before it."""
        plan = self._plan(graphs)
        words, rate = index(plan.words), lr / len(graphs)
        for values in self._dense:
            values.requires_grad_()
        x = self.p["E"].index_select(0, words).requires_grad_()
        with torch.enable_grad():
            h = self._run(plan, self.p, x, *self._cells)
            logits = torch.addmm(self.p["d"], h, self.p["V"])
            loss = torch.nn.functional.cross_entropy(logits, index(plan.labels), reduction="sum")
            loss.backward()
        with torch.no_grad():
            self.p["E"].index_add_(0, words, x.grad, alpha=-rate)
            for values in self._dense:
                values.add_(values.grad, alpha=-rate)
                values.grad = None
        return loss.item()
