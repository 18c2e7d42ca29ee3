"""The pinned pair of TVM packages is checked at import."""

import configparser
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from helpers.paths import ROOT
from tvm_cavs import versions
from tvm_cavs.errors import TargetError


def test_pins_are_those_of_setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    pinned = parser["options"]["install_requires"].split()
    pinned += parser["options.extras_require"]["train"].split()
    assert {f"{p}=={v}" for p, v in versions.REQUIRED.items()} <= set(pinned)


def test_what_is_missing_comes_with_an_extra_of_setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    said = versions.not_installed("some-package")
    (extra,) = re.findall(r"pip install 'tvm_cavs\[(\w+)\]'$", said)
    assert said.startswith("some-package is not installed") and extra == "train"
    assert extra in parser["options.extras_require"]


@pytest.mark.parametrize("found", ["0.1.15.post2", "0.27.0", "9.0"])
def test_other_version_is_refused(monkeypatch, found):
    """An older one as well as a newer one."""
    monkeypatch.setattr(versions, "version", lambda package: found)
    said = f"^apache-tvm {found} is installed; .*Run: pip install apache-tvm=="
    with pytest.raises(TargetError, match=said):
        versions.check_versions()


@pytest.mark.parametrize("wrong", versions.REQUIRED)
def test_what_is_absent_does_not_hide_another_version(monkeypatch, wrong):
    """The remedy names the whole pair."""

    def version(package):
        if package == wrong:
            return "9.0"
        raise PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", version)
    pins = " ".join(f"{package}=={pin}" for package, pin in versions.REQUIRED.items())
    said = rf"^{wrong} 9.0 is installed; .* needs exactly {versions.REQUIRED[wrong]} \("
    with pytest.raises(TargetError, match=rf"{said}.*Run: pip install {pins}$"):
        versions.check_versions()


def test_checked_at_import():
    code = "import importlib.metadata as m; m.version = lambda p: '0.1.15.post2'\nimport tvm_cavs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "TargetError: apache-tvm 0.1.15.post2" in done.stderr
