"""RunConfig -> the data of a run: every split read, and checked by the same rules.

What the training data decide (arity, number and names of classes, metrics) is written into the
config, so that the config saved with a run reads other splits as the run did, without that data.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data import (
    INTEGERS,
    LISTOPS_VOCAB,
    NUMBERS,
    TOKENS,
    UNKNOWN,
    Dataset,
    Vocab,
    generate,
    jsonl_dataset,
    listops_dataset,
    ptb_dataset,
    read_listops_tsv,
)
from ..errors import ConfigError
from ..graph import Field, Graph, batch, unbatch
from ..training import LEARNS, fitting
from .schema import ListOpsData, RunConfig
from .split_checks import check_measured, check_split, counts_something

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Data:
    """The splits that were asked for and exist, and what they share.

    Attributes:
        config: the config with what the training data decide.
    """

    splits: Mapping[str, Dataset]
    vocab: Vocab
    config: RunConfig

    def __str__(self) -> str:
        counts = [
            f"{name} {len(split)} graphs, {split.n_vertices} vertices"
            for name, split in self.splits.items()
        ]
        return "; ".join([*counts, f"{len(self.vocab)} words"])


def build_data(
    config: RunConfig, splits: Iterable[str] = SPLITS, vocab: Vocab | None = None
) -> Data:
    """The data of a run; see `split_checks` for what is refused.

    Args:
        splits: the ones to read; the vocabulary comes from train, so train is read without `vocab`.
        vocab: the one saved with the run, to evaluate or to resume.

    Raises:
        DataError: a file that cannot be read, or that the run cannot learn or be measured on.
        ConfigError: data.n_classes and data.classes disagree.
    """
    wanted = set(splits) | ({"train"} if vocab is None else set())
    with _no_collection():
        return _build_data(config, wanted, vocab)


def resolve(config: RunConfig, data: Data) -> RunConfig:
    """The config with what the training data decide: model.arity, classes, metrics."""
    return data.config


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, a third of the time of making many small objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _build_data(config: RunConfig, wanted: set[str], vocab: Vocab | None) -> Data:
    found: dict[str, Dataset] = {}
    if isinstance(config.data, ListOpsData):
        found, vocab = _listops(config.data, wanted), LISTOPS_VOCAB
    wholes: dict[str, Graph] = {}
    kinds: Mapping[str, str] = {}
    for split in SPLITS:
        is_file = not isinstance(config.data, ListOpsData)
        if is_file and split in wanted and getattr(config.data, split) is not None:
            found[split] = _read(config, split, vocab, kinds)
        if split not in found:
            continue
        found[split], wholes[split] = _with_targets(config, found[split])
        if split == "train":
            vocab = vocab or found[split].vocab or Vocab((UNKNOWN,))
            kinds = found[split].kinds
            check_split(config, found[split], wholes[split])
            config = _resolved(config, found[split], wholes[split])
        check_split(config, found[split], wholes[split])
    measured = [split for split in found if split != "train"]
    config = _with_metrics(config, [wholes[split] for split in measured])
    for split in measured:
        check_measured(config, found[split], wholes[split])
    return Data(found, vocab or Vocab((UNKNOWN,)), config)


def _listops(data: ListOpsData, wanted: set[str]) -> dict[str, Dataset]:
    """Distinct expressions, the first for test, then dev, then train; none is in the test file."""
    official = read_listops_tsv(find_file(".", data.test)) if data.test else []
    sizes = {"test": 0 if official else data.n_test, "dev": data.n_dev, "train": data.n_train}
    drawn = generate(sum(sizes.values()), data.seed, data.max_tokens, exclude=set(official))
    found, start = {}, 0
    for split, size in sizes.items():
        expressions = drawn[start : start + size] if size else official
        start += size
        if split in wanted:
            found[split] = listops_dataset(expressions, data.form, f"listops {split}")
    return {split: found[split] for split in SPLITS if split in found}


def _read(config: RunConfig, split: str, vocab: Vocab | None, kinds: Mapping[str, str]) -> Dataset:
    """One file, its inputs read as those of the training set (`kinds`) and as the loss needs."""
    data = config.data
    assert not isinstance(data, ListOpsData)
    path = find_file(data.folder, getattr(data, split))
    n_classes = data.n_classes if LEARNS[config.train.loss] == "classes" else None
    kinds = {"word": TOKENS, **kinds, **_kind_of_label(config)}
    if data.name == "ptb":
        return ptb_dataset(
            path,
            vocab,
            None if data.classes else n_classes,
            data.min_count,
            data.lower,
            classes=data.classes,
            unescape=data.unescape,
            kinds=kinds,
        )
    return jsonl_dataset(
        path, vocab, n_classes, data.label, data.min_count, classes=data.classes, kinds=kinds
    )


def _kind_of_label(config: RunConfig) -> dict[str, str]:
    """What the label must be, as far as it is known before the training set is read."""
    data = config.data
    assert not isinstance(data, ListOpsData)
    if LEARNS[config.train.loss] != "classes":
        return {data.label: NUMBERS}
    if data.classes is not None:
        return {data.label: TOKENS}
    return {} if data.n_classes is None else {data.label: INTEGERS}


def _with_targets(config: RunConfig, dataset: Dataset) -> tuple[Dataset, Graph]:
    """The data set, and all its graphs as one batch. Targets are as a loss on numbers reads them:
    float32[n, width], the shape of an output.
    """
    label, whole = config.data.label, batch(dataset.graphs)
    given = whole.inputs.get(label)
    if LEARNS[config.train.loss] == "classes" or given is None or given.values.ndim > 1:
        return dataset, whole
    values = np.where(given.present, given.values, 0).astype(np.float32)[:, None]
    whole = replace(whole, inputs={**whole.inputs, label: Field(values, given.present)})
    return replace(dataset, graphs=tuple(unbatch(whole))), whole


def find_file(folder: str, name: str) -> Path:
    """The file `name` in `folder`, or NAME.xz where only that exists."""
    path = Path(folder).expanduser() / Path(name).expanduser()
    packed = path.parent / f"{path.name}.xz"  # a root has no name to change
    return packed if os.path.exists(packed) and not os.path.exists(path) else path


def _resolved(config: RunConfig, train: Dataset, whole: Graph) -> RunConfig:
    """The config with what the training set alone decides."""
    update: dict[str, object] = {}
    if config.model.arity is None:
        arity = max(1, whole.arity)
        update["model"] = config.model.model_copy(update={"arity": arity})
    if not isinstance(config.data, ListOpsData):
        found: dict[str, object] = {}
        if config.data.n_classes is None:
            found["n_classes"] = _width(config, train, whole.inputs[config.data.label].values)
        if config.data.classes is None:
            found["classes"] = train.classes
        data = config.data.model_copy(update=found)
        if data.classes is not None and data.n_classes != len(data.classes):
            raise ConfigError(
                f"data.n_classes = {data.n_classes}, but there are {len(data.classes)} classes "
                f"({', '.join(data.classes[:8])}, ...). Leave data.n_classes out."
            )
        update["data"] = data
    return config.model_copy(update=update)


def _width(config: RunConfig, train: Dataset, labels: np.ndarray) -> int:
    """How wide the output must be for the labels of the training set."""
    if LEARNS[config.train.loss] != "classes":
        return int(labels.shape[1])
    return len(train.classes) if train.classes is not None else 1 + int(labels.max())


def _with_metrics(config: RunConfig, measured: Iterable[Graph]) -> RunConfig:
    """Metrics that were not asked for are left out where they have nothing to count."""
    train, label = config.train, config.data.label
    if "metrics" in train.model_fields_set:
        return config
    kept = tuple(
        name
        for name in fitting(train.loss)[:2]
        if name == train.early_stop.metric
        or all(counts_something(name, whole, label) for whole in measured)
    )
    return config.model_copy(update={"train": train.model_copy(update={"metrics": kept})})
