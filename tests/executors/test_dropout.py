"""Dropout: its rate, its independence of batching, and what decides a mask."""

import itertools

import numpy as np
import pytest

from helpers.random_graphs import N_CLASSES, N_WORDS, random_dag
from tvm_cavs.dropout import mix, scale, site_key, vertex_keys
from tvm_cavs.errors import TraceError
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.reference import ReferenceExecutor
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.vertex import Vertex, VertexFunction, trace
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import SoftmaxCrossEntropy
from tvm_cavs.nn.network import Network

IDS = np.arange(4000)


def kept(rate: float, key: int, width: int = 50) -> np.ndarray:
    return scale(rate, key, vertex_keys(IDS), width) != 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_scale_and_independence(rate: float) -> None:
    factor = scale(rate, site_key(0, 0, 0), vertex_keys(IDS), 50)
    assert set(np.unique(factor)) == {0.0, 1 / (1 - rate)}
    n = factor.size
    assert abs((factor == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    on = (factor != 0) * 1.0
    spread = np.sqrt(rate * (1 - rate))
    assert np.abs(on.mean(0) - (1 - rate)).max() < 5 * spread / np.sqrt(len(on))  # units
    assert np.abs(on.mean(1) - (1 - rate)).max() < 6 * spread / np.sqrt(on.shape[1])  # vertices
    centred = (on - on.mean()) / on.std()
    for a, b in [(centred[:, :-1], centred[:, 1:]), (centred[:-1], centred[1:])]:
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size)  # neighbours do not know each other


def test_rare_units_are_dropped() -> None:
    """A rate of 2^-18 is told from none: 16 of 2^22 units."""
    factor = scale(2.0**-18, site_key(1, 0, 0), vertex_keys(np.arange(1 << 11)), 1 << 11)
    assert 3 < np.count_nonzero(factor == 0) < 40


def test_masks_differ_by_seed_step_site_and_vertex() -> None:
    keys = [site_key(*k) for k in itertools.product((0, 1, 2**33), (0, 1, 2**31), (0, 1, 2))]
    assert len(set(keys)) == len(keys)
    masks = [kept(0.5, key) for key in keys[:6]]
    for a, b in itertools.combinations(masks, 2):
        assert abs((a == b).mean() - 0.5) < 0.01
    assert len(np.unique(kept(0.5, keys[0]), axis=0)) == len(IDS)
    assert (kept(0.5, keys[0]) == kept(0.5, keys[0])).all()


def test_large_and_equal_identities() -> None:
    ids = np.array([0, 1, 2**32, 2**32 + 1, 2**40, 2**40 + 1, -1, 7, 7])
    keys = vertex_keys(ids)
    assert len(set(keys.tolist())) == 8 and keys[7] == keys[8]


def test_a_unit_is_dropped_below_the_threshold_and_kept_at_it() -> None:
    ids, key = vertex_keys(IDS), site_key(1, 2, 3)
    for place, bits in enumerate((mix(mix(ids[:9] ^ np.uint32(key))) >> np.uint32(8)).tolist()):
        dropped = [scale((bits + k) / 2**24, key, ids, 1)[place, 0] == 0 for k in (-1, 0, 1)]
        assert dropped == [False, False, True]


def test_mix_is_one_to_one_on_a_sample() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 1 << 16, dtype="uint64").astype("uint32")
    assert len(np.unique(mix(x))) == len(np.unique(x))


def test_a_mask_does_not_depend_on_the_batch_but_on_the_step() -> None:
    network = Network(CELLS["tree_lstm"](N_WORDS, 3, 4, N_CLASSES, dropout=0.5))
    network.initialize(seed=1)
    rng = np.random.default_rng(4)
    graphs = []
    for first in (100, 0, 2**35):
        g = random_dag(rng, 2)
        ids = np.arange(first, first + g.n_vertices)
        graphs.append(Graph(g.child_ptr, g.child, g.level, ids, g.graph_ptr, g.inputs))
    programs = network.programs(SoftmaxCrossEntropy())

    def losses(graphs: list[Graph], seeds: Seeds) -> list[np.ndarray]:
        executor = ReferenceExecutor(programs, network.parameters())
        together = executor.forward(batch(graphs), seeds).outputs["loss"]
        return np.split(together, np.cumsum([g.n_vertices for g in graphs])[:-1])

    seeds = Seeds(seed=5, step=9)
    for graph, mine in zip(graphs, losses(graphs, seeds), strict=True):
        np.testing.assert_array_equal(losses([graph], seeds)[0], mine)
    for graph, mine in zip(graphs[::-1], losses(graphs[::-1], seeds), strict=True):
        np.testing.assert_array_equal(losses([graph], seeds)[0], mine)
    a, b, c = (losses(graphs, s)[0] for s in (seeds, Seeds(5, 10), Seeds(6, 9)))
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


class Dropped(VertexFunction):
    arity = 1

    def __init__(self, rate: float) -> None:
        self.state, self.rate = {"h": 3}, rate

    def forward(self, v: Vertex) -> None:
        x = v.pull("x", (3,))
        a, b = v.dropout(x, 0.5), v.dropout(x, self.rate)
        v.scatter(h=a + b + v.dropout(x, 0.25))


def test_sites_are_numbered_and_inference_has_none() -> None:
    def sites(rate: float, training: bool) -> list[int]:
        program = trace(Dropped(rate), training=training)
        return [c["site"] for _, c in program.select("dropout")]

    assert sites(0.5, True) == [0, 1, 2]
    assert sites(0.0, True) == [0, 2]  # a site keeps its number when another is switched off
    assert sites(0.5, False) == []


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_a_rate_out_of_range_is_an_error(rate: float) -> None:
    said = rf"^in Dropped, dropout \(test_dropout.py, .*rate: .* below 1, given {rate}$"
    with pytest.raises(TraceError, match=said):
        trace(Dropped(rate), training=True)
