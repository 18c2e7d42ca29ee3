"""Parameters in a file, by name: for NumPy and torch, and back."""

import errno
import os
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tvm_cavs as cavs
from tvm_cavs.errors import CheckpointError


def network(seed: int, hidden: int = 4) -> cavs.Network:
    net = cavs.Network(cavs.nn.TreeLSTM(vocab=5, embedding=3, hidden=hidden, n_classes=2))
    net.initialize(seed)
    return net


def values(net: cavs.Network) -> dict[str, np.ndarray]:
    return {name: p.data.copy() for name, p in net.parameters().items()}


def test_there_and_back(tmp_path):
    path, net, other = tmp_path / "p.safetensors", network(1), network(2)
    net.save_parameters(path)
    stored = load_file(path)
    assert stored.keys() == net.parameters().keys()
    versions = [p.version for p in other.parameters().values()]
    other.load_parameters(str(path))
    for name, array in values(net).items():
        np.testing.assert_array_equal(stored[name], array)
        np.testing.assert_array_equal(other.parameters()[name].data, array)
    assert all(p.version > v for p, v in zip(other.parameters().values(), versions, strict=True))
    other.save_parameters(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_of_another_network_nothing_is_taken(tmp_path):
    path, net = tmp_path / "p.safetensors", network(1)
    before = values(net)
    stored = {name: array for name, array in before.items() if name != "b"}
    save_file(stored | {"W": np.zeros((3, 5), "float32"), "X": np.zeros(2, "float32")}, path)
    with pytest.raises(CheckpointError) as error:
        net.load_parameters(path)
    assert str(error.value) == (
        f"{path} belongs to another network:\n"
        "  W: [3, 5] in the file, [3, 20] in the network\n"
        "  X: [2] in the file, absent in the network\n"
        "  b: absent in the file, [20] in the network"
    )
    for name, array in values(net).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_file_that_is_none_is_said(tmp_path, monkeypatch):
    net = network(1)
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'absent'} does not exist.$"):
        net.load_parameters(tmp_path / "absent")
    short, damaged = tmp_path / "short", "is truncated, damaged or no safetensors file"
    short.write_bytes(b"\0" * 5)
    with pytest.raises(CheckpointError, match=rf"^{short} {damaged} \(.*header.*\)\.$"):
        net.load_parameters(short)
    for use, said in ((net.save_parameters, "name too long"), (net.load_parameters, "not exist")):
        with pytest.raises(CheckpointError, match=said):
            use(tmp_path / ("x" * 300))
    with monkeypatch.context() as patch:
        worn = OSError(errno.EIO, os.strerror(errno.EIO))
        patch.setattr("tvm_cavs.nn.parameter_files.load_file", Mock(side_effect=worn))
        with pytest.raises(CheckpointError, match=rf"worn {damaged} \(.*Input/output error\)\.$"):
            net.load_parameters(tmp_path / "worn")
    for use in (net.save_parameters, net.load_parameters):
        with pytest.raises(CheckpointError, match="^/ is a folder; expected a file"):
            use("/")
    lost = tmp_path / "no" / "folder"
    with pytest.raises(CheckpointError, match=f"could not be written to {lost}: No such file"):
        net.save_parameters(lost)
    net.save_parameters(tmp_path / "kept")
    content = (tmp_path / "kept").read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("os.fsync", Mock(side_effect=full))
    with pytest.raises(CheckpointError, match="/kept: No space left on device. What was there"):
        net.save_parameters(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == content
    assert not (tmp_path / ".kept.part").exists()
