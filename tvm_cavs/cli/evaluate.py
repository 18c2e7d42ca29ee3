"""`tvm-cavs evaluate`: a run's folder -> the metrics of its best parameters."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence

from ..data import Vocab
from ..errors import CavsError
from ..runs import BEST, LAST, build_data, build_network, load_config, metrics_table
from ..training import as_json, evaluate, load_checkpoint, restore
from .output import put, put_table
from .parser import FORM, make_parser, run_folder

WHAT = (
    "Measure the best parameters of a run.",
    "key=value changes the saved config, for instance data.test=PATH or executor.threads=1.",
)
EXAMPLES = ("runs/demo", "runs/demo --json", "runs/demo --split train")


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("evaluate", form, WHAT, EXAMPLES)
    parser.add_argument("run", type=run_folder, help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(
        "--split",
        action="append",
        choices=["train", "dev", "test"],
        metavar="SPLIT",
        help="train, dev or test; may be given again (default: dev and test)",
    )
    parser.add_argument("--last", action="store_true", help="the newest parameters, not the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser.parse_intermixed_args(arguments)


def measure(given: argparse.Namespace) -> tuple[dict[str, dict[str, float]], str]:
    """Metrics by split, and which parameters they are of."""
    best = given.run / BEST
    path = given.run / LAST if given.last or not os.path.exists(best) else best
    checkpoint = load_checkpoint(path)
    config = load_config(given.run / "config.yaml", given.overrides)
    vocab = Vocab(tuple(checkpoint.vocabulary or ["<unk>"]))
    wanted = given.split or ["dev", "test"]
    data = build_data(config, wanted, vocab)
    absent = [split for split in wanted if split not in data.splits]
    if absent and (given.split or len(absent) == len(wanted)):
        keys = ", ".join(f"data.{split}=PATH" for split in absent)
        raise CavsError(f"{given.run} has no {' or '.join(absent)} set; add {keys}.")
    net = build_network(data.config, vocab)
    restore(net.parameters(), checkpoint)
    metrics = {
        split: evaluate(net, dataset, data.config.train.metrics, config.data.label) or {}
        for split, dataset in data.splits.items()
    }
    return metrics, f"{path}, step {checkpoint.progress.step}"


def warn(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Say which numbers are none."""
    for split, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                why = "the outputs of these parameters are not finite"
                print(f"{split}: {name} is {value}: {why}", file=sys.stderr)


def main(arguments: Sequence[str], form: str = FORM) -> int:
    given = parse(arguments, form)
    metrics, what = measure(given)
    warn(metrics)
    if given.json:
        finite = {split: as_json(values) for split, values in metrics.items()}
        put(json.dumps(finite, allow_nan=False))
    else:
        put_table(metrics_table(metrics, what))
    return 0
