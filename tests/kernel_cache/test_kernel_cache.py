"""Whose folder kernels are kept in, what is read of it, and what leaves first."""

import errno
import hashlib
import json
import os
import stat
import time
import warnings
from pathlib import Path

import pytest

from tvm_cavs import kernel_cache as kc
from tvm_cavs.errors import CacheError
from tvm_cavs.kernel_cache.place import DEFAULT_LIMIT

KEYS = [f"{i:024x}" for i in range(5)]
SOMEBODY = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def put(folder: Path, key: str, content: bytes = b"code", used: float | None = None) -> Path:
    """An entry of one library, as a compiler makes it; the library's path."""
    with kc.opened(folder, make=True) as opened, kc.scratch(opened) as scratch:
        flags = os.O_WRONLY | os.O_CREAT
        with open(os.open("0.so", flags, 0o777, dir_fd=scratch), "wb") as file:
            file.write(content)
        kc.write(opened, scratch, key, ["0.so"], {"of": key})
    if used is not None:
        os.utime(folder / f"{key}.json", (used, used))
    (library,) = folder.glob(f"{key}.*.so")
    return library


def read(folder: Path, key: str) -> list[str] | None:
    with kc.opened(folder) as opened:
        return kc.libraries(opened, key)


def keys(folder: Path) -> list[str]:
    with kc.opened(folder) as opened:
        return [e.key for e in kc.contents(opened).entries]


