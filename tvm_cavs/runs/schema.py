"""What a run can be told: the keys of a config file, their types, meaning and only defaults.

Each choice is a name in a table. Checks that concern several keys stand at the later key, so that
every problem of a file is found in one pass.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from ..executors import names as executor_names
from ..nn import CELLS, LOSSES
from ..training import METRICS, OPTIMIZERS, SCHEDULES, check_hyper, check_settings, fitting


def choose(given: str, names: Iterable[str]) -> str:
    """`given` if it is one of `names`.

    Raises:
        ValueError: it is not; the message lists the names and offers the nearest.
    """
    names = list(names)
    if given in names:
        return given
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected one of {', '.join(names)}{hint}")


def _one_of(names: Iterable[str]) -> AfterValidator:
    return AfterValidator(lambda given: choose(given, names))


def _path(given: str) -> str:
    """A path that the system can hold; a leading ~ has a meaning."""
    try:
        os.fsencode(given)
        Path(given).expanduser()
    except UnicodeEncodeError as error:
        raise ValueError("expected a path; it holds what is no character") from error
    except RuntimeError as error:
        raise ValueError(f"expected a path: {error}; write ./~ where a name begins so") from error
    if "\0" in given:
        raise ValueError("expected a path; no path holds a NUL character")
    return given


PathText: TypeAlias = Annotated[str, AfterValidator(_path)]
Rate: TypeAlias = Annotated[float, Field(ge=0.0, lt=1.0)]
Factor: TypeAlias = Annotated[float, Field(ge=0.0, le=1e10)]  # so that float32 holds products
MetricName: TypeAlias = Annotated[str, _one_of(METRICS)]


class Section(BaseModel):
    """A group of keys; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _no_truth_as_a_number(cls: type[BaseModel], given: Any, info: ValidationInfo) -> Any:
    """true is no 1.0, and 1 is no true: YAML reads yes, no, on and off as truth values."""
    kind = str(cls.model_fields[str(info.field_name)].annotation)
    numbers = given.values() if isinstance(given, dict) else [given]
    if "bool" not in kind and any(isinstance(each, bool) for each in numbers):
        raise ValueError("expected no truth value (YAML reads yes, no, on, off as one)")
    if "bool" in kind and not isinstance(given, (bool, type(None))):
        raise ValueError("expected true or false")
    return given


def _typed(*names: str) -> Any:
    """Truth values and numbers are told apart in these keys."""
    return field_validator(*names, mode="before")(classmethod(_no_truth_as_a_number))


class ListOpsData(Section):
    """Generated ListOps; nothing is read, unless `test` names the official file."""

    name: Literal["listops"] = "listops"
    n_train: PositiveInt = 10_000
    n_dev: PositiveInt = 500
    n_test: PositiveInt = 1_000
    max_tokens: PositiveInt | None = 100
    seed: NonNegativeInt = 0
    form: Literal["binary", "nary"] = "binary"
    label: Literal["label", "list_label"] = "label"
    test: PathText | None = None

    _types = _typed("n_train", "n_dev", "n_test", "max_tokens", "seed")


class PtbData(Section):
    """Trees in PTB brackets with a label at every vertex, such as SST.

    `n_classes` and `classes` are as for JSON lines. `unescape` reads -LRB- as "(" and so on. File
    names are relative to `folder`; NAME.xz is taken where only that exists.
    """

    name: Literal["ptb"]
    folder: PathText = "."
    train: PathText
    dev: PathText | None = None
    test: PathText | None = None
    n_classes: PositiveInt | None = None
    classes: tuple[str, ...] | None = None
    min_count: PositiveInt = 1
    lower: bool = False
    unescape: bool = False
    label: Literal["label"] = "label"

    _types = _typed("n_classes", "min_count", "lower", "unescape")


class JsonlData(Section):
    """One graph a line. `n_classes` is the largest label + 1 where it is not given, or how many
    numbers a target has; `classes` names the classes, where labels are words.

    File names are relative to `folder`; NAME.xz is taken where only that exists.
    """

    name: Literal["jsonl"]
    folder: PathText = "."
    train: PathText
    dev: PathText | None = None
    test: PathText | None = None
    n_classes: PositiveInt | None = None
    classes: tuple[str, ...] | None = None
    min_count: PositiveInt = 1
    label: str = "label"

    _types = _typed("n_classes", "min_count")


