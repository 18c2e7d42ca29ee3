"""RunConfig -> what a run consists of: data (splits.py), network, loss, trainer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from ..data import Loader, Vocab, load_glove
from ..errors import ConfigError
from ..graph import Graph
from ..language import Parameter
from ..nn import CELLS, LOSSES, LossFunction, Network
from ..training import Trainer, make_schedule
from .schema import RunConfig, choose
from .split_checks import n_outputs
from .splits import Data

NO_RECORDS = "none"  # as executor.records


def build_network(config: RunConfig, vocab: Vocab) -> Network:
    """The network of a resolved config, initialised by train.seed, on its executor.

    Raises:
        ConfigError: model.arity or data.n_classes is open.
        TargetError: the executor or its target cannot run here.
    """
    model, train, n_classes = config.model, config.train, n_outputs(config)
    if n_classes is None or model.arity is None:
        key = "model.arity" if model.arity is None else "data.n_classes"
        raise ConfigError(
            f"{key} is missing; the config saved with a run has it. Take that config, or set it."
        )
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
    if given.get("records") == NO_RECORDS:
        given["records"] = False
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


def first_batches(data: Data, n: int) -> list[Graph]:
    """The first batches of the first epoch, as training takes them; fewer where there are fewer."""
    config = data.config.train
    train = data.splits["train"]
    loader = Loader(train, config.batch_size, config.vertex_budget, seed=config.seed)
    return list(islice(loader.batches(0), n))


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
