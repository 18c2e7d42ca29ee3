"""`tvm-cavs tune`: a config -> records of the fastest schedules for its network on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..compiler import Compiler, Tracker
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
from .other_settings import compare_settings
from .output import put_table
from .parser import FORM, make_parser
from .shipped import find_config, shipped

WHAT = (
    "Measure which schedules are the fastest for a config's network on this machine, and keep that "
    "for every later run. Ctrl-C keeps what has been measured; the same command goes on.",
    "A config is a YAML file, or the name of one that comes with tvm_cavs: "
    f"{', '.join(shipped())}. key=value changes any of its keys.",
)
EXAMPLES = (
    "sst data.folder=PATH",
    "demo tune.budget=300s",
    "mine.yaml executor.threads=1",
    "demo tune.rpc=127.0.0.1:9190/KEY",
)
STEPS_SHARE = 0.15  # of the budget, that is kept for whole steps; but of a small one
STEPS_SECONDS = 10.0  # these, or half of it: networks have to be compiled first
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
        self.config, self.tracker = config, tracker_of(config)
        self.compiler = self._compiler()
        self.bench = autotune.bench_of(self._settings())
        data = build_data(config, ["train"])
        self.config, self._vocab = data.config, data.vocab
        self._batches = first_batches(data, config.tune.batches)
        self._loss = build_loss(self.config) if config.tune.mode == "train" else None
        self.before = self.steps("none")
        self.machine = self.compiler.machine
        given = config.tune.records or config.executor.records
        self.path = (
            Path(given).expanduser() if given else self.before.executor.compiler.records_file
        )
        self.store = autotune.Store(self.path, self.compiler.target)

    def _compiler(self) -> Compiler:
        """Of what is tuned for: this machine, or what the servers are."""
        given = self.config.executor
        precision = given.precision or "float32"
        made = Compiler(given.target or "host", given.threads, False, precision, records=False)
        if self.tracker is None:
            made.require_host()
        elif precision == "bf16":
            raise TuningError(
                "executor.precision = bf16: over RPC only float32 is measured. Tune on the device "
                "itself, or with executor.precision=float32"
            )
        return made

    def steps(self, records: str, **settings: Any) -> Any:
        """Steps of a network of its own on this machine, with these records and settings."""
        update = settings | {"records": records}
        update |= {} if self.tracker is None else {"target": None}
        executor = self.config.executor.model_copy(update=update)
        net = build_network(self.config.model_copy(update={"executor": executor}), self._vocab)
        return self.tools.Steps(net, self._batches, self._loss)

    def _settings(self) -> Any:
        return self.tools.Settings(
            target=dict(self.compiler.target.export()),
            threads=self.compiler.n_threads,
            precision=self.compiler.machine.precision,
            timeout=self.config.tune.candidate_seconds,
            tracker=self.tracker,
        )

    def after(self, **settings: Any) -> Any:
        """Steps with all that has been measured so far; `settings`: other ones of the executor."""
        return self.steps(str(self.path), **settings)

    def tuner(self, bench: Any, timer: Any) -> Any:
        """What measures by `bench` until the time is up."""
        origin = f"tvm-cavs tune, {self.compiler.described}"
        given = self.before, self.store, bench, timer, origin, self.config.train.seed
        return self.tools.Tuner(*given, self.machine)

    @property
    def place(self) -> str:
        """Where candidates run, for people."""
        if self.tracker is None:
            return "this machine"
        return f"{self.bench.width} server(s) of {self.tracker}"


def tracker_of(config: RunConfig) -> Tracker | None:
    """Where the servers are found on which candidates are measured; None: on this machine."""
    rpc = config.tune.rpc
    return None if rpc.key is None else Tracker(*rpc.address, rpc.key)


def measure(tuning: Tuning, tasks: Sequence[Any], console: Console, stop: Any) -> list[Any]:
    """Tune until the budget is spent, all is measured or a signal comes: the tasks there were.

    Kernels come first, then whole steps, which run the kernels that were found.
    """
    budget = tuning.config.tune.budget
    here, timer = tuning.tracker is None, tuning.tools.Clock(budget)
    try:
        tuner = tuning.tuner(tuning.bench, timer)
        follow(tuning, tuner, tasks, console, stop, kept_for_steps(budget) if here else 0.0)
    finally:
        tuning.bench.close()
    if not here or stop.requested():
        return [*tasks]
    steps = tuning.tools.step_tasks_of(tuning.after())
    tuner = tuning.tuner(tuning.tools.StepBench(tuning.after, tuning.compiler), timer)
    free = [each for each in steps if len(tuner.space(each).candidates) > 1]
    follow(tuning, tuner, free, console, stop)
    return [*tasks, *free]


def kept_for_steps(budget: float) -> float:
    """Seconds of a budget in which whole steps are measured."""
    return max(STEPS_SHARE * budget, min(STEPS_SECONDS, budget / 2))


def follow(
    tuning: Tuning,
    tuner: Any,
    tasks: Sequence[Any],
    console: Console,
    stop: Any,
    reserve: float = 0.0,
) -> None:
    """Run a tuner and say how far it is, until a signal comes."""
    best = 1.0
    for at in tuner.run(tasks, reserve):
        left = clock(max(0.0, at.left))
        if at.record is None:
            best, space = at.best, tuner.space(at.task)
            name, _ = tuning.tools.method(space)
            number, share = f"[{at.number + 1}/{at.n_tasks}]", f"{100 * at.task.share:.1f} %"
            say(console, f"{number} {at.task}, {share} of the time of all {at.task.SORT}")
            say(console, f"  {name}, {space}; {at.measured} known; {left} left")
        elif at.best < best:
            best = at.best
            say(console, f"  {best:.3f} of the default: {at.record.knobs}; {left} left")
        elif at.record.failed:
            say(console, f"  no candidate: {at.record.knobs}: {at.record.failed}")
        if stop.requested():
            return


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
    """The table, then whole steps in pairs, then settings that the config leaves open."""
    found = [tuning.tools.line(task, tuning.store) for task in tasks]
    lines = [each for each in found if each is not None]
    say(console, f"records: {tuning.path}")
    if not lines:
        say(console, "nothing was measured; give a larger tune.budget")
        return
    put_table(table(lines))
    if stop.requested() or tuning.tracker is not None:  # which whole steps do not run on
        return
    after = tuning.after()
    pair = tuning.tools.pair(tuning.before, after, stop.requested)
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
    compare_settings(tuning, after, console, stop)


def main(arguments: Sequence[str], form: str = FORM) -> int:
    console = open_console()
    given = parse(arguments, form)
    path, note = find_config(given.config)
    if note:
        say(console, note)
    with stop_on_signal() as stop:
        tuning = Tuning(load_config(path, given.overrides))
        say(console, f"target: {tuning.compiler.described}; measured on {tuning.place}")
        for each in tuning.store.notes:
            say(console, each)
        tasks = tuning.tools.tasks_of(tuning.before, tuning.machine)
        try:
            if not stop.requested():
                tasks = measure(tuning, tasks, console, stop)
        except TuningError:  # what was measured before is kept, and shown
            summarise(tuning, tasks, console, stop)
            raise
        summarise(tuning, tasks, console, stop)
    return stop.exit_code
