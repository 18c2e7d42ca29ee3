"""Run -> trained run: the loop that a user would write by hand, with everything around it.

    for batch in loader:
        with record():
            loss = loss_fn(net(batch))
        loss.backward()
        trainer.step(batch.n_graphs)

Around it: progress, checkpoints, evaluation after each epoch, early stopping, the best parameters
kept, and an end that leaves a run that can go on, whatever ended it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from ..errors import TrainingError
from ..graph import Graph
from ..nn import record
from ..training import METRICS, evaluate, in_order
from . import runlog
from .build import first_batches
from .display import Display, Status, clock
from .pace import Pace, count_recent, recent_loss
from .process import Stop
from .profile_run import PROFILED_STEP, profile_step
from .run import Run, restore_best, save

STEPS_PER_EVENT = 50
PREPARED = 8  # of the first batches: their size may need kernels of its own
HUGE = 1e15  # an input of that size makes a square that float32 hardly holds


@dataclass(frozen=True)
class Outcome:
    """How training ended: `reason` in words, and the metrics of the best parameters per split."""

    reason: str
    interrupted: bool = False
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def fit(
    run: Run, display: Display, stop: Stop, age: Callable[[], float | None] = lambda: None
) -> Outcome:
    """Train until the epochs, the time or the patience is used up, or `stop` is set.

    Args:
        age: seconds since the process began, to report the time to the first step.

    Raises:
        TrainingError: the loss or a gradient is not finite; the last checkpoint is from before.
        CheckpointError: a checkpoint could not be written.
    """
    run.lock.acquire()
    try:
        return _fit(run, display, stop, Pace(age))
    finally:
        run.lock.release()


def _fit(run: Run, display: Display, stop: Stop, pace: Pace) -> Outcome:
    reason = _ended(run)
    if reason is None and not stop.requested():
        every = in_order(run.data.splits["train"])  # in batches larger than those that follow
        run.net.prepare(chain(every, first_batches(run.data, PREPARED)), run.loss)
    run.mark = time.perf_counter()  # what was before, compiling for one, is no training time
    while reason is None:
        if not stop.requested():
            _train_epoch(run, display, stop, pace)
        if stop.requested() or not _finish_epoch(run, display, stop, pace):
            save(run)
            return Outcome(f"stopped after step {run.progress.step}", interrupted=True)
        reason = _ended(run)
    metrics = _measure_best(run, stop)
    if metrics is None:
        return Outcome(f"{reason}; stopped before the last measurement", interrupted=True)
    return Outcome(reason, metrics=metrics)


def _ended(run: Run) -> str | None:
    """Why training is over, or None."""
    train, progress = run.config.train, run.progress
    if progress.epoch >= train.epochs:
        return f"all {train.epochs} epochs done"
    if train.max_seconds is not None and progress.seconds >= train.max_seconds:
        return f"train.max_seconds = {train.max_seconds:g} used up"
    patience = train.early_stop.patience
    if patience is not None and progress.n_bad_epochs >= patience:
        return f"no better dev {train.early_stop.metric} for {patience} epochs"
    return None


def _train_epoch(run: Run, display: Display, stop: Stop, pace: Pace) -> None:
    """The rest of the current epoch, or as much of it as time and `stop` allow."""
    progress, limit = run.progress, run.config.train.max_seconds
    left = run.loader.parts(progress.epoch, progress.epoch_examples)
    n_batches, saved = progress.batch + len(left), time.monotonic()
    run.tick()
    batches = run.loader.batches(progress.epoch, progress.epoch_examples)
    for batch in run.net.ahead(batches, run.loss):
        train_step(run, batch)
        if pace.n_steps == 0:
            run.mark = time.perf_counter()  # the first step compiles, which is no training time
            _report_first_step(run, display, pace)
        pace.add(batch.n_graphs, run.tick())
        if run.config.profile and pace.n_steps == PROFILED_STEP:
            profile_step(run, display, batch.n_graphs)
            run.mark = time.perf_counter()  # nor is this
        display.status(_status(run, pace, n_batches))
        if progress.step % STEPS_PER_EVENT == 0:
            runlog.append(run.folder, {"event": "step"} | _where(run, recent_loss(progress)))
        if stop.requested() or (limit is not None and progress.seconds >= limit):
            return
        if time.monotonic() - saved >= run.config.train.checkpoint_seconds:
            save(run)
            saved = time.monotonic()


def train_step(run: Run, batch: Graph) -> None:
    """One batch: forward, backward, update.

    Raises:
        TrainingError: the loss or a gradient is not finite; the parameters are unchanged.
    """
    with record():
        loss = run.loss(run.net(batch))
    if not math.isfinite(float(loss)):
        raise TrainingError(_describe_failure(run, f"the loss is {float(loss)}"))
    loss.backward()
    try:
        run.trainer.step(batch.n_graphs)
    except TrainingError as error:
        raise TrainingError(_describe_failure(run, str(error))) from error
    progress = run.progress
    progress.step += 1
    progress.batch += 1
    progress.n_examples += batch.n_graphs
    progress.epoch_examples += batch.n_graphs
    progress.epoch_loss += float(loss)
    progress.epoch_labels += loss.n_labels
    count_recent(progress, float(loss), loss.n_labels)


def _describe_failure(run: Run, what: str) -> str:
    """Where training failed, in which examples, and what to do."""
    progress = run.progress
    examples = run.loader.parts(progress.epoch, progress.epoch_examples)[0].tolist()
    found = _suspect(run, examples)
    if found:
        return f"training stopped at step {progress.step}: {what}; {found}"
    first = ", ".join(str(index) for index in examples[:8])
    more = f", ... {len(examples)} in all" if len(examples) > 8 else ""
    return (
        f"training stopped at step {progress.step} (epoch {progress.epoch + 1}, batch "
        f"{progress.batch + 1}, training examples {first}{more}): {what}\n"
        f"The last good checkpoint is kept: {run.folder / runlog.LAST}. Look at these examples; or "
        "start again with a lower train.lr, or with train.clip_norm."
    )


def _suspect(run: Run, examples: Sequence[int]) -> str:
    """Which input of which of these examples is nan, infinite or huge; empty where none is."""
    for index in examples:
        for name, given in run.loader.dataset[index].inputs.items():
            values = given.values.reshape(len(given.values), -1)
            odd = given.present & ~(np.abs(values) < HUGE).all(axis=1)  # true for nan, too
            if odd.any():
                vertex = int(odd.argmax())
                value = next(x for x in values[vertex] if not abs(x) < HUGE)
                return (
                    f"{run.loader.dataset.place(index, vertex)} (training example {index}): input "
                    f"{name!r} holds {value:g}. Correct it, scale the data or leave the "
                    f"example out; the last good checkpoint is kept: {run.folder / runlog.LAST}."
                )
    return ""


def _finish_epoch(run: Run, display: Display, stop: Stop, pace: Pace) -> bool:
    """Evaluate, log, keep the best, checkpoint; False when interrupted before the end of it."""
    progress, train = run.progress, run.config.train
    values = _evaluate(run, "dev", stop)
    if values is None:
        return False
    run.tick()
    mean = progress.epoch_loss / max(1, progress.epoch_labels)
    event: dict[str, Any] = {"event": "epoch"} | _where(run, mean)
    is_whole = progress.epoch_examples >= len(run.loader.dataset)
    event |= {"samples_per_s": round(pace.take(), 1), "dev": values, "whole": is_whole}
    if values and is_whole:  # an epoch cut short is none for patience or the best
        _keep_best(run, values[train.early_stop.metric])
    if is_whole:
        progress.epoch, progress.batch, progress.epoch_examples = progress.epoch + 1, 0, 0
        run.loader.seed = train.seed  # a resumed run may have been given another in the epoch
        progress.epoch_loss, progress.epoch_labels = 0.0, 0
    runlog.put(run.folder, event)
    save(run)
    display.line(_describe_epoch(run, event))
    return True


def _keep_best(run: Run, value: float) -> None:
    """Save the parameters if their dev metric is the best so far; count the epoch if not."""
    progress = run.progress
    larger = METRICS[run.config.train.early_stop.metric].larger_is_better
    best = progress.best_value
    better = best is None or (value > best if larger else value < best)
    if better and math.isfinite(value):  # a nan neither wins nor stands in the way of later ones
        progress.best_value, progress.best_epoch = value, progress.epoch + 1
        progress.n_bad_epochs = 0
        save(run, runlog.BEST)
    else:
        progress.n_bad_epochs += 1


def _measure_best(run: Run, stop: Stop) -> dict[str, dict[str, float]] | None:
    """Metrics of the best parameters on dev and test; None if `stop` came before the end."""
    restore_best(run)
    metrics = {}
    for split in ("dev", "test"):
        values = _evaluate(run, split, stop)
        if values is None:
            return None
        if values:
            metrics[split] = values
    if "test" in metrics:
        event = {"event": "test", "step": run.progress.step, "epoch": run.progress.best_epoch}
        runlog.put(run.folder, event | {"test": metrics["test"]})
    return metrics


def _evaluate(run: Run, split: str, stop: Stop) -> dict[str, float] | None:
    """The run's metrics on a split; empty where the run has no such split."""
    if split not in run.data.splits:
        return {}
    dataset, train = run.data.splits[split], run.config.train
    return evaluate(run.net, dataset, train.metrics, run.config.data.label, stop=stop.requested)


