"""The name of a config -> its file: one of the working folder, or one that comes with the package.

The repository's folder configs/ is the one copy. `tvm_cavs/configs` is a link to it, which a wheel
holds as the files themselves.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError
from ..runs import choose

FOLDER = Path(__file__).parents[1] / "configs"
ENDINGS = ("", ".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """The configs that come with the package: name -> file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_config(given: str) -> tuple[Path, str]:
    """The file that `given` means, and what is to be said about that ("" of a plain path).

    A path, or a name with an ending, is a file. A name without either is a file of the working
    folder, with or without .yaml, or else a config that comes with the package.

    Raises:
        ConfigError: there is none; the message lists the names and offers the nearest.
    """
    path, ours = Path(given), shipped()
    if path.name != given or path.suffix:
        if not os.path.exists(path) and path.stem in ours:
            raise ConfigError(
                f"{given} does not exist. A config of that name comes with tvm_cavs: give its name "
                f"alone, {path.stem}."
            )
        return path, ""
    for name in (given + ending for ending in ENDINGS):
        if os.path.isfile(name):
            instead = ", not the one that comes with tvm_cavs" if given in ours else ""
            return Path(name), f"config: {name} in this folder{instead}"
    try:
        return ours[choose(given, ours)], f"config: {given}, which comes with tvm_cavs"
    except ValueError as error:
        raise ConfigError(
            f"config {given!r}: no file {given} or {given}.yaml in this folder, and none of that "
            f"name comes with tvm_cavs: {error}"
        ) from error
