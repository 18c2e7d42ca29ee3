"""Direct passes: which products read weights where they lie, and when they do."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.random_graphs import N_CLASSES, N_WORDS

pytest.importorskip("tvm")

import tvm_cavs as cavs
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.direct import rectangle_of
from tvm_cavs.compiler.forms import Form
from tvm_cavs.compiler.lowering.steps import Weights
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.tvm import TvmExecutor
from tvm_cavs.language.program import Builder
from tvm_cavs.language.value import Type, full
from tvm_cavs.language.vertex import Vertex
from tvm_cavs.runtime.batch_memory import Batch
from tvm_cavs.runtime.roles import BufferId, Role

pytestmark = pytest.mark.compiles
LOSS = cavs.loss.SoftmaxCrossEntropy()


def planned(
    function: cavs.VertexFunction,
    cache: Path,
    loss: cavs.loss.LossFunction | None = LOSS,
    **more: object,
) -> tuple[TvmExecutor, Batch]:
    """An executor, and a batch that has leaves and inner vertices."""
    net = cavs.Network(function)
    net.initialize(seed=2)
    net.hybridize("tvm", sharing=False, threads=1, cache=cache, **more)
    rng = np.random.default_rng(4)
    executor = net.executor(loss)
    assert isinstance(executor, TvmExecutor)
    batch = executor.plan(cavs.batch([two_or_none(rng) for _ in range(4)]))
    executor.run(batch, Seeds())
    return executor, batch


def two_or_none(rng: np.random.Generator) -> cavs.Graph:
    """A tree whose vertices have two children or none: for those with one, weights are put together
    from several rectangles of a parameter, which cannot be read where they lie.
    """
    children: list[list[int]] = [[], [], [0, 1], [], [2, 3], [], [4, 5]]
    words, labels = rng.integers(0, N_WORDS, 7), rng.integers(0, N_CLASSES, 7)
    inputs = {
        "word": [int(w) if not c else None for w, c in zip(words, children, strict=True)],
        "label": [int(k) if i % 2 else None for i, k in enumerate(labels)],
    }
    return cavs.Graph.from_children(children, inputs)


def parameter(name: str) -> BufferId:
    return BufferId(Role.PARAMETER, name)


def products(executor: TvmExecutor, batch: Batch) -> list[BufferId]:
    """The weight operand of every product's call."""
    memory = executor.workspace.memory
    of = {id(memory.tensor(b)): b for b in memory.sizes()}
    seen, parts = executor.workspace.seen_by(batch), map(batch.parts, ("forward", "backward"))
    calls = [c for each in parts for c in batch.passes.calls(each, seen, batch.replaced)]
    tensors = [of.get(id(arguments[-2])) for _, arguments in calls if len(arguments) > 3]
    return [b for b in tensors if b is not None and b.role in (Role.PARAMETER, Role.PACKED)]


def test_a_tree_lstm_packs_only_its_classifier(cache: Path) -> None:
    executor, batch = planned(cavs.nn.TreeLSTM(N_WORDS, 64, 64, N_CLASSES), cache)
    (packed,) = batch.passes.packs(batch.cut)
    assert executor.compiled.packs[packed].sources == (parameter("V"),)
    assert {parameter("W"), parameter("U"), packed} <= set(products(executor, batch))


def test_larger_batches_inference_and_a_switch_pack(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cavs.nn.TreeLSTM(N_WORDS, 64, 64, N_CLASSES)
    for loss, more in ((None, {}), (LOSS, {"without": ("direct",)})):
        executor, batch = planned(cell, cache, loss, **more)
        assert len(batch.passes.packs(batch.cut)) > 1
        assert not any(b.role is Role.PARAMETER for b in products(executor, batch))
    for least, is_direct in ((batch.plan.n_rows, True), (batch.plan.n_rows - 1, False)):
        monkeypatch.setattr("schedules.knobs.DIRECT_VERTICES", least)
        _, batch = planned(cell, cache)
        assert (len(batch.passes.packs(batch.cut)) == 1) == is_direct


class Tied(cavs.VertexFunction):
    """A product whose weights are one parameter twice over, and one with a computed one."""

    arity = 2
    state = {"h": 24}

    def __init__(self) -> None:
        self.E, self.U = cavs.Parameter((N_WORDS, 24)), cavs.Parameter((24, 24))
        self.V = cavs.Parameter((24, 24))

    def forward(self, v: Vertex) -> None:
        left, right = v.gather(0).h, v.gather(1).h
        h = cavs.tanh(left @ self.U + right @ self.U + cavs.embedding(v.pull("word"), self.E))
        v.scatter(h=h)
        v.push("logits", h @ (self.V * 2.0))


def test_weights_of_several_pieces_are_packed(cache: Path) -> None:
    executor, batch = planned(Tied(), cache)
    packed = [executor.compiled.packs[buffer].sources for buffer in batch.passes.packs(batch.cut)]
    assert (parameter("U"),) in packed and any(s.role is Role.UNPACKED for (s,) in packed)


def test_a_rectangle_with_zeros_beside_it_is_packed() -> None:
    b = Builder("weights")
    p = b.call("param", name="W", type=Type((3, 4), per="net"))
    more = b.call("concat", p, full(b, 0.0, (2, 4)), axis=0)
    program, compiler = b.finish(), SimpleNamespace(reads_directly=lambda k, n: True)
    for value, n_rows, is_direct in ((p, 3, True), (more, 5, False)):
        weights = Weights(BufferId(Role.PACKED), program, value.index, n_rows, 4)
        found = rectangle_of(weights, compiler, {"W": cavs.Parameter((3, 4))})  # type: ignore[arg-type]
        assert (found is not None) is is_direct


def test_forms_of_a_direct_product_serve_the_row_counts_that_they_are_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the product with packed weights that it stands in for."""
    usual = Compiler.direct_forms

    def later(self: Compiler, *given: Any) -> list[Form]:
        return [replace(f, min_rows=f.min_rows + 1000) for f in usual(self, *given)]

    monkeypatch.setattr(Compiler, "direct_forms", later)
    executor, _ = planned(cavs.nn.TreeRNN(N_WORDS, 8, 8, N_CLASSES), cache)
    passes = executor.loaded.direct
    assert passes is not None
    steps = [s for g in passes.groups for s in g.steps if s.kind == "product"]
    direct = [s for s in steps if any(b.role is Role.PARAMETER for b in s.buffers)]
    assert direct and all(min(s.limits) > 1000 for s in direct)
    assert all(len(s.limits) == len(s.functions) for s in steps)


def test_calls_that_read_weights_where_they_lie_are_made_once(cache: Path) -> None:
    """All small batches share them; `prepare` makes them if one batch is small."""
    executor, batch = planned(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES), cache)
    assert batch.passes is executor.loaded.direct is not None
    again = executor.plan(batch.plan.graph)
    assert again.passes is executor.loaded.direct is batch.passes
    few, many = batch.plan.graph, cavs.batch([batch.plan.graph] * 20)
    for batches in ([few, many], [many, few], [many]):
        net = cavs.Network(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES))
        net.initialize(seed=2)
        net.hybridize("tvm", sharing=False, threads=1, cache=cache)
        net.prepare(batches, LOSS)
        other = net.executor(LOSS)
        assert isinstance(other, TvmExecutor)
        assert (other.loaded.direct is not None) == (few in batches)
