"""Compiled dropout: the reference's masks to the last unit, and no product that must not wrap.

TVM's LLVM back end marks 32-bit integer products as never wrapping (`nuw`, `nsw`); a hash wraps.
With that LLVM may drop comparisons: at rates such as 1/4 nothing was dropped.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.functions import Score
from helpers.law import run
from helpers.llvm import marked_products, recorded_llvm
from helpers.targets import label, runnable
from tvm_cavs import dropout
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.lowering.region import Array, Line, Load, Region, Store
from tvm_cavs.compiler.lowering.steps import Kernel

pytestmark = pytest.mark.compiles

EDGES = [1e-9, 2.0**-25, 2.0**-24, 1 - 2.0**-24, 1 - 1e-9]  # thresholds of 0, 1 and 2^24
FEW = [*EDGES, *(k / 8 for k in range(1, 8)), 1 / 64, 1 / 256, 255 / 256, 0.1, 0.3, 0.9]
ALL = [*EDGES, *(k / 256 for k in range(1, 256)), *np.random.default_rng(0).random(200).tolist()]
TARGETS = runnable()
WIDTH, ROWS, TOGETHER = 83, 9, 52  # units, vertices, rates in one kernel


def masks(target: object, rates: list[float]) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """(rate, factors of the compiled kernel, those of the reference) for each rate."""
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 2**32, len(rates), dtype="uint64").astype("uint32")
    vertices = dropout.vertex_keys(rng.integers(0, 2**40, ROWS))
    arrays = [Array("x", "float32", WIDTH, True), Array("vertices", "uint32", 0, True)]
    arrays.append(Array("keys", "uint32", 0, False))
    lines = []
    for site, rate in enumerate(rates):
        arrays.append(Array(f"o{site}", "float32", WIDTH, True))
        attrs = (("rate", rate), ("site", site))
        reads, shapes = (Load(0), Load(1), Load(2)), ((WIDTH,), (), ())
        store = (Store(len(arrays) - 1),)
        lines.append(Line("dropout", reads, shapes, (WIDTH,), "float32", attrs, store))
    compiler = Compiler(target, 1, cache=False)
    (form,) = compiler.forms(Kernel("region", Region(tuple(arrays), tuple(lines))))
    compiler.compile([form])
    ones = np.ones((ROWS, WIDTH), "float32")
    tensors = [tvm.runtime.tensor(x) for x in (ones, vertices, keys, *[ones * 7 for _ in rates])]
    compiler.function(form.symbol)(ROWS, *[0] * (len(rates) + 2), *tensors)
    for rate, key, got in zip(rates, keys, tensors[3:], strict=True):
        yield rate, got.numpy(), dropout.scale(rate, int(key), vertices, WIDTH).astype("float32")


def assert_masks(target: object, rates: list[float]) -> None:
    for i in range(0, len(rates), TOGETHER):
        for rate, got, want in masks(target, rates[i : i + TOGETHER]):
            np.testing.assert_array_equal(got, want, err_msg=f"rate {rate}")
            spread = np.sqrt(rate * (1 - rate) / got.size)
            assert abs((got == 0).mean() - rate) <= 5 * spread + 2.0**-dropout.BITS, rate


@pytest.mark.parametrize("target", TARGETS, ids=label)
def test_masks_are_those_of_the_reference(target: object, request: pytest.FixtureRequest) -> None:
    assert_masks(target, ALL if request.config.getoption("--sweep") else FEW)


@pytest.mark.parametrize("bits", [8, 17, 31])
def test_a_mask_of_any_number_of_bits(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 16 bits or fewer the hash's last shift changes none: LLVM then saw the product itself.
    monkeypatch.setattr(dropout, "BITS", bits)
    assert_masks("host", [0.25, 0.3, 0.75])


class Sites(cavs.VertexFunction):
    """A dropout site for each rate, between two parameters."""

    arity = 1
    RATES = (np.float32(0.25), 0.25, 0.0, 0.75, np.float64(1 / 64), 0.3)  # of 0: no site

    def __init__(self) -> None:
        self.state = {"h": 5}
        self.before, self.behind = cavs.Parameter((5,)), cavs.Parameter((5,))

    def forward(self, v: cavs.Vertex) -> None:
        below = v.gather(0).h + v.pull("x", (5,)) * self.before
        kept = [v.dropout(below + k, rate) for k, rate in enumerate(self.RATES)]
        h = sum(kept[1:], kept[0]) * self.behind
        v.scatter(h=h * 0.25)
        v.push("score", cavs.reduce_sum(h))


@pytest.fixture(scope="module")
def emitted() -> Iterator[list[str]]:
    """The LLVM text of every kernel that is compiled meanwhile."""
    with recorded_llvm() as texts:
        yield texts


@pytest.fixture(scope="module")
def step(emitted: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    """Outputs and gradients of a training step with many sites, of both executors.

    Its folder of kernels is empty at first, so that each kernel of the step is compiled.
    """
    net, rng = cavs.Network(Sites()), np.random.default_rng(2)
    cache = tmp_path_factory.mktemp("emitted")
    net.initialize(seed=1)
    for p in net.parameters().values():
        p.set_data(rng.uniform(0.5, 1.5, p.shape))
    x = rng.normal(size=(6, 5)).astype("float32")
    graph = cavs.Graph.from_children([[], [0], [1], [], [3], [4]], {"x": x})
    net.hybridize("reference")
    want = run(net, Score(), graph)
    net.hybridize("tvm", threads=1, cache=cache)
    return run(net, Score(), graph), want


def test_sites_of_a_network_drop_what_the_reference_drops(step: tuple) -> None:
    for got, want in zip(*step, strict=True):
        assert set(got) == set(want)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)


def test_no_product_of_32_bits_is_marked(step: tuple, emitted: list[str]) -> None:
    text = "\n".join(emitted)
    assert marked_products(text) == []
    signed = [m - 2**32 if m >= 2**31 else m for m in dropout.MULTIPLIERS]
    for factor in signed:  # both products of the hash are there, in vectors and for a vertex
        assert re.search(rf"= mul <\d+ x i32> .*\(i32 {factor}\)", text)
        assert re.search(rf"= mul i32 .*, {factor}\b", text)


def test_no_product_of_32_bits_is_marked_in_a_training_step(tmp_path: Path) -> None:
    net = cavs.Network(cavs.nn.TreeLSTM(7, 6, 8, 3, dropout=0.25))
    net.initialize(seed=1)
    net.hybridize("tvm", threads=1, cache=tmp_path)
    trainer = cavs.Trainer(net.parameters(), "adam", lr=0.01, cache=tmp_path / "own")
    words = {"word": [1, 2, 0], "label": [0, 1, 2]}
    graph = cavs.Graph.from_children([[], [], [0, 1]], words)
    with recorded_llvm() as texts:
        with cavs.record():
            loss = cavs.loss.SoftmaxCrossEntropy()(net(cavs.batch([graph] * 40)))
        loss.backward()
        trainer.step(40)
    text = "\n".join(texts)
    assert marked_products(text) == []
    kinds = set(re.findall(r"define .*@__tvm_ffi_([a-z]+)_", text))
    assert kinds >= {"direct", "outer", "pack", "plan", "product", "region", "update"}, kinds
