"""The arguments of `tvm-cavs bench` -> what to time; what does not go together is refused."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..bench.names import CLOCKS, OFF, WORKLOADS
from .parser import FORM, make_parser

WHAT = (
    "Time training and inference. Prints a table, or with --json one JSON object a line.",
    "Workload sst gives the sentences a second of training by its recipe; --data is a treebank's "
    "train.txt.",
)
EXAMPLES = ("--hidden 256 --batch 1 64", "--workload chain --json", "--batch 64 --ablate")


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("bench", form, WHAT, EXAMPLES)
    parser.usage = "%(prog)s [OPTIONS]"
    _add_cases(parser)
    _add_measurements(parser)
    given = parser.parse_args(arguments)
    if problem := _problem(given):
        parser.error(problem)
    return given


def _add_cases(parser: argparse.ArgumentParser) -> None:
    """What is run."""
    parser.add_argument(
        "--workload",
        choices=WORKLOADS,
        default="treelstm",
        metavar="NAME",
        help=f"{', '.join(WORKLOADS)} (default: treelstm)",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="a treebank's train.txt, for sst")
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        metavar="N",
        help="widths of the state (default: the workload's)",
    )
    parser.add_argument(
        "--embedding", type=int, metavar="N", help="width of a word (default: of the state)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        metavar="N",
        help="graphs of a batch (default: the workload's)",
    )
    parser.add_argument(
        "--mode",
        choices=["train", "infer"],
        nargs="+",
        default=["train"],
        metavar="MODE",
        help="train, infer or both (default: train)",
    )
    parser.add_argument(
        "--dropout",
        type=float,
        metavar="RATE",
        help="in training (default: the recipe's); 0 lets vertices be shared",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        default="float32",
        metavar="TYPE",
        help="of products' operands: float32 (the default) or bf16",
    )
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="plan a batch in a thread while the one before it runs, as training does",
    )


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """What is measured, how, and where it is written to."""
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        metavar="CLOCK",
        help="wall (the default), or cpu: time this process has computed; for one thread on a "
        "busy machine",
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="over the same batches; median"
    )
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
        help="time instead what is lost without one optimisation, in turn with all of them: "
        f"{', '.join(OFF)} (default: each; not overlap with --clock cpu)",
    )
    parser.add_argument(
        "--peers",
        choices=["torch"],
        metavar="NAME",
        help="torch: time the same network written in PyTorch in turn (extra: bench)",
    )
    parser.add_argument(
        "--mkl",
        choices=["unlocked", "installed"],
        default="unlocked",
        metavar="HOW",
        help="with --peers, on AMD: torch's MKL with AVX-512 (unlocked, the default; needs a C "
        "compiler), or as it comes (installed)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="with --ablate or --peers: a picture, PNG"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines, no table")


def _problem(given: argparse.Namespace) -> str | None:
    """What is wrong with arguments that are right one by one, if anything is."""
    counts = [given.threads, given.rounds, *(given.hidden or ()), *(given.batch or ())]
    counts += [] if given.embedding is None else [given.embedding]
    if min(counts) < 1:
        return "--hidden, --embedding, --batch, --threads and --rounds are 1 or more"
    if given.plot and given.ablate is None and given.peers is None:
        return "--plot draws what --ablate or --peers finds; give one of them"
    if given.peers and given.ablate is not None:
        return "--peers compares with everything on; not with --ablate"
    if given.trace and not given.profile:
        return "--trace writes what --profile finds; give both"
    for name in ("plot", "trace"):
        path = getattr(given, name)
        if path and (os.path.isdir(path) or not os.path.isdir(path.parent)):
            return f"--{name} {path}: expected a file in a folder that exists; make it first"
    if given.dropout is not None and not 0 <= given.dropout < 1:
        return "--dropout is 0 or more, and below 1"
    if given.clock == "cpu" and given.threads > 1:
        return "--clock cpu adds up the time of all threads; use it with --threads 1"
    if given.clock == "cpu" and (given.overlap or "overlap" in (given.ablate or ())):
        return "overlap saves waiting and no work: --clock cpu cannot tell; use --clock wall"
    if given.overlap and (given.peers or given.profile or given.ablate is not None):
        return (
            "--overlap: --peers and --profile run one batch after the other, and --ablate has it "
            "in the full time already (--clock wall); leave it out"
        )
    return None
