"""scripts/mutate.py on a toy tree; and its own table names errors and tests that are there."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers.paths import ROOT

SCRIPT = ROOT / "scripts" / "mutate.py"
PART = "def part(x):\n    return x[1:]\n\n\ndef twice(x):\n    return x + x\n"
TESTS = """
import time
from toy import part, twice

def test_part():
    assert part("abc") == "bc"

def test_weak():
    assert twice("") == ""

def test_wrong():
    assert twice("a") == "a"

def test_waits():
    if twice("a") == "":
        open("waits", "w").close()
        time.sleep(60)
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutate = load()


def row(name: str, search: str, replace: str, test: str) -> str:
    values = {"file": "toy.py", "search": search, "replace": replace, "tests": f"test_toy.py{test}"}
    return f"- name: {name}\n" + "".join(f"  {k}: {v!r}\n" for k, v in values.items())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of one module, its tests and planted errors; copies of it go to a folder beside."""
    root, temporary = tmp_path / "toy", tmp_path / "temporary"
    (root / "tests").mkdir(parents=True)
    temporary.mkdir()
    (root / "toy.py").write_text(PART)
    (root / "test_toy.py").write_text(TESTS)
    rows = [
        row("off-by-one", "x[1:]", "x[2:]", "::test_part"),
        row("twice-once", "x + x", "x", "::test_weak"),
        row("stale", "def", "class", "::test_part"),
        row("no-python", "x[1:]", "x[", "::test_part"),
        row("not-there", "x[1:]", "x", "::test_other"),
        row("broken", "x + x", "x + x + x", "::test_wrong"),
        row("hangs", "x + x", "''", "::test_waits"),
    ]
    (root / mutate.TABLE).write_text("".join(rows))
    monkeypatch.setattr(mutate.tempfile, "tempdir", str(temporary))
    return root


def run(toy: Path, *arguments: str) -> int:
    code: int = mutate.main([*arguments, "--from", str(toy)])
    assert not list((toy.parent / "temporary").iterdir()), "a copy was left behind"
    assert (toy / "toy.py").read_text() == PART
    return code


def test_noticed_and_survived(toy: Path, capsys: Any) -> None:
    assert run(toy, "off-by-one", "twice-*", "--jobs", "2") == 1
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in found if "off-by-one" in line] == ["noticed"]
    assert [line[0] for line in found if "twice-once" in line] == ["SURVIVED"]


def test_what_counts_for_nothing(toy: Path, capsys: Any) -> None:
    """A search text that is not there once, no Python, no such test, a test that fails anyway."""
    assert run(toy, "stale", "no-python", "not-there", "--trusted") == 2
    assert run(toy, "broken", "off-by-one") == 2
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if " s " in line]
    assert words == ["STALE"] * 3 + ["broken", "noticed"]


def test_what_hangs_is_noticed(toy: Path, capsys: Any) -> None:
    assert run(toy, "hangs", "--trusted", "--seconds", "2") == 0
    assert "took too long" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_behind(toy: Path, number: int) -> None:
    temporary = toy.parent / "temporary"
    command = [sys.executable, str(SCRIPT), "hangs", "--trusted", "--from", str(toy)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored where a suite runs in &
    )
    end = time.monotonic() + 60
    while not list(temporary.glob("*/tree/waits")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 130
    assert not list(temporary.iterdir())


def test_unknown_names_are_refused(toy: Path) -> None:
    with pytest.raises(SystemExit, match="no mutant is named nothing"):
        run(toy, "nothing")


@pytest.mark.parametrize("mutant", mutate.read_table(ROOT / mutate.TABLE), ids=lambda m: m.name)
def test_the_table_is_up_to_date(mutant: Any) -> None:
    """Each error can be planted, and its tests are there."""
    assert mutate.planted(mutant, ROOT) is not None, (
        f"tests/mutants.yaml, {mutant.name}: {mutant.search!r} does not stand once in "
        f"{mutant.file}, or its replacement is no Python"
    )
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name.partition('[')[0]}(" in text, f"{mutant.name}: no {test}"
