"""Compiling: what is kept on disk, when it is built again, and what is said about it."""

import ast
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm.support import cc

import schedules
import tvm_cavs
from helpers.targets import X86
from schedules.loops import SCHEDULED
from tvm_cavs import kernel_cache
from tvm_cavs.compiler import cache as caching
from tvm_cavs.compiler import compiler as compiling
from tvm_cavs.compiler import homeless, library
from tvm_cavs.compiler.compiler import Compiler
from tvm_cavs.compiler.forms import Form
from tvm_cavs.compiler.linking import MOST_BYTES, link
from tvm_cavs.compiler.lowering.specs import ColumnSum, Piece
from tvm_cavs.compiler.lowering.steps import Kernel
from tvm_cavs.errors import TargetError
from tvm_cavs.kernel_cache import Place
from tvm_cavs.runtime.threads import use_threads

WIDTH = 5
KERNEL = Kernel("column_sum", ColumnSum((Piece(WIDTH, 0, WIDTH),)))

compiles = pytest.mark.compiles


def built(monkeypatch: pytest.MonkeyPatch, cache: Any, n_threads: int = 1) -> bool:
    """Whether a fresh compiler with this cache builds the kernel. Its result is checked."""
    builds: list[str] = []
    build = Compiler._build

    def counted(self: Compiler, forms: list[Form], world: str) -> dict[str, Any]:
        builds.append(world)
        return build(self, forms, world)

    with monkeypatch.context() as m:
        m.setattr(Compiler, "_build", counted)
        compiler = Compiler("host", n_threads, cache)
        forms = compiler.forms(KERNEL)
        compiler.compile(forms)
        compiler.compile(forms)
    rows, out = np.arange(4 * WIDTH, dtype="float32").reshape(4, WIDTH), np.ones(WIDTH, "float32")
    total = tvm.runtime.tensor(out)
    compiler.function(forms[0].symbol)(3, 1, tvm.runtime.tensor(rows), total)
    np.testing.assert_array_equal(total.numpy(), 1 + rows[1:].sum(0))
    return len(builds) == 1


def files(cache: Path, suffix: str) -> list[Path]:
    return sorted(cache.glob(f"*{suffix}"))


@compiles
def test_a_second_compiler_loads_what_the_first_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert built(monkeypatch, tmp_path / "new" / "folder")
    assert not built(monkeypatch, tmp_path / "new" / "folder")
    assert built(monkeypatch, False)
    assert built(monkeypatch, tmp_path / "other")


SECOND = """
import sys
from tvm_cavs.compiler import Compiler
from tvm_cavs.compiler.lowering.specs import ColumnSum, Piece
from tvm_cavs.compiler.lowering.steps import Kernel

def refuse(*_): raise SystemExit("built again")

Compiler._build = refuse
compiler = Compiler("host", 1, sys.argv[1])
compiler.compile(compiler.forms(Kernel("column_sum", ColumnSum((Piece(5, 0, 5),)))))
print("loaded")
"""


@compiles
def test_a_second_process_loads_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert built(monkeypatch, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(tvm_cavs.__file__).parents[1],
        check=False,
    )
    assert done.stdout == "loaded\n", done.stderr


def damage(path: Path, content: bytes) -> None:
    """Replace a file: another one of the same name, for this process may have mapped the first."""
    path.unlink()
    path.write_bytes(content)


@compiles
@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        (".so", None, r"KEY\.[0-9a-f]{12}\.so: the checksum differs"),
        (".so", b"", r"KEY\.[0-9a-f]{12}\.so: the checksum differs"),
        (".json", b"\x00\xffgarbage", "'utf-16-be' codec can't decode .*: truncated data"),
        (".json", b"[1, 2]", r"KEY\.json names no libraries"),
        (".json", b"{}", r"KEY\.json names no libraries"),
    ],
)
def test_a_damaged_entry_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, content: bytes, reason: str
) -> None:
    assert built(monkeypatch, tmp_path)
    (path,) = files(tmp_path, suffix)
    damage(path, path.read_bytes()[:1000] if content is None else content)
    key = files(tmp_path, ".json")[0].stem
    words = rf"{tmp_path}/{key}\.json is damaged \({reason.replace('KEY', key)}\); building it"
    with pytest.warns(UserWarning, match=words):
        assert built(monkeypatch, tmp_path)
    assert not built(monkeypatch, tmp_path)


