"""Parameters <-> a safetensors file, by name: what NumPy, torch and others read as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..errors import CheckpointError
from ..language import Parameter
from ..whole_files import write_whole


def save_parameters(parameters: Mapping[str, Parameter], path: Path) -> None:
    """Write all parameters; the file is replaced in one step.

    Raises:
        CheckpointError: it could not be written; what was there before is still there.
    """
    _check_file(path)
    content = save({name: p.data for name, p in sorted(parameters.items())})
    try:
        write_whole(path, content)
    except OSError as error:
        raise CheckpointError(
            f"parameters could not be written to {path}: {error.strerror or error}. What was there "
            "before is still there."
        ) from error


def load_parameters(parameters: Mapping[str, Parameter], path: Path) -> None:
    """Read all parameters.

    Raises:
        CheckpointError: the file is absent or damaged, or names or shapes differ (all are listed);
            no parameter has changed then.
    """
    _check_file(path)
    try:
        stored = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or no safetensors file ({error})."
        ) from error
    set_parameters(parameters, stored, f"{path} belongs to another network")


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder; expected a file such as p.safetensors.")


def set_parameters(
    parameters: Mapping[str, Parameter], stored: Mapping[str, np.ndarray], complaint: str
) -> None:
    """Copy arrays into the parameters of the same names.

    Raises:
        CheckpointError: names or shapes differ; the text begins with `complaint` and lists all.
    """
    problems = []
    for name in sorted(parameters.keys() | stored.keys()):
        expected = list(parameters[name].shape) if name in parameters else "absent"
        given = list(stored[name].shape) if name in stored else "absent"
        if expected != given:
            problems.append(f"  {name}: {given} in the file, {expected} in the network")
    if problems:
        raise CheckpointError(f"{complaint}:\n" + "\n".join(problems))
    for name, parameter in parameters.items():
        parameter.set_data(stored[name])
