"""`tvm-cavs cache`: what it shows, what it clears, and what it refuses."""

import json
import os
from pathlib import Path

import pytest

from tvm_cavs.cli.cache import size
from tvm_cavs.cli.main import main

KEY = "0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel cache of one entry, 1,602 bytes; a file of someone's; what a kill has left."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv("TVM_CAVS_CACHE", str(folder))
    folder.mkdir(mode=0o700)
    (folder / f"{KEY}.0123456789ab.so").write_bytes(b"x" * 1600)
    (folder / f"{KEY}.json").write_text("{}")
    os.utime(folder / f"{KEY}.json", (1e9, 1e9))
    (folder / "notes.txt").touch()
    (folder / "part-0123456789abcdef").mkdir()
    return folder


def test_it_shows_what_is_kept(folder, capsys, monkeypatch):
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", "500MB")
    assert main(["cache"]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown.pop("last used").startswith("2001-09-0")
    what = {"entries": "1", "size": "1.6 kB of at most 500 MB"}
    assert shown == {"folder": str(folder)} | what
    assert main(["cache", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {
        "folder": str(folder),
        "entries": 1,
        "bytes": 1602,
        "limit": 500_000_000,
        "last_used": 1e9,
        "cleared": False,
    }


def test_it_clears_what_is_ours_and_says_so(folder, capsys):
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: removed 1 entry, 1.6 kB\n"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: nothing to clear\n"
    assert main(["cache"]) == 0
    assert "last used  never" in capsys.readouterr().out


def test_the_last_use_is_that_of_the_newest_and_leftovers_are_cleared_too(folder, capsys):
    other = "f" * 24
    (folder / f"{other}.json").write_text("{}")
    os.utime(folder / f"{other}.json", (2e9, 2e9))
    assert main(["cache", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["entries"], row["last_used"]) == (2, 2e9)
    assert main(["cache"]) == 0
    assert "last used  2033-05-1" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: removed 2 entries, 1.6 kB\n"
    (folder / "part-0123456789abcdef").mkdir()
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"{folder}: removed 0 entries, 0 bytes\n"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_there_may_be_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path / "absent"))
    assert main(["cache", "--json"]) == main(["cache", "clear"]) == 0
    row, told = capsys.readouterr().out.splitlines()
    assert json.loads(row)["entries"] == 0 and told.endswith("absent: nothing to clear")
    assert not (tmp_path / "absent").exists()


def test_what_it_refuses(folder, capsys, monkeypatch):
    folder.chmod(0o1777)
    assert main(["cache", "clear"]) == 1
    assert "can be written by others" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 4
    long = folder / ("x" * 300)
    monkeypatch.setenv("TVM_CAVS_CACHE", str(long))
    assert main(["cache"]) == 1
    said = f"the folder of compiled kernels {long}: File name too long. Look at its mode"
    assert said in capsys.readouterr().err
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", "much")
    assert main(["cache"]) == 1
    assert "TVM_CAVS_CACHE_LIMIT='much' is no size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "burn"])


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"), (2e9, "2 GB")]
    + [(5e12, "5 TB"), (5e17, "5e+05 TB")],
)
def test_sizes(n_bytes, text):
    assert size(n_bytes) == text
