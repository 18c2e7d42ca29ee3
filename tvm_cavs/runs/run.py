"""RunConfig or a run's folder -> Run: everything that training needs, new or as it was left.

The state of a run is its parameters, the optimizer's arrays and `Progress`. All randomness is a
function of (seed, epoch) or (seed, step), so that restoring these three continues exactly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data import Loader, Vocab
from ..errors import CheckpointError, ConfigError
from ..nn import LossFunction, Network
from ..training import (
    Checkpoint,
    Progress,
    Trainer,
    installed_versions,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from . import runlog
from .build import build_loss, build_network, build_trainer, load_pretrained
from .config import load_config
from .fingerprints import changes, fingerprint
from .runlock import RunLock
from .schema import ListOpsData, RunConfig
from .splits import Data, build_data, resolve

# What parameters, their optimizer's state and the meaning of tokens were made with.
FIXED = tuple(
    "model.cell model.embedding model.hidden model.arity model.pretrained train.optimizer "
    "data.name data.n_classes data.classes data.min_count data.lower data.unescape data.label "
    "data.form".split()
)


@dataclass
class Run:
    """A run in this process. `progress` moves; the rest stays."""

    config: RunConfig
    folder: Path
    data: Data
    net: Network
    loss: LossFunction
    trainer: Trainer
    loader: Loader
    progress: Progress
    lock: RunLock
    fingerprints: dict[str, str]
    notes: list[str] = field(default_factory=list)
    mark: float = field(default_factory=time.perf_counter)

    def tick(self) -> float:
        """Add the time since the last tick to `progress.seconds`; return it."""
        now = time.perf_counter()
        passed, self.mark = now - self.mark, now
        self.progress.seconds += passed
        return passed


def start(config: RunConfig, folder: Path) -> Run:
    """A new run, saved to `folder` from the beginning.

    Raises:
        CavsError: the data cannot be read, a name is unknown, the folder cannot be written or is
            in use by another process.
    """
    lock = RunLock(folder)
    try:
        return _start(absolute(config), folder, lock)
    except BaseException:
        lock.release()
        raise


def _start(config: RunConfig, folder: Path, lock: RunLock) -> Run:
    data = build_data(config)
    config = resolve(config, data)
    run = _assemble(config, folder, data, Progress(), lock)
    _check_warmup(run)
    if config.model.pretrained is not None:
        n_found = load_pretrained(config, run.net, data.vocab)
        run.notes.append(f"{n_found} of {len(data.vocab)} words found in {config.model.pretrained}")
    runlog.write_header(folder, config)
    save(run)
    return run


def resume(folder: Path, overrides: Sequence[str] = (), changed_data: bool = False) -> Run:
    """The run in `folder` as its newest checkpoint left it, with overrides such as train.epochs=20.

    The place in an epoch is counted in examples, so another batch size goes on with the same order.
    Another train.seed counts from the next epoch on: the one that was begun keeps its order.

    Args:
        changed_data: go on although the data are not those of the checkpoint; an epoch that was
            begun on other training data begins again.

    Raises:
        CavsError: there is no run, it is in use by another process, its checkpoint is damaged or
            does not fit the overrides, or the data have changed.
    """
    path = folder / runlog.LAST
    load_checkpoint(path)  # before a lock is made where there is no run
    lock = RunLock(folder)
    try:
        return _resume(folder, overrides, changed_data, lock)
    except BaseException:
        lock.release()
        raise


def _resume(folder: Path, overrides: Sequence[str], changed_data: bool, lock: RunLock) -> Run:
    checkpoint = load_checkpoint(folder / runlog.LAST)
    progress = checkpoint.progress
    config = absolute(load_config(folder / "config.yaml", overrides))
    _check_fixed(checkpoint, config)
    vocab = Vocab(tuple(checkpoint.vocabulary)) if checkpoint.vocabulary else None
    run = _assemble(config, folder, build_data(config, vocab=vocab), progress, lock)
    _check_data(run, checkpoint, changed_data)
    restore(run.net.parameters(), checkpoint)
    run.trainer.load_state(checkpoint.optimizer)
    run.net.step = progress.net_step
    run.net.seed(progress.dropout_seed)
    if progress.epoch_examples:
        run.loader.seed = progress.loader_seed
    _forget_best_of_another_metric(run, checkpoint)
    run.notes += _other_versions(checkpoint)
    runlog.rewind(folder, progress.step)
    if overrides:
        runlog.write_header(folder, config)
    return run


def absolute(config: RunConfig) -> RunConfig:
    """The config with paths that hold from any working directory."""

    def whole(path: str) -> str:
        return str(Path(path).expanduser().absolute())

    data, model = config.data, config.model
    if isinstance(data, ListOpsData):
        update = {"test": whole(data.test)} if data.test else {}
    else:
        update = {"folder": whole(data.folder)}
    if model.pretrained is not None:
        model = model.model_copy(update={"pretrained": whole(model.pretrained)})
    return config.model_copy(update={"data": data.model_copy(update=update), "model": model})


def _check_warmup(run: Run) -> None:
    train, n_batches = run.config.train, len(run.loader)
    if train.warmup and train.warmup >= train.epochs * n_batches:
        raise ConfigError(
            f"train.warmup = {train.warmup} steps, but the run has {train.epochs * n_batches} "
            f"({train.epochs} epochs of {n_batches} batches), so the learning rate would never be "
            "reached. Set a shorter train.warmup or more train.epochs."
        )


def _check_fixed(checkpoint: Checkpoint, config: RunConfig) -> None:
    """Refuse what a run cannot change once it has begun, instead of writing it down."""
    now, problems = config.model_dump(mode="json"), []
    for key in FIXED:
        section, name = key.split(".")
        before = checkpoint.config.get(section, {})
        if name in before and before[name] != now[section].get(name):
            problems.append(f"  {key}: {before[name]!r} in the run, {now[section].get(name)!r} now")
    if problems:
        raise ConfigError(
            "a run that resumes cannot change what its parameters were made with:\n"
            + "\n".join(problems)
            + "\nLeave these keys as they were, or start a new run."
        )


def _check_data(run: Run, checkpoint: Checkpoint, changed_data: bool) -> None:
    """Refuse data that have changed, unless that was asked for."""
    found = changes(checkpoint.data, run.fingerprints) if checkpoint.data else []
    if not found:
        return
    text = f"the data have changed since step {run.progress.step}:\n" + "\n".join(found)
    if not changed_data:
        raise CheckpointError(
            f"{text}\nRestore the data or the keys under data:, or go on with the new data by "
            "--changed-data (in Python: changed_data=True)."
        )
    run.notes.append(text)
    progress = run.progress
    if checkpoint.data.get("train") != run.fingerprints.get("train"):
        progress.epoch_examples = progress.batch = progress.epoch_labels = 0
        progress.epoch_loss = 0.0
    if checkpoint.data.get("dev") != run.fingerprints.get("dev"):
        _forget_best(run, "other-data")


def _forget_best_of_another_metric(run: Run, checkpoint: Checkpoint) -> None:
    before = checkpoint.config.get("train", {}).get("early_stop", {}).get("metric")
    now = run.config.train.early_stop.metric
    if before not in (None, now) and run.progress.best_value is not None:
        _forget_best(run, str(before))
        run.notes.append(f"the best epoch so far was found by {before}; {now} begins anew")


def _forget_best(run: Run, name: str) -> None:
    """Begin the account of early stopping anew; the parameters that were best keep a file."""
    progress, path = run.progress, run.folder / runlog.BEST
    progress.best_value, progress.best_epoch, progress.n_bad_epochs = None, 0, 0
    if path.exists():
        path.replace(path.with_name(f"best-{name}.safetensors"))


def _other_versions(checkpoint: Checkpoint) -> list[str]:
    now = installed_versions()
    other = [
        f"{package} {version} (now {now.get(package, 'not installed')})"
        for package, version in checkpoint.versions.items()
        if version != now.get(package)
    ]
    return [f"the checkpoint was written with {', '.join(other)}"] if other else []


def _assemble(
    config: RunConfig, folder: Path, data: Data, progress: Progress, lock: RunLock
) -> Run:
    train = config.train
    net = build_network(config, data.vocab)
    loader = Loader(
        data.splits["train"], train.batch_size, train.vertex_budget, shuffle=True, seed=train.seed
    )
    trainer, loss = build_trainer(config, net), build_loss(config)
    net.executor(loss)  # a target that cannot run here is refused before anything is written
    prints = {name: fingerprint(split) for name, split in data.splits.items()}
    return Run(config, folder, data, net, loss, trainer, loader, progress, lock, prints)


def save(run: Run, name: str = runlog.LAST) -> None:
    """Write a checkpoint of the run.

    Raises:
        CheckpointError: it could not be written; the previous one is intact.
    """
    progress = run.progress
    progress.net_step, progress.dropout_seed = run.net.step, run.net.dropout_seed
    progress.loader_seed = run.loader.seed
    checkpoint = Checkpoint(
        parameters={name: p.data for name, p in run.net.parameters().items()},
        optimizer=run.trainer.state() if name == runlog.LAST else {},
        progress=progress,
        config=run.config.model_dump(mode="json"),
        vocabulary=run.data.vocab.to_list(),
        data=run.fingerprints,
    )
    save_checkpoint(run.folder / name, checkpoint)


def restore_best(run: Run) -> None:
    """Put the parameters with the best dev metric into the network, where there are any.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run.folder / runlog.BEST
    if path.exists():
        restore(run.net.parameters(), load_checkpoint(path))
