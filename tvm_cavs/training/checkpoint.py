"""The state of a run -> one safetensors file, and back: whole or not at all.

Arrays are tensors named `parameter/NAME` and `optimizer/NAME`; everything else is JSON in the
header: progress (where in the data, counters, early stopping), the resolved config, the vocabulary,
versions, and a checksum. A file is written beside its final place, flushed to the disk and renamed,
so that a kill or a full disk leaves the previous checkpoint as it was.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import CheckpointError
from ..language import Parameter
from ..nn import set_parameters
from ..whole_files import write_whole

FORMAT = 1
STATE: dict[str, type | tuple[type, ...]] = {
    "progress": dict,
    "config": dict,
    "vocabulary": (list, type(None)),
    "versions": dict,
    "data": dict,
}
PACKAGES = ("tvm_cavs", "apache-tvm", "apache-tvm-ffi", "numpy")


@dataclass
class Progress:
    """Where a run stands: everything besides arrays that the next step depends on.

    `epoch` and `epoch_examples` name the next example of the loader's order, whatever the size of
    batches; `loader_seed` made that order; `batch` counts batches for people; `net_step` and
    `dropout_seed` decide the next dropout mask; `epoch_loss` and `epoch_labels` are the sums of the
    epoch so far, `recent_loss` and `recent_labels` those of each of the last steps; `best_value`,
    `best_epoch` and `n_bad_epochs` belong to early stopping; `seconds` is the training time used.
    """

    epoch: int = 0
    epoch_examples: int = 0
    batch: int = 0
    step: int = 0
    net_step: int = 0
    loader_seed: int = 0
    dropout_seed: int = 0
    epoch_loss: float = 0.0
    epoch_labels: int = 0
    recent_loss: list[float] = field(default_factory=list)
    recent_labels: list[int] = field(default_factory=list)
    n_examples: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    n_bad_epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What one checkpoint file holds."""

    parameters: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    config: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: list[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)  # by split, as fingerprints.py tells it


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, replacing what was there in one step.

    Raises:
        CheckpointError: the file could not be written; the previous one is intact.
    """
    path = Path(path)
    tensors = {f"parameter/{name}": array for name, array in checkpoint.parameters.items()}
    tensors |= {f"optimizer/{name}": array for name, array in checkpoint.optimizer.items()}
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    state = json.dumps(
        {
            "progress": asdict(checkpoint.progress),
            "config": checkpoint.config,
            "vocabulary": checkpoint.vocabulary,
            "versions": installed_versions(),
            "data": dict(checkpoint.data),
        }
    )
    metadata = {"format": f"tvm_cavs {FORMAT}", "crc32": _checksum(tensors, state), "state": state}
    _write(path, save(tensors, metadata))


def _write(path: Path, content: bytes) -> None:
    """The checkpoint's file, or in words why it could not be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        kept = "There is none before it."
        if os.path.exists(path):
            kept = "The previous checkpoint is intact."
        what, remedy = f"{error.strerror or error}", "Check that the folder exists and is writable."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk is full ({len(content) / 1e6:.1f} MB are needed)"
            remedy = "Free some space, then resume the run from its folder."
        if error.errno == errno.EFBIG:
            what = f"{len(content) / 1e6:.1f} MB are more than a file may have here"
            remedy = "Raise the limit (ulimit -f), then resume the run from its folder."
        raise CheckpointError(f"cannot write {path}: {what}. {kept} {remedy}") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check the file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is absent, truncated, damaged, no checkpoint of this package, or
            written by a newer version of it.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    _check_format(path, metadata.get("format", ""))
    if metadata.get("crc32") != _checksum(tensors, metadata.get("state", "")):
        raise CheckpointError(
            f"{path}: the checksum of its content is wrong, so the file is damaged. "
            "Take another checkpoint of the run, or a copy of this one."
        )
    state = json.loads(metadata["state"])
    if problem := _problem(state):
        raise CheckpointError(
            f"{path}: {problem}, so tvm_cavs did not write it. Take another checkpoint of the run, "
            "or a copy of this one."
        )
    known = {f.name for f in fields(Progress)}
    if state["progress"].get("batch") and "epoch_examples" not in state["progress"]:
        raise CheckpointError(
            f"{path} was written in the middle of an epoch by tvm_cavs "
            f"{state['versions'].get('tvm_cavs')}, which counted batches where this version counts "
            "examples. Resume it with that version until the epoch ends."
        )
    return Checkpoint(
        parameters=_strip("parameter/", tensors),
        optimizer=_strip("optimizer/", tensors),
        progress=Progress(**{k: v for k, v in state["progress"].items() if k in known}),
        config=state["config"],
        vocabulary=state["vocabulary"],
        versions=state["versions"],
        data=state.get("data", {}),
    )


