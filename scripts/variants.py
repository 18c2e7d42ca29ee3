"""What a changed model compiles anew, in kernels and seconds: `scripts/variants.py [HIDDEN]`.

A Tree-LSTM is prepared for training and inference with an empty kernel cache, then the same one and
variants of it with that cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import numpy as np

import tvm_cavs as cavs
from tvm_cavs.bench.workloads import random_tree
from tvm_cavs.compiler import Compiler

N_WORDS, N_TREES, N_LEAVES = 50, 64, 20


def prepare(cache: str, embedding: int, hidden: int, n_classes: int = 5, dropout: float = 0) -> str:
    """Compile what a network needs that is not in the cache; says how much that was."""
    net = cavs.Network(cavs.nn.TreeLSTM(N_WORDS, embedding, hidden, n_classes, dropout=dropout))
    net.initialize(seed=0)
    net.hybridize("tvm", threads=1, cache=cache, records=False)
    batch, n_kernels, make = trees(n_classes), 0, Compiler.executables

    def counted(self: Compiler, forms: Any, n_parts: int) -> list[Any]:
        nonlocal n_kernels
        n_kernels += len(forms)
        return make(self, forms, n_parts)

    Compiler.executables = counted  # type: ignore[method-assign]
    try:
        of_cpu, wall = time.process_time(), time.perf_counter()
        net.prepare([batch], cavs.loss.SoftmaxCrossEntropy("logits", "label"))
        net.prepare([batch])
        of_cpu, wall = time.process_time() - of_cpu, time.perf_counter() - wall
    finally:
        Compiler.executables = make  # type: ignore[method-assign]
    return f"{n_kernels:3} kernels compiled, {of_cpu:5.2f} s of CPU, {wall:5.2f} s"


def trees(n_classes: int) -> cavs.Graph:
    """A batch of random trees with a word at every leaf and a label at every vertex."""
    rng, made = np.random.default_rng(0), []
    for _ in range(N_TREES):
        children = random_tree(rng, N_LEAVES)
        words = [None if c else int(rng.integers(N_WORDS)) for c in children]
        labels = rng.integers(n_classes, size=len(children)).tolist()
        made.append(cavs.Graph.from_children(children, {"word": words, "label": labels}))
    return cavs.batch(made)


def main() -> None:
    hidden = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    with tempfile.TemporaryDirectory() as cache:
        print("the first network  ", prepare(cache, hidden, hidden))
        print("the same           ", prepare(cache, hidden, hidden))
        print("two classes        ", prepare(cache, hidden, hidden, n_classes=2))
        print("dropout            ", prepare(cache, hidden, hidden, dropout=0.1))
        print("half the embedding ", prepare(cache, hidden // 2, hidden))


if __name__ == "__main__":
    main()
