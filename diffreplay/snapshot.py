"""Incremental, crash-safe snapshots of a replay buffer. docs/snapshots.md describes the format.

A snapshot is a directory of files that never change, and a manifest that names them. Saving writes files for what
is new, then replaces the manifest in one step: whenever it is interrupted, the manifest that is there names a
complete state. The manifest before it stays, with its files, so that a program that saves other things, too, can
go back to the state that fits them. Frames stay coded throughout.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffreplay.errors import CorruptDataError
from diffreplay.frames import FrameStore
from diffreplay.layout import SET_SLOTS, VERSION, Counter
from diffreplay.segments import FileEntry, checksum, read_file, segment_end, set_bytes, write_file, write_segment

MANIFEST = "manifest.json"
PREVIOUS = "previous.json"
MAX_MANIFEST_BYTES = 1 << 28


@dataclass
class Manifest:
    """What a snapshot holds.

    Attributes:
        commit: names this state; a buffer that knows it may add to it.
        tail: oldest row that counts.
        head: rows written so far.
        segments: files of rows, in the order of their rows.
        sets: files of reference sets, in their order.
        buffer: everything else, as `ReplayBuffer` gave it.
    """

    commit: str
    tail: int
    head: int
    segments: list[FileEntry]
    sets: list[FileEntry]
    buffer: dict[str, Any] = field(default_factory=dict)

    def files(self) -> list[FileEntry]:
        """All files besides the manifest."""
        return self.segments + self.sets


def save(store: FrameStore, directory: Path, known_commit: str | None, buffer: dict[str, Any]) -> Manifest:
    """Save a store, writing only what the snapshot `known_commit` in `directory` does not hold yet.

    Raises:
        OSError: the directory cannot be written to; what was saved before is as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = _manifest_before(directory, known_commit)
    tail, head, commit = store.tail, store.head, secrets.token_hex(8)
    segments = [entry for entry in before.segments if entry.end > tail]
    first = max(segments[-1].end if segments else tail, tail)
    while first < head:
        end = segment_end(store, first)
        segments.append(write_segment(directory, f"rows-{first:012d}-{commit}.bin", store, first, end))
        first = end
    set_tail, set_head = store.counter(Counter.SET_TAIL), store.counter(Counter.SET_HEAD)
    kept = {entry.first: entry for entry in before.sets}
    sets = [kept.get(k) or _write_set(directory, store, k, commit) for k in range(set_tail, set_head)]
    manifest = Manifest(commit, tail, head, segments, sets, buffer)
    _commit(directory, manifest)
    return manifest


def _manifest_before(directory: Path, known_commit: str | None) -> Manifest:
    """The present manifest, or an empty one where it is not the buffer's own."""
    try:
        manifest = read_manifest(directory)
    except CorruptDataError:
        manifest = None
    if manifest is None or manifest.commit != known_commit:
        return Manifest("", 0, 0, [], [])
    return manifest


def _write_set(directory: Path, store: FrameStore, number: int, commit: str) -> FileEntry:
    first_row = int(store.memory.set_table["first_row"][number % SET_SLOTS])
    return write_file(directory, f"set-{number:06d}-{commit}.bin", set_bytes(store, number), number, first_row)


def _commit(directory: Path, manifest: Manifest) -> None:
    """Make a manifest the present one in one step, then delete the files that only older ones name.

    The present one becomes the previous one first, by a second name for the same file: at every moment there is a
    present manifest.
    """
    body = json.dumps(
        {"format": "diffreplay snapshot", "version": VERSION, **manifest.__dict__}, separators=(",", ":")
    ).encode()
    temporary = directory / f"{MANIFEST}.{manifest.commit}"
    with open(temporary, "wb") as file:
        file.write(body + b"\n" + checksum(body).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(directory)  # the files' names are on disk before the manifest that names them
    if (directory / MANIFEST).exists():
        link = temporary.with_suffix(".link")
        os.link(directory / MANIFEST, link)
        os.replace(link, directory / PREVIOUS)
    os.replace(temporary, directory / MANIFEST)
    _sync_directory(directory)
    named = {entry.name for entry in manifest.files()}
    with contextlib.suppress(CorruptDataError):
        named |= {entry.name for entry in read_manifest(directory, PREVIOUS).files()}
    for path in _own_files(directory):
        if path.name not in named:
            path.unlink(missing_ok=True)


def _own_files(directory: Path) -> Iterator[Path]:
    for pattern in ("rows-*.bin", "set-*.bin", f"{MANIFEST}.*"):
        yield from directory.glob(pattern)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_manifest(directory: Path, commit: str | None) -> Manifest:
    """The manifest of commit `commit`, which is the present or the previous one; the present one for None.

    Raises:
        CorruptDataError: there is none, or it is damaged or of another version.
    """
    manifest = read_manifest(directory)
    if commit is None or manifest.commit == commit:
        return manifest
    previous = read_manifest(directory, PREVIOUS)
    if previous.commit != commit:
        raise CorruptDataError(
            f"{directory}: expected commit {commit}, got {manifest.commit} and before it {previous.commit}"
        )
    return previous


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """The manifest of a snapshot.

    Raises:
        CorruptDataError: there is none, or it is damaged or of another version.
    """
    path = directory / name
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CorruptDataError(f"{path}: expected at most {MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptDataError(
            f"{directory}: expected a snapshot with a {name}, which cannot be read: {error.strerror}"
        ) from error
    body, _, rest = data.partition(b"\n")
    if rest != checksum(body).encode() + b"\n":
        raise CorruptDataError(f"{path}: expected a manifest that ends in its checksum, got damaged or other data")
    fields = json.loads(body)
    if fields.pop("format", None) != "diffreplay snapshot" or fields.pop("version", None) != VERSION:
        raise CorruptDataError(f"{path}: expected a diffreplay snapshot of version {VERSION}")
    fields["segments"] = [FileEntry(*entry) for entry in fields["segments"]]
    fields["sets"] = [FileEntry(*entry) for entry in fields["sets"]]
    return Manifest(**fields)


def verify(directory: Path) -> list[str]:
    """What is damaged in a snapshot, a sentence each: every checksum is compared, nothing is decoded."""
    try:
        manifest = read_manifest(directory)
    except CorruptDataError as error:
        return [str(error)]
    problems = []
    for entry in manifest.files():
        try:
            read_file(directory, entry)
        except CorruptDataError as error:
            problems.append(str(error))
    return problems