def _problem(state: Any) -> str | None:
    """What a checkpoint that this package has written never holds, if there is something."""
    if not isinstance(state, dict):
        return f"its state is {state!r:.60}, where an object was expected"
    absent = [name for name in STATE if name not in state and name != "data"]
    if absent:
        return f"its state has no {', '.join(absent)}"
    for name, kind in STATE.items():
        if not isinstance(state.get(name, {}), kind):
            return f"its {name} is {state[name]!r:.60}"
    config = state["config"]
    sections = {name: config.get(name, {}) for name in ("data", "model", "train")}
    if isinstance(sections["train"], dict):
        sections["train.early_stop"] = sections["train"].get("early_stop", {})
    for name, section in sections.items():
        if not isinstance(section, dict):
            return f"its config has {name} = {section!r:.60}, where a section was expected"
    for f in fields(Progress):
        default, given = getattr(Progress(), f.name), state["progress"].get(f.name)
        if f.name in state["progress"] and not _is_like(default, given):
            return f"its progress has {f.name} = {given!r:.60}"
    return None


def _is_like(default: Any, given: Any) -> bool:
    """Whether it can stand in the place of a default of Progress; None is one of a number."""
    if isinstance(default, list):
        return isinstance(given, list) and all(_is_like(0.0, each) for each in given)
    if isinstance(default, int):
        return type(given) is int and given >= 0
    return type(given) in (int, float) or (default is None and given is None)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors and the header's metadata."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path} does not exist. Is this the folder of a run that reached its first checkpoint?"
        ) from error
    except (OSError, SafetensorError) as error:
        size = f" ({path.stat().st_size} bytes)" if os.path.exists(path) else ""
        raise CheckpointError(
            f"{path}{size} is truncated, damaged or no safetensors file "
            f"({error}). Take another checkpoint of the run, or a copy of this one."
        ) from error


def _check_format(path: Path, given: str) -> None:
    name, _, number = given.partition(" ")
    if name != "tvm_cavs" or not number.isdigit():
        raise CheckpointError(
            f"{path} is a safetensors file, but no checkpoint of tvm_cavs (format {given!r}). To "
            "start from its weights, give them to init.Array."
        )
    if int(number) > FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {number}; this version of tvm_cavs reads up to "
            f"{FORMAT}. Install the version that wrote it, or a newer one."
        )


def restore(parameters: Mapping[str, Parameter], checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's parameters into a network's.

    Raises:
        CheckpointError: names or shapes differ (all are listed); nothing was changed.
    """
    complaint = (
        "the checkpoint belongs to another network; use the config that is saved beside it. The "
        "differences"
    )
    set_parameters(parameters, checkpoint.parameters, complaint)


def installed_versions() -> dict[str, str]:
    """Versions of what decides a result: name -> version."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _checksum(tensors: Mapping[str, np.ndarray], state: str) -> str:
    value = zlib.crc32(state.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(np.uint8).data, value)
    return str(value)


def _strip(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: a for name, a in tensors.items() if name.startswith(prefix)}
