"""The files of a folder of kernels: what an entry is, and how it comes and goes.

An entry is a note, KEY.json, and the libraries that it names with their checksums, KEY.DIGEST.so,
each named for its content. A note also says what its writer wants to know of an entry without
loading it. Libraries come first and the note last, each by a rename; the note goes
first. So at any moment, for any number of processes, an entry is whole, absent, or seen to be
broken by its reader, who compiles again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .folder import LIBRARY, NOTE, OTHERS_WRITE, SCRATCH, remove_scratch, trusted

LEFTOVER_SECONDS = 3600.0  # nobody writes for so long
MOST_NOTE_BYTES = 1 << 20
PARTS = ("libraries", "about")  # of a note
FILE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe or a device is not waited for


@dataclass(frozen=True)
class Entry:
    """Kernels that were compiled together.

    key: names them. files: the note first. n_bytes: of all files. used: when they were last loaded
    or stored, in seconds since 1970.
    """

    key: str
    files: tuple[str, ...]
    n_bytes: int
    used: float


@dataclass(frozen=True)
class Note:
    """What the note of an entry says. libraries: the checksum of each by its name. about: what its
    writer gave.
    """

    libraries: dict[str, str]
    about: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """What a folder holds: entries by ascending last use, and what killed processes left.

    leftovers: name and last change, in seconds since 1970.
    """

    entries: tuple[Entry, ...]
    leftovers: tuple[tuple[str, float], ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(e.n_bytes for e in self.entries)


def contents(folder: int) -> Contents:
    """The entries and leftovers of a folder; other files are none of ours and are left out."""
    found = _files(folder)
    by_key: dict[str, list[str]] = {}
    for name in found:
        if match := NOTE.fullmatch(name) or LIBRARY.fullmatch(name):
            by_key.setdefault(match["key"], []).append(name)
    entries, leftovers = [], [name for name in found if SCRATCH.fullmatch(name)]
    for key, names in by_key.items():
        note = f"{key}.json"
        if note not in names:
            leftovers += names
            continue
        files = (note, *sorted(n for n in names if n != note))
        n_bytes = sum(found[n].st_size for n in files)
        entries.append(Entry(key, files, n_bytes, found[note].st_mtime))
    entries.sort(key=lambda e: (e.used, e.key))
    return Contents(tuple(entries), tuple((n, found[n].st_mtime) for n in sorted(leftovers)))


def _files(folder: int) -> dict[str, os.stat_result]:
    found = {}
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # another process has removed it
            found[name] = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found


def libraries(folder: int, key: str) -> list[str] | None:
    """The names of an entry's libraries, whose content was checked; None where there is none.

    Against other users: the folder and the files are this user's or root's, and nobody else can
    write to them, so that what was checked is what is loaded by these names. Against a damaged
    disk, a torn copy, an edit: each library has its checksum, which is part of its name. Not
    against a program of this user, who can change this process itself.

    Raises:
        ValueError: the entry is damaged or not this user's.
        OSError: it cannot be read.
    """
    note = read_note(folder, key)
    if note is None:
        return None
    try:
        for name, digest in note.libraries.items():
            match = LIBRARY.fullmatch(name)
            if match is None or match["key"] != key:
                raise ValueError(f"{key}.json names {name!r:.60}, which is no library of its own")
            if _digest(folder, name) != digest:
                raise ValueError(f"{name}: the checksum differs")
    except FileNotFoundError:
        return None
    with suppress(OSError):  # where it cannot be written, nothing leaves either
        os.utime(f"{key}.json", dir_fd=folder, follow_symlinks=False)
    return list(note.libraries)


def read_note(folder: int, key: str) -> Note | None:
    """The note of an entry, whose libraries are not looked at; None where there is none.

    Raises:
        ValueError: it is damaged or not this user's.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(_read(folder, f"{key}.json", MOST_NOTE_BYTES))
    except FileNotFoundError:
        return None
    libraries, about = map(found.get, PARTS) if isinstance(found, dict) else (None, None)
    if not isinstance(libraries, dict) or not libraries or not isinstance(about, dict):
        raise ValueError(f"{key}.json names no libraries")
    return Note(libraries, about)


