"""What a folder is looked at for before any of it runs, on machines and files that are made up."""

import hashlib
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
from safetensors.numpy import save

from tvm_cavs.deploy import cpu, library, manifest, tensors
from tvm_cavs.deploy.model import _policy
from tvm_cavs.errors import DeployError
from tvm_cavs.executors import exporting
from tvm_cavs.graph import Policy
from tvm_cavs.versions import VERSION

# LLVM's names of instructions and Linux's; what every machine has stands in no list that is short
X86 = {"avx2": "avx2", "sse4.1": "sse4_1", "lzcnt": "abm", "bmi": "bmi1", "sse3": "pni"}
X86 |= {"avx512vnni": "avx512_vnni", "sse2": ""}
ARM = {"dotprod": "asimddp", "fullfp16": "asimdhp", "sve2": "sve2", "neon": ""}
MACHINES = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}
CPUINFO = {
    "x86_64": "vendor : x\nflags\t\t: fpu {}\nbugs : avx2\n",
    "aarch64": "Features : fp {}\n",
}


@pytest.mark.parametrize("machine", MACHINES)
def test_instructions_that_are_needed_and_those_that_are_there(machine, tmp_path, monkeypatch):
    """Every set of what is needed, on machines that have every other one of the rest."""
    names = MACHINES[machine]
    architecture = "x86_64" if names is X86 else "aarch64"
    other = "aarch64" if names is X86 else "x86_64"
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    sets = [s for n in range(len(names) + 1) for s in itertools.combinations(names, n)]
    for held in sets[::3]:
        text = " ".join(names[name] for name in held)
        (tmp_path / "cpuinfo").write_text(CPUINFO[architecture].format(text))
        for needed in sets[::2]:
            lacking = sorted(n for n in needed if n not in held and names[n])
            if not lacking:
                cpu.require_cpu(architecture, needed)
                continue
            with pytest.raises(DeployError, match=rf"CPU lacks: {', '.join(lacking)}\. Export"):
                cpu.require_cpu(architecture, needed)
    with pytest.raises(DeployError, match=f"is for {other}, and this machine is {architecture}"):
        cpu.require_cpu(other, ())


def test_amx_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags : amx_tile avx2\n")
    for allowed in (True, False):
        monkeypatch.setattr(cpu, "_amx_allowed", lambda allowed=allowed: allowed)
        cpu.require_cpu("x86_64", ("avx2",))
        if allowed:
            cpu.require_cpu("x86_64", ("amx-tile",))
            continue
        with pytest.raises(DeployError, match="use AMX, which the system does not let"):
            cpu.require_cpu("x86_64", ("amx-tile",))


