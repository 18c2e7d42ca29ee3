"""What `tvm-cavs bench` was asked for -> the times of cases, as a table or as lines of JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from ..bench import (
    OFF,
    WORKLOADS,
    Case,
    Peers,
    Sgemm,
    Workload,
    ablate,
    ablation_table,
    compare,
    measurable,
    measure,
    peer_table,
    profile_case,
    save_ablations,
    save_comparison,
)
from ..bench.table import table
from ..errors import CavsError
from ..runlog import write_whole
from ..timeline import to_json


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
            print(json.dumps(row), flush=True)
    if not given.json:
        print(ablation_table(results))
    if given.plot and not save_ablations(given.plot, results):
        raise CavsError("--plot needs matplotlib: pip install 'tvm_cavs[plot]'")


def comparisons(given: argparse.Namespace, workload: Workload) -> None:
    """tvm_cavs and its peers in every case."""
    results = []
    with (
        Sgemm(given.threads, given.clock) as sgemm,
        Peers(workload.name, given.threads, given.mkl) as peers,
    ):
        for case in cases(given, workload):
            results.append(compare(workload, case, given.rounds, sgemm, peers))
            for row in results[-1].rows() if given.json else ():
                print(json.dumps(row), flush=True)
    if not given.json:
        print(peer_table(results))
    if given.plot and not save_comparison(given.plot, results):
        raise CavsError("--plot needs matplotlib: pip install 'tvm_cavs[bench]'")


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
                print(json.dumps(results[-1].row()), flush=True)
    if not given.json:
        Console().print(table(results))


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