def become_somebody(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """From now on these are another user's; not root's, who may do everything."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, SOMEBODY, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)


# Which folder.


def test_where_kernels_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TVM_CAVS_CACHE", "~/mine")
    assert kc.choose() == kc.choose("") == kc.Place(home / "mine", DEFAULT_LIMIT)
    assert kc.choose(tmp_path / "a").path == tmp_path / "a"
    assert kc.choose("~/b").path == home / "b"
    assert kc.choose(False) is None
    monkeypatch.setenv("TVM_CAVS_CACHE", "")
    assert kc.choose().path == tmp_path / "xdg" / "tvm_cavs"
    for ignored in ("relative", ""):  # as its specification says
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert kc.choose().path == home / ".cache" / "tvm_cavs"


def test_no_home_is_told_once_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TVM_CAVS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for home in (None, "here", ""):  # a relative one would be another in each folder
        if home is None:
            monkeypatch.setattr(Path, "home", nobody)
        else:
            monkeypatch.setattr(Path, "home", lambda home=home: Path(home))
        with pytest.warns(UserWarning, match="has no home folder.*Set TVM_CAVS_CACHE to") as told:
            assert kc.choose() is None
        assert str(told[0].message).startswith(f"user {os.geteuid()} has no home folder")
        assert len(told) == 1
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path))
    assert kc.choose().path == tmp_path, "where one is named, no home is asked for"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "expected str, bytes or os.PathLike"),
        ("a\0b", "no path holds a NUL. Expected"),
        ("~no-such-user/x", "Could not determine home directory"),
        ("\ud800", "'utf-8' codec can't encode"),
        (True, "expected str, bytes or os.PathLike"),
    ],
)
def test_what_is_no_folder_is_refused(given: object, why: str) -> None:
    with pytest.raises(CacheError, match="^cache=.*Expected the path of a folder") as error:
        kc.choose(given)
    said, _, reason = str(error.value).partition(": ")
    assert said == f"cache={given!r}" and why in reason


def test_a_variable_that_names_no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_CAVS_CACHE", "~no-such-user/x")
    for given in (None, ""):
        with pytest.raises(CacheError, match="^TVM_CAVS_CACHE='~no-such-user/x': "):
            kc.choose(given)


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        *(("", 2 * 10**9), (" ", 2 * 10**9), ("1000", 1000), ("500MB", 5 * 10**8)),
        *(("1.5 g", 15 * 10**8), (" 2 GB ", 2 * 10**9), ("1KB", 1000), ("3t", 3 * 10**12)),
    ],
)
def test_limits(given: str, n_bytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", given)
    assert kc.choose(tmp_path).limit == n_bytes


def test_limits_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", "0")
    assert kc.choose(tmp_path) is None
    for wrong in ("much", "-1", "1e9", "2 PB", "9" * 99, "nan"):
        monkeypatch.setenv("TVM_CAVS_CACHE_LIMIT", wrong)
        with pytest.raises(CacheError, match=f"^TVM_CAVS_CACHE_LIMIT='{wrong:.79}.* is no size. "):
            kc.choose(tmp_path)


# Whose folder.


def test_a_new_folder_is_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        library = put(tmp_path / "a" / "b", KEYS[0])
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(library) == mode(tmp_path / "a" / "b" / f"{KEYS[0]}.json") == 0o600


@pytest.mark.parametrize("given", [0o755, 0o775, 0o777])
def test_a_folder_of_kernels_is_closed_to_others(given: int, tmp_path: Path) -> None:
    """Earlier versions made it as the umask says; records of tuning lie there too."""
    put(tmp_path, KEYS[0])
    (tmp_path / "tmp_8ab0cde").mkdir()
    (tmp_path / "records.json").touch()
    tmp_path.chmod(given)
    assert read(tmp_path, KEYS[0])
    assert mode(tmp_path) == 0o700


def test_a_folder_that_is_closed_or_empty_keeps_its_mode(tmp_path: Path) -> None:
    """Of one that the user may not write to nothing is made that may be written."""
    place = tmp_path / "place"
    place.mkdir()
    for given, becomes in ((0o755, 0o755), (0o700, 0o700), (0o777, 0o700)):
        place.chmod(given)
        kc.choose(place)
        assert mode(place) == becomes
    put(place, KEYS[0])
    for closed in (0o500, 0o700):
        place.chmod(closed)
        assert read(place, KEYS[0])
        assert mode(place) == closed


def test_a_folder_with_other_files_keeps_its_mode(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0])
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o755)
    assert read(tmp_path, KEYS[0])
    assert mode(tmp_path) == 0o755
    for shared in (0o775, 0o757, 0o1777):
        tmp_path.chmod(shared)
        with pytest.raises(CacheError, match=rf"by others \(mode {shared:04o}\)") as error:
            kc.choose(tmp_path)
        assert f"compiled kernels {tmp_path} can be written by" in str(error.value)
        assert f"your name. Run chmod go-w {tmp_path}, or name a folder" in str(error.value)
        assert mode(tmp_path) == shared


def test_a_folder_like_tmp_is_refused_though_it_is_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(CacheError, match="can be written by others"):
        kc.choose(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_foreign_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is named is refused; in place of the default one nothing is kept."""
    folder = tmp_path / "tvm_cavs"
    put(folder, KEYS[0])
    become_somebody(monkeypatch, folder)
    owner, me = folder.stat().st_uid, os.geteuid()
    assert owner != me
    with pytest.raises(CacheError, match="or name a folder of your own") as error:
        kc.choose(folder)
    assert f"kernels {folder} belongs to user {owner}, and this is user {me}: " in str(error.value)
    assert f" Run chown {me} {folder}, or name" in str(error.value)
    monkeypatch.setenv("TVM_CAVS_CACHE", str(folder))
    with pytest.raises(CacheError, match=f"belongs to user {owner}, and this is user {me}:"):
        kc.choose()
    monkeypatch.delenv("TVM_CAVS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="belongs to user.*every start compiles again") as told:
        assert kc.choose() is None
    assert len(told) == 1


def test_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's own link leads to a folder of the user's; another's link leads nowhere."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    put(folder, KEYS[0])
    link.symlink_to(folder)
    assert kc.choose(link) and read(link, KEYS[0])
    become_somebody(monkeypatch, link)
    with pytest.raises(
        CacheError, match=f"is a symbolic link of user {link.lstat().st_uid}: "
    ) as e:
        kc.choose(link)
    assert f"compiled kernels {link} is" in str(e.value)
    assert f"your name. Remove {link}, or name" in str(e.value)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_descriptor_of_a_standard_stream_is_moved(taken: int, tmp_path: Path) -> None:
    """Where a process was started without them, the folder would be a child's input or output."""
    held, given = os.dup(taken), os.open(tmp_path, os.O_RDONLY)
    try:
        os.dup2(given, taken)
        moved = kc.above_standard(taken)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(taken)
    finally:
        os.dup2(held, taken)
    try:
        assert moved > 2 and not os.get_inheritable(moved)
        assert os.path.samestat(os.fstat(moved), tmp_path.stat())
        assert kc.above_standard(moved) == moved
    finally:
        for descriptor in (held, given, moved):
            os.close(descriptor)


def test_what_root_made_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An image may bring kernels along: root can do everything anyway."""
    put(tmp_path, KEYS[0])
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert read(tmp_path, KEYS[0])


# What is read of it.


def test_an_entry_is_found_again_and_marked_as_used(tmp_path: Path) -> None:
    library = put(tmp_path, KEYS[0], used=1000.0)
    before = time.time() - 60
    assert read(tmp_path, KEYS[0]) == [library.name]
    assert (tmp_path / f"{KEYS[0]}.json").stat().st_mtime > before
    assert read(tmp_path, KEYS[1]) is None


@pytest.mark.parametrize("damage", ["owner", "writable", "link", "pipe", "folder", "content"])
@pytest.mark.parametrize("which", ["note", "library"])
def test_what_others_could_have_put_there_is_not_read(
    which: str, damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = put(tmp_path / "kernels", KEYS[0])
    path = library if which == "library" else library.with_name(f"{KEYS[0]}.json")
    elsewhere = tmp_path / "elsewhere"
    if damage == "owner" and os.geteuid() == 0:
        os.chown(path, SOMEBODY, -1)
    elif damage == "owner":
        pytest.skip("only root can give a file away")
    elif damage == "writable":
        path.chmod(0o620)
    else:
        path.rename(elsewhere)
    if damage == "link":
        path.symlink_to(elsewhere)
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "content":
        path.write_bytes(b"other")
        path.chmod(0o600)
    with pytest.raises((ValueError, OSError)) as error:
        read(tmp_path / "kernels", KEYS[0])
    if damage in ("owner", "writable", "pipe", "folder"):
        assert str(error.value).startswith(f"{path.name} is no plain file of this user")


@pytest.mark.parametrize("place", [0, 1 << 20, (1 << 21) + 4])
def test_a_byte_that_has_changed_anywhere_is_seen(place: int, tmp_path: Path) -> None:
    library = put(tmp_path, KEYS[0], bytes((1 << 21) + 5))
    assert read(tmp_path, KEYS[0])
    with library.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    with pytest.raises(ValueError, match=f"{library.name}: the checksum differs"):
        read(tmp_path, KEYS[0])


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "null", '"x"', '{"libraries": {}, "about": {}}', '{"about": {}}'),
        *('{"libraries": {"x.so": "0"}}', '{"libraries": {"x.so": "0"}, "about": [1]}'),
        '{"libraries": ["x.so"], "about": {}}',
    ],
)
def test_a_note_without_libraries_is_no_entry(text: str, tmp_path: Path) -> None:
    put(tmp_path, KEYS[0])
    (tmp_path / f"{KEYS[0]}.json").write_text(text)
    with pytest.raises(ValueError, match=f"^{KEYS[0]}.json names no libraries$"):
        read(tmp_path, KEYS[0])


@pytest.mark.parametrize("name", ["../outside.so", "x.so", f"{KEYS[1]}.0123456789ab.so"])
def test_a_note_names_libraries_of_its_own(name: str, tmp_path: Path) -> None:
    """None elsewhere, and none of other kernels: a note that was renamed is seen."""
    put(tmp_path / "kernels", KEYS[0])
    for place in (tmp_path / "outside.so", tmp_path / "kernels" / Path(name).name):
        place.write_bytes(b"code")
        place.chmod(0o600)
    note = tmp_path / "kernels" / f"{KEYS[0]}.json"
    libraries = {name: hashlib.sha256(b"code").hexdigest()}
    note.write_text(json.dumps({"about": {}, "libraries": libraries}))
    with pytest.raises(ValueError, match="which is no library of its own") as error:
        read(tmp_path / "kernels", KEYS[0])
    assert str(error.value).startswith(f"{KEYS[0]}.json names {name!r}, which")


def test_notes_are_read_without_their_libraries(tmp_path: Path) -> None:
    """Of the keys that begin so; one that cannot be read is left out, and others are found."""
    for key in KEYS[:4]:
        put(tmp_path, key).unlink()
    put(tmp_path, KEYS[4])  # whose library is no note, though its name begins so
    (tmp_path / f"{KEYS[1]}.json").write_text("{")
    (tmp_path / f"{KEYS[2]}.json").chmod(0o666)
    (tmp_path / f"{'f' * 24}.json").write_text(json.dumps({"libraries": {"x": "y"}, "about": {}}))
    with kc.opened(tmp_path) as opened:
        found = kc.notes(opened, KEYS[0][:20])
        assert {key: note.about["of"] for key, note in found.items()} == {
            key: key for key in (KEYS[0], KEYS[3], KEYS[4])
        }
        assert kc.read_note(opened, "0" * 20 + "abcd") is None


def test_a_folder_that_is_swapped_while_it_is_open_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "ours", KEYS[0])
    with kc.opened(tmp_path / "ours") as opened:
        (tmp_path / "ours").rename(tmp_path / "gone")
        put(tmp_path / "ours", KEYS[0], b"another")
        (name,) = kc.libraries(opened, KEYS[0]) or ()
        assert Path(f"/proc/self/fd/{opened}/{name}").read_bytes() == b"code"


# What leaves.


def test_what_was_used_longest_ago_leaves_first(tmp_path: Path) -> None:
    for age, key in enumerate(KEYS):
        put(tmp_path, key, b"x" * 1000, used=1000.0 - age)
    assert keys(tmp_path) == KEYS[::-1]
    read(tmp_path, KEYS[4])  # the oldest is used now
    with kc.opened(tmp_path) as opened:
        n_bytes = kc.contents(opened).n_bytes
        assert n_bytes > 5000
        assert kc.trim(opened, n_bytes) == []
        assert [e.key for e in kc.trim(opened, n_bytes - 1)] == [KEYS[3]]
        assert [e.key for e in kc.trim(opened, 1)] == [KEYS[2], KEYS[1], KEYS[0]]
    assert keys(tmp_path) == [KEYS[4]], "the last one stays, however small the limit"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_note_leaves_first_whoever_else_removes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So a process that is killed in between leaves no entry, and two may trim at once."""
    libraries = [put(tmp_path, key, used=1000.0 + k) for k, key in enumerate(KEYS[:2])]
    removed, unlink = [], os.unlink

    def overtaken(name: str, dir_fd: int) -> None:
        removed.append(name)
        unlink(name, dir_fd=dir_fd)
        unlink(name, dir_fd=dir_fd)  # another process was faster

    with kc.opened(tmp_path) as opened:
        monkeypatch.setattr(os, "unlink", overtaken)
        assert [e.key for e in kc.trim(opened, 0)] == KEYS[:1]
    assert removed == [f"{KEYS[0]}.json", libraries[0].name]


def test_what_killed_processes_leave_is_removed_when_it_is_old(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0])
    orphan = put(tmp_path, KEYS[1])
    (tmp_path / f"{KEYS[1]}.json").unlink()
    ours = [tmp_path / f"part-{7:016x}", tmp_path / "tmp_8ab0cde"]
    others = [tmp_path / "tmpabcdefg", tmp_path / "tmp12345678", tmp_path / "notes.txt"]
    for folder in ours:
        folder.mkdir()
        (folder / "0.so").write_bytes(b"half")
    others[0].mkdir()
    (others[1]).mkdir()
    (others[1] / "thesis.tex").touch()  # a name like ours, and not ours
    (others[1] / "0.so").touch()
    others[2].touch()
    with kc.opened(tmp_path) as opened:
        assert kc.remove_leftovers(opened) == 0
        for path in (orphan, *ours, *others):
            os.utime(path, (1000.0, 1000.0))
        assert kc.remove_leftovers(opened) == 3
    assert keys(tmp_path) == [KEYS[0]]
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in (orphan, *ours))


def test_what_cannot_be_marked_as_used_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that is read-only, or in a folder of another user's."""
    library = put(tmp_path, KEYS[0])
    for number in (errno.EROFS, errno.EACCES, errno.EPERM):

        def refused(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "utime", refused)
        assert read(tmp_path, KEYS[0]) == [library.name]


def test_clearing_takes_what_is_ours(tmp_path: Path) -> None:
    put(tmp_path, KEYS[0])
    put(tmp_path, KEYS[1])
    (tmp_path / f"part-{7:016x}").mkdir()
    (tmp_path / "notes.txt").touch()
    with kc.opened(tmp_path) as opened:
        assert len(kc.clear(opened).entries) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kc.choose(tmp_path / "absent").path == tmp_path / "absent"
    assert not (tmp_path / "absent").exists()
