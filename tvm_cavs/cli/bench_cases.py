"""What `tvm-cavs bench` was asked for -> the times of cases, as a table or as lines of JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..bench.ablate import ablate, ablation_table
from ..bench.ablation_plot import save_ablations
from ..bench.compare import Peers, compare
from ..bench.measure import Case, measure, profile_case
from ..bench.names import OFF, measurable
from ..bench.peer_plot import save_comparison
from ..bench.peer_table import peer_table
from ..bench.sgemm import Sgemm
from ..bench.table import table
from ..bench.workloads import WORKLOADS, Workload
from ..errors import CavsError
from ..profiling import to_json
from ..runs import write_whole
from .output import put, put_table


def cases(given: argparse.Namespace, workload: Workload) -> Iterator[Case]:
    for mode in given.mode:
        for hidden in given.hidden or workload.hidden:
            embedding = given.embedding or workload.embedding or hidden
            for batch in given.batch or workload.batch:
                yield Case(
                    hidden,
                    embedding,
                    batch,
                    mode,
                    given.threads,
                    given.clock,
                    given.precision,
                    given.overlap,
                )


def ablations(given: argparse.Namespace, workload: Workload) -> None:
    """What each optimisation is worth in every case."""
    results, switches = [], given.ablate or measurable(given.clock)
    if left_out := not given.ablate and set(OFF) - set(switches):
        print(f"not told by --clock {given.clock}: {', '.join(left_out)}", file=sys.stderr)
    for case in cases(given, workload):
        results.append(ablate(workload, case, given.rounds, switches))
        for row in results[-1].rows() if given.json else ():
            put(json.dumps(row))
    if not given.json:
        put(ablation_table(results))
    if given.plot:
        draw(given.plot, lambda path: save_ablations(path, results), "plot")


def comparisons(given: argparse.Namespace, workload: Workload) -> None:
    """tvm_cavs and its peers in every case."""
    results = []
    with (
        Sgemm(given.threads, given.clock) as sgemm,
        Peers(workload.name, given.threads, given.mkl, given.precision) as peers,
    ):
        for case in cases(given, workload):
            results.append(compare(workload, case, given.rounds, sgemm, peers))
            for row in results[-1].rows() if given.json else ():
                put(json.dumps(row))
    if not given.json:
        put(peer_table(results))
    if given.plot:
        draw(given.plot, lambda path: save_comparison(path, results), "bench")


def draw(path: Path, save: Callable[[Path], bool], extra: str) -> None:
    """Save a picture.

    Raises:
        CavsError: matplotlib is missing, or the file cannot be written.
    """
    try:
        saved = save(path)
    except OSError as error:
        raise CavsError(
            f"--plot {path} cannot be written: {error.strerror}. Name another file; the numbers "
            "are those printed above."
        ) from error
    if not saved:
        raise CavsError(f"--plot needs matplotlib: pip install 'tvm_cavs[{extra}]'")


def times(given: argparse.Namespace, workload: Workload) -> None:
    """The time of every case, and with --profile where it goes."""
    results = []
    with Sgemm(given.threads, given.clock) as sgemm:
        for case in cases(given, workload):
            results.append(measure(workload, case, given.rounds, sgemm))
            if given.profile:
                found = profile_case(workload, case, sgemm.best)
                print(f"{case}\n{found}\n", file=sys.stderr)
                if given.trace:
                    write_whole(given.trace, to_json(found))
            if given.json:
                put(json.dumps(results[-1].row()))
    if not given.json:
        put_table(table(results))


def run(given: argparse.Namespace) -> None:
    """Time what the arguments say."""
    workload = WORKLOADS[given.workload](given.data)
    if given.dropout is not None:
        workload = replace(workload, dropout=given.dropout)
    if given.peers:
        comparisons(given, workload)
    elif given.ablate is not None:
        ablations(given, workload)
    else:
        times(given, workload)