class ModelConfig(Section):
    """`arity` is the largest number of children in the data where it is not given.

    `pretrained` is a file of GloVe vectors, of the width `embedding`.
    """

    cell: Annotated[str, _one_of(CELLS)] = "tree_lstm"
    embedding: PositiveInt = 64
    hidden: PositiveInt = 128
    dropout: Rate = 0.0
    arity: PositiveInt | None = None
    pretrained: PathText | None = None

    _types = _typed("*")


class ScheduleConfig(Section):
    """The learning rate's factor over steps; see lr_schedules.py for what each one takes."""

    name: Annotated[str, _one_of(SCHEDULES)] = "constant"
    settings: dict[str, float] = Field(default={}, validate_default=True)

    _types = _typed("*")

    @field_validator("settings")
    @classmethod
    def _fit_the_schedule(cls, given: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if "name" in info.data:
            check_settings(info.data["name"], given)
        return given


class EarlyStopConfig(Section):
    """Stop after `patience` epochs without a better dev metric; None never stops.

    `metric` is the first of train.metrics where it is not given.
    """

    metric: MetricName = ""
    patience: PositiveInt | None = None

    _types = _typed("*")


class TrainConfig(Section):
    """`lr_mult` and `decay_mult` map a parameter's name to its own factor on lr and weight_decay.

    `hyper` holds further numbers of the optimizer. `metrics` are those that fit the loss where none
    are named, such as mse for squared_error. `warmup` is a number of steps of linear warm-up.
    """

    loss: Annotated[str, _one_of(LOSSES)] = "softmax_cross_entropy"
    optimizer: Annotated[str, _one_of(OPTIMIZERS)] = "adagrad"
    hyper: dict[str, float] = {}
    lr: Annotated[Factor, Field(gt=0.0)] = 0.05
    weight_decay: Factor = 0.0
    lr_mult: dict[str, Factor] = {}
    decay_mult: dict[str, Factor] = {}
    clip_norm: PositiveFloat | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    warmup: NonNegativeInt = 0
    batch_size: PositiveInt | None = 25
    vertex_budget: PositiveInt | None = Field(default=None, validate_default=True)
    epochs: PositiveInt = 10
    max_seconds: PositiveFloat | None = None
    seed: NonNegativeInt = 0
    metrics: tuple[MetricName, ...] = Field(default=(), validate_default=True)
    early_stop: EarlyStopConfig = Field(default=EarlyStopConfig(), validate_default=True)
    checkpoint_seconds: PositiveFloat = 60.0

    _types = _typed("*")

    @field_validator("hyper")
    @classmethod
    def _fit_the_optimizer(cls, given: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if "optimizer" in info.data:
            check_hyper(info.data["optimizer"], given)
        return given

    @field_validator("vertex_budget")
    @classmethod
    def _one_limit(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given is None and info.data.get("batch_size", 1) is None:
            raise ValueError("expected train.batch_size, train.vertex_budget or both")
        return given

    @field_validator("metrics")
    @classmethod
    def _fit_the_loss(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "loss" not in info.data:
            return given
        fit = fitting(info.data["loss"])
        wrong = [name for name in given if name not in fit]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} does not fit the loss {info.data['loss']}; expected some of "
                f"{', '.join(fit)}"
            )
        return given or tuple(fit[:2])

    @field_validator("early_stop")
    @classmethod
    def _is_measured(cls, given: EarlyStopConfig, info: ValidationInfo) -> EarlyStopConfig:
        measured = info.data.get("metrics")
        if not measured:  # loss or metrics are wrong, which is said already
            return given
        if not given.metric:
            return given.model_copy(update={"metric": measured[0]})
        if given.metric not in measured:
            raise ValueError(f"expected a metric in train.metrics: {', '.join(measured)}")
        return given


class ExecutorConfig(Section):
    """What runs the network; `target` and `threads` are detected where they are not given.

    `precision` is what operands of products are rounded to (default: float32, no rounding).
    `sharing` computes equal subgraphs of a batch once (default: where there is no dropout).
    `records` is a file that `tvm-cavs tune` wrote, or none to use no records (default: the file
    beside the compiled kernels, and the records that are shipped).
    """

    name: str = "tvm"
    target: str | dict[str, Any] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    precision: Literal["float32", "bf16"] | None = None
    sharing: bool | None = None
    records: PathText | None = None

    _types = _typed("*")

    @field_validator("name")
    @classmethod
    def _is_registered(cls, given: str) -> str:
        return choose(given, executor_names())

    @field_validator("target", mode="before")
    @classmethod
    def _is_a_text_or_a_mapping(cls, given: Any) -> Any:
        if given is None or isinstance(given, (str, dict)):
            return given
        raise ValueError(
            "expected a text such as host, or a mapping such as {kind: llvm, mcpu: znver4}"
        )


def _seconds(given: Any) -> Any:
    """Seconds of a text such as 300s, 5m or 1.5h; what is no such text is left to the type."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    if not isinstance(given, str) or given[-1:] not in units:
        return given
    try:
        return float(given[:-1]) * units[given[-1]]
    except ValueError:
        raise ValueError("expected a time such as 300s, 5m or 1h") from None


def _address(given: Any) -> Any:
    """The keys of a text such as 127.0.0.1:9190/KEY or KEY; all else is left to the types."""
    if not isinstance(given, str):
        return given
    tracker, _, key = given.rpartition("/")
    return {"key": key, **({"tracker": tracker} if tracker else {})}


class RpcConfig(Section):
    """Servers of TVM's RPC on which `tvm-cavs tune` measures: those registered as `key` at the
    tracker HOST:PORT. In short 127.0.0.1:9190/KEY. Without a key it measures on this machine.
    """

    tracker: str = "127.0.0.1:9190"
    key: Annotated[str, Field(pattern=r"^[^\s:/]+$")] | None = None

    _types = _typed("*")

    @field_validator("tracker")
    @classmethod
    def _has_a_port(cls, given: str) -> str:
        host, _, port = given.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:9190")
        return given

    @property
    def address(self) -> tuple[str, int]:
        """The tracker's host and port."""
        host, _, port = self.tracker.rpartition(":")
        return host.strip("[]"), int(port)


class TuneConfig(Section):
    """`tvm-cavs tune`: `budget` is a time such as 300s, 5m or 1h; `batches` of the training data
    are looked at; `mode` is what runs, steps of training or inference.

    A candidate that takes longer than `candidate_seconds` is given up. `records` is the file in
    which measurements are kept (default: executor.records, or beside the compiled kernels).
    """

    budget: Annotated[PositiveFloat, BeforeValidator(_seconds)] = 300.0
    batches: PositiveInt = 8
    mode: Literal["train", "infer"] = "train"
    candidate_seconds: Annotated[PositiveFloat, BeforeValidator(_seconds)] = 20.0
    records: PathText | None = None
    rpc: Annotated[RpcConfig, BeforeValidator(_address)] = RpcConfig()

    _types = _typed("*")


class RunConfig(Section):
    """One run. `folder` is where it is saved: `runs/` and the config's name where not given.

    `profile` times one of the first steps kernel by kernel, without an effect on training, and
    leaves profile.txt and trace.json in the folder.
    """

    data: Annotated[ListOpsData | PtbData | JsonlData, Field(discriminator="name")] = ListOpsData()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    executor: ExecutorConfig = ExecutorConfig()
    tune: TuneConfig = TuneConfig()
    folder: PathText | None = None
    profile: bool = False

    _types = _typed("profile")

    @field_validator("profile")
    @classmethod
    def _has_kernels(cls, given: bool, info: ValidationInfo) -> bool:
        executor = info.data.get("executor", ExecutorConfig()).name
        if given and executor != "tvm":
            raise ValueError(f"executor {executor} has no kernels to time; expected executor tvm")
        return given

    @field_validator("train")
    @classmethod
    def _has_a_dev_set(cls, given: TrainConfig, info: ValidationInfo) -> TrainConfig:
        data = info.data.get("data", ListOpsData())
        if given.early_stop.patience is not None and getattr(data, "dev", "generated") is None:
            raise ValueError("early_stop.patience needs a dev set; expected data.dev as well")
        return given
