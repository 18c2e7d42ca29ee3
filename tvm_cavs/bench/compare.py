"""Time tvm_cavs and its peers on the same batches in turn, after their outputs were found equal.

Every round each system goes through all batches, and a ratio is that of one round, so that what
else the machine does falls out of it. Each round begins with another system.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import BenchError, PeerError
from ..graph import Graph, batch
from ..language import RowSparse
from ..nn import Network, SoftmaxCrossEntropy, record
from .measure import Case, Result, Round, Times, flop_of, parts_of, round_of, summarise
from .peers import OF_BF16, PEERS
from .peers.mkl import unlock
from .peers.process import Peer, check_torch
from .sgemm import Sgemm
from .workloads import Workload

TOLERANCE = 1e-4  # of the largest value of an output or a gradient
# A ReLU whose input is within rounding of 0 is open in one system and shut in another; all that is
# below it then differs. One such unit among millions was found to move U's gradient by 2e-3.
KINK_TOLERANCE = 1e-2
BF16_TOLERANCE = 5e-2  # torch.autocast keeps states in bfloat16 too
OURS = "tvm_cavs"
MAY_FAIL = ("compile",)  # what it can compile depends on torch's version and on a C++ compiler


@dataclass(frozen=True)
class PeerResult:
    """A measured peer. `ratio`: its time by that of tvm_cavs, the median over rounds.

    `note` says why there is no time. `gflop_per_s`: of torch's product of 1024 x 1024 matrices.
    `overlap` is that of tvm_cavs; peers run one batch after the other.
    """

    system: str
    workload: str
    hidden: int
    embedding: int
    batch: int
    mode: str
    threads: int
    clock: str
    precision: str
    overlap: bool
    ms_per_batch: float | None = None
    ratio: float | None = None
    gflop_per_s: float = 0.0
    note: str = ""

    def row(self) -> dict[str, Any]:
        """The fields by name, numbers rounded to what they are worth."""
        return {
            k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class Comparison:
    """One case of all systems."""

    ours: Result
    peers: tuple[PeerResult, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object a system."""
        return [
            {"system": OURS, **self.ours.row(), "ratio": 1.0},
            *(peer.row() for peer in self.peers),
        ]


