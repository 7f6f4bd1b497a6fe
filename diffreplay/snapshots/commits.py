"""Commits of a snapshot: which manifest counts, who may replace it, and which files go. See docs/snapshot-format.md."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from diffreplay.errors import InUseError
from diffreplay.snapshots.files import Lock, checksum, open_regular, sync_directory, used_elsewhere, write_durably
from diffreplay.snapshots.manifest import DATA_FILE, FORMAT, MANIFEST, PREVIOUS, TEMPORARY_FILE, Kept, Manifest, encode
from diffreplay.store import VERSION


def check_alone(directory: Path, kept: Kept, base: str | None) -> None:
    """Refuse to save what would take the place of another running process's commit, unless it adds to that one.

    Raises:
        InUseError: such a commit is the present one.
    """
    if (kept.present is None or kept.present.commit != base) and used_elsewhere(directory / MANIFEST):
        raise InUseError(
            f"{directory}: expected to be alone in saving here, but another running process has saved its buffer here: "
            "save to another directory, or end that process first"
        )


def commit(directory: Path, manifest: Manifest, kept: Kept, base: str | None) -> Lock:
    """Make a manifest the present one in one step, then delete the files that no manifest names any more.

    Args:
        directory: of the snapshot.
        manifest: the new one; its files are written.
        kept: those before it.
        base: the commit that it adds to. It is the previous one afterwards; where it is not in the directory, what
            was the present one is.

    Returns:
        A lock on the new manifest: as long as it is held, `check_alone` refuses other processes.
    """
    fields = {"format": FORMAT, "version": VERSION, **manifest.__dict__}
    body = encode(fields)
    temporary = directory / f"{MANIFEST}.{manifest.commit}"
    write_durably(temporary, body + b"\n" + checksum(body).encode() + b"\n")
    lock = Lock(temporary)
    present, previous = kept
    if present is not None and (base is None or previous is None or previous.commit != base):
        copy = directory / f"{PREVIOUS}.{manifest.commit}"
        write_durably(copy, (directory / MANIFEST).read_bytes())
        os.replace(copy, directory / PREVIOUS)
        previous = present
    sync_directory(directory)  # the files' names are on disk before the manifest that names them
    os.replace(temporary, directory / MANIFEST)
    sync_directory(directory)  # and that is before files are deleted that only older manifests name
    _delete_others(directory, [manifest, *([previous] if previous is not None else [])])
    return lock


def delete_leftovers(directory: Path, kept: Kept) -> None:
    """Delete what saves that failed or were killed have left, so that it takes no room from the next one."""
    for name, manifest in zip((MANIFEST, PREVIOUS), kept, strict=True):
        if manifest is None and os.path.lexists(directory / name):
            return  # it may be mended, so its files stay until a new one takes its place
    _delete_others(directory, [manifest for manifest in kept if manifest is not None])


def abandon(directory: Path, commit: str) -> None:
    """Delete what a save that failed has written, unless it failed after its commit."""
    with suppress(OSError):  # the next save tries again
        present = b""
        if os.path.lexists(directory / MANIFEST):
            with open_regular(directory / MANIFEST) as file:
                present = file.read(4096)  # which begins with its name
        for path in directory.iterdir() if commit.encode() not in present else ():
            if commit in path.name and (DATA_FILE.fullmatch(path.name) or TEMPORARY_FILE.fullmatch(path.name)):
                path.unlink()


def _delete_others(directory: Path, kept: list[Manifest]) -> None:
    """Delete the files of the snapshot that none of the manifests names, as far as that goes."""
    named = {entry.name for manifest in kept for entry in manifest.files()}
    for path in directory.iterdir():
        if (DATA_FILE.fullmatch(path.name) and path.name not in named) or TEMPORARY_FILE.fullmatch(path.name):
            with suppress(OSError):  # the next save tries again
                path.unlink()