def notes(folder: int, prefix: str) -> dict[str, Note]:
    """The notes of all entries whose key begins so; one that cannot be read is left out."""
    found: dict[str, Note] = {}
    for name in os.listdir(folder):
        match = NOTE.fullmatch(name)
        if match and name.startswith(prefix):
            with suppress(ValueError, OSError):
                note = read_note(folder, match["key"])
                found |= {} if note is None else {match["key"]: note}
    return found


def _open(folder: int, name: str) -> int:
    """A plain file that nobody but this user and root can have written, for reading."""
    descriptor = os.open(name, os.O_RDONLY | FILE, dir_fd=folder)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and trusted(found) and not found.st_mode & OTHERS_WRITE:
        return descriptor
    os.close(descriptor)
    raise ValueError(f"{name} is no plain file of this user that others cannot write")


def _read(folder: int, name: str, most: int) -> bytes:
    with open(_open(folder, name), "rb") as file:
        return file.read(most)


def _digest(folder: int, name: str) -> str:
    digest = hashlib.sha256()
    with open(_open(folder, name), "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def write(
    folder: int, scratch: int, key: str, made: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Make an entry of the libraries `made`, which lie in the folder `scratch` inside of `folder`.

    Args:
        about: what a reader of the note wants to know of them, as JSON has it.

    Raises:
        OSError: it cannot be written; there is no entry then, or the one that was there.
    """
    digests = {}
    for file in made:
        os.chmod(file, 0o600, dir_fd=scratch)
        digest = _digest(scratch, file)
        name = f"{key}.{digest[:12]}.so"
        digests[name] = digest
        os.replace(file, name, src_dir_fd=scratch, dst_dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE
    with open(os.open("note.json", flags, 0o600, dir_fd=scratch), "w", encoding="ascii") as note:
        note.write(json.dumps(dict(zip(PARTS, (digests, dict(about)), strict=True))))
    os.replace("note.json", f"{key}.json", src_dir_fd=scratch, dst_dir_fd=folder)


def trim(folder: int, limit: int) -> list[Entry]:
    """Remove the entries used longest ago until `limit` bytes are enough; returns them.

    The one used last stays, however large it is: it was made a moment ago.
    """
    found, removed = contents(folder), []
    n_bytes = found.n_bytes
    for entry in found.entries[:-1]:
        if n_bytes <= limit:
            break
        _remove(folder, entry)
        n_bytes -= entry.n_bytes
        removed.append(entry)
    return removed


def remove_leftovers(folder: int, seconds: float = LEFTOVER_SECONDS) -> int:
    """Remove what killed processes left and what nobody has changed for so long; how many."""
    before, n_removed = time.time() - seconds, 0
    for name, changed in contents(folder).leftovers:
        if changed > before:
            continue
        with suppress(OSError):  # another process was faster, or it is no folder of ours after all
            if SCRATCH.fullmatch(name):
                remove_scratch(folder, name)
            else:
                os.unlink(name, dir_fd=folder)
            n_removed += 1
    return n_removed


def clear(folder: int) -> Contents:
    """Remove all entries and leftovers, nothing else; returns what that was.

    Raises:
        OSError: something cannot be removed.
    """
    found = contents(folder)
    for entry in found.entries:
        _remove(folder, entry)
    remove_leftovers(folder, 0.0)
    return found


def drop(folder: int, key: str) -> None:
    """Remove an entry that is damaged; its libraries go as leftovers do."""
    with suppress(OSError):
        os.unlink(f"{key}.json", dir_fd=folder)


def _remove(folder: int, entry: Entry) -> None:
    for name in entry.files:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
