"""All cells with guard pages; what an ordinary run does not collect.

`pytest tests/helpers/guarded_models.py --guard end` runs the sweep. test_guard runs the last two.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers import functions
from helpers.random_graphs import N_CLASSES, N_WORDS, random_graph
from schedules.target import host_target, simd
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.training.optim import OPTIMIZERS

pytestmark = pytest.mark.compiles
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 24, 400)
WIDTHS = ((3, 5), (16, 8), (17, 33), (64, 130))  # embedding, hidden


def graphs_of(arity: int, n: int) -> list[cavs.Graph]:
    rng = np.random.default_rng(n)
    return [random_graph(rng, arity, int(rng.integers(1, 9))) for _ in range(n)]


def run(function: Any, loss: Any, sizes: Any, cache: Path, **options: Any) -> None:
    """Inference and training with an optimizer, one batch of each size, and back again."""
    net = cavs.Network(function)
    net.initialize(0)
    net.hybridize("tvm", cache=cache, **options)
    graphs = graphs_of(function.arity, max(sizes))
    net.prepare(graphs)
    net.prepare(graphs, loss)
    for i, n in enumerate((*sizes, *reversed(sizes))):
        batch = cavs.batch(graphs[:n])
        net(batch)
        names = list(OPTIMIZERS)
        trainer = cavs.Trainer(net.parameters(), names[i % len(names)], lr=0.01, cache=cache)
        with cavs.record():
            result = loss(net(batch))
        result.backward()
        trainer.step(result.n_labels)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("name", sorted(CELLS))
def test_cells(name: str, widths: tuple[int, int], threads: int, cache: Path) -> None:
    embedding, hidden = widths
    cell = CELLS[name](N_WORDS, embedding, hidden, N_CLASSES, dropout=0.25)
    loss = cavs.loss.SoftmaxCrossEntropy()
    run(cell, loss, SIZES, cache, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", sorted(CELLS))
def test_shared(name: str, threads: int, cache: Path) -> None:
    cell = CELLS[name](N_WORDS, 16, 17, N_CLASSES)
    loss = cavs.loss.SoftmaxCrossEntropy()
    run(cell, loss, (1, 3, 24, 400), cache, threads=threads, sharing=True)


@pytest.mark.skipif(not simd(host_target(1)).bf16, reason="no bfloat16 products here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_rounded(widths: tuple[int, int], threads: int, cache: Path) -> None:
    embedding, hidden = widths
    cell = CELLS["tree_lstm"](N_WORDS, embedding, hidden, N_CLASSES)
    loss = cavs.loss.SoftmaxCrossEntropy()
    run(cell, loss, SIZES, cache, threads=threads, precision="bf16")


def test_a_model(cache: Path) -> None:
    """The same with a function that is quickly compiled."""
    run(functions.Linear(), functions.Score(), (1, 3, 24), cache, threads=2)


def test_planted_overrun(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of one row too many, which a region then writes behind its buffers."""
    from tvm_cavs.runtime import slices, tables
    from tvm_cavs.runtime.slices import Spaces

    cut = Spaces.cut

    def longer(self: Any, plan: Any, memory: Any) -> Any:
        made = cut(self, plan, memory)
        rows = memory.read(slices.SLICES)[: made.n * self.width].reshape(made.n, self.width)
        rows[:, tables.COUNT] += 1
        return made

    monkeypatch.setattr(Spaces, "cut", longer)
    net = cavs.Network(functions.Linear())
    net.initialize(0)
    net.hybridize("tvm", threads=1, cache=cache)
    net(cavs.batch(graphs_of(2, 64)))
