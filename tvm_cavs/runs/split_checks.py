"""A split and a resolved config -> nothing, or why a run cannot learn from it or be measured on it.

The one idea: a first start, a resume, an evaluation and a dev set all pass this door, so that what
one of them accepts the others do, and nothing that can be known before the first step fails later.
"""

from __future__ import annotations

import numpy as np

from ..data import N_CLASSES, Dataset
from ..errors import DataError
from ..graph import Graph
from ..nn import CELLS
from ..training import LEARNS, METRICS, nothing_to_count
from .schema import ListOpsData, ModelConfig, RunConfig


def n_outputs(config: RunConfig) -> int | None:
    """How wide the output is: the number of classes, or of a real-valued target; None if open."""
    if isinstance(config.data, ListOpsData):
        return N_CLASSES if LEARNS[config.train.loss] == "classes" else 1
    return config.data.n_classes


def check_split(config: RunConfig, dataset: Dataset, whole: Graph) -> None:
    """The graphs have what the network reads and a label that the loss can learn.

    Args:
        whole: all graphs of the data set as one batch.

    Raises:
        DataError: otherwise; the file, the line and the vertex are named.
    """
    label = config.data.label
    _check_words(dataset, whole)
    if label == "word":
        raise DataError("data.label is word, the input that cells read; it cannot be learned too.")
    if label not in whole.inputs:
        raise DataError(
            f"{dataset.name} has no input {label!r} to learn; it has "
            f"{', '.join(whole.inputs) or 'none'}. Set data.label."
        )
    if not whole.inputs[label].present.any():
        raise DataError(
            f"{dataset.name} has no labels: {label!r} is null at every vertex. Label some "
            "vertices, or leave this split out."
        )
    if LEARNS[config.train.loss] == "classes":
        _check_classes(config, dataset, whole)
    else:
        _check_numbers(config, dataset, whole)
    _check_arity(config.model, dataset, whole)


def check_measured(config: RunConfig, dataset: Dataset, whole: Graph) -> None:
    """Every metric of the run has something to count in a split that is measured.

    Raises:
        DataError: otherwise.
    """
    n = n_outputs(config)
    for name in config.train.metrics:
        needs = METRICS[name].n_classes
        if needs is not None and n is not None and n != needs:
            raise DataError(
                f"train.metrics: {name} needs {needs} classes (SST), but there are {n}. Use "
                f"{name.replace('binary_', '')}."
            )
        if not counts_something(name, whole, config.data.label):
            raise DataError(
                f"{dataset.name}: {nothing_to_count(name, config.data.label)} "
                "The metrics of a run are train.metrics."
            )


def counts_something(metric: str, whole: Graph, label: str) -> bool:
    """Whether any label of a split counts for a metric."""
    return bool(METRICS[metric].counted(whole, label).any())


def _check_words(dataset: Dataset, whole: Graph) -> None:
    if "word" not in whole.inputs:
        raise DataError(
            f"{dataset.name}: the input 'word' is missing; the cells of model.cell look up its "
            f"tokens. It has {', '.join(whole.inputs) or 'no inputs'}. Write the word of every "
            'vertex that has one in quotes, such as "join", and null elsewhere.'
        )


def _check_classes(config: RunConfig, dataset: Dataset, whole: Graph) -> None:
    given, expected = whole.inputs[config.data.label], "expected an integer of 0 or more, or null"
    if given.values.dtype != np.int32 or given.values.ndim > 1:
        rows = given.values.reshape(whole.n_vertices, -1)
        wrong = given.present & (rows != np.round(rows)).any(axis=1)
        vertex = int((wrong if wrong.any() else given.present).argmax())
        _refuse(dataset, whole, vertex, config, expected)
    wrong = given.present & (given.values < 0)  # readers refuse those past the last
    if wrong.any():
        _refuse(dataset, whole, int(wrong.argmax()), config, expected)


def _check_numbers(config: RunConfig, dataset: Dataset, whole: Graph) -> None:
    n = n_outputs(config)
    given = whole.inputs[config.data.label]
    first = int(given.present.argmax())
    if given.values.dtype != np.float32 or given.values.ndim != 2:
        _refuse(dataset, whole, first, config, "expected a number, or a list of numbers")
    width = given.values.shape[1]
    if n is not None and width != n:
        what = f"a list of {n} numbers" if n > 1 else "one number"
        remedy = "as in the training set, or as data.n_classes says"
        _refuse(dataset, whole, first, config, f"expected {what}, {remedy}")
    if LEARNS[config.train.loss] == "answers":
        outside = given.present & ((given.values < 0) | (given.values > 1)).any(axis=1)
        if outside.any():
            _refuse(dataset, whole, int(outside.argmax()), config, "expected 0 to 1")


def _check_arity(model: ModelConfig, dataset: Dataset, whole: Graph) -> None:
    if model.arity is None:
        return
    # A cell for chains takes one child whatever the config says.
    most = CELLS[model.cell](vocab=1, embedding=1, hidden=1, n_classes=1, arity=model.arity).arity
    widths = np.diff(whole.child_ptr)
    if widths.max() > most:
        vertex = int(widths.argmax())
        raise DataError(
            f"{_place(dataset, whole, vertex)} has {widths[vertex]} children, but {model.cell} "
            f"takes {most}. "
            + (
                f"Set model.arity={widths[vertex]} for a new run, or binarise the graphs."
                if most == model.arity
                else "It is for chains: choose a cell for trees, such as tree_lstm."
            )
        )


def _refuse(dataset: Dataset, whole: Graph, vertex: int, config: RunConfig, expected: str) -> None:
    label = config.data.label
    value = whole.inputs[label].values[vertex]
    raise DataError(
        f"{_place(dataset, whole, vertex)}: {label} {value.tolist()!r:.60} does not fit "
        f"{config.train.loss}; {expected}. Are train.loss and data.label right?"
    )


def _place(dataset: Dataset, whole: Graph, vertex: int) -> str:
    g = int(np.searchsorted(whole.graph_ptr, vertex, "right")) - 1
    return dataset.place(g, vertex - int(whole.graph_ptr[g]))
