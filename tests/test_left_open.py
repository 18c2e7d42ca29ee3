"""The check that a file of tests leaves nothing open sees what is left."""

import subprocess
import sys
from pathlib import Path

from helpers.left_open import held


def test_open_files_and_running_processes_are_seen(tmp_path: Path) -> None:
    before = held()
    file = (tmp_path / "file").open("w")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        left = {what: name for what, name in held().items() if before.get(what) != name}
        assert left[f"descriptor {file.fileno()}"] == str(tmp_path / "file")
        if list(Path("/proc/self/task").glob("*/children")):  # not every kernel lists them
            assert f"process {child.pid}" in left
    finally:
        child.communicate(b"\n")
        file.close()
    assert held() == before
