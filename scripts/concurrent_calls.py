"""How many more inferences a second several Python threads make on one network than one does.

    python scripts/concurrent_calls.py --hidden 256 --threads 1 2 4

Tree-LSTM, random binary trees, batches of --batch trees, one core a call. Numbers of threads take
turns, round after round; printed are medians over rounds, and ratios to one thread of the same
round.
"""

from __future__ import annotations

import argparse
import threading
import time
from statistics import median

import numpy as np

import tvm_cavs as cavs
from tvm_cavs.bench.workloads import random_tree

VOCAB = 100


def tree(rng: np.random.Generator, n_leaves: int) -> cavs.Graph:
    """A random binary tree with words at its leaves."""
    children = random_tree(rng, n_leaves)
    words = [None if below else int(rng.integers(VOCAB)) for below in children]
    return cavs.Graph.from_children(children, {"word": words})


def rate(net: cavs.Network, graphs: list[cavs.Graph], n_threads: int, seconds: float) -> float:
    """Calls a second of all threads together."""
    counts, together = [0] * n_threads, threading.Barrier(n_threads + 1)
    end = [0.0]

    def work(k: int) -> None:
        together.wait()
        n = 0
        while time.perf_counter() < end[0]:
            net(graphs[(k + n) % len(graphs)])
            n += 1
        counts[k] = n

    threads = [threading.Thread(target=work, args=(k,)) for k in range(n_threads)]
    for t in threads:
        t.start()
    start = time.perf_counter()
    end[0] = start + seconds
    together.wait()
    for t in threads:
        t.join()
    return sum(counts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1, help="trees of a call (default: 1)")
    parser.add_argument("--leaves", type=int, default=20, help="of a tree (default: 20)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    given = parser.parse_args()
    net = cavs.Network(cavs.nn.TreeLSTM(VOCAB, given.hidden, given.hidden, 5))
    net.initialize(seed=0)
    net.hybridize(threads=1)
    rng = np.random.default_rng(0)
    graphs = [cavs.batch([tree(rng, given.leaves) for _ in range(given.batch)]) for _ in range(16)]
    for n in given.threads:  # compiles, makes buffers grow
        rate(net, graphs, n, 0.3)
    rounds = [
        [rate(net, graphs, n, given.seconds) for n in given.threads] for _ in range(given.rounds)
    ]
    print("| threads | calls a second | ratio to the first |\n| --- | --- | --- |")
    for k, n in enumerate(given.threads):
        calls, ratio = median(r[k] for r in rounds), median(r[k] / r[0] for r in rounds)
        print(f"| {n} | {calls:,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
