"""Time training and inference:  python scripts/bench.py [--hidden 256 512] [--batch 64] ...

Prints a table, or with --json one JSON object a line. Workload sst (--data PATH, a treebank's
train.txt) gives the sentences a second of training by its recipe.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tvm_cavs.bench import (
    CLOCKS,
    OFF,
    WORKLOADS,
    Case,
    Peers,
    Result,
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
from tvm_cavs.errors import CavsError
from tvm_cavs.runlog import write_whole
from tvm_cavs.timeline import to_json


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), default="treelstm")
    parser.add_argument("--data", type=Path, metavar="PATH", help="a treebank's train.txt, for sst")
    parser.add_argument("--hidden", type=int, nargs="+")
    parser.add_argument("--embedding", type=int, help="width of a word (default: of the state)")
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--mode", choices=["train", "infer"], nargs="+", default=["train"])
    parser.add_argument(
        "--dropout",
        type=float,
        help="in training (default: the recipe's); 0 lets vertices be shared",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precision", choices=["float32", "bf16"], default="float32", help="of products' operands"
    )
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: time this process has computed; for one thread on a busy machine",
    )
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="plan a batch in a thread while the one before it runs, as training does",
    )
    parser.add_argument("--rounds", type=int, default=10, help="over the same batches; median")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time of a batch goes, per kernel"
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="with --profile: a timeline of the last case, for ui.perfetto.dev",
    )
    parser.add_argument(
        "--ablate",
        choices=OFF,
        nargs="*",
        metavar="NAME",
        help="time instead what is lost without one optimisation, in turn with all of them:\n"
        f"{', '.join(OFF)} (default: each; not overlap with --clock cpu)",
    )
    parser.add_argument(
        "--peers",
        choices=["torch"],
        help="time the same network written in PyTorch in turn (extra: bench)",
    )
    parser.add_argument(
        "--mkl",
        choices=["unlocked", "installed"],
        default="unlocked",
        help="with --peers, on AMD: torch's MKL with AVX-512 (needs a C compiler), or as it comes",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="with --ablate or --peers: a picture, PNG"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, no table")
    given = parser.parse_args(arguments)
    counts = [given.threads, given.rounds, *(given.hidden or ()), *(given.batch or ())]
    if min([*counts, given.embedding or 1]) < 1:
        parser.error("--hidden, --embedding, --batch, --threads and --rounds are 1 or more")
    if given.plot and given.ablate is None and given.peers is None:
        parser.error("--plot draws what --ablate or --peers finds; give one of them")
    if given.peers and (given.ablate is not None or given.precision != "float32"):
        parser.error("--peers compares float32 with everything on; not with --ablate, --precision")
    if given.trace and not given.profile:
        parser.error("--trace writes what --profile finds; give both")
    if given.dropout is not None and not 0 <= given.dropout < 1:
        parser.error("--dropout is 0 or more, and below 1")
    if given.clock == "cpu" and given.threads > 1:
        parser.error("--clock cpu adds up the time of all threads; use it with --threads 1")
    if given.clock == "cpu" and (given.overlap or "overlap" in (given.ablate or ())):
        parser.error("overlap saves waiting and no work: --clock cpu cannot tell; use --clock wall")
    if given.overlap and (given.peers or given.profile or given.ablate is not None):
        parser.error(
            "--overlap: --peers and --profile run one batch after the other, and --ablate has it "
            "in the full time already (--clock wall); leave it out"
        )
    return given


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


COLUMNS = {
    "mode": "mode",
    "hidden": "hidden",
    "batch": "batch",
    "ms_per_batch": "ms",
    "plan_ms": "plan ms",
    "samples_per_s": "samples/s",
    "product_gflop": "GFLOP",
    "share_of_floor": "of floor",
}


def table(results: list[Result]) -> Table:
    """One row a case; times in milliseconds a batch."""
    first = results[0]
    threads = f"{first.threads} thread(s)" + " + 1 planning ahead" * first.overlap
    title = f"{first.workload}, {first.precision}, {threads}, {first.clock} time"
    caption = (
        "ms and GFLOP of a batch; floor: the time of its products at "
        f"{results[-1].sgemm_gflop_per_s:.0f} GFLOP/s, NumPy's best"
    )
    made = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE,
    )
    for heading in COLUMNS.values():
        made.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        row = result.row()
        made.add_row(*(short(row[name]) for name in COLUMNS))
    return made


def short(value: object) -> str:
    """Three digits are what a measurement is worth; None is not a part of it."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 5)}f}"


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


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    workload = WORKLOADS[given.workload](given.data)
    if given.dropout is not None:
        workload = replace(workload, dropout=given.dropout)
    if given.peers:
        comparisons(given, workload)
        return 0
    if given.ablate is not None:
        ablations(given, workload)
        return 0
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
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CavsError as error:
        sys.exit(f"error: {error}")
