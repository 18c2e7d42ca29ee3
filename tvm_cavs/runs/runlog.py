"""The folder of a run: what is in it, and how it is written.

config.yaml          the resolved config: every key, defaults included
versions.json        of this package, TVM, NumPy, Python and the machine
metrics.jsonl        one JSON object a line, with "event": "epoch" or "test"
last.safetensors     the newest checkpoint; a run resumes from it
run.lock             held while a process trains here; says which one
best.safetensors     the parameters with the best dev metric
curve.png            the learning curve, where matplotlib is installed
profile.txt          with profile=true: where the time of a step goes
trace.json           the same step as a timeline, for ui.perfetto.dev or chrome://tracing
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

from .. import whole_files
from ..errors import CavsError
from ..training import installed_versions
from .config import dump_config
from .runlock import LOCK
from .schema import RunConfig

LAST, BEST = "last.safetensors", "best.safetensors"
PLACE = ("event", "epoch", "step")  # what a line is of
PROFILE, TRACE = "profile.txt", "trace.json"


def new_folder(wanted: str | Path) -> Path:
    """Make and return the folder `wanted`, or wanted-2, wanted-3, ... where a run is already there.

    Raises:
        CavsError: the folder cannot be made.
    """
    wanted, number = Path(wanted), 1
    folder = wanted
    try:
        folder = wanted = wanted.expanduser()
        while folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # no name, no such user, no path
        why = (error.strerror if isinstance(error, OSError) else None) or f"{error}"
        raise CavsError(
            f"the run's folder {folder} cannot be made: {why}. Set folder=PATH."
        ) from error
    return folder


def write_header(folder: Path, config: RunConfig) -> None:
    """Save the config, with the commands that run it, and the versions."""
    path = folder / "config.yaml"
    commands = f"# python scripts/train.py {path}\n# or, installed: tvm-cavs train {path}\n"
    write_whole(path, commands + dump_config(config))
    versions = installed_versions() | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
    }
    write_whole(folder / "versions.json", json.dumps(versions, indent=2) + "\n")


def append(folder: Path, event: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    path = folder / "metrics.jsonl"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(to_json(event) + "\n")
    except OSError as error:
        raise CavsError(
            f"cannot write {path}: {error.strerror}. What was done up to the last checkpoint is "
            "kept; free some space, then resume the run from its folder."
        ) from error


def put(folder: Path, event: dict[str, Any]) -> None:
    """Add the line of an epoch or a test, instead of one that says the same place of the run.

    A kill between such a line and the checkpoint after it makes a resumed run say it again.
    """
    events = read_events(folder)
    others = [e for e in events if any(e.get(key) != event.get(key) for key in PLACE)]
    if len(others) < len(events):
        write_whole(folder / "metrics.jsonl", "".join(to_json(e) + "\n" for e in others))
    append(folder, event)


def to_json(value: Any) -> str:
    """One line of JSON; numbers that are not finite, for which JSON has no word, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_events(folder: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to a step where one is given; a torn last line is left out.

    Raises:
        CavsError: the file cannot be read, or a line is no event of a run.
    """
    path = folder / "metrics.jsonl"
    events = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not _is_event(event):
            raise CavsError(
                f"{path}, line {number}: expected an event of the run, such as "
                f'{{"event": "epoch", "step": 7, ...}}, given {line:.60}. Correct or delete that '
                "line."
            )
        if last_step is None or event["step"] <= last_step:
            events.append(event)
    return events


def _lines(path: Path) -> list[str]:
    """The lines of a file, none where it is absent."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CavsError(
            f"{path} cannot be read: {error.strerror}. Put it right or remove it; a run goes on "
            "without it."
        ) from error


def _is_event(event: Any) -> bool:
    """Whether it holds what is read of events: of a step or an epoch also its numbers."""
    if not isinstance(event, dict) or type(event.get("step")) is not int:
        return False
    dev = event.get("dev") if event.get("event") == "epoch" else {}
    numbers = [event.get("train_loss"), *(dev.values() if isinstance(dev, dict) else ())]
    counted = event.get("event") not in ("step", "epoch") or (
        type(event.get("epoch")) is int and "train_loss" in event and isinstance(dev, dict)
    )
    return isinstance(event.get("event"), str) and counted and all(map(_is_number, numbers))


def _is_number(value: Any) -> bool:
    """Of those that `to_json` writes."""
    finite = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return value is None or (finite and not isinstance(value, bool))


def rewind(folder: Path, last_step: int) -> None:
    """Drop the lines after the checkpoint that a run resumes from."""
    kept = [to_json(event) + "\n" for event in read_events(folder, last_step)]
    write_whole(folder / "metrics.jsonl", "".join(kept))


def write_whole(path: Path, text: str) -> None:
    """A file of this text; `path` holds the old or the new one, never a part.

    Raises:
        CavsError: it could not be written.
    """
    try:
        whole_files.write_whole(path, text.encode())
    except OSError as error:
        raise CavsError(
            f"cannot write {path}: {error.strerror}. Check that the folder exists, is writable and "
            "has space left."
        ) from error
