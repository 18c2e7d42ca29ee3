"""The process of one peer: for every line of JSON on stdin, one on stdout.

    start    make the system for a case; the first `start` also gives the speed of torch.mm
    check    the largest deviation from given outputs, by name, relative to the largest value
    round    the seconds of every batch

An exception is answered as {"error": its text}, and the process goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..measure import Case, parts_of, warm_up
from ..sgemm import CLOCKS, SIZE, fastest_product
from ..workloads import WORKLOADS, Workload
from .systems import gradients, make


class Server:
    """One system; a case at a time."""

    def __init__(self, system: str, workload: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.system = system
        self.workload: Workload = WORKLOADS[workload](None)

    def start(self, case: dict[str, Any]) -> dict[str, Any]:
        """The system for this case, with the initial parameters."""
        self.case = Case(**case)
        self.parts = parts_of(self.workload, self.case.batch)
        net = self.workload.network(self.case.hidden, self.case.embedding)
        self.parameters = {name: p.data for name, p in net.parameters().items()}
        self._again()
        a, b, out = (torch.rand(SIZE, SIZE) for _ in range(3))
        now = CLOCKS[self.case.clock]
        return {"gflop_per_s": fastest_product(lambda: torch.mm(a, b, out=out), now)}

    def check(self, expected: str) -> dict[str, Any]:
        """Compare the first batch with the arrays of an .npz file."""
        with np.load(expected) as file:
            wanted = dict(file)
        if self.case.mode == "infer":
            with self._rounding():
                found = {"logits": self.run.infer(self.parts[0])}
        else:
            with self._rounding():
                loss, found = gradients(self.run, self.parts[0])
            found["loss"] = np.array(loss)
        self._again()
        return {"deviation": {name: deviation(found[name], wanted[name]) for name in wanted}}

    def round(self) -> dict[str, Any]:
        """Time every batch once, after `warm_up`."""
        now, times = CLOCKS[self.case.clock], []
        with self._rounding():
            warm_up(self._step, self.parts)
            for graphs in self.parts:
                start = now()
                self._step(graphs)
                times.append(now() - start)
        return {"seconds": times}

    def _rounding(self) -> Any:
        """Products of bfloat16 operands, where the case says so, as torch's users have them."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.case.precision == "bf16")

    def _again(self) -> None:
        self.run = make(self.system, self.workload.name, self.parameters)
        self._step: Callable[..., object] = self.run.infer
        if self.case.mode == "train":
            self._step = lambda graphs: self.run.train(graphs, self.workload.lr)


def deviation(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference by the largest value wanted; infinite where one is not a number."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))


def serve(system: str, workload: str, threads: int) -> None:
    """Answer until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(system, workload, threads)
    with torch.no_grad():
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(server, request.pop("do"))(**request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
