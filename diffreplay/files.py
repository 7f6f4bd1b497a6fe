"""Files that are safely on disk once written, and their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def checksum(*parts: bytes | memoryview) -> str:
    """BLAKE2b of the parts, end to end: 16 bytes as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file; its bytes are on disk when this returns, its name once the directory is synced."""
    with open(path, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
