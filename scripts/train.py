"""Train from a config:  python scripts/train.py CONFIG [key=value ...]
Continue a run:       python scripts/train.py --resume RUN [key=value ...]
"""

import argparse
import sys
from pathlib import Path

from tvm_cavs.config import load_config
from tvm_cavs.display import clock, open_console, show
from tvm_cavs.errors import CavsError
from tvm_cavs.fit import fit
from tvm_cavs.process import process_age, stop_on_signal
from tvm_cavs.report import metrics_table, print_curves, say
from tvm_cavs.run import Run, resume, start
from tvm_cavs.runlog import new_folder


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=0.1")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument(
        "--changed-data", action="store_true", help="resume although the data have changed"
    )
    given = parser.parse_intermixed_args(arguments)
    if given.resume and given.config:
        given.overrides.insert(0, given.config)
    if not given.resume and not given.config:
        parser.error("give a config, or --resume RUN")
    return given


def prepare(given: argparse.Namespace) -> Run:
    if given.resume:
        return resume(given.resume.expanduser(), given.overrides, given.changed_data)
    config = load_config(given.config, given.overrides)
    return start(config, new_folder(config.folder or Path("runs") / Path(given.config).stem))


def main(arguments: list[str]) -> int:
    console = open_console()
    given = parse(arguments)
    with stop_on_signal() as stop:
        run = prepare(given)
        say(console, f"run {run.folder}: {run.data}")
        for note in run.notes:
            say(console, note)
        compiles = run.config.executor.name == "tvm"
        what = ": compiling what is not yet cached" if compiles else ""
        say(console, f"executor {run.config.executor.name}{what}")
        with show(console) as display:
            outcome = fit(run, display, stop, process_age)
    progress = run.progress
    say(console, f"{outcome.reason}: {progress.step} steps in {clock(progress.seconds)}")
    if outcome.interrupted:
        say(console, f"resume with: python scripts/train.py --resume {run.folder}")
        return stop.exit_code
    if outcome.metrics:
        found = f"best parameters, epoch {progress.best_epoch}"
        title = found if progress.best_epoch else "last parameters, no whole epoch was measured"
        console.print(metrics_table(outcome.metrics, title))
    print_curves(console, run.folder, run.config.train.early_stop.metric)
    say(console, f"measure again: python scripts/evaluate.py {run.folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CavsError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
