"""What a snapshot keeps of its source beside the steps: `dataset.jsonl`, a line for all and one for each episode.

A line is JSON. The first one is the description of the source; each other one has the episode's name and number of
steps, its attributes, and what its first row held where that is not blank. The snapshot's notes say how many bytes of
the file count, and their checksum: what a conversion that was killed has written beyond is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import Lock, open_regular

LISTING = "dataset.jsonl"
LONGEST_LINE = 1 << 26


class Listing:
    """The file as it is written.

    Args:
        path: of it.
        nbytes: of it that count already; the rest is cut off.
        checksum: of these.

    Raises:
        CorruptDataError: it does not hold these.
        InUseError: a conversion that is running writes it.
    """

    def __init__(self, path: Path, nbytes: int = 0, checksum: str = "") -> None:
        if not nbytes:
            path.touch()
        self._lock = Lock(path)
        self._file = open(path, "r+b")  # noqa: SIM115  # `close` closes it
        self._digest = hashlib.blake2b(digest_size=16)
        for data in iter(lambda: self._file.read(min(1 << 20, nbytes - self._file.tell())), b""):
            self._digest.update(data)
        if nbytes and (self._file.tell() != nbytes or self._digest.hexdigest() != checksum):
            self.close()
            raise CorruptDataError(f"{path}: expected {nbytes} bytes with checksum {checksum}, got others")
        self._file.truncate(nbytes)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._file.write(data)
        self._digest.update(data)

    def sync(self) -> tuple[int, str]:
        """Have all lines be on disk; what to note of them: bytes, and their checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell(), self._digest.hexdigest()

    def close(self) -> None:
        """Close the file; what was not synced counts for nothing."""
        self._file.close()
        self._lock.release()


def read_listing(path: Path, nbytes: int, checksum: str) -> Iterator[dict[str, Any]]:
    """The lines, the description first.

    Raises:
        CorruptDataError: the file is missing or damaged.
    """
    digest, left = hashlib.blake2b(digest_size=16), nbytes
    try:
        with open_regular(path) as file:
            for block in iter(lambda: file.read(min(1 << 20, nbytes - file.tell())), b""):
                digest.update(block)
            if digest.hexdigest() != checksum:
                raise CorruptDataError(f"{path}: expected {nbytes} bytes with checksum {checksum}, got others")
            file.seek(0)
            while left > 0:
                line = file.readline(min(left, LONGEST_LINE))
                left -= len(line)
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise CorruptDataError(f"{path}: expected an object on each line, got {line[:60]!r}")
                yield found
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CorruptDataError(f"{path}: makes no sense: {error}") from error
