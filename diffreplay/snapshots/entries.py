"""Data files of a snapshot, as a manifest's entries name them: with size and checksum."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from diffreplay.codecs import Buffer
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.files import checksum, open_regular, write_durably
from diffreplay.snapshots.manifest import FileEntry

LARGEST_FILE = 1 << 32


def write_file(directory: Path, name: str, parts: list[Buffer], first: int, end: int) -> FileEntry:
    """Write the parts of a file, end to end, and name it as a manifest does."""
    write_durably(directory / name, *parts)
    return FileEntry(name, sum(map(len, parts)), checksum(*parts), first, end)


def is_there(directory: Path, entry: FileEntry) -> bool:
    """Whether a file is there and as large as the manifest says; nothing of it is read."""
    try:
        found = os.stat(directory / entry.name)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.nbytes


def check_size(directory: Path, entry: FileEntry) -> None:
    """Refuse a file that is not there, or not as large as the manifest says; nothing of it is read.

    Raises:
        CorruptDataError: so it is.
    """
    open_file(directory, entry).close()


def read_file(directory: Path, entry: FileEntry) -> bytes:
    """The bytes of a file that is as the manifest says.

    Raises:
        CorruptDataError: it is missing, or of another size or checksum.
    """
    path = directory / entry.name
    try:
        with open_file(directory, entry) as file:
            data = file.read(entry.nbytes)
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    check_bytes(path, entry, data)
    return data


def check_bytes(path: Path, entry: FileEntry, data: Buffer) -> None:
    """Refuse the bytes of a file whose checksum is not the one that the manifest says.

    Raises:
        CorruptDataError: so it is.
    """
    found = checksum(data)
    if found != entry.checksum:
        raise CorruptDataError(f"{path}: expected checksum {entry.checksum}, got {found}")


def open_file(directory: Path, entry: FileEntry) -> BinaryIO:
    """Open a file that is as large as the manifest says.

    Raises:
        CorruptDataError: it is missing, cannot be read, or is of another size.
    """
    path = directory / entry.name
    try:
        file = open_regular(path)
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    found = os.fstat(file.fileno()).st_size
    if found != entry.nbytes or found > LARGEST_FILE:
        file.close()
        raise CorruptDataError(f"{path}: expected {min(entry.nbytes, LARGEST_FILE)} bytes, got {found}")
    return file
