"""Snapshots of a run: tensors and plain containers in one file, loaded without executing pickled code.

The file is what `torch.save` writes, a zip archive, with a checksum of everything before it as the archive's comment:
PyTorch itself compares no checksum when it reads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffreplay.snapshots import open_regular, sync_directory, write_durably
from runs.errors import OptionError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TAG = b"blake2b "
COMMENT_BYTES = len(TAG) + 32
END_OF_ZIP = b"PK\x05\x06"  # begins the archive's last record, of 22 bytes, the comment's length at their end
END_BYTES = 22
PIECE_BYTES = 1 << 20


def save_snapshot(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, None, dicts, lists, tuples) to `path`, which is replaced at once.

    It is on disk, with its name, when this returns. A crash at any moment leaves either the old snapshot or the new
    one.

    Raises:
        OptionError: it cannot be written; the old one is as it was.
    """
    data = io.BytesIO()
    torch.save(state, data)
    data.seek(-2, os.SEEK_END)
    data.write(COMMENT_BYTES.to_bytes(2, "little"))
    content = data.getbuffer()
    unfinished = path.with_name(path.name + ".tmp")
    try:
        write_durably(unfinished, content, TAG + hashlib.blake2b(content, digest_size=16).hexdigest().encode())
        os.replace(unfinished, path)
        sync_directory(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise cannot_save(path, error) from error


def cannot_save(path: Path, error: OSError) -> OptionError:
    """The sentence for a snapshot that cannot be written."""
    remedy = "make room for it" if error.errno in NO_ROOM else "make it writable"
    return OptionError(
        f"{path} cannot be written ({error.strerror or error}): {remedy} and give the same command again, which goes "
        "on from the last snapshot, if there is one"
    )


def load_snapshot(path: Path) -> dict[str, Any]:
    """Return the state in `path`, its tensors on the CPU.

    Raises:
        OptionError: the file is damaged, or something else.
    """
    try:
        with open_regular(path) as file:
            _check(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what PyTorch raises at bytes that it did not write is not written down anywhere
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise unreadable(path, f"{reason:.200}") from error
    if not isinstance(state, dict):
        raise unreadable(path, f"expected a dict, got {type(state).__name__}")
    return state


def check_same_run(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """OptionError where what a snapshot was made with differs from what this run has; it names all that does.

    What the snapshot does not name, as an earlier version made it, passes.
    """
    differing = [name for name, value in wanted.items() if name in saved and saved[name] != value]
    if differing:
        made, has = (", ".join(f"{name}={show(run[name])}" for name in differing) for run in (saved, wanted))
        raise OptionError(
            f"{path} was made with {made}, this run has {has}: use the same options, or another run folder "
            "(hydra.run.dir)"
        )


def show(value: Any) -> str:
    """An option's value as it is given on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def unreadable(path: Path, reason: str) -> OptionError:
    """The sentence for a snapshot that is damaged or none."""
    return OptionError(
        f"{path} is not a readable snapshot ({reason}): restore it from a copy, or remove it to start the run over, or "
        "choose another run folder with hydra.run.dir=..."
    )


def _check(file: BinaryIO) -> None:
    """Compare the file with its checksum or, where an earlier version wrote it, with those in the archive.

    Raises:
        ValueError, RuntimeError, OSError, zipfile.BadZipFile, zlib.error: they differ, or there are none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END_BYTES, 0))
    end = file.read()
    if end.startswith(END_OF_ZIP) and end.endswith(b"\0\0"):  # no comment
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} differs")
        return
    content = size - COMMENT_BYTES
    if content < 0:
        raise ValueError(f"it has {size} bytes only")
    digest = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while piece := file.read(min(PIECE_BYTES, content - file.tell())):
        digest.update(piece)
    if file.read() != TAG + digest.hexdigest().encode():
        raise ValueError("its checksum differs")
