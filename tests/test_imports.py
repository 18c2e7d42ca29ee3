"""The import rules of setup.cfg hold, and each kind of them is noticed when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

pytest.importorskip("importlinter", reason="its versions need Python 3.11")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "setup.cfg", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_follow_the_rules() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("graph/levels.py", "from ..runtime import Plan", "Imports go down"),
        ("graph/levels.py", "import tvm", "The front half needs NumPy only"),
        ("runtime/plan.py", "import tvm", "The runtime stands without the compiler"),
        ("data/loader.py", "from ..graph.levels import check_levels", "graph is entered"),
        ("graph/levels.py", "from . import graph", "No circles"),
        ("novel.py", "", "Imports go down"),  # a package that has no place yet
    ],
)
def test_a_broken_rule_is_noticed(file: str, line: str, rule: str, tmp_path: Path) -> None:
    for name in ("tvm_cavs", "schedules", "autotune"):
        ignore = shutil.ignore_patterns("__pycache__", "configs")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    path = tmp_path / "tvm_cavs" / file
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(rule) for text in broken), done.stdout
