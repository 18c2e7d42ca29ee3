"""Time training and inference:  python scripts/bench.py [--hidden 256 512] [--batch 64] ...

Prints a table, or with --json one JSON object a line. Workload sst (--data PATH, a treebank's
train.txt) gives the sentences a second of training by its recipe.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tvm_cavs.bench import CLOCKS, WORKLOADS, Case, Result, Sgemm, Workload, measure, profile_case
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: time this process has computed; for one thread on a busy machine",
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
    parser.add_argument("--json", action="store_true", help="print JSON lines, no table")
    given = parser.parse_args(arguments)
    counts = [given.threads, given.rounds, *(given.hidden or ()), *(given.batch or ())]
    if min([*counts, given.embedding or 1]) < 1:
        parser.error("--hidden, --embedding, --batch, --threads and --rounds are 1 or more")
    if given.trace and not given.profile:
        parser.error("--trace writes what --profile finds; give both")
    if given.clock == "cpu" and given.threads > 1:
        parser.error("--clock cpu adds up the time of all threads; use it with --threads 1")
    return given


def cases(given: argparse.Namespace, workload: Workload) -> Iterator[Case]:
    for mode in given.mode:
        for hidden in given.hidden or workload.hidden:
            embedding = given.embedding or workload.embedding or hidden
            for batch in given.batch or workload.batch:
                yield Case(hidden, embedding, batch, mode, given.threads, given.clock)


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
    title = f"{first.workload}, {first.threads} thread(s), {first.clock} time"
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
    """Three digits are what a measurement is worth."""
    if not isinstance(value, float):
        return str(value)
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 5)}f}"


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    workload = WORKLOADS[given.workload](given.data)
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