def _where(run: Run, loss: float) -> dict[str, float | int]:
    """What every line of metrics.jsonl says."""
    progress = run.progress
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "seconds": round(progress.seconds, 3),
        "train_loss": loss,
        "lr": run.trainer.lr,
    }


def _report_first_step(run: Run, display: Display, pace: Pace) -> None:
    seconds = pace.age()
    if seconds is None:
        return
    event = {"event": "start", "step": run.progress.step, "seconds": round(seconds, 2)}
    runlog.append(run.folder, event)
    display.line(f"first step after {seconds:.1f} s")


def _status(run: Run, pace: Pace, n_batches: int) -> Status:
    train, progress = run.config.train, run.progress
    rate = pace.recent
    left = train.epochs * len(run.loader.dataset) - progress.n_examples
    seconds = left / rate if rate else 0.0
    if train.max_seconds is not None:
        seconds = min(seconds, train.max_seconds - progress.seconds)
    loss = recent_loss(progress)
    place = (progress.epoch + 1, train.epochs, progress.batch, n_batches)
    return Status(*place, loss, rate, seconds)


def _describe_epoch(run: Run, event: Mapping[str, Any]) -> str:
    dev = event["dev"]
    metrics = "".join(f"  {name} {value:.4f}" for name, value in dev.items())
    if not event["whole"]:
        metrics += "  (cut short)"
    best = "  *" if run.progress.best_epoch == event["epoch"] and dev else ""
    return (
        f"epoch {event['epoch']}  {clock(run.progress.seconds)}  loss {event['train_loss']:.4g}  "
        f"{event['samples_per_s']:.0f} samples/s{metrics}{best}"
    )
