"""Where the public data sets lie; users do not have them, so a test that needs one skips."""

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_data(name: str) -> Path:
    """The path of one file below the folder TVM_CAVS_DATA; skips the test where it is absent."""
    path = Path(os.environ.get("TVM_CAVS_DATA", DEFAULT)) / name
    if not path.exists():
        pytest.skip(f"{name} is not here; set TVM_CAVS_DATA to the folder that holds it")
    return path
