"""scripts/crash.py: it tells runs apart that are not the same, and kernels that are not whole."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import ROOT
from helpers.runs import config, run_to_the_end
from tvm_cavs.runs.run import start
from tvm_cavs.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def crash():
    spec = importlib.util.spec_from_file_location("crash", ROOT / "scripts/crash.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["crash"]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    run_to_the_end(start(config(epochs=2), folder))
    return folder


@pytest.mark.parametrize("group", ["parameters", "optimizer"])
@pytest.mark.parametrize("file", ["last.safetensors", "best.safetensors"])
def test_the_last_bit_counts(group, file, done, crash, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(done, other)
    assert list(crash.differences(done, other)) == []
    found = load_checkpoint(other / file)
    if not getattr(found, group):
        pytest.skip("the best parameters are kept without an optimizer")
    arrays = {name: array.copy() for name, array in getattr(found, group).items()}
    name = sorted(n for n, a in arrays.items() if a.dtype == np.float32 and a.size)[0]
    arrays[name].reshape(-1)[-1:].view(np.int32)[:] ^= 1
    given = {"parameters": found.parameters, "optimizer": found.optimizer} | {group: arrays}
    save_checkpoint(other / file, Checkpoint(**given, progress=found.progress))
    assert list(crash.differences(done, other)) == [f"{file}: {name} differs"]


@pytest.mark.parametrize("how", ["twice", "absent", "other"])
def test_a_line_of_the_log_counts(how, done, crash, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(done, other)
    first, *lines = (done / "metrics.jsonl").read_text().splitlines()
    changed = json.loads(first) | {"train_loss": 0.5}
    new = {"twice": [first, first], "absent": [], "other": [json.dumps(changed)]}[how]
    (other / "metrics.jsonl").write_text("\n".join([*new, *lines]) + "\n")
    assert list(crash.differences(done, other)) == ["the logs differ"]
    slower = json.loads(first) | {"seconds": 1e9}
    (other / "metrics.jsonl").write_text("\n".join([json.dumps(slower), *lines, '{"ev']) + "\n")
    assert list(crash.differences(done, other)) == [], "times may differ, a line may be torn"


def test_kernels_that_are_not_whole_are_seen(crash, tmp_path):
    crash.check_kernels(tmp_path / "absent")
    key = "0123456789abcdef01234567"
    note = tmp_path / f"{key}.json"
    libraries = {f"{key}.0123456789ab.so": "0"}
    note.write_text(json.dumps({"libraries": libraries, "about": {}}))
    with pytest.raises(SystemExit, match="lacks a library"):
        crash.check_kernels(tmp_path)
    (tmp_path / f"{key}.0123456789ab.so").write_bytes(b"half")
    with pytest.raises(ValueError, match="the checksum differs"):
        crash.check_kernels(tmp_path)
