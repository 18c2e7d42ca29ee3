"""RunConfig -> what a run consists of: data, network, loss, trainer.

What the data decide (number of classes, arity) is written back into the config, so that the config
saved with a run rebuilds its network without the training data.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import (
    Dataset,
    Vocab,
    generate,
    jsonl_dataset,
    listops_dataset,
    load_glove,
    ptb_dataset,
    read_listops_tsv,
)
from .data.listops_trees import LISTOPS_VOCAB, N_CLASSES
from .errors import ConfigError, DataError
from .field import Field
from .graph import Graph
from .loss import LOSSES, LossFunction
from .network import Network
from .nn import CELLS
from .schedule import make_schedule
from .schema import JsonlData, ListOpsData, PtbData, RunConfig, choose
from .trainer import Trainer
from .vertex import Parameter

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Data:
    """The splits that were asked for and exist, and the vocabulary they share."""

    splits: Mapping[str, Dataset]
    vocab: Vocab

    def __str__(self) -> str:
        counts = [
            f"{name} {len(split)} graphs, {split.n_vertices} vertices"
            for name, split in self.splits.items()
        ]
        return "; ".join([*counts, f"{len(self.vocab)} words"])


def build_data(
    config: RunConfig, splits: Iterable[str] = SPLITS, vocab: Vocab | None = None
) -> Data:
    """The data of a run.

    Args:
        splits: the ones to read; the vocabulary comes from train, so train is read without `vocab`.
        vocab: the one saved with the run, to evaluate or to resume.

    Raises:
        DataError: a file that cannot be read.
    """
    wanted = set(splits) | ({"train"} if vocab is None else set())
    with _no_collection():
        return _build_data(config.data, wanted, vocab)


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


def _build_data(
    data: ListOpsData | PtbData | JsonlData, wanted: set[str], vocab: Vocab | None
) -> Data:
    if isinstance(data, ListOpsData):
        return Data(_listops(data, wanted), LISTOPS_VOCAB)
    found: dict[str, Dataset] = {}
    for split in SPLITS:
        name = getattr(data, split)
        if split in wanted and name is not None:
            found[split] = _read(data, _find(data.folder, name), vocab)
            vocab = vocab or found[split].vocab
    return Data(found, vocab or Vocab(("<unk>",)))


def _listops(data: ListOpsData, wanted: set[str]) -> dict[str, Dataset]:
    """Distinct expressions, the first for test, then dev, then train; none is in the test file."""
    official = read_listops_tsv(_find(".", data.test)) if data.test else []
    sizes = {"test": 0 if official else data.n_test, "dev": data.n_dev, "train": data.n_train}
    drawn = generate(sum(sizes.values()), data.seed, data.max_tokens, exclude=set(official))
    found, start = {}, 0
    for split, size in sizes.items():
        expressions = drawn[start : start + size] if size else official
        start += size
        if split in wanted:
            found[split] = listops_dataset(expressions, data.form, f"listops {split}")
    return {split: found[split] for split in SPLITS if split in found}


def _read(data: PtbData | JsonlData, path: Path, vocab: Vocab | None) -> Dataset:
    if isinstance(data, PtbData):
        return ptb_dataset(path, vocab, data.n_classes, data.min_count, data.lower)
    dataset = jsonl_dataset(path, vocab, data.n_classes, data.label, data.min_count)
    if not all(data.label in graph.inputs for graph in dataset.graphs[:1]):
        raise DataError(
            f"{path} has no input {data.label!r} to learn; it has "
            f"{', '.join(dataset.graphs[0].inputs) or 'none'}. Set data.label."
        )
    graphs = (_column(graph, data.label) for graph in dataset)
    return Dataset.from_graphs(graphs, dataset.name, dataset.vocab)


def _column(graph: Graph, label: str) -> Graph:
    """The graph, its scalar targets float32[n] as float32[n, 1]: the shape of an output."""
    field = graph.inputs[label]
    if field.values.dtype == np.int32 or field.values.ndim > 1:
        return graph
    column = Field(field.values[:, None], field.present)
    return graph.with_inputs({**graph.inputs, label: column})


def _find(folder: str, name: str) -> Path:
    """The file `name` in `folder`, or NAME.xz where only that exists."""
    path = Path(folder).expanduser() / Path(name).expanduser()
    packed = path.with_name(path.name + ".xz")
    return packed if packed.exists() and not path.exists() else path


def resolve(config: RunConfig, data: Data) -> RunConfig:
    """The config with what the training data decide: model.arity, n_classes of JSON lines."""
    train = data.splits["train"]
    update: dict[str, object] = {}
    if config.model.arity is None:
        arity = max(1, *(graph.arity for graph in train))
        update["model"] = config.model.model_copy(update={"arity": arity})
    if isinstance(config.data, JsonlData) and config.data.n_classes is None:
        n = n_outputs(train, config.data.label)
        update["data"] = config.data.model_copy(update={"n_classes": n})
    return config.model_copy(update=update)


def n_outputs(dataset: Dataset, label: str) -> int:
    """How wide the output is: the largest label + 1, or the width of a real-valued target."""
    fields = [graph.inputs[label] for graph in dataset]
    if fields[0].values.dtype == np.int32:
        return 1 + max(int(field.values.max()) for field in fields)
    return int(fields[0].values.shape[1])


def build_network(config: RunConfig, vocab: Vocab) -> Network:
    """The network of a resolved config, initialised by train.seed, on its executor.

    Raises:
        TargetError: the executor or its target cannot run here.
    """
    data, model, train = config.data, config.model, config.train
    n_classes = N_CLASSES if isinstance(data, ListOpsData) else data.n_classes
    assert n_classes is not None and model.arity is not None, "resolve() fills them in"
    cell = CELLS[model.cell](
        vocab=len(vocab),
        embedding=model.embedding,
        hidden=model.hidden,
        n_classes=n_classes,
        arity=model.arity,
        dropout=model.dropout,
    )
    net = Network(cell)
    net.initialize(seed=train.seed)
    net.seed(train.seed)
    given = config.executor.model_dump(exclude={"name"}, exclude_none=True)
    net.hybridize(executor=config.executor.name, **given)
    return net


def load_pretrained(config: RunConfig, net: Network, vocab: Vocab) -> int:
    """Fill the word table from `model.pretrained`; return how many words of the data it holds."""
    assert config.model.pretrained is not None
    table = net.parameters()["E"]
    path = Path(config.model.pretrained).expanduser()
    with table.writing() as fill:
        rows, n_found = load_glove(path, vocab, config.model.embedding, fill=fill)
    table.set_data(rows)
    return n_found


def build_loss(config: RunConfig) -> LossFunction:
    """The loss on the cell's `logits` and the data's label."""
    return LOSSES[config.train.loss]("logits", config.data.label)


def build_trainer(config: RunConfig, net: Network) -> Trainer:
    """The trainer, with each parameter's own multipliers.

    Raises:
        ConfigError: train.lr_mult or train.decay_mult names no parameter of the network.
    """
    train, parameters = config.train, net.parameters()
    for key in ("lr_mult", "decay_mult"):
        for name, factor in getattr(train, key).items():
            setattr(_parameter(parameters, key, name), key, factor)
    rows = [(train.schedule.name, train.schedule.settings)]
    if train.warmup:
        rows.append(("warmup", {"n_steps": train.warmup}))
    return Trainer(
        parameters,
        train.optimizer,
        train.lr,
        train.weight_decay,
        train.clip_norm,
        make_schedule(*rows),
        **train.hyper,
    )


def _parameter(parameters: Mapping[str, Parameter], key: str, name: str) -> Parameter:
    try:
        return parameters[choose(name, parameters)]
    except ValueError as error:
        raise ConfigError(f"train.{key}.{name}: no such parameter: {error}") from error
