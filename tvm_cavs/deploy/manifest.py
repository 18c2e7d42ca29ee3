"""The manifest of an exported model: what is in its folder, for whom, and made by what.

manifest.yaml is YAML, written in the part of it that is JSON, so that any language reads it. A
folder is used only if every file has the digest that the manifest names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DeployError
from ..versions import VERSION

FORMAT = 1
MANIFEST = "manifest.yaml"
LIBRARY = "kernels.so"
PROGRAM = "program.json"
BACKWARD = "backward.json"  # the same with the backward pass, where that was exported
PARAMETERS = "parameters.safetensors"
VALUES = "values.safetensors"  # what depends on parameters alone, where a network has that
VOCABULARY = "vocabulary.json"  # where inputs are tokens
BLOCK = 1 << 20
AGAIN = "Export the model again, or take another copy of the folder."
KEYS: dict[str, type] = {
    "name": str,
    "arity": int,
    "inputs": list,
    "outputs": list,
    "target": dict,
    "files": dict,
    "versions": dict,
    "complete": bool,
}

Manifest = Mapping[str, Any]


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def read_folder(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Read a folder's manifest and all files that it names, and check their digests.

    Returns:
        The manifest, and the content of every file.

    Raises:
        DeployError: there is none, it is damaged or newer, or a file is absent or another one.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise DeployError(
            f"{folder} is no exported model: it has no {MANIFEST}. Make one by `tvm-cavs export "
            "RUN --out DIR`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} cannot be read: {error}. {AGAIN}") from None
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{path} is damaged: {error}. {AGAIN}") from None
    _check_format(path, manifest)
    for key, kind in KEYS.items():
        if not isinstance(manifest.get(key), kind):
            given = manifest.get(key)
            raise DeployError(f"{path} is damaged: {key} is {given!r:.60}. {AGAIN}")
    files = {name: _read(folder, name, entry) for name, entry in manifest["files"].items()}
    absent = [name for name in (LIBRARY, PROGRAM, PARAMETERS) if name not in files]
    if absent:
        raise DeployError(f"{path} is damaged: it does not name {', '.join(absent)}. {AGAIN}")
    return dict(manifest), files


def _check_format(path: Path, manifest: Any) -> None:
    given = manifest.get("format") if isinstance(manifest, dict) else None
    if type(given) is not int or given < 1:
        raise DeployError(f"{path} is no manifest of tvm_cavs: its format is {given!r:.60}.")
    if given > FORMAT:
        raise DeployError(
            f"{path} has format {given}; tvm_cavs {VERSION} reads up to {FORMAT}. Install the "
            f"version that wrote it ({manifest.get('versions', {}).get('tvm_cavs', 'unknown')}), "
            "or export the model with this one."
        )


def _read(folder: Path, name: str, entry: Any) -> bytes:
    path = folder / name
    if name != Path(name).name or not isinstance(entry, dict):
        raise DeployError(f"{folder / MANIFEST} is damaged: it names the file {name!r:.60}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DeployError(f"{path} cannot be read: {reason}. {AGAIN}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.get("sha256"):
        raise DeployError(
            f"{path} is not the file that was exported: its SHA-256 is {found[:12]}..., expected "
            f"{str(entry.get('sha256'))[:12]}... . {AGAIN}"
        )
    return content
