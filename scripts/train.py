"""Train from a config:  python scripts/train.py CONFIG [key=value ...]
Continue a run:       python scripts/train.py --resume RUN [key=value ...]
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from rich.console import Console  # noqa: E402

from tvm_cavs.config import load_config  # noqa: E402
from tvm_cavs.display import clock, show  # noqa: E402
from tvm_cavs.errors import CavsError  # noqa: E402
from tvm_cavs.fit import fit  # noqa: E402
from tvm_cavs.interrupt import stop_on_signal  # noqa: E402
from tvm_cavs.report import metrics_table, print_curves, say  # noqa: E402
from tvm_cavs.run import Run, resume, start  # noqa: E402
from tvm_cavs.runlog import new_folder  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=0.1")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="the folder of a run")
    given = parser.parse_intermixed_args(arguments)
    if given.resume and given.config:
        given.overrides.insert(0, given.config)
    if not given.resume and not given.config:
        parser.error("give a config, or --resume RUN")
    return given


def prepare(given: argparse.Namespace) -> Run:
    if given.resume:
        return resume(given.resume, given.overrides)
    config = load_config(given.config, given.overrides)
    return start(config, new_folder(config.folder or Path("runs") / Path(given.config).stem))


def main(arguments: list[str]) -> int:
    console = Console()
    given = parse(arguments)
    with stop_on_signal() as stop:
        run = prepare(given)
        say(console, f"run {run.folder}: {run.data}")
        for note in run.notes:
            say(console, note)
        with show(console) as display:
            outcome = fit(run, display, stop, STARTED)
    progress = run.progress
    say(console, f"{outcome.reason}: {progress.step} steps in {clock(progress.seconds)}")
    if outcome.interrupted:
        say(console, f"resume with: python scripts/train.py --resume {run.folder}")
        return stop.exit_code
    if outcome.metrics:
        title = f"best parameters, epoch {progress.best_epoch}"
        console.print(metrics_table(outcome.metrics, title))
    print_curves(console, run.folder, run.config.train.early_stop.metric)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CavsError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
