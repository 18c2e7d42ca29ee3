"""`tvm-cavs train`: a config, or a run's folder -> a trained network in a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..runs import (
    Outcome,
    Run,
    clock,
    fit,
    load_config,
    metrics_table,
    new_folder,
    open_console,
    print_curves,
    process_age,
    resume,
    say,
    show,
    start,
    stop_on_signal,
)
from .parser import FORM, make_parser, run_folder
from .shipped import find_config, shipped

WHAT = (
    "Train from a config, or continue a run that was stopped.",
    "A config is a YAML file, or the name of one that comes with tvm_cavs: "
    f"{', '.join(shipped())}. key=value changes any of its keys.",
)
EXAMPLES = ("demo", "demo train.lr=1e-3", "mine.yaml folder=runs/a", "--resume runs/a")
NOT_MEASURED = "last parameters, no whole epoch was measured"


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("train", form, WHAT, EXAMPLES)
    parser.add_argument("config", nargs="?", help="a YAML file, or a name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=0.1")
    parser.add_argument("--resume", metavar="RUN", type=run_folder, help="the folder of a run")
    parser.add_argument(
        "--changed-data", action="store_true", help="resume although the data have changed"
    )
    given = parser.parse_intermixed_args(arguments)
    if given.resume and given.config:
        given.overrides.insert(0, given.config)
    elif given.config and "=" in given.config and not os.path.exists(given.config):
        parser.error(f"give a config before {given.config}")
    if not given.resume and not given.config:
        parser.error("give a config, or --resume RUN")
    return given


def prepare(given: argparse.Namespace, console: Console) -> Run:
    """The run that is asked for, new or as it was left."""
    if given.resume:
        return resume(given.resume, given.overrides, given.changed_data)
    path, note = find_config(given.config)
    if note:
        say(console, note)
    config = load_config(path, given.overrides)
    return start(config, new_folder(config.folder or Path("runs") / path.stem))


def announce(console: Console, run: Run) -> None:
    """What a run is of, before its first step."""
    say(console, f"run {run.folder}: {run.data}")
    for note in run.notes:
        say(console, note)
    compiles = run.config.executor.name == "tvm"
    what = ": compiling what is not yet cached" if compiles else ""
    say(console, f"executor {run.config.executor.name}{what}")


def summarise(console: Console, run: Run, outcome: Outcome, form: str) -> None:
    """What a run that ended by itself has come to."""
    if outcome.metrics:
        best = run.progress.best_epoch
        title = f"best parameters, epoch {best}" if best else NOT_MEASURED
        console.print(metrics_table(outcome.metrics, title))
    print_curves(console, run.folder, run.config.train.early_stop.metric)
    say(console, f"measure again: {form.format('evaluate')} {run.folder}")


def main(arguments: Sequence[str], form: str = FORM) -> int:
    console = open_console()
    given = parse(arguments, form)
    with stop_on_signal() as stop:
        run = prepare(given, console)
        announce(console, run)
        with show(console) as display:
            outcome = fit(run, display, stop, process_age)
    progress = run.progress
    say(console, f"{outcome.reason}: {progress.step} steps in {clock(progress.seconds)}")
    if outcome.interrupted:
        say(console, f"resume with: {form.format('train')} --resume {run.folder}")
        return stop.exit_code
    summarise(console, run, outcome, form)
    return 0
