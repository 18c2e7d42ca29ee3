"""Exported models for all tests of the server."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.exported import export

    return export(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other parameters."""
    from helpers.exported import export

    return export(tmp_path_factory.mktemp("served") / "other", seed=7)
