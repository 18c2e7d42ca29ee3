"""What one tree costs through the C library, beside Python's `deploy` and beside the kernels alone.

    python scripts/deployed_c.py --hidden 256 --leaves 40

A Tree-LSTM is exported to a temporary folder, and the library built there by cmake. Three take
turns in one thread, round after round: `cavs_run`, `model(tree)`, and the one call that runs all
kernels of a planned tree, less what that call costs for no kernels. Printed are medians over
rounds, and of the ratios of each round. Times are of the thread on its CPU, as other programs may
run too.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from concurrent_calls import VOCAB, tree

import tvm_cavs as cavs
from tvm_cavs.deploy import Model, load
from tvm_cavs.runtime import Workspace
from tvm_cavs.runtime.slices import SLICE_ORDER, SLICES

SOURCES = Path(__file__).resolve().parents[1] / "tvm_cavs" / "deploy" / "cpp"
OUTPUT = "logits"
TIMES = 3  # calls in a row
Call = Callable[[], object]


class Values(ctypes.Structure):
    """cavs_values."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("values", ctypes.c_void_p),
        ("n_values", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("present", ctypes.c_void_p),
    )


class Batch(ctypes.Structure):
    """cavs_batch."""

    _fields_ = (
        ("n_vertices", ctypes.c_int64),
        ("n_slots", ctypes.c_int64),
        ("child_ptr", ctypes.c_void_p),
        ("child", ctypes.c_void_p),
        ("index_bits", ctypes.c_int32),
        ("n_inputs", ctypes.c_int32),
        ("inputs", ctypes.POINTER(Values)),
    )


class Result(ctypes.Structure):
    """cavs_result."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("values", ctypes.c_void_p),
        ("n_values", ctypes.c_int64),
    )


class Library:
    """libcavs.so with one model."""

    def __init__(self, build: Path, folder: Path) -> None:
        make = ["cmake", "-S", str(SOURCES), "-B", str(build)]
        for command in (make, ["cmake", "--build", str(build), "--target", "cavs"]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self._library = ctypes.CDLL(str(build / "libcavs.so"))
        self._library.cavs_last_error.restype = ctypes.c_char_p
        self._model = ctypes.c_void_p()
        self._check(self._library.cavs_load(str(folder).encode(), ctypes.byref(self._model)))

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self._library.cavs_last_error().decode())

    def call(self, graph: cavs.Graph) -> tuple[Call, np.ndarray]:
        """The call that answers a graph, and where it puts the answer."""
        field = graph.inputs["word"]
        out = np.zeros((graph.n_vertices, 5), "float32")
        present = field.present.astype("uint8")
        held = graph.child_ptr, graph.child, field.values, present, out
        ptr, child, values, there, to = (array.ctypes.data for array in held)
        inputs = (Values * 1)(Values(b"word", values, field.values.size, 1, there))
        batch = Batch(graph.n_vertices, graph.child.size, ptr, child, 32, 1, inputs)
        results = (Result * 1)(Result(OUTPUT.encode(), to, out.size))
        run, model, given = self._library.cavs_run, self._model, ctypes.byref(batch)

        def call(held: object = (held, batch)) -> None:
            self._check(run(model, given, results, 1))

        return call, out


def kernels(model: Model, graph: cavs.Graph) -> tuple[Call, Call]:
    """The call that runs all kernels for a graph, and the same call for none of them."""
    batch, layout = model._runner.plan(graph), model._runner.prepared.layout
    workspace = Workspace(layout, model._weights.forward.memory)
    workspace.make_room(batch)
    workspace.run(batch, "forward")
    frames = batch.passes.frames(workspace.seen_by(batch))
    tensors = [batch.memory.tensor(b) for b in (SLICE_ORDER, SLICES)]

    def run(n: int) -> Call:
        # it holds the batch, whose memory would otherwise be the next one's
        return lambda held=batch: frames.run(0, n, layout.width, *tensors)

    return run(batch.cut.place("forward")[1]), run(0)


def seconds(calls: list[Call]) -> float:
    """Of one call."""
    for call in calls[:2]:
        call()
    start = time.thread_time()
    for call in calls:
        for _ in range(TIMES):
            call()
    return (time.thread_time() - start) / len(calls) / TIMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--leaves", type=int, default=40, help="of a tree (default: 40)")
    parser.add_argument("--rounds", type=int, default=101)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    graphs = [tree(rng, given.leaves) for _ in range(10)]
    net = cavs.Network(cavs.nn.TreeLSTM(VOCAB, given.hidden, given.hidden, 5))
    net.initialize(seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        net.export(folder)
        library, model = Library(Path(scratch) / "build", folder), load(folder)
        through_c = [library.call(g) for g in graphs]
        alone = [kernels(model, g) for g in graphs]
        calls: dict[str, list[Call]] = {
            "C": [call for call, _ in through_c],
            "Python": [lambda g=g: model(g) for g in graphs],  # type: ignore[misc]
            "kernels": [call for call, _ in alone],
            "none": [call for _, call in alone],
        }
        rounds = [{k: seconds(v) for k, v in calls.items()} for _ in range(given.rounds)]
        same = all(
            np.array_equal(out, model(g)[OUTPUT])
            for (_, out), g in zip(through_c, graphs, strict=True)
        )
    print("answers equal to the last bit:", same)
    for each in rounds:
        each["kernels"] -= each["none"]
    print(
        f"one tree of {given.leaves} leaves, hidden {given.hidden}; the fastest round in brackets"
    )
    for name in ("C", "Python", "kernels"):
        times = [1e6 * r[name] for r in rounds]
        print(f"{name}: {median(times):.1f} us ({min(times):.1f})")
    for name in ("C", "Python"):
        ratios = sorted(r[name] / r["kernels"] for r in rounds)
        quarter = len(ratios) // 4
        low, high = ratios[quarter], ratios[-quarter - 1]
        print(f"{name} / kernels alone: {median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
