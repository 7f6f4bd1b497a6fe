"""Incremental, crash-safe snapshots of a replay buffer. docs/snapshot-format.md describes the format.

A snapshot is a directory of files that never change, and a manifest that names them. Saving writes files for what
is new, then replaces the manifest in one step: whenever it is interrupted, the manifest that is there names a
complete state. The manifest before it stays, with its files, so that a program that saves other things, too, can
go back to the state that fits them. Frames stay coded throughout.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.snapshots.commits import abandon, check_alone, commit, delete_leftovers
from diffreplay.snapshots.entries import is_there
from diffreplay.snapshots.files import Lock, make_directory
from diffreplay.snapshots.manifest import SEGMENT_ROWS, FileEntry, Manifest, kept_manifests
from diffreplay.snapshots.merging import files_to_merge
from diffreplay.snapshots.priorities import write_priorities
from diffreplay.snapshots.segments import row_bytes, segment_end, write_segment, write_set
from diffreplay.snapshots.state import Buffer, describe
from diffreplay.store import FrameStore, export_state

PATIENCE = 10.0  # seconds to wait while another save into the directory goes on; most take less


def save(replay: Buffer, directory: Path, base: str | None, priorities: dict[str, Any] | None = None) -> str:
    """Save a buffer, writing only what the commit `base` in `directory` does not hold yet; return the new commit.

    Args:
        replay: the buffer.
        directory: made if needed.
        base: the commit that the buffer adds to.
        priorities: state of those of its steps.

    Raises:
        InUseError: another process saves there.
        OSError: the directory cannot be written to. In both cases what was saved before is as it was.
    """
    state = describe(replay)
    make_directory(directory)
    with Lock(directory, PATIENCE):
        kept = kept_manifests(directory)
        check_alone(directory, kept, base)
        delete_leftovers(directory, kept)
        before = next((manifest for manifest in kept if manifest is not None and manifest.commit == base), None)
        store, name = replay.store, secrets.token_hex(8)
        try:
            if priorities is not None:
                state["priorities"] = [write_priorities(directory, name, priorities, store.tail, store.head)]
            manifest = Manifest(
                name,
                store.tail,
                store.head,
                export_state(store).log_tail,
                _save_rows(store, directory, name, before.segments if before else []),
                _save_sets(store, directory, name, before.sets if before else []),
                state,
            )
            replay.commit_locks[directory.resolve()] = commit(directory, manifest, kept, base)
        except BaseException:
            abandon(directory, name)
            raise
    return name


def _save_rows(store: FrameStore, directory: Path, name: str, saved: list[FileEntry]) -> list[FileEntry]:
    """Write the rows that no file holds, those of files that have vanished among them; name all files in order."""
    kept = [entry for entry in saved if entry.end > store.tail and is_there(directory, entry)]
    begin, end = max(kept[-1].end if kept else 0, store.tail), store.head
    if end - begin < SEGMENT_ROWS:
        nbytes = int(store.lengths(np.arange(begin, end)).sum()) + (end - begin) * row_bytes(store.layout)
        kept = kept[: len(kept) - files_to_merge(kept, end - begin, nbytes)]
    segments, first = [], store.tail
    for entry in [*kept, None]:
        stop = entry.first if entry else end
        while first < stop:
            segments.append(write_segment(directory, name, store, first, segment_end(store, first, stop)))
            first = segments[-1].end
            store.arena.page_out()
        if entry:
            segments.append(entry)
            first = entry.end
    return segments


def _save_sets(store: FrameStore, directory: Path, name: str, saved: list[list[FileEntry]]) -> list[list[FileEntry]]:
    found = []
    for image, sets in enumerate(store.sets):
        kept = {entry.first: entry for entry in (saved[image] if saved else []) if is_there(directory, entry)}
        found.append([kept.get(k) or write_set(directory, name, store, image, k) for k in sets.numbers()])
    return found
