"""Fills a fresh store from a snapshot. Coded frames go from file to memory as they are."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.damage import check_rest, damage_by_size, gone_rows
from diffreplay.snapshots.entries import read_file
from diffreplay.snapshots.manifest import FileEntry, Manifest
from diffreplay.snapshots.segments import read_segment
from diffreplay.snapshots.state import saved_ranges
from diffreplay.store import (
    BLOCK_ROWS,
    NO_ROW,
    FrameStore,
    OverrunError,
    StoredRows,
    StoreState,
    adopt_rows,
    adopt_set,
    begin_adopting,
    cut_out,
    finish_adopting,
)


def restore(store: FrameStore, directory: Path, manifest: Manifest, skip_damaged: bool) -> list[str]:
    """Fill an empty store; return what was damaged or missing and is left out, a sentence each.

    Where files are missing or of a wrong size, and `skip_damaged` is not set, nothing is filled and these are all.

    Raises:
        CorruptDataError: the manifest is of more rows than the store can hold, or nearly all of them are gone.
    """
    if manifest.head - manifest.tail > store.layout.max_rows:
        raise CorruptDataError(
            f"{directory}: expected a manifest of at most {store.layout.max_rows} rows, got {manifest.tail} to "
            f"{manifest.head}"
        )
    if len(manifest.sets) != len(store.layout.images):
        raise CorruptDataError(
            f"{directory}: expected a manifest of reference sets for {len(store.layout.images)} images, got "
            f"{len(manifest.sets)}"
        )
    damage = damage_by_size(store.layout, directory, manifest)
    if damage and not skip_damaged:
        return list(damage.values())
    check_rest(directory, manifest, damage)
    first_sets = [sets[0].first if sets else 0 for sets in manifest.sets]
    ranges = saved_ranges(directory, manifest)
    state = StoreState(manifest.tail, manifest.head, manifest.log_tail, first_sets, [], [], ranges)
    begin_adopting(store, state)
    lost_sets = [_read_sets(store, directory, image, sets, damage) for image, sets in enumerate(manifest.sets)]
    lost_rows = []
    for entry in manifest.segments:
        rows = None
        if entry.name not in damage:
            try:
                rows = read_segment(directory, entry, store.layout)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
        if rows is None:
            lost_rows.append((entry.first, entry.end))
            rows = _no_rows(store, entry)
        try:
            adopt_rows(store, rows)
        except CorruptDataError as error:
            raise CorruptDataError(f"{directory / entry.name}: {error}") from error
        store.arena.page_out()
    if damage:
        cut_out(store, store.tail, gone_rows(store, lost_rows, lost_sets))
    finish_adopting(store, manifest.head)
    return list(damage.values())


def _read_sets(
    store: FrameStore, directory: Path, image: int, sets: list[FileEntry], damage: dict[str, str]
) -> list[int]:
    """Store an image's reference sets; return the numbers of those that are damaged, which goes into `damage`."""
    lost = []
    for entry in sets:
        data = b""
        if entry.name not in damage:
            try:
                data = read_file(directory, entry)
            except CorruptDataError as error:
                damage[entry.name] = str(error)
        if entry.name in damage:
            lost.append(entry.first)
        adopt_set(store, data, entry.end, image)
    return lost


def _no_rows(store: FrameStore, entry: FileEntry) -> StoredRows:
    """Rows in the place of a segment that is damaged: all that is stored for them is that they end where they begin."""
    before, shape = np.array([store.head - 1]), (entry.end - entry.first, len(store.sets))
    sets = np.full(shape, NO_ROW)
    if store.head % BLOCK_ROWS:  # as before them in their block, so that it has room for it
        with suppress(OverrunError):
            sets[:] = [its.serving(before)[0] for its in store.sets]
    return StoredRows(entry.first, {}, np.zeros(shape, np.uint32), [], sets)
