"""A system in a process of its own, which waits while others run.

One process a system: none shares another's allocator or pool of threads, torch may have the
environment it is fastest in, and a compiler that fails takes nothing with it. A process that waits
reads a pipe and computes nothing; only the threads of a pool go on spinning for a moment after
their last product, so that with two threads each round is followed by a pause.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import BenchError, PeerError, TargetError
from ..measure import Case
from ..sgemm import PAUSE, environment

# glibc keeps freed memory, so that large tensors are not mapped and cleared anew at every step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000"}


def check_torch() -> None:
    """PyTorch is there.

    Raises:
        TargetError: it is not; the message has the command.
    """
    if importlib.util.find_spec("torch") is None:
        raise TargetError(
            "--peers torch compares with PyTorch, which is not installed: "
            "pip install 'tvm_cavs[bench]', or pip install torch"
        )


class Peer:
    """A system of PEERS for one workload.

    Attributes:
        gflop_per_s: of its largest product, after `start`.
    """

    def __init__(
        self, system: str, workload: str, threads: int, variables: Mapping[str, str]
    ) -> None:
        self.system, self.gflop_per_s = system, 0.0
        self._pause = PAUSE if threads > 1 else 0.0
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tvm_cavs.bench.peers.serve", system, workload, str(threads)],
            env={
                **environment(threads, os.environ),
                **KEEP_MEMORY,
                "PYTHONPATH": path,
                **variables,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, case: Case) -> None:
        """Make the system for a case.

        Raises:
            PeerError: it cannot.
        """
        self.gflop_per_s = self._ask("start", case=asdict(case))["gflop_per_s"]

    def check(self, expected: Path, tolerance: float) -> None:
        """Its outputs for the first batch are those of an .npz file, or gradients and loss are.

        Raises:
            BenchError: they deviate by more than `tolerance` of the largest value.
            PeerError: there are none.
        """
        found = self._ask("check", expected=str(expected))["deviation"]
        wrong = {name: f"{by:.1e}" for name, by in found.items() if not by <= tolerance}
        if wrong:
            raise BenchError(
                f"peer {self.system} does not compute what tvm_cavs does: "
                f"{', '.join(f'{name} deviates by {by}' for name, by in wrong.items())} of its "
                f"largest value; expected at most {tolerance:.0e}. No times are worth comparing."
            )

    def round(self) -> list[float]:
        """Seconds of every batch, once.

        Raises:
            PeerError: it could not run one.
        """
        seconds: list[float] = self._ask("round")["seconds"]
        time.sleep(self._pause)
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, do: str, **values: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._ended()) from None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._ended())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _ended(self) -> str:
        return f"its process ended with code {self._process.wait()}; stderr has the reason"