class Peers:
    """The processes of a workload's peers, for all its cases, started by `with`.

    Args:
        mkl: "unlocked" gives torch the fastest kernels of its MKL, "installed" what pip gives.
        precision: with "bf16" those that torch.autocast can round.

    Raises:
        TargetError: PyTorch, or the C compiler that unlocking takes, is missing.
        BenchError: the workload has no peers.
    """

    def __init__(
        self, workload: str, threads: int, mkl: str = "unlocked", precision: str = "float32"
    ) -> None:
        if workload not in PEERS:
            raise BenchError(
                f"workload {workload} has no peers; those of {', '.join(PEERS)} are written"
            )
        check_torch()
        self._workload, self._threads, self._mkl = workload, threads, mkl
        rounds = precision == "bf16"
        self._names = [n for n in PEERS[workload] if n in OF_BF16 or not rounds]
        self.peers: list[Peer] = []

    def ready(self, case: Case, expected: dict[str, np.ndarray]) -> dict[str, str]:
        """Start all of them on a case and compare; why, by name, where one cannot run.

        Raises:
            BenchError: one computes something else, or cannot run and should.
        """
        path, failed = self.folder / "expected.npz", {}
        np.savez(path, **expected)  # type: ignore[arg-type]
        for peer in self.peers:
            try:
                peer.start(case)
                peer.check(path, tolerance(self._workload, case))
                peer.round()
            except PeerError as error:
                if peer.system not in MAY_FAIL:
                    raise BenchError(f"peer {peer.system}, {case}: {error}") from None
                failed[peer.system] = str(error)
        return failed

    def __enter__(self) -> Peers:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            variables = unlock(self.folder) if self._mkl == "unlocked" else {}
            for name in self._names:
                self.peers.append(Peer(name, self._workload, self._threads, variables))
                stack.callback(self.peers[-1].close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def tolerance(workload: str, case: Case) -> float:
    """How far a peer's outputs may be from ours, relative to the largest value."""
    if case.precision == "bf16":
        return BF16_TOLERANCE
    return KINK_TOLERANCE if workload == "treefc" and case.mode == "train" else TOLERANCE


def outputs(net: Network, case: Case, graphs: Sequence[Graph]) -> dict[str, np.ndarray]:
    """What peers must compute: the logits of all vertices, or the loss and all gradients."""
    made = batch(graphs)
    if case.mode == "infer":
        return {"logits": net(made)["logits"]}
    with record():
        loss = SoftmaxCrossEntropy()(net(made))
    loss.backward()
    found = {name: dense(p.grad, p.shape) for name, p in net.parameters().items()}
    return {**found, "loss": np.array(float(loss))}


def dense(gradient: np.ndarray | RowSparse | None, shape: tuple[int, ...]) -> np.ndarray:
    """A copy with all rows: float32[shape]."""
    found = np.zeros(shape, "float32")
    if isinstance(gradient, RowSparse):
        found[gradient.rows] = gradient.values
    elif gradient is not None:
        found[...] = gradient
    return found


def compare(workload: Workload, case: Case, rounds: int, sgemm: Sgemm, peers: Peers) -> Comparison:
    """Run a case `rounds` times on every system, after a round that warms it up.

    Raises:
        BenchError: a peer computes something else.
        CavsError: as `measure`.
    """
    net = workload.network(case.hidden, case.embedding)
    net.hybridize("tvm", sharing=False, threads=case.threads, precision=case.precision)
    parts = parts_of(workload, case.batch)
    failed = peers.ready(case, outputs(net, case, parts[0]))
    our_round = round_of(net, workload, case, parts)
    our_round()
    ours, theirs, speeds = in_turn(
        our_round, [p for p in peers.peers if p.system not in failed], rounds, sgemm
    )
    flop = flop_of(net, case, parts)
    by_batch = [list(clocks) for clocks in zip(*ours, strict=True)]
    totals = np.array([[times.total for times in clocks] for clocks in ours])
    return Comparison(
        summarise(workload.name, case, by_batch, flop, sgemm.best, speeds),
        tuple(
            PeerResult(p.system, workload.name, **asdict(case), note=failed[p.system])
            if p.system in failed
            else peer_result(workload.name, case, p, np.array(theirs[p.system]), totals)
            for p in peers.peers
        ),
    )


def in_turn(
    our_round: Round, peers: Sequence[Peer], rounds: int, sgemm: Sgemm
) -> tuple[list[list[Times]], dict[str, list[list[float]]], list[float]]:
    """For every round, for every batch: our times, and every peer's seconds; NumPy's speed."""
    ours: list[list[Times]] = []
    speeds: list[float] = []
    theirs: dict[str, list[list[float]]] = {peer.system: [] for peer in peers}
    order: deque[Peer | None] = deque([None, *peers])
    for _ in range(rounds):
        speeds.append(sgemm.measure())
        for peer in order:
            if peer is None:
                ours.append(our_round())
            else:
                theirs[peer.system].append(peer.round())
        order.rotate(-1)
    return ours, theirs, speeds


def peer_result(
    workload: str, case: Case, peer: Peer, seconds: np.ndarray, ours: np.ndarray
) -> PeerResult:
    """Medians over rounds: of every batch, then averaged; and of the ratio of whole rounds.

    Shapes: seconds, ours float64[rounds, batches].
    """
    return PeerResult(
        peer.system,
        workload,
        **asdict(case),
        ms_per_batch=1e3 * float(np.median(seconds, axis=0).mean()),
        ratio=float(np.median(seconds.sum(1) / ours.sum(1))),
        gflop_per_s=peer.gflop_per_s,
    )
