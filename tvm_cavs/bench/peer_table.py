"""Comparisons -> a table of at most 80 columns for every workload and mode."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence

from .compare import Comparison, PeerResult


def peer_table(results: Sequence[Comparison]) -> str:
    """Milliseconds a batch, and for each peer how many times longer it takes than tvm_cavs."""
    blocks = [
        "\n".join(block(list(group)))
        for _, group in itertools.groupby(results, key=lambda r: r.ours.mode)
    ]
    notes = dict.fromkeys(
        f"{peer.system}, {peer.mode}, hidden {peer.hidden}, batch {peer.batch}: {peer.note}"
        for result in results
        for peer in result.peers
        if peer.note
    )
    return "\n\n".join([*blocks, *(textwrap.fill(note, 80) for note in notes)])


def block(results: Sequence[Comparison]) -> Iterator[str]:
    """The lines of one mode."""
    first = results[0].ours
    peers = [peer.system for peer in results[0].peers]
    clock = f"{first.threads} thread(s), {first.clock} time, ms a batch"
    yield f"{first.workload}, {first.mode}, {clock}"
    head = f"{'hidden':>6} {'batch':>5} {'floor':>6} {'ours':>6} {'share':>5}"
    yield (head + "".join(f"{name:>7} {'x ':>4}" for name in peers)).rstrip()
    for result in results:
        ours = result.ours
        yield (
            f"{ours.hidden:6d} {ours.batch:5d} {short(ours.share_of_floor * ours.ms_per_batch):>6} "
            f"{short(ours.ms_per_batch):>6} {ours.share_of_floor:5.2f}"
            + "".join(cells(peer) for peer in result.peers)
        )
    speeds = [peer.gflop_per_s for result in results for peer in result.peers if peer.gflop_per_s]
    yield (
        f"floor: the products alone at {results[-1].ours.sgemm_gflop_per_s:.0f} GFLOP/s, NumPy's "
        f"best; torch's best: {max(speeds, default=0.0):.0f}"
    )
    yield "share: floor / ours; x: a peer's time / ours in the same round, median"


def cells(peer: PeerResult) -> str:
    """A peer's two columns; a dash where it could not run."""
    if peer.ms_per_batch is None or peer.ratio is None:
        return f"{'-':>7} {'-':>4}"
    return f"{short(peer.ms_per_batch):>7} {short(peer.ratio)[:4]:>4}"


def short(value: float) -> str:
    """Three digits are what a measurement is worth."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 4)}f}"
