"""Real signals at random moments of training: whatever they interrupt, the next call is right.

    python scripts/interrupt.py --signals 20000

Child processes run an inference and a training step of a small Tree-LSTM, while a timer sends a
signal that Python turns into KeyboardInterrupt. Afterwards losses, gradients, outputs, parameters
and the optimizer's arrays have to be, to the last bit, those of a run without signals: the state
before the step or the one after it, never one between. Prints what was interrupted where; exits
with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import tvm_cavs as cavs
from tvm_cavs.bench.workloads import random_tree

LOSS = cavs.loss.SoftmaxCrossEntropy()
PACKAGE = Path(cavs.__file__).parent
A_CHILD = 1000  # signals that one process gets
VOCAB, N_CLASSES = 30, 3


def trees(n: int, seed: int) -> cavs.Graph:
    """A batch of n random binary trees with words at their leaves and labels everywhere."""
    rng = np.random.default_rng(seed)
    return cavs.batch([tree(rng, int(rng.integers(1, 12))) for _ in range(n)])


def tree(rng: np.random.Generator, n_leaves: int) -> cavs.Graph:
    """A random binary tree with words at its leaves and labels everywhere."""
    children = random_tree(rng, n_leaves)
    words = [None if below else int(rng.integers(VOCAB)) for below in children]
    labels = rng.integers(0, N_CLASSES, len(children)).tolist()
    return cavs.Graph.from_children(children, {"word": words, "label": labels})


class Work:
    """A network in one state, and what it has to give for each batch."""

    def __init__(self) -> None:
        self.net = cavs.Network(cavs.nn.TreeLSTM(VOCAB, 4, 6, N_CLASSES, dropout=0.25))
        self.net.initialize(seed=0)
        self.net.hybridize(threads=1)
        self.trainer = cavs.Trainer(self.net.parameters(), "adam", lr=0.01)
        self.batches = [trees(n, seed) for seed, n in enumerate((2, 60, 7, 250))]
        self.run(self.batches[0])
        self.before = self.state()
        self.expected = []
        for graph in self.batches:
            found = self.run(graph)
            self.expected.append((found, self.state()))
            self.restore()

    def state(self) -> list[np.ndarray]:
        held = [p.data.copy() for p in self.net.parameters().values()]
        return held + [a.copy() for a in self.trainer.state().values()]

    def restore(self) -> None:
        """Back to the state before a step."""
        self.net.step = 1
        parameters = self.net.parameters().values()
        for p, data in zip(parameters, self.before, strict=False):
            p.set_data(data)
        kept = self.before[len(parameters) :]
        self.trainer.load_state(dict(zip(self.trainer.state(), kept, strict=True)))

    def forget(self) -> None:
        """Let all buffers grow again, as in a new process."""
        executors: Any = (self.net.executor(), self.net.executor(LOSS))
        for executor in executors:
            executor._renew()

    def run(self, graph: cavs.Graph) -> list[np.ndarray]:
        """An inference and a training step."""
        found = [self.net(graph)["logits"]]
        with cavs.record():
            loss = LOSS(self.net(graph))
        loss.backward()
        found.append(np.array(float(loss)))
        for p in self.net.parameters().values():
            values = p.grad.values if isinstance(p.grad, cavs.RowSparse) else p.grad
            found.append(np.array(values))
        self.trainer.step(graph.n_graphs)
        return found


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def child(n_signals: int, seed: int) -> None:
    """Count to `n_signals`; print a line for each wrong thing, then where signals arrived."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    work, rng = Work(), random.Random(seed)
    start = time.perf_counter()
    for graph in work.batches:
        work.forget()
        work.run(graph)
        work.restore()
    took = (time.perf_counter() - start) / len(work.batches)
    where: Counter[str] = Counter()
    for _ in range(n_signals):
        if rng.random() < 0.5:
            work.forget()
        place = interrupted(work, rng.randrange(4), rng.uniform(1e-6, 1.2 * took))
        where[place] += 1
        if not (same(work.state(), work.before) or same(work.state(), work.after)):
            print(f"wrong: a state between two steps, after a signal in {place}")
        for k in rng.sample(range(4), 2):
            work.restore()
            found, after = work.expected[k]
            if not same(work.run(work.batches[k]), found) or not same(work.state(), after):
                print(f"wrong: batch {k} after a signal in {place}")
        work.restore()
    for place, n in where.most_common():
        print(f"at {n} {place}")


def interrupted(work: Any, k: int, after: float) -> str:
    """Run batch k with a signal on its way; the part of the package that it interrupted."""
    work.after = work.expected[k][1]
    place = "nothing, it came after the step"
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            work.run(work.batches[k])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = [Path(f.filename) for f in frames]
        ours = [f.relative_to(PACKAGE) for f in files if f.is_relative_to(PACKAGE)]
        place = str(ours[-1]) if ours else "the loop around it"
    return place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--signals", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.signals, given.seed)
        return 0
    where: Counter[str] = Counter()
    wrong = n_sent = 0
    while n_sent < given.signals:
        n = min(A_CHILD, given.signals - n_sent)
        command = [sys.executable, __file__, "--child", "--signals", str(n)]
        seed = ["--seed", str(given.seed + n_sent)]
        done = subprocess.run([*command, *seed], capture_output=True, text=True, check=False)
        if done.returncode:
            wrong += 1
            print(f"a process ended with {done.returncode}: {done.stderr[-500:]}")
        for line in done.stdout.splitlines():
            what, rest = line.split(" ", 1)
            if what == "at":
                count, place = rest.split(" ", 1)
                where[place] += int(count)
            else:
                wrong += 1
                print(line)
        n_sent += n
        print(f"{n_sent} signals, {wrong} wrong", flush=True)
    for place, n in where.most_common():
        print(f"{n:7} {place}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
