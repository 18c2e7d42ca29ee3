"""What kernels touch lies in their buffers; the test that finds out notices one row too many."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import guard
from helpers.paths import ROOT

pytestmark = pytest.mark.compiles
MODELS = "tests/helpers/guarded_models.py"


def test_a_model_is_clean_and_a_planted_overrun_is_found(cache: Path) -> None:
    """In a child process, which the planted overrun ends; `pytest --guard end` does all tests."""
    command = [sys.executable, "-m", "pytest", MODELS, "-k", "a_model or planted", "-vv"]
    environment = {k: v for k, v in os.environ.items() if k not in guard.VARIABLES}
    environment["TVM_CAVS_TEST_CACHE"] = str(cache)
    done = subprocess.run(
        [*command, "--guard", "end"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "test_a_model PASSED" in done.stdout, done.stdout[-2000:]
    last = done.stdout.strip().splitlines()[-1]
    assert "outside of its memory in " in last and "::test_planted_overrun: kernel region_" in last


@pytest.mark.parametrize("side", guard.SIDES)
@pytest.mark.parametrize("n_bytes", [0, 1, 4095, 4096, 4097])
def test_memory_up_to_the_page_is_usable(side: str, n_bytes: int) -> None:
    made = guard.guarded_bytes(n_bytes, side)
    assert made.shape == (n_bytes,) and not made.any()
    made.fill(7)
    edge = made.ctypes.data + (n_bytes if side == "end" else 0)
    assert n_bytes == 0 or edge % mmap.PAGESIZE == 0
