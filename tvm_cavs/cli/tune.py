"""`tvm-cavs tune`: a config -> records of the fastest schedules for its network on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import TuningError
from ..neighbours import check_neighbour
from ..runs import (
    RunConfig,
    build_data,
    build_loss,
    build_network,
    clock,
    first_batches,
    load_config,
    open_console,
    say,
    stop_on_signal,
)
from .output import put_table
from .parser import FORM, make_parser
from .shipped import find_config, shipped

WHAT = (
    "Measure which schedules are the fastest for a config's network on this machine, and keep that "
    "for every later run. Ctrl-C keeps what has been measured; the same command goes on.",
    "A config is a YAML file, or the name of one that comes with tvm_cavs: "
    f"{', '.join(shipped())}. key=value changes any of its keys.",
)
EXAMPLES = ("sst data.folder=PATH", "demo tune.budget=300s", "mine.yaml executor.threads=1")
SLOWER = 1.02  # a step's time by that before, from which it is called slower


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("tune", form, WHAT, EXAMPLES)
    parser.add_argument("config", help="a YAML file, or a name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as tune.budget=60s")
    return parser.parse_intermixed_args(arguments)


class Tuning:
    """What one call of the command works with."""

    def __init__(self, config: RunConfig) -> None:
        if config.executor.name != "tvm":
            raise TuningError(
                f"executor {config.executor.name} has no kernels to tune; expected executor tvm"
            )
        check_neighbour("autotune")
        import autotune

        self.tools: Any = autotune
        data = build_data(config, ["train"])
        self.config, self._vocab = data.config, data.vocab
        self._batches = first_batches(data, config.tune.batches)
        self._loss = build_loss(self.config) if config.tune.mode == "train" else None
        self.before = self.steps("none")
        compiler = self.before.executor.compiler
        self.target, self.machine = compiler.target, compiler.machine
        given = config.tune.records or config.executor.records
        self.path = Path(given).expanduser() if given else compiler.records_file
        self.store = autotune.Store(self.path, self.target)

    def steps(self, records: str) -> Any:
        """Steps of a network of its own, which uses these records."""
        executor = self.config.executor.model_copy(update={"records": records})
        net = build_network(self.config.model_copy(update={"executor": executor}), self._vocab)
        return self.tools.Steps(net, self._batches, self._loss)

    def bench(self) -> Any:
        """What measures, in a process of its own."""
        compiler = self.before.executor.compiler
        return self.tools.Bench(
            self.tools.Settings(
                target=dict(self.target.export()),
                threads=compiler.n_threads,
                precision=compiler.machine.precision,
                timeout=self.config.tune.candidate_seconds,
            )
        )


def measure(tuning: Tuning, tasks: Sequence[Any], console: Console, stop: Any) -> None:
    """Tune until the budget is spent, all is measured or a signal comes."""
    bench, best = tuning.bench(), 1.0
    timer = tuning.tools.Clock(tuning.config.tune.budget)
    origin = f"tvm-cavs tune, {tuning.before.executor.compiler.described}"
    tuner = tuning.tools.Tuner(
        tuning.before, tuning.store, bench, timer, origin, tuning.config.train.seed
    )
    try:
        for at in tuner.run(tasks):
            left = clock(max(0.0, at.left))
            if at.record is None:
                best, space = at.best, tuner.space(at.task)
                name, _ = tuning.tools.method(space)
                number = f"[{at.number + 1}/{at.n_tasks}]"
                say(console, f"{number} {at.task}, {100 * at.task.share:.1f} % of kernels' time")
                say(console, f"  {name}, {space}; {at.measured} known; {left} left")
            elif at.best < best:
                best = at.best
                say(console, f"  {best:.3f} of the default: {at.record.knobs}; {left} left")
            elif at.record.failed:
                say(console, f"  no candidate: {at.record.knobs}: {at.record.failed}")
            if stop.requested():
                return
    finally:
        bench.close()


def table(lines: Sequence[Any]) -> Table:
    """Kernels before and after."""
    made = Table(title="kernels, microseconds of a step", title_justify="left")
    for name in ("kernel", "rows", "before", "after", "ratio", "knobs"):
        made.add_column(name, justify="left" if name in ("kernel", "knobs") else "right")
    for each in lines:
        knobs = "default" if each.knobs is None else _shown(each.knobs)
        numbers = f"{each.before:.1f}", f"{each.after:.1f}", f"{each.after / each.before:.3f}"
        made.add_row(each.task.key, str(each.task.bucket), *numbers, knobs)
    return made


def _shown(knobs: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in vars(knobs).items())


def summarise(tuning: Tuning, tasks: Sequence[Any], console: Console, stop: Any) -> None:
    """The table, then whole steps in pairs."""
    found = [tuning.tools.line(task, tuning.store, tuning.machine) for task in tasks]
    lines = [each for each in found if each is not None]
    say(console, f"records: {tuning.path}")
    if not lines:
        say(console, "nothing was measured; give a larger tune.budget")
        return
    put_table(table(lines))
    if stop.requested():
        return
    pair = tuning.tools.pair(tuning.before, tuning.steps(str(tuning.path)), stop.requested)
    say(
        console,
        f"a whole step: {1e3 * pair.before:.2f} ms before, {1e3 * pair.after:.2f} ms after; "
        f"{pair.ratio:.3f} in pairs (quartiles {pair.low:.3f} to {pair.high:.3f})",
    )
    if pair.ratio > SLOWER and pair.low > 1:
        say(
            console,
            f"slower: tune again when the machine is quiet, or delete {tuning.path}, or train with "
            "executor.records=none",
        )


def main(arguments: Sequence[str], form: str = FORM) -> int:
    console = open_console()
    given = parse(arguments, form)
    path, note = find_config(given.config)
    if note:
        say(console, note)
    with stop_on_signal() as stop:
        tuning = Tuning(load_config(path, given.overrides))
        say(console, f"target: {tuning.before.executor.compiler.described}")
        for each in tuning.store.notes:
            say(console, each)
        tasks = tuning.tools.tasks_of(tuning.before)
        if not stop.requested():
            measure(tuning, tasks, console, stop)
        summarise(tuning, tasks, console, stop)
    return stop.exit_code
