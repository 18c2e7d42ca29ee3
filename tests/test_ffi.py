"""Torch is not imported for us, and is there for whoever imports it."""

import os
import subprocess
import sys

import pytest

from helpers.paths import ROOT

TORCH = """
import sys
sys.stderr.write("torch was imported\\n")
ones = 1
"""


@pytest.fixture
def ask(tmp_path):
    """What a process prints in whose path some torch lies, and its errors."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(TORCH)

    def run(code):
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            check=True,
        )
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize("name", ["runtime", "deploy", "compiler", "public"])
def test_torch_is_left_alone_until_it_is_wanted(ask, name):
    if name in ("compiler", "public"):
        pytest.importorskip("tvm")
    told, errors = ask(f"import tvm_cavs.{name}, sys; print('torch' in sys.modules)")
    assert (told, errors) == ("False\n", "")
    told, errors = ask(f"import tvm_cavs.{name}, torch; print(torch.ones)")
    assert (told, errors) == ("1\n", "torch was imported\n")


def test_a_torch_that_is_there_stays(ask):
    code = """
from tvm_cavs.ffi import without_torch
import torch as before
with without_torch():
    import torch
print(torch is before)
"""
    assert ask(code) == ("True\n", "torch was imported\n")


def test_what_fails_meanwhile_leaves_no_trace(ask):
    code = """
import sys
from tvm_cavs.ffi import without_torch
try:
    with without_torch():
        import torch
except ImportError:
    print("absent")
import torch
print(torch.ones)
"""
    assert ask(code) == ("absent\n1\n", "torch was imported\n")