def test_every_path_of_a_library_is_another_one_of_the_same_file(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        paths = [library._path(descriptor, n) for n in [*range(600), 2**20, 2**24 - 1]]
        assert len(set(paths)) == len(paths)
        assert {os.path.realpath(path) for path in paths} == {os.path.realpath(tmp_path)}
    finally:
        os.close(descriptor)


def test_arrays_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    arrays = {
        "table": rng.normal(size=(5, 3)).astype("float32"),
        "one": np.array(2.5, "float32"),
        "none": np.zeros((0, 4), "float32"),
        "rows": rng.integers(-9, 9, 7).astype("int32"),
        "keys": rng.integers(0, 9, (2, 2)).astype("uint32"),
    }
    for metadata in (None, {"format": "tvm_cavs 1"}):
        content = save(arrays, metadata)
        found = tensors.read_tensors(content, "x")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)
            assert not array.size or found[name].ctypes.data % 64 == 0
    for end in range(0, len(content), 7):
        with pytest.raises(DeployError, match="^x is no safetensors file of a model"):
            tensors.read_tensors(content[:end], "x")
    wrong = content.replace(b'"shape":[5,3]', b'"shape":[5,2]')
    assert wrong != content
    with pytest.raises(DeployError, match=r"15 numbers, expected \[5, 2\]"):
        tensors.read_tensors(wrong, "x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose manifest is right."""
    files = {}
    for name in (manifest.LIBRARY, manifest.PROGRAM, manifest.PARAMETERS):
        (tmp_path / name).write_bytes(name.encode())
        files[name] = {"sha256": hashlib.sha256(name.encode()).hexdigest()}
    given = {key: kind() for key, kind in manifest.KEYS.items()}
    write(tmp_path, given | {"format": 1, "files": files, "versions": {"tvm_cavs": "7.8"}})
    return tmp_path


def write(folder: Path, given: dict) -> None:
    (folder / manifest.MANIFEST).write_text(json.dumps(given))


def test_a_manifest_has_all_of_its_keys_and_names_what_is_needed(folder):
    good, files = manifest.read_folder(folder)
    assert files == {name: name.encode() for name in good["files"]}
    for key in ("name", "arity", "inputs", "outputs", "target", "files", "versions", "complete"):
        for value in (None, 0.5):
            write(folder, good | {key: value})
            with pytest.raises(DeployError, match=rf"damaged: {key} is {value}\. Export the"):
                manifest.read_folder(folder)
        write(folder, {k: v for k, v in good.items() if k != key})
        with pytest.raises(DeployError, match=rf"damaged: {key} is None\. Export the"):
            manifest.read_folder(folder)
    for name in files:
        left = {n: entry for n, entry in good["files"].items() if n != name}
        write(folder, good | {"files": left})
        with pytest.raises(DeployError, match=f"does not name {name}. Export the"):
            manifest.read_folder(folder)
    write(folder, good | {"files": {manifest.PROGRAM: good["files"][manifest.PROGRAM]}})
    with pytest.raises(DeployError, match=r"does not name kernels\.so, parameters\.safetensors\. "):
        manifest.read_folder(folder)
    for given, said in (
        (0, "its format is 0"),
        (True, "its format is True"),
        (2, rf"has format 2; tvm_cavs {re.escape(VERSION)} reads up to 1\. .* wrote it \(7\.8\)"),
    ):
        write(folder, good | {"format": given})
        with pytest.raises(DeployError, match=said):
            manifest.read_folder(folder)
    for name in ("../x", "a/b", "/x"):
        write(folder, good | {"files": good["files"] | {name: {"sha256": ""}}})
        with pytest.raises(DeployError, match=f"names the file '{name}'"):
            manifest.read_folder(folder)
    for wrong in ({}, {"sha256": None}, {"sha256": ""}, {"sha256": 0}, {"size": 3}):
        write(folder, good | {"files": good["files"] | {manifest.PROGRAM: wrong}})
        with pytest.raises(DeployError) as refused:
            manifest.read_folder(folder)
        path = folder / manifest.PROGRAM
        assert f"{path} is not the file that was exported: its" in str(refused.value)
    (folder / manifest.PROGRAM).write_bytes(b"other")
    write(folder, good)
    found, wanted = hashlib.sha256(b"other").hexdigest(), good["files"][manifest.PROGRAM]["sha256"]
    with pytest.raises(DeployError, match=rf"is {found[:12]}\.\.\., expected {wanted[:12]}\.\.\. "):
        manifest.read_folder(folder)


@pytest.mark.parametrize("replace", [False, True])
def test_places_that_are_free_and_places_that_are_not(tmp_path, replace):
    """A folder that is empty or absent is free; an exported model makes room if it is told to."""
    place = tmp_path / "out"
    exporting._check_place(place, replace)
    place.mkdir()
    exporting._check_place(place, replace)
    (place / "notes").touch()
    with pytest.raises(DeployError, match="It holds something else than an exported model"):
        exporting._check_place(place, replace)
    (place / manifest.MANIFEST).touch()
    if replace:
        exporting._check_place(place, replace)
    else:
        with pytest.raises(DeployError, match="To replace an exported model say so: --replace"):
            exporting._check_place(place, replace)
    for other in ("file", "link", "dangling"):
        made = tmp_path / other
        made.touch() if other == "file" else made.symlink_to(place if other == "link" else "gone")
        with pytest.raises(DeployError, match=f"{other} is there and no folder"):
            exporting._check_place(made, replace)


def test_what_is_no_number_is_never_written(tmp_path):
    """Other readers of JSON refuse NaN; words of any language stay as they are."""
    exporting._write_json(tmp_path / "good", {"words": ["größe"], "x": 0.5}, indent=None)
    assert (tmp_path / "good").read_text(encoding="utf-8") == '{"words": ["größe"], "x": 0.5}\n'
    for bad in ("nan", "inf"):
        with pytest.raises(ValueError, match="not JSON compliant"):
            exporting._write_json(tmp_path / "bad", {"x": float(bad)}, indent=2)


def test_equal_vertices_are_shared_as_the_network_shared_them():
    """By the same inputs, where as much is saved, of as many vertices."""
    data = {"names": ["a", "b"], "least": 0.25, "per_level": 3}
    assert _policy(json.loads(json.dumps(data))) == Policy(("a", "b"), 0.25, 3)
