"""Checkpoints: exact round trips; files that are absent, damaged, foreign or cannot be written."""

import errno
import json
import os
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from tvm_cavs import whole_files
from tvm_cavs.errors import CheckpointError
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.training import checkpoint as module
from tvm_cavs.training.checkpoint import (
    Checkpoint,
    Progress,
    installed_versions,
    load_checkpoint,
    restore,
    save_checkpoint,
)


def example(seed=0):
    rng = np.random.default_rng(seed)
    return Checkpoint(
        parameters={"W": rng.standard_normal((3, 4), np.float32), "b": np.zeros(4, np.float32)},
        optimizer={"W.sum": rng.random((3, 4), np.float32), "n_steps": np.array(7, np.int64)},
        progress=Progress(epoch=2, batch=5, step=7, epoch_loss=0.1 + 0.2, best_value=0.4),
        config={"train": {"lr": 0.05}},
        vocabulary=["<unk>", "naïve", "\u00a0"],
        data={"train": "a fingerprint"},
    )


def network():
    return {"W": Parameter((3, 4)), "b": Parameter((4,))}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.safetensors"


def test_a_package_that_is_not_installed_has_a_line_too(monkeypatch):
    """A resumed run tells by it that the package was there, or is now."""
    installed = installed_versions()
    assert list(installed) == ["tvm_cavs", "apache-tvm", "apache-tvm-ffi", "numpy"]
    for absent in installed:

        def version(package, absent=absent):
            if package == absent:
                raise PackageNotFoundError(package)
            return installed[package]

        monkeypatch.setattr(module, "version", version)
        assert installed_versions() == installed | {absent: "not installed"}


def test_round_trip(path):
    given = example()
    save_checkpoint(path, given)
    read = load_checkpoint(path)
    for name in ("parameters", "optimizer"):
        assert getattr(read, name).keys() == getattr(given, name).keys()
        for key, array in getattr(given, name).items():
            np.testing.assert_array_equal(getattr(read, name)[key], array)
            assert getattr(read, name)[key].dtype == array.dtype
            assert getattr(read, name)[key].shape == array.shape
    assert read.progress == given.progress
    assert read.config == given.config
    assert read.vocabulary == given.vocabulary and read.data == given.data
    assert read.versions == installed_versions()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_arrays_that_lie_otherwise_in_memory_are_read_as_they_were(path):
    W = np.arange(24, dtype=np.float32).reshape(4, 6)
    given = {"turned": W.T, "by columns": np.asfortranarray(W), "parts": W[::-1, ::2]}
    save_checkpoint(path, Checkpoint(given, optimizer=given))
    read = load_checkpoint(path)
    for name, array in given.items():
        np.testing.assert_array_equal(read.parameters[name], array)
        np.testing.assert_array_equal(read.optimizer[name], array)


def test_what_older_versions_noted_of_progress_is_passed_over(path):
    @dataclass
    class Older(Progress):
        finished: bool = False

    save_checkpoint(path, replace(example(), progress=Older(epoch=2, step=7, best_value=0.4)))
    assert load_checkpoint(path).progress == Progress(epoch=2, step=7, best_value=0.4)


def test_restore_fills_the_network(path):
    save_checkpoint(path, example())
    parameters = network()
    restore(parameters, load_checkpoint(path))
    np.testing.assert_array_equal(parameters["W"].data, example().parameters["W"])


def test_another_network_is_listed_whole():
    parameters = {"W": Parameter((3, 5)), "V": Parameter((2,)), "b": Parameter((4,))}
    with pytest.raises(CheckpointError) as error:
        restore(parameters, example())
    assert "V: absent in the file, [2] in the network" in str(error.value)
    assert "W: [3, 4] in the file, [3, 5] in the network" in str(error.value)
    assert "b:" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated(path, kept):
    save_checkpoint(path, example())
    path.write_bytes(path.read_bytes()[:kept])
    size = path.stat().st_size
    assert kept in (size, -1)
    where = rf"last.safetensors \({size} bytes\) is truncated, .* file \([A-Z]\w.*copy"
    with pytest.raises(CheckpointError, match=where):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", ["parameter/W", "parameter/b", "optimizer/W.sum", "optimizer/n"])
def test_one_damaged_byte_of_any_tensor(path, kind):
    save_checkpoint(path, example())
    content = bytearray(path.read_bytes())
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    place = next(entry["data_offsets"] for name, entry in header.items() if name.startswith(kind))
    for offset in (place[0], place[1] - 1):
        damaged = bytearray(content)
        damaged[8 + n + offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="last.safetensors: the checksum of its content"):
            load_checkpoint(path)


def test_damaged_header_text(path):
    save_checkpoint(path, example())
    path.write_bytes(path.read_bytes().replace(b"0.05", b"0.06"))
    with pytest.raises(CheckpointError, match="checksum of its content is wrong"):
        load_checkpoint(path)


