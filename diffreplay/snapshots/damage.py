"""What of a buffer is damaged: of its snapshots' files, and of its frames; and which rows are lost with a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import CorruptDataError, ReplayError
from diffreplay.snapshots.entries import read_file
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, FileEntry, Manifest, read_manifest
from diffreplay.snapshots.segments import check_segment, check_set
from diffreplay.snapshots.state import Buffer
from diffreplay.store import FrameReader, Layout, OverrunError

VERIFY_ROWS = 1024  # whose frames are decoded at once at most,
VERIFY_BYTES = 1 << 23  # or so many bytes of them
LOST_ROWS = 1 << 19  # that may be claimed of files that are missing,
LOST_TIMES = 10  # or so many times those that are there


def verify(replay: Buffer) -> list[str]:
    """What is damaged, a sentence each: of the snapshots that `replay` knows, and of its frames in memory."""
    problems = [problem for directory in replay.commits for problem in verify_files(directory)]
    for found in undecodable(replay.store):
        problems += found
    return problems


def verify_files(directory: Path, known: Collection[str] = ()) -> list[str]:
    """What is damaged in a snapshot's files, a sentence each: every checksum is compared, nothing is decoded.

    Another process may save there meanwhile, and delete files: then what it saved is looked at.

    Args:
        directory: of the snapshot.
        known: names of files that are left out.
    """
    while True:
        before = _manifests(directory)
        problems = _problems(directory, known)
        if not problems or _manifests(directory) == before:
            return problems


def _manifests(directory: Path) -> list[tuple[int, int]]:
    """Which files the manifests are now; a save replaces them."""
    found = []
    for name in (MANIFEST, PREVIOUS):
        with suppress(OSError):
            status = (directory / name).lstat()
            found.append((status.st_ino, status.st_mtime_ns))
    return found


def _problems(directory: Path, known: Collection[str]) -> list[str]:
    problems: list[str] = []
    entries: dict[str, FileEntry] = {}
    for name in (MANIFEST, PREVIOUS):
        try:
            if name == MANIFEST or (directory / name).exists():
                entries |= {entry.name: entry for entry in read_manifest(directory, name).files()}
        except CorruptDataError as error:
            problems.append(str(error))
    for entry in entries.values():
        try:
            if entry.name not in known:
                read_file(directory, entry)
        except CorruptDataError as error:
            problems.append(str(error))
    return problems


def undecodable(store: FrameReader) -> Iterator[list[str]]:
    """Decode every frame, some rows at a time; of these, a sentence for each that does not decode."""
    tail, head = store.bounds()
    largest = max([image.frame_bytes for image in store.layout.images], default=1)
    at_once = max(1, min(VERIFY_ROWS, VERIFY_BYTES // largest))
    for first in range(tail, head, at_once):
        rows = store.present(np.arange(first, min(first + at_once, head)))
        rows = rows[store.oldest_needed(rows) >= tail]
        singly = rows if _undecodable(store, rows) else ()
        yield [f"row {row}: {error}" for row in singly if (error := _undecodable(store, np.array([row])))]


def _undecodable(store: FrameReader, rows: NDArray[np.int64]) -> str:
    """Why rows do not decode; empty where they do."""
    try:
        for image in range(len(store.layout.images)):
            store.read(rows, image)
    except ReplayError as error:
        return str(error)
    except OverrunError:  # nobody writes meanwhile, so that the index itself is wrong
        return "expected an index that names a coded frame, got one that makes no sense"
    return ""


def damage_by_size(layout: Layout, directory: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with each file, by its name, whose size already tells."""
    damage: dict[str, str] = {}
    checks: list[tuple[FileEntry, Any]] = [
        (entry, partial(check_set, directory, entry, image))
        for sets, image in zip(manifest.sets, layout.images, strict=True)
        for entry in sets
    ]
    checks += [(entry, partial(check_segment, directory, entry, layout)) for entry in manifest.segments]
    for entry, check in checks:
        try:
            check()
        except CorruptDataError as error:
            damage[entry.name] = str(error)
    return damage


def check_rest(directory: Path, manifest: Manifest, damage: dict[str, str]) -> None:
    """Refuse a manifest that claims many rows and has few, as each takes its place in the index.

    Raises:
        CorruptDataError: so it is.
    """
    gone = sum(entry.end - entry.first for entry in manifest.segments if entry.name in damage)
    rest = manifest.head - manifest.tail - gone
    if gone > max(LOST_ROWS, LOST_TIMES * rest):
        raise CorruptDataError(
            f"{directory}: expected files of at least one in {LOST_TIMES + 1} rows, got {max(rest, 0)} of "
            f"{manifest.head - manifest.tail}; {next(iter(damage.values()))}"
        )


def gone_rows(store: FrameReader, lost_rows: list[tuple[int, int]], lost_sets: list[list[int]]) -> NDArray[np.bool_]:
    """Which live rows cannot be decoded any more, (N,): lost ones, and those coded against something lost.

    Args:
        store: that holds the rows, and in place of lost ones such as end where they begin.
        lost_rows: runs of them, the first one and the one after the last.
        lost_sets: of each image, numbers of the reference sets that are lost.
    """
    tail, head = store.bounds()
    rows = np.arange(tail, head)
    gone = np.zeros(len(rows), bool)
    for first, end in lost_rows:
        gone[max(first - tail, 0) : max(end - tail, 0)] = True
    for image, lost in enumerate(lost_sets):
        coded = store.lengths(rows, image) < store.layout.images[image].frame_bytes
        gone |= coded & np.isin(store.codings[image].sets.serving(rows), lost)
    needed = store.oldest_needed(rows) - tail
    return gone | ((needed >= 0) & gone[np.maximum(needed, 0)])
