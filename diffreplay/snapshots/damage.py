"""What of a buffer is damaged: of its snapshots' files, and of its frames in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.errors import CorruptDataError, ReplayError
from diffreplay.snapshots.entries import read_file
from diffreplay.snapshots.manifest import MANIFEST, PREVIOUS, FileEntry, read_manifest
from diffreplay.snapshots.state import Buffer
from diffreplay.store import FrameStore, OverrunError

VERIFY_ROWS = 1024


def verify(replay: Buffer) -> list[str]:
    """What is damaged, a sentence each: of the snapshots that `replay` knows, and of its frames in memory."""
    problems = [problem for directory in replay.commits for problem in verify_files(directory)]
    store = replay.store
    for first in range(store.tail, store.head, VERIFY_ROWS):
        rows = store.present(np.arange(first, min(first + VERIFY_ROWS, store.head)))
        rows = rows[store.oldest_needed(rows) >= store.tail]
        if _undecodable(store, rows):
            problems += [f"row {row}: {error}" for row in rows if (error := _undecodable(store, np.array([row])))]
    return problems


def verify_files(directory: Path) -> list[str]:
    """What is damaged in a snapshot's files, a sentence each: every checksum is compared, nothing is decoded."""
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
            read_file(directory, entry)
        except CorruptDataError as error:
            problems.append(str(error))
    return problems


def _undecodable(store: FrameStore, rows: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Why rows do not decode; empty where they do."""
    try:
        for image in range(len(store.layout.images)):
            store.read(rows, image)
    except ReplayError as error:
        return str(error)
    except OverrunError:  # nobody writes meanwhile, so that the index itself is wrong
        return "expected an index that names a coded frame, got one that makes no sense"
    return ""