def test_absent_and_foreign(path, tmp_path):
    with pytest.raises(CheckpointError, match="last.safetensors does not exist.*first checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="truncated, damaged or no safetensors file") as error:
        load_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} (")
    for given in (None, "other 1", "tvm_cavs", "tvm_cavs x", ""):
        save_file({"W": np.zeros(3)}, path, None if given is None else {"format": given})
        with pytest.raises(CheckpointError, match="no checkpoint of tvm_cavs") as error:
            load_checkpoint(path)
        assert str(error.value).startswith(f"{path} is a safetensors file, ")
        assert f"(format {given or ''!r})" in str(error.value)
    with pytest.raises(CheckpointError, match="in a file does not exist.*first checkpoint"):
        load_checkpoint(path / "in a file")


def test_newer_format(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", module.FORMAT + 1)
        save_checkpoint(path, example())
    what = "last.safetensors has checkpoint format 2; this version of tvm_cavs reads up to 1"
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_previous_checkpoint(path, monkeypatch):
    save_checkpoint(path, example())
    before = path.read_bytes()

    def open_full(beside):
        Path(beside).touch()
        return open("/dev/full", "wb")  # every write to it fails with ENOSPC

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "_open_for_writing", open_full)
        with pytest.raises(CheckpointError, match=r"the disk is full.*is intact\. Free some space"):
            save_checkpoint(path, example(seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"the disk is full \(2\.4 MB are needed\).* Free some space"),
        (errno.EDQUOT, r"the disk is full \(2\.4 MB are needed\).* Free some space"),
        (errno.EFBIG, r"2\.4 MB are more than a file may have here.* Raise the limit"),
        (errno.EROFS, "Read-only file system.* Check that the folder"),
    ],
)
def test_why_a_checkpoint_was_not_written_is_said(path, number, said, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "write_whole", refuse)
    with pytest.raises(CheckpointError, match=f"cannot write .*last.safetensors: {said}"):
        save_checkpoint(path, Checkpoint({"W": np.zeros(600_000, "float32")}))


def test_a_kill_while_writing_leaves_the_previous_checkpoint(path, monkeypatch):
    save_checkpoint(path, example())
    before = path.read_bytes()

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, example(seed=1))
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="No such file or .* There is none before it. Check"):
        save_checkpoint(tmp_path / "absent" / "last.safetensors", example())

    with pytest.raises(CheckpointError, match="File name too long. There is none before it"):
        save_checkpoint(tmp_path / ("x" * 300), example())

    def refuse(source, target):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save_checkpoint(tmp_path / "last.safetensors", example())
    assert list(tmp_path.iterdir()) == []


def test_the_header_is_readable_json(path):
    save_checkpoint(path, example())
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["state"])["config"] == {"train": {"lr": 0.05}}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("progress", 0, "its progress is 0"),
        ("config", {"train": []}, r"its config has train = \[\]"),
        ("config", {"train": {"early_stop": "x"}}, "its config has train.early_stop = 'x'"),
        ("config", {"model": 3}, "its config has model = 3"),
        ("config", {"data": "x"}, "its config has data = 'x'"),
        ("progress", {"epoch": "x"}, "its progress has epoch = 'x'"),
        ("progress", {"step": -1}, "its progress has step = -1"),
        ("progress", {"step": True}, "its progress has step = True"),
        ("progress", {"step": None}, "its progress has step = None"),
        ("progress", {"epoch_loss": "1"}, "its progress has epoch_loss = '1'"),
        ("progress", {"epoch_loss": None}, "its progress has epoch_loss = None"),
        ("progress", {"best_value": "1"}, "its progress has best_value = '1'"),
        ("progress", {"recent_loss": {}}, "its progress has recent_loss = {}"),
        ("progress", {"recent_loss": ""}, "its progress has recent_loss = ''"),
        ("progress", {"recent_loss": [1.0, "2"]}, r"has recent_loss = \[1.0, '2'\]"),
        *((key, None, f"its state has no {key}") for key in ("vocabulary", "versions", "config")),
        ("config", "x" * 70, f"its config is '{'x' * 59}"),
        ("config", {"model": "x" * 70}, f"has model = '{'x' * 59}"),
        ("progress", {"step": "x" * 70}, f"has step = '{'x' * 59}"),
    ],
)
def test_a_state_that_was_never_written_is_refused(path, key, value, said):
    write_with(path, key, value)
    where = ", where a section was expected" if said.startswith(("its config has", "has m")) else ""
    what = rf"last.safetensors: .*{said}{where}, so tvm_cavs did not write it. Take another"
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(path)


@pytest.mark.parametrize("state", [["x"], 3, "x" * 70])
def test_a_state_that_is_no_object_is_refused(path, state):
    save_checkpoint(path, example())
    tensors, metadata = module._read(path)
    text = json.dumps(state)
    metadata |= {"state": text, "crc32": module._checksum(tensors, text)}
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    what = f"{path}: its state is {repr(state)[:60]}, where an object was expected, so tvm_cavs"
    assert str(error.value).startswith(what)


def test_all_that_a_state_lacks_is_named(path):
    save_checkpoint(path, example())
    tensors, metadata = module._read(path)
    text = json.dumps({"progress": {}, "versions": {}})
    metadata |= {"state": text, "crc32": module._checksum(tensors, text)}
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(CheckpointError, match="its state has no config, vocabulary, so"):
        load_checkpoint(path)


def test_a_state_from_before_data_were_fingerprinted_is_read(path):
    write_with(path, "data", None)
    assert load_checkpoint(path).data == {}


def write_with(path, key, value):
    """A checkpoint with another entry of its state, or without it."""
    save_checkpoint(path, Checkpoint({"W": np.zeros(2, "float32")}, data={"train": "x"}))
    tensors, metadata = module._read(path)
    state = json.loads(metadata["state"]) | {key: value}
    text = json.dumps({k: v for k, v in state.items() if v is not None or k != key})
    metadata |= {"state": text, "crc32": module._checksum(tensors, text)}
    path.write_bytes(save(tensors, metadata))


@pytest.mark.parametrize("batch", [0, 4])
def test_batches_that_an_older_version_counted_are_followed_by_none_or_refused(path, batch):
    write_with(path, "progress", {"epoch": 3, "batch": batch})
    if not batch:
        assert load_checkpoint(path).progress == Progress(epoch=3)
        return
    version = installed_versions()["tvm_cavs"]
    what = (
        rf"last.safetensors was .* in the middle of an epoch by tvm_cavs {version}, which counted"
    )
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(path)
