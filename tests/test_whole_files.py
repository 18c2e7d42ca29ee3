"""Files that are there whole or not at all, whatever ends the writing."""

import os
from pathlib import Path
from threading import Thread

import pytest

from tvm_cavs import whole_files
from tvm_cavs.whole_files import write_whole


def test_the_file_is_flushed_before_its_name_and_the_folder_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In any other order a power cut could leave a name without its content."""
    path, done, replaced = tmp_path / "it", list[str](), Path.replace

    def fsync(descriptor: int) -> None:
        held = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(f"flush {held.name} {held.stat().st_size if held.is_file() else ''}".rstrip())

    def replace(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name} {target.name}")
        return replaced(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_whole(path, b"content")
    assert done == ["flush .it.part 7", "rename .it.part it", f"flush {tmp_path.name}"]
    assert path.read_bytes() == b"content" and os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["fsync", "replace", "open"])
def test_what_was_there_stays_and_nothing_beside_it(
    where: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise error

    path = tmp_path / "it"
    path.write_bytes(b"old")
    if where == "open":
        monkeypatch.setattr(whole_files, "_open_for_writing", fails)
    else:
        monkeypatch.setattr(os if where == "fsync" else Path, where, fails)
    with pytest.raises(error):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["it"]


def test_a_link_stays_and_the_file_that_it_names_is_written(tmp_path: Path) -> None:
    for name in ("there", "new"):
        target, link = tmp_path / "elsewhere" / name, tmp_path / f"to_{name}"
        target.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        if name == "there":
            target.write_bytes(b"old")
        write_whole(link, b"new")
        assert link.is_symlink() and target.read_bytes() == b"new" and not target.is_symlink()
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["new", "there"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """So are devices, /dev/null for one: a superuser's file would take its place."""
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"content")
    reader.join(10)
    assert read == [b"content"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "it", b"new")
    assert os.listdir(tmp_path) == ["it"]
