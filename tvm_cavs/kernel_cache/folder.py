"""A path -> the folder of kernels as a descriptor, which is the user's own or is refused.

Kernels are shared objects that run in the process that loads them. So nobody but this user and root
may have put them there. The folder is opened once and checked through its descriptor, and all that
follows goes through it: whoever swaps a folder above it, or the folder itself, changes nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CacheError

NOTE = re.compile(r"(?P<key>[0-9a-f]{24})\.json")
LIBRARY = re.compile(r"(?P<key>[0-9a-f]{24})\.[0-9a-f]{12}\.so")
SCRATCH = re.compile(r"part-[0-9a-f]{16}|tmp[a-z0-9_]{8}")  # the second was Python's tempfile
RECORDS = re.compile(r"records\.json")  # of `tvm-cavs tune`, which keeps them here
OLD_SCRATCH = re.compile(r"\d+\.so|note\.json")  # what the second holds
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IRWXG | stat.S_IRWXO
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def opened(path: Path, make: bool = False) -> Iterator[int]:
    """The folder's descriptor, 3 or more, which is good inside.

    Args:
        make: make the folder, for this user alone, and those above it that are absent.

    Raises:
        CacheError: it is somebody else's, or others may write to it.
        OSError: it is absent, no folder, or cannot be opened or made.
    """
    if make:
        _make(path)
    _check_link(path)
    descriptor = above_standard(os.open(path, DIRECTORY))
    try:
        _check(path, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def above_standard(descriptor: int) -> int:
    """The same file under a number that a child's standard input and output do not take."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make a folder, and those above it, for this user alone whatever the umask."""
    if path.is_dir():
        return
    if path.parent != path:
        _make(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _check_link(path: Path) -> None:
    """A link of this user leads to a folder that is checked as well; another's is not followed."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode) and not trusted(found):
        raise _foreign(path, f"is a symbolic link of user {found.st_uid}", f"Remove {path}")


def trusted(found: os.stat_result) -> bool:
    """Whether a file is this user's, or root's, who can do everything anyway."""
    return found.st_uid in (os.geteuid(), 0)


def _check(path: Path, descriptor: int) -> None:
    """Refuse a folder of another user, and one that others can write to."""
    found = os.fstat(descriptor)
    if not trusted(found):
        me = os.geteuid()
        raise _foreign(
            path, f"belongs to user {found.st_uid}, and this is user {me}", f"Run chown {me} {path}"
        )
    if found.st_mode & OTHERS and found.st_uid == os.geteuid():
        found = _tightened(descriptor, found)
    if found.st_mode & OTHERS_WRITE:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise _foreign(path, f"can be written by others (mode {mode})", f"Run chmod go-w {path}")


def _tightened(descriptor: int, found: os.stat_result) -> os.stat_result:
    """The folder closed to others, if it holds kernels only: it was made as the umask said."""
    names = os.listdir(descriptor)
    ours = all(any(form.fullmatch(n) for form in (NOTE, LIBRARY, SCRATCH, RECORDS)) for n in names)
    wanted = names or found.st_mode & OTHERS_WRITE
    if not ours or not wanted or found.st_mode & stat.S_ISVTX:
        return found
    with suppress(OSError):  # read-only: it is looked at as it is
        os.fchmod(descriptor, 0o700)
    return os.fstat(descriptor)


def _foreign(path: Path, why: str, remedy: str) -> CacheError:
    return CacheError(
        f"the folder of compiled kernels {path} {why}: code that others put there would run in "
        f"your name. {remedy}, or name a folder of your own (TVM_CAVS_CACHE, or cache=)."
    )


@contextmanager
def scratch(folder: int) -> Iterator[int]:
    """The descriptor of a new folder inside of `folder`, which is gone afterwards.

    Raises:
        OSError: it cannot be made.
    """
    name = f"part-{secrets.token_hex(8)}"
    os.mkdir(name, 0o700, dir_fd=folder)
    descriptor = None
    try:
        flags = DIRECTORY | os.O_NOFOLLOW
        descriptor = above_standard(os.open(name, flags, dir_fd=folder))
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
        with suppress(OSError):
            remove_scratch(folder, name)


def remove_scratch(folder: int, name: str) -> None:
    """Remove a folder that `scratch` has made.

    Raises:
        OSError: it is none, or cannot be removed.
    """
    inside = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        files = os.listdir(inside)
        if name.startswith("tmp") and not all(map(OLD_SCRATCH.fullmatch, files)):
            raise OSError(f"{name} holds what is none of ours")
        for file in files:
            os.unlink(file, dir_fd=inside)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=folder)
