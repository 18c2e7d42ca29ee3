"""Measure a run's best parameters:  python scripts/evaluate.py RUN [key=value ...]

Keys change the saved config, for instance data.test=PATH or executor.threads=1.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from rich.console import Console

from tvm_cavs import runlog
from tvm_cavs.build import build_data, build_network
from tvm_cavs.checkpoint import load_checkpoint, restore
from tvm_cavs.config import load_config
from tvm_cavs.data import Vocab
from tvm_cavs.errors import CavsError
from tvm_cavs.evaluation import as_json, evaluate
from tvm_cavs.report import metrics_table


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--split", action="append", choices=["train", "dev", "test"])
    parser.add_argument("--last", action="store_true", help="the newest parameters, not the best")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser.parse_intermixed_args(arguments)


def measure(given: argparse.Namespace) -> tuple[dict[str, dict[str, float]], str]:
    """Metrics by split, and which parameters they are of."""
    best = given.run / runlog.BEST
    path = given.run / runlog.LAST if given.last or not best.exists() else best
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


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    metrics, what = measure(given)
    for split, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                print(
                    f"{split}: {name} is {value}: the outputs of these parameters are not finite",
                    file=sys.stderr,
                )
    if given.json:
        finite = {split: as_json(values) for split, values in metrics.items()}
        print(json.dumps(finite, allow_nan=False))
    else:
        Console().print(metrics_table(metrics, what))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CavsError as error:
        sys.exit(f"error: {error}")
