"""What an exported model costs: its size, its first answer, one tree beside training's process.

    python scripts/deployed.py --hidden 256 --leaves 40

A Tree-LSTM is exported to a temporary folder. `net(tree)` and `model(tree)` take turns in one
process, round after round, on one thread; printed are medians over rounds, and of the ratio of
each round. The first answer is that of a new process, started as often as --starts says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from concurrent_calls import VOCAB, tree

import tvm_cavs as cavs
from tvm_cavs.data import to_json
from tvm_cavs.deploy import load

FIRST = """
from tvm_cavs.deploy import load
model = load({folder!r})
model(model.read(open({text!r}).read()))
"""


def seconds(call: object, graphs: list[cavs.Graph]) -> float:
    """Of one graph."""
    start = time.perf_counter()
    for graph in graphs:
        call(graph)  # type: ignore[operator]
    return (time.perf_counter() - start) / len(graphs)


def first_answer(python: str, folder: Path, text: Path) -> float:
    """Seconds from the start of a process to its first answer."""
    code = FIRST.format(folder=str(folder), text=str(text))
    start = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--leaves", type=int, default=40, help="of a tree (default: 40)")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--python", default=sys.executable, help="that answers first")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    graphs = [tree(rng, given.leaves) for _ in range(50)]
    net = cavs.Network(cavs.nn.TreeLSTM(VOCAB, given.hidden, given.hidden, 5))
    net.initialize(seed=0)
    net.hybridize("tvm", threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, text = Path(scratch) / "model", Path(scratch) / "tree.jsonl"
        net.export(folder)
        text.write_text(to_json(graphs[0]))
        size = {path.name: path.stat().st_size for path in folder.iterdir()}
        print(f"artifact: {sum(size.values()) / 1e6:.2f} MB", size)
        model = load(folder)
        same = all(np.array_equal(net(g)["logits"], model(g)["logits"]) for g in graphs)
        print("answers equal to the last bit:", same)
        rounds = [(seconds(net, graphs), seconds(model, graphs)) for _ in range(given.rounds)]
        ratios = sorted(b / a for a, b in rounds)
        ours, deployed = (1e6 * median(times) for times in zip(*rounds, strict=True))
        quarter = len(ratios) // 4
        print(
            f"one tree of {given.leaves} leaves: in training's process {ours:.0f} us, exported "
            f"{deployed:.0f} us, ratio {median(ratios):.3f} "
            f"({ratios[quarter]:.3f} to {ratios[-quarter - 1]:.3f})"
        )
        starts = sorted(first_answer(given.python, folder, text) for _ in range(given.starts))
        print(f"first answer of a process: {median(starts):.2f} s ({starts[0]:.2f} at best)")


if __name__ == "__main__":
    main()