@compiles
def test_a_missing_library_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert built(monkeypatch, tmp_path)
    files(tmp_path, ".so")[0].unlink()
    assert built(monkeypatch, tmp_path)
    assert not built(monkeypatch, tmp_path)


@compiles
def test_a_folder_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    remedy = r"every start compiles again\. Set TVM_CAVS_CACHE to a folder"
    with pytest.warns(UserWarning, match=rf"kept in {tmp_path}/file \(.+\): {remedy}"):
        assert built(monkeypatch, tmp_path / "file")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kernel_cache, "write", full)
        reason = rf"kept in {tmp_path} \(No space left on device\): {remedy}"
        with pytest.warns(UserWarning, match=reason) as told:
            assert built(monkeypatch, tmp_path)
    assert len(told) == 1 and files(tmp_path, ".so") == files(tmp_path, ".json") == []


@compiles
def test_a_folder_that_cannot_be_read_is_said_once_and_kernels_are_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(folder: int, prefix: str) -> dict[str, kernel_cache.Note]:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(kernel_cache, "notes", fail)
        with pytest.warns(UserWarning, match=f"in {tmp_path} cannot be read .Input/output") as told:
            assert built(monkeypatch, tmp_path)
    assert len(told) == 1 and not built(monkeypatch, tmp_path)


@compiles
def test_a_machine_without_a_c_compiler_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cc, "get_cc", lambda: None)
    with pytest.warns(UserWarning, match=rf"kept in {tmp_path} \(no C compiler.*Install gcc"):
        assert built(monkeypatch, tmp_path)
    assert files(tmp_path, "") == []


@compiles
@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("/nonexistent/cc", "/nonexistent/cc cannot be run: No such file"),
        ("false", "false could not link them: it ended with 1"),
        ("c++ 'x", '"c\\+\\+ \'x" names no C compiler to link them with'),
        (
            "sh -c 'echo ld: No space left on device; echo more; exit 1'",
            "sh could not link them: ld: No space",
        ),
    ],
)
def test_a_linker_that_fails_is_said(
    compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cc, "get_cc", lambda: compiler)
    with pytest.warns(UserWarning, match=rf"\({reason}.*every start compiles again") as told:
        assert built(monkeypatch, tmp_path)
    assert len(told) == 1
    assert files(tmp_path, "") == []


class Module:
    """Machine code as TVM has it, which can be written or not."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.mod, self.error = self, error

    def _collect_dso_modules(self) -> list[Any]:
        return [self]

    def write_to_file(self, name: str, kind: str) -> None:
        assert kind == "o"
        if self.error is not None:
            raise self.error
        Path(name).write_bytes(b"code")


def test_a_linker_does_not_read_what_is_typed(tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    usual = os.dup(0)
    os.write(ours, b"typed")
    os.close(ours)
    os.dup2(theirs, 0)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(RuntimeError, match="sh could not link them: it ended with 1"):
            link(folder, [Module()], "a.so", "sh -c 'cat; exit 1'")
        assert os.read(0, 9) == b"typed"
    finally:
        os.dup2(usual, 0)
        for each in (usual, theirs, folder):
            os.close(each)


@pytest.mark.parametrize("last", [None, OSError, KeyboardInterrupt])
def test_a_link_that_fails_leaves_no_file_open(last: Any, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(last or RuntimeError):
            link(folder, [Module(), Module(), Module(last)], "a.so", "false")
    finally:
        os.close(folder)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("limit", "fits"), [(-1, True), (0, False), (MOST_BYTES - 1, False), (MOST_BYTES, True)]
)
def test_a_library_needs_files_of_any_size_or_large_ones(
    limit: int, fits: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """LLVM ends the process where a file may not grow."""
    limits = {resource.RLIMIT_FSIZE: (limit, MOST_BYTES)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        if fits:
            link(folder, [Module()], "a.so", "true")
        else:
            with pytest.raises(OSError, match=f"files may have {limit} bytes here"):
                link(folder, [Module()], "a.so", "true")
    finally:
        os.close(folder)


@compiles
def test_a_folder_from_which_no_code_is_run_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert built(monkeypatch, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
        with pytest.warns(UserWarning, match=rf"in {tmp_path} \(code .*mounted with noexec\)"):
            assert built(monkeypatch, tmp_path), "nor is what lies there loaded"
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOSUID))
    assert not built(monkeypatch, tmp_path)


@compiles
def test_what_killed_processes_left_goes_when_something_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = tmp_path / f"part-{7:016x}"
    left.mkdir()
    os.utime(left, (1000.0, 1000.0))
    assert built(monkeypatch, tmp_path) and not left.exists()


def test_records_are_beside_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path / "usual"))
    for given, where in ((None, "usual"), (tmp_path / "named", "named")):
        assert Compiler("host", 1, given).records_file == tmp_path / where / "records.json"


def test_where_no_kernels_are_kept_records_need_a_file_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No run would look for them in the default folder."""
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path))
    made = [Compiler("host", 1, cache=False)]
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", "0")
    for compiler in (*made, Compiler("host", 1)):
        with pytest.raises(tvm_cavs.CacheError, match=r"kept nowhere.* tune\.records=PATH"):
            _ = compiler.records_file


