"""The law: batched execution equals the reference run one vertex at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tvm_cavs as cavs
from helpers import gradient_check
from helpers.random_graphs import random_graph
from tvm_cavs.graph.graph import Graph
from tvm_cavs.nn.loss import LossFunction

TOLERANCE = 1e-4  # float32, relative to the largest element
N_GRAPHS = 24
SIZES = (1, 2, 3, 7, 20, 64)


@dataclass
class Case:
    """A network with its loss, random graphs, and the reference's results graph by graph."""

    net: cavs.Network
    loss: LossFunction
    graphs: list[Graph]
    outputs: list[dict[str, np.ndarray]]
    losses: list[dict[str, np.ndarray]]
    gradients: list[dict[str, np.ndarray]]


def dense(parameter: cavs.Parameter) -> np.ndarray:
    """The gradient as a dense copy."""
    assert parameter.grad is not None
    return np.array(gradient_check.dense(parameter.grad, parameter.shape))


def run(net: cavs.Network, loss: LossFunction, graph: Graph):  # type: ignore[no-untyped-def]
    """Inference outputs, training outputs and gradients of one batch, at a fixed step."""
    net.step = 5
    outputs = {name: value.copy() for name, value in net(graph).items()}
    with cavs.record():
        result = loss(net(graph))
    result.backward()
    training = {name: value.copy() for name, value in result.outputs.items()}
    return outputs, training, {name: dense(p) for name, p in net.parameters().items()}


def make_case(
    function: cavs.VertexFunction,
    loss: LossFunction,
    cache: Path,
    threads: int,
    n: int,
    target: object = "host",
) -> Case:
    net = cavs.Network(function)
    net.initialize(seed=3)
    rng = np.random.default_rng(11)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 0.5, p.shape))
    net.seed(99)
    made = [random_graph(rng, function.arity, int(rng.integers(1, 9))) for _ in range(n)]
    graphs = list(cavs.data.Dataset.from_graphs(made).graphs)
    net.hybridize("reference")
    results = [run(net, loss, g) for g in graphs]
    net.hybridize("tvm", threads=threads, cache=cache, target=target)
    return Case(net, loss, graphs, *map(list, zip(*results, strict=True)))  # type: ignore[arg-type]


def near(got: np.ndarray, want: np.ndarray, what: str, tolerance: float = TOLERANCE) -> None:
    scale = max(1e-3, float(np.abs(want).max(initial=0)))
    error = float(np.abs(got - want).max(initial=0)) / scale
    assert got.shape == want.shape and error < tolerance, (
        f"{what}: off by {error:.1e} of {scale:.1e}"
    )


def compositions(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of 1 to 64 graphs in random order; in the largest, graphs stand several times."""
    for size in SIZES:
        if size <= 3 * n:
            yield rng.permutation(np.arange(max(n, size)) % n)[:size]


def assert_batch(case: Case, chosen: Sequence[int] | np.ndarray) -> None:
    """One batch of these graphs gives what the reference gives graph by graph."""
    batch = cavs.batch([case.graphs[i] for i in chosen])
    outputs, training, gradients = run(case.net, case.loss, batch)
    for got, want in ((outputs, case.outputs), (training, case.losses)):
        for name in want[0]:
            joined = np.concatenate([want[i][name] for i in chosen])
            near(got[name], joined, f"{name}, {len(chosen)} graphs")
    for name in gradients:
        total = sum(case.gradients[i][name] for i in chosen)
        assert isinstance(total, np.ndarray)
        near(gradients[name], total, f"gradient of {name}, {len(chosen)} graphs")


def assert_law(case: Case) -> None:
    """Batches of all sizes; all kinds are compiled at once, which takes half the time.

    That kinds come batch by batch is tested in test_executor.
    """
    case.net.prepare(case.graphs, case.loss)
    case.net.prepare(case.graphs)
    for chosen in compositions(len(case.graphs), np.random.default_rng(5)):
        assert_batch(case, chosen)
