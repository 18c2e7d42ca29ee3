"""Time optional inputs against the same ones with zeros put in:  python scripts/optional_inputs.py

Trees of 1 to 9 vertices, each of which has every input with a chance of one half. Two networks run
the same batches in turn: one is given what there is, the other zeros for what is not. For each
number of inputs it prints the kinds of both, the first step (which compiles, nothing is cached) and
the steps after it, each as seconds with what there is, by seconds with zeros.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

import tvm_cavs as cavs


class Features(cavs.VertexFunction):
    """A binary tree's vertex with scalar inputs, all of them optional."""

    def __init__(self, n_inputs: int, hidden: int) -> None:
        self.n_inputs, self.state = n_inputs, {"h": hidden}
        self.W = [cavs.Parameter((1, hidden)) for _ in range(n_inputs)]
        self.U, self.O = cavs.Parameter((2 * hidden, hidden)), cavs.Parameter((hidden, 1))

    def forward(self, v: cavs.Vertex) -> None:
        x = cavs.concat(v.gather(0).h, v.gather(1).h) @ self.U
        for k, W in enumerate(self.W):
            x = x + v.pull(f"f{k}", 1) @ W
        h = cavs.tanh(x)
        v.scatter(h=h)
        v.push("prediction", h @ self.O)


def random_tree(rng: np.random.Generator, n_inputs: int) -> cavs.Graph:
    """A tree, or several, of which the last vertex has the target."""
    n = int(rng.integers(1, 10))
    children: list[list[int]] = [[] for _ in range(n)]
    for c in range(n - 1):
        free = [p for p in range(c + 1, n) if len(children[p]) < 2]
        if free:
            children[int(rng.choice(free))].append(c)
    inputs = {
        f"f{k}": [[float(rng.normal())] if rng.random() < 0.5 else None for _ in range(n)]
        for k in range(n_inputs)
    }
    return cavs.Graph.from_children(children, {**inputs, "target": [None] * (n - 1) + [[1.0]]})


def with_zeros(batch: cavs.Graph) -> cavs.Graph:
    """The same batch where every vertex has all inputs but the target."""
    filled = {name: field.values for name, field in batch.inputs.items() if name != "target"}
    return batch.with_inputs({**filled, "target": batch.inputs["target"]})


class Run:
    """A network that is trained on batches."""

    def __init__(self, batches: Sequence[cavs.Graph], given: argparse.Namespace, n: int) -> None:
        self.batches, self.size = batches, given.batch
        self.net = cavs.Network(Features(n, given.hidden))
        self.net.initialize(0)
        self.net.hybridize("tvm", threads=given.threads, cache=False)
        self.loss_fn = cavs.loss.SquaredError()
        self.trainer = cavs.Trainer(self.net.parameters(), "adam", lr=0.01)

    def step(self, batch: cavs.Graph) -> None:
        with cavs.record():
            loss = self.loss_fn(self.net(batch))
        loss.backward()
        self.trainer.step(self.size)

    def round(self) -> None:
        for batch in self.batches:
            self.step(batch)

    @property
    def n_kinds(self) -> int:
        return len(self.net.executor(self.loss_fn).kinds.kinds)  # type: ignore[attr-defined]


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(given: argparse.Namespace, n: int) -> str:
    """A line for one number of inputs."""
    rng = np.random.default_rng(0)
    graphs = [random_tree(rng, n) for _ in range(given.batches * given.batch)]
    batches = [cavs.batch(graphs[i : i + given.batch]) for i in range(0, len(graphs), given.batch)]
    runs = [Run(b, given, n) for b in (batches, list(map(with_zeros, batches)))]
    first = [seconds(lambda run=run: run.step(run.batches[0])) for run in runs]  # type: ignore[misc]
    for run in runs:
        run.round()
    times = [[seconds(run.round) / given.batches for run in runs] for _ in range(given.rounds)]
    low, ratio, high = statistics.quantiles([a / b for a, b in times], n=4)
    warm = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
    kinds = f"{runs[0].n_kinds:3}/{runs[1].n_kinds}"
    return (
        f"{n:6}  {kinds:>6}  {first[0]:6.1f}/{first[1]:5.1f} s = {first[0] / first[1]:4.2f}"
        f"  {warm[0]:7.3f}/{warm[1]:6.3f} ms = {ratio:4.2f} ({low:.2f} to {high:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, nargs="+", default=[3, 5, 7, 10])
    parser.add_argument("--hidden", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="trees of a batch")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21, help="over the same batches, in turn")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print("inputs   kinds           first step               steps after it")
    for n in given.inputs:
        print(compare(given, n), flush=True)


if __name__ == "__main__":
    main()