@pytest.mark.parametrize(("precision", "by_tiles"), [("float32", False), ("bf16", True)])
def test_a_portrait_asks_for_tiles_only_where_products_use_them(
    precision: str, by_tiles: bool
) -> None:
    target = {**X86, "mcpu": "sapphirerapids", "num-cores": 1}
    needed = Compiler(target, 1, False, precision, False, True).portrait()["instructions"]
    assert any(name.startswith("amx") for name in needed) is by_tiles
    assert "avx512f" in needed and needed == sorted(needed)


@pytest.mark.parametrize(
    ("wanted", "package"), [("x86_64", "gcc-x86-64-linux-gnu"), ("aarch64", "gcc")]
)
def test_a_linker_is_named_as_debian_names_its_package(
    wanted: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(cc, "get_cc", lambda: None)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(TargetError, match=rf"for {wanted} here.* apt install {package}\)"):
        library._usual_linker(wanted)


@pytest.mark.parametrize("here", ["x86_64", "aarch64"])
@pytest.mark.parametrize("wanted", ["x86_64", "aarch64"])
def test_what_links_for_this_architecture_is_its_own_compiler(
    here: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: here)
    monkeypatch.setattr(cc, "get_cc", lambda: "this one")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    other = f"/bin/{wanted}-linux-gnu-gcc"
    assert library._usual_linker(wanted) == ("this one" if here == wanted else other)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("cc", "{}", True),
        ("my cc", "'{}' -O2", True),
        ("my cc", "{} -O2", False),
        ("cc", "'{}", False),
        ("cc", "{}cc", False),
        ("cc", "", False),
        ("cc", "''", False),
    ],
)
def test_a_linker_is_named_as_a_shell_has_it(
    name: str, given: str, found: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    linker = given.format(tmp_path / name)
    if found:
        assert library._found(linker) == linker
        return
    with pytest.raises(TargetError) as error:
        library._found(linker)
    assert f"linker: {linker!r:.60} is no program here" in str(error.value)


@compiles
def test_no_temporary_folder_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LLVM ends the process if a file that it writes there cannot be written."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert built(monkeypatch, tmp_path)
    assert not built(monkeypatch, tmp_path)


SMALL_FILES = """
import resource, sys, warnings
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from tvm_cavs.compiler import Compiler
from tvm_cavs.compiler.lowering.specs import ColumnSum, Piece
from tvm_cavs.compiler.lowering.steps import Kernel

compiler = Compiler("host", 1, sys.argv[1])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    compiler.compile(compiler.forms(Kernel("column_sum", ColumnSum((Piece(5, 0, 5),)))))
    compiler.compile(compiler.forms(Kernel("column_sum", ColumnSum((Piece(6, 0, 6),)))))
print(*(w.message for w in told), sep="\\n")
"""


@compiles
def test_files_that_may_not_grow_do_not_end_the_process(tmp_path: Path) -> None:
    """Nor is it tried again, and told again, by a compiler that could keep nothing."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(tvm_cavs.__file__).parents[1],
        check=False,
    )
    assert "files may have 8192 bytes here, see ulimit -f" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@compiles
def test_the_limit_holds_and_what_was_just_made_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", "1000")
    assert built(monkeypatch, tmp_path)
    assert not built(monkeypatch, tmp_path)
    (first,) = files(tmp_path, ".json")
    assert built(monkeypatch, tmp_path, n_threads=2)
    assert [note == first for note in files(tmp_path, ".json")] == [False]
    assert len(files(tmp_path, "")) == 2


@compiles
def test_a_library_that_another_process_has_just_removed_is_not_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is built again, and nothing is said of it: warnings are errors here."""
    assert built(monkeypatch, tmp_path) and not built(monkeypatch, tmp_path)
    found = kernel_cache.libraries

    def then_removed(folder: int, key: str) -> list[str] | None:
        names = found(folder, key)
        for path in files(tmp_path, ".so"):
            path.unlink()
        return names

    monkeypatch.setattr(kernel_cache, "libraries", then_removed)
    with open(os.devnull):  # so that the folder has another number: what is loaded goes by its name
        assert built(monkeypatch, tmp_path)


@compiles
def test_an_entry_that_another_process_has_just_removed_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between its note and its libraries: nothing is said of it."""
    assert built(monkeypatch, tmp_path) and not built(monkeypatch, tmp_path)
    monkeypatch.setattr(kernel_cache, "libraries", lambda folder, key: None)
    with open(os.devnull):
        assert built(monkeypatch, tmp_path)


@compiles
def test_many_that_build_at_once_and_throw_out_each_others(tmp_path: Path) -> None:
    """Whatever is removed in between, each has its kernels, and nothing half stays."""
    widths = [3, 4, 5, 3, 4, 5]
    place, wrong = Place(tmp_path, 1000), []

    def work(width: int) -> None:
        kernel = Kernel("column_sum", ColumnSum((Piece(width, 0, width),)))
        compiler = Compiler("host", 1, False)
        compiler.cache, compiler._keeps = place, True
        for _ in range(2):
            compiler._functions.clear()
            compiler.compile(compiler.forms(kernel))
            rows, out = np.ones((4, width), "float32"), np.zeros(width, "float32")
            total = tvm.runtime.tensor(out)
            symbol = compiler.forms(kernel)[0].symbol
            compiler.function(symbol)(4, 0, tvm.runtime.tensor(rows), total)
            if total.numpy().tolist() != [4.0] * width:
                wrong.append(width)

    with ThreadPoolExecutor(len(widths)) as pool:
        list(pool.map(work, widths))
    assert not wrong
    assert not files(tmp_path, "") or len(files(tmp_path, ".json")) <= len(set(widths))
    assert not list(tmp_path.glob("part-*"))


@compiles
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As under ulimit -u: parts are compiled one after the other."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert built(monkeypatch, tmp_path)
    assert not built(monkeypatch, tmp_path)


NO_HOME = """
import os
from pathlib import Path

def nobody(*_): raise RuntimeError("Could not determine home directory.")

Path.home = nobody
before = dict(os.environ)
from tvm_cavs.compiler import Compiler
assert dict(os.environ) == before
print(Compiler("host", 1).cache)
"""


@compiles
def test_a_user_without_a_home(tmp_path: Path) -> None:
    """TVM asks for one when it is imported."""
    names = ("XDG_CACHE_HOME", "TVM_CAVS_CACHE")
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME],
        capture_output=True,
        text=True,
        cwd=Path(tvm_cavs.__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name not in names},
        check=False,
    )
    assert done.stdout == "None\n", done.stderr
    assert done.stderr.count("has no home folder") == 1


@pytest.mark.parametrize("named", ["/somewhere", None])
def test_a_folder_that_was_named_for_caches_stays(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM is told of none only where there is none, and only while it is imported."""

    def nobody() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.delenv(homeless.XDG, raising=False)
    if named is not None:
        monkeypatch.setenv(homeless.XDG, named)
    homeless.import_tvm()
    assert os.environ.get(homeless.XDG) == named


@compiles
def test_what_changes_kernels_is_another_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert built(monkeypatch, tmp_path)
    assert built(monkeypatch, tmp_path, n_threads=2)
    monkeypatch.setattr(compiling, "source_digest", lambda: "edited")
    assert built(monkeypatch, tmp_path)
    worlds = [Compiler(t, 1, tmp_path)._world() for t in ("host", {"kind": "llvm"})]
    for package in (tvm, compiling.tvm_ffi):
        with monkeypatch.context() as patch:
            patch.setattr(package, "__version__", "another")
            worlds += [Compiler("host", 1, tmp_path)._world()]
    assert len(set(worlds)) == 4
    keys = [caching.key_of(w, s) for w in worlds for s in (["f"], ["f", "g"], ["g"])]
    assert len(set(keys)) == 12 and {len(key) for key in keys} == {24}
    assert caching.key_of(worlds[0], ["g", "f"]) == keys[1]
    assert len(files(tmp_path, ".json")) == 3


def sums(widths: tuple[int, ...], cache: Path, n_threads: int = 1) -> list[list[str]]:
    """Column sums of these widths: what each build made. Their results are checked."""
    compiler, made = Compiler("host", n_threads, cache), []
    build = compiler._build

    def noted(forms: list[Form], world: str) -> dict[str, Any]:
        made.append([f.symbol for f in forms])
        return build(forms, world)

    compiler._build = noted
    kernels = [Kernel("column_sum", ColumnSum((Piece(w, 0, w),))) for w in widths]
    forms = [form for kernel in kernels for form in compiler.forms(kernel)]
    compiler.compile(forms)
    for width, kernel in zip(widths, kernels, strict=True):
        rows, out = np.ones((4, width), "float32"), np.zeros(width, "float32")
        total = tvm.runtime.tensor(out)
        symbol = compiler.forms(kernel)[0].symbol
        compiler.function(symbol)(4, 0, tvm.runtime.tensor(rows), total)
        assert total.numpy().tolist() == [4.0] * width
    return made


@compiles
def test_only_the_kernels_that_are_in_no_entry_are_built(tmp_path: Path) -> None:
    """Whatever they were compiled with, and however many entries have them."""
    (first,) = sums((3, 4), tmp_path)
    (second,) = sums((4, 5, 6), tmp_path)
    assert len(first) == len(second) == 2 and not {*first} & {*second}
    assert sums((3, 6), tmp_path) == sums((3, 4, 5, 6), tmp_path) == sums((5,), tmp_path) == []
    assert sums((3, 7), tmp_path, 2) and sums((3,), tmp_path / "other")


@compiles
def test_entries_that_have_most_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than are needed."""
    for widths in ((3,), (4,), (3, 4, 5)):
        assert sums(widths, tmp_path / str(widths))
        for path in files(tmp_path / str(widths), ""):
            shutil.copy2(path, tmp_path)
    loaded, library = [], caching._library
    monkeypatch.setattr(caching, "_library", lambda f, n: (loaded.append(n), library(f, n))[1])
    assert sums((3, 4), tmp_path) == [] and len({n.split(".")[0] for n in loaded}) == 1


@compiles
@pytest.mark.parametrize("about", [{}, {"kernels": 3}, {"world": "another"}])
@pytest.mark.parametrize("widths", [(3,), (3, 4)])
def test_an_entry_of_another_world_is_not_taken(
    widths: tuple[int, ...], about: dict[str, Any], tmp_path: Path
) -> None:
    """Although its digest begins alike, and even where it has exactly these kernels."""
    sums((3, 4), tmp_path)
    (note,) = files(tmp_path, ".json")
    content = json.loads(note.read_text())
    assert len(content["about"]["world"]) == 64
    kept = {} if not about else content["about"]
    damage(note, json.dumps(content | {"about": kept | about}).encode())
    note.chmod(0o600)
    assert [len(made) for made in sums(widths, tmp_path)] == [len(widths)]


@compiles
def test_a_damaged_entry_is_told_of_once_and_left_out(tmp_path: Path) -> None:
    sums((3, 4), tmp_path)
    for path in files(tmp_path, ".so"):
        damage(path, b"garbage")
        path.chmod(0o600)
    with pytest.warns(UserWarning, match=r"json is damaged \(.*so: the checksum differs"):
        assert sums((3,), tmp_path) != []
    assert sums((4,), tmp_path) != [] and sums((3, 4), tmp_path) == []


@compiles
def test_an_entry_that_cannot_be_read_now_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where too many files are open."""
    sums((3, 4), tmp_path)

    def fail(folder: int, key: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(kernel_cache, "libraries", fail)
        with pytest.warns(UserWarning, match=rf"{tmp_path}/.*json is damaged \(.*Too many"):
            assert len(sums((3,), tmp_path)) == 1
    assert len(files(tmp_path, ".json")) == 2


@compiles
def test_a_library_that_cannot_be_loaded_is_dropped_and_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although it is what was kept."""
    assert built(monkeypatch, tmp_path)
    with monkeypatch.context() as patch:

        def fail(_: str) -> None:
            raise RuntimeError("of another libc")

        patch.setattr(caching.tvm_ffi, "load_module", fail)
        with pytest.warns(UserWarning, match="is damaged .of another libc.; building it again"):
            assert built(monkeypatch, tmp_path)
    assert files(tmp_path, ".json") == []
    assert built(monkeypatch, tmp_path) and not built(monkeypatch, tmp_path)


@compiles
def test_an_entry_that_leaves_while_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is said of it, and its kernels are built."""
    sums((3, 4), tmp_path)
    notes = kernel_cache.notes

    def then_removed(folder: int, prefix: str) -> dict[str, kernel_cache.Note]:
        found = notes(folder, prefix)
        for path in files(tmp_path, ""):
            path.unlink()
        return found

    monkeypatch.setattr(kernel_cache, "notes", then_removed)
    assert sums((3,), tmp_path) != []


@compiles
def test_two_that_store_at_once_do_not_mix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksums of one process never describe the library of another."""
    assert built(monkeypatch, tmp_path)
    (note,) = files(tmp_path, ".json")
    first = note.read_text()
    (name,) = json.loads(first)["libraries"]
    note.unlink()
    assert built(monkeypatch, tmp_path)
    damage(note, first.encode())
    assert (tmp_path / name).exists()
    assert not built(monkeypatch, tmp_path)


def test_unknown_targets_are_refused() -> None:
    for target in ("no-such-kind", {"kind": "llvm", "mcpu": "haswel"}, {"kind": "cuda"}):
        with pytest.raises(TargetError, match="no-such-kind|'haswel'|kind 'cuda'"):
            Compiler(target, cache=False)
    with pytest.raises(TargetError, match="threads is 0"):
        Compiler("host", 0, cache=False)


@compiles
def test_a_kernel_without_a_rule_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(schedules.RULES, "llvm", ())
    with pytest.warns(UserWarning, match=f"no schedule rule for {KERNEL.name}: left on"):
        assert built(monkeypatch, tmp_path)


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_what_is_compiled_is_scheduled_and_all_of_it(
    n_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM compiles kernels as they were too, to slow ones."""
    compiler = Compiler("host", 1, cache=False)
    specs = [ColumnSum((Piece(width, 0, width),)) for width in (3, 5, 7, 11)]
    forms = [form for spec in specs for form in compiler.forms(Kernel("column_sum", spec))]
    monkeypatch.setattr(compiler, "_compile_part", lambda functions: functions)
    parts = compiler.executables(forms, n_parts)
    assert len(parts) == min(n_parts, 4) and all(parts)
    made = [each for part in parts for each in part.items()]
    assert sorted(name.name_hint for name, _ in made) == sorted(form.symbol for form in forms)
    assert all(SCHEDULED in func.attrs for _, func in made)


NO_MAKERS = {"errors.py", "compiler/target_rules.py"}  # what they hand on lies in schedules


def makers() -> Iterator[Path]:
    """Files of the package that makers of kernels import, themselves included."""
    package = Path(tvm_cavs.__file__).parent
    waiting = [*package.glob("compiler/kernels/**/*.py"), package / "training/optim.py"]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in seen or str(file.relative_to(package)) in NO_MAKERS:
            continue
        seen.add(file)
        yield file.relative_to(package)
        for node in ast.walk(ast.parse(file.read_text())) if "compiler" in file.parts else ():
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = file.parents[node.level - 1] / (node.module or "").replace(".", "/")
                names = [a.name for a in node.names]
                found = [folder.with_suffix(".py"), *(folder / f"{name}.py" for name in names)]
                waiting += [f for f in found if f.exists()]


def test_every_module_that_makes_kernels_is_in_the_key(tmp_path: Path) -> None:
    """An edit to any of them makes another entry; so does one of a schedule."""
    source = Path(tvm_cavs.__file__).parent
    package = tmp_path / "tvm_cavs"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "configs"))
    shutil.copytree(source.parent / "schedules", tmp_path / "schedules")
    files = [*map(package.joinpath, makers()), *(tmp_path / "schedules").rglob("*.py")]
    assert {"specs.py", "region.py", "dropout.py", "polynomials.py"} <= {f.name for f in files}
    digests = {caching.source_digest(package)}
    assert digests == {caching.source_digest()}
    for file in files:
        file.write_text(file.read_text() + "# edited\n")
        digests.add(caching.source_digest(package))
    assert len(digests) == 1 + len(files)


def test_nothing_is_said_about_an_empty_cache(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert caching.load(Place(tmp_path), "none", ["f"]) == {}


def test_threads_are_started_and_not_bound() -> None:
    before = os.sched_getaffinity(0)
    count = tvm.get_global_func("runtime.NumThreads")
    for n in (1, min(2, os.cpu_count() or 1)):
        use_threads(n)
        assert count() == n
    assert os.sched_getaffinity(0) == before
