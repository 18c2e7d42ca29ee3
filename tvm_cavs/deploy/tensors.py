"""Reads safetensors files without a package for it: a length, a JSON header, then the numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ..arrays import aligned
from ..errors import DeployError
from ..runtime import BufferId

DTYPES = {"F32": "float32", "I32": "int32", "U32": "uint32"}
LENGTH = 8  # bytes of the length of the header


def buffer_name(buffer: BufferId) -> str:
    """What the numbers of a buffer are called in a file."""
    return str(buffer)


def read_tensors(given: bytes, name: str) -> dict[str, np.ndarray]:
    """All arrays of a file, in memory that kernels can use.

    Args:
        given: the file's content. name: its name.

    Raises:
        DeployError: it is no such file.
    """
    content = np.frombuffer(given, "uint8")
    try:
        begin = LENGTH + int(content[:LENGTH].view("<u8")[0])
        header = json.loads(content[LENGTH:begin].tobytes())
        header.pop("__metadata__", None)
        return {name: _array(content[begin:], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DeployError(f"{name} is no safetensors file of a model: {error}.") from None


def _array(content: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    first, last = entry["data_offsets"]
    made = aligned(shape, dtype)
    given = content[first:last].view(dtype)
    if given.size != math.prod(shape):
        raise ValueError(f"{given.size} numbers, expected {list(shape)}")
    made[...] = given.reshape(shape)
    return made
