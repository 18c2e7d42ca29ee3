"""A profile counts every call, row and product of a batch, and changes nothing."""

from pathlib import Path

import numpy as np
import pytest
from random_graphs import N_CLASSES, N_WORDS, random_tree

pytest.importorskip("tvm")

import tvm_cavs as cavs  # noqa: E402
from tvm_cavs.execution import Seeds  # noqa: E402
from tvm_cavs.executor import TvmExecutor  # noqa: E402
from tvm_cavs.profiling import profile  # noqa: E402

pytestmark = pytest.mark.compiles


def test_profile_of_a_batch(cache: Path) -> None:
    net = cavs.Network(cavs.nn.TreeLSTM(N_WORDS, 4, 5, N_CLASSES))
    net.initialize(seed=2)
    net.hybridize("tvm", sharing=False, threads=1, cache=cache)
    loss_fn = cavs.loss.SoftmaxCrossEntropy()
    rng = np.random.default_rng(4)
    graph = cavs.batch([random_tree(rng, 2) for _ in range(5)])
    with cavs.record():
        loss = loss_fn(net(graph))
    loss.backward()
    executor = net.executor(loss_fn)
    assert isinstance(executor, TvmExecutor)
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    found = profile(executor, graph, Seeds(), repeats=2)
    assert all(np.array_equal(p.data, before[name]) for name, p in net.parameters().items())

    assert sum(found.levels) == graph.n_vertices and len(found.levels) == graph.level.max() + 1
    batch = executor.plan(graph)
    assert sum(line.calls for line in found.lines) == len(batch.forward) + len(batch.backward)
    assert all(line.seconds > 0 and line.rows > 0 for line in found.lines)
    leaves = int(np.sum(graph.level == 0))
    words = [x for x in found.lines if x.note == "4 x 15" and x.direction == "forward"]
    assert sum(x.rows for x in words) == leaves  # in two kinds: with a label, without
    assert sum(x.flop for x in words) == leaves * 2 * 4 * 15
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "planning" in text and f"for {graph.n_vertices} vertices" in text
