"""RunConfig or a run's folder -> Run: everything that training needs, new or as it was left.

The state of a run is its parameters, the optimizer's arrays and `Progress`. All randomness is a
function of (seed, epoch) or (seed, step), so that restoring these three continues exactly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import runlog
from .build import (
    Data,
    build_data,
    build_loss,
    build_network,
    build_trainer,
    load_pretrained,
    resolve,
)
from .checkpoint import Checkpoint, Progress, load_checkpoint, restore, save_checkpoint
from .config import load_config
from .data import Loader, Vocab
from .loss import LossFunction
from .network import Network
from .schema import RunConfig
from .trainer import Trainer


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
        CavsError: the data cannot be read, a name is unknown, the folder cannot be written.
    """
    data = build_data(config)
    config = resolve(config, data)
    run = _assemble(config, folder, data, Progress())
    if config.model.pretrained is not None:
        n_found = load_pretrained(config, run.net, data.vocab)
        run.notes.append(f"{n_found} of {len(data.vocab)} words found in {config.model.pretrained}")
    runlog.write_header(folder, config)
    save(run)
    return run


def resume(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """The run in `folder` as its newest checkpoint left it, with overrides such as train.epochs=20.

    Raises:
        CavsError: there is no run, its checkpoint is damaged, or it does not fit the overrides.
    """
    checkpoint = load_checkpoint(folder / runlog.LAST)
    config = load_config(folder / "config.yaml", overrides)
    vocab = Vocab(tuple(checkpoint.vocabulary)) if checkpoint.vocabulary else None
    run = _assemble(config, folder, build_data(config, vocab=vocab), checkpoint.progress)
    restore(run.net.parameters(), checkpoint)
    run.trainer.load_state(checkpoint.optimizer)
    run.net.step = checkpoint.progress.net_step
    run.net.seed(checkpoint.progress.dropout_seed)
    runlog.rewind(folder, checkpoint.progress.step)
    if overrides:
        runlog.write_header(folder, config)
    return run


def _assemble(config: RunConfig, folder: Path, data: Data, progress: Progress) -> Run:
    train = config.train
    net = build_network(config, data.vocab)
    loader = Loader(
        data.splits["train"], train.batch_size, train.vertex_budget, shuffle=True, seed=train.seed
    )
    trainer = build_trainer(config, net)
    return Run(config, folder, data, net, build_loss(config), trainer, loader, progress)


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
