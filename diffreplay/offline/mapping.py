"""The files of a snapshot, mapped side by side: all rows lie in one log, and all reference sets in their slots."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.errors import CorruptDataError, SharedMemoryError
from diffreplay.snapshots import FileEntry, Manifest, check_bytes, check_segment_entry, check_set_entry, open_file
from diffreplay.store import PAGE, SET_SLOTS, Layout, round_up

_map = ctypes.CDLL(None, use_errno=True).mmap
_map.restype = ctypes.c_void_p
_map.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
FAILED = ctypes.c_void_p(-1).value
MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000  # of Linux


class MappedFiles:
    """All files of one commit, for reading; they stay as they are even where a newer commit deletes them.

    Nothing of them is read, but that each is there and as large as the manifest says. Pickled, it maps them anew.

    Args:
        directory: of the snapshot.
        manifest: of the commit.
        layout: of what was saved.
        known: which files of these names they are, where another process has mapped and maybe checked them.
        damage: a sentence for each file, by its name, that is left out.

    Attributes:
        damage: likewise; to be added to where more is found.
        begins: of each file of rows, where in `log` it begins.
        log: all files of rows.
        sets: for each image the slots of its reference sets.

    Raises:
        CorruptDataError: a file is missing or of another size.
        SharedMemoryError: the system maps no more.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        layout: Layout,
        known: dict[str, tuple[int, ...]] | None = None,
        damage: dict[str, str] | None = None,
    ) -> None:
        self.directory, self.manifest, self._layout = directory, manifest, layout
        self.damage = damage or {}
        sizes = [0 if entry.name in self.damage else round_up(entry.nbytes) for entry in manifest.segments]
        slots = [SET_SLOTS * image.set_slot for image in layout.images]
        self.begins = np.cumsum([0, *sizes], dtype=np.int64)
        self._places: dict[str, int] = {}  # by name, where a file begins in the map
        self._identities: dict[str, tuple[int, ...]] = {}
        self._known = known or {}
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            self._map = mmap.mmap(-1, max(sum(slots) + sum(sizes), PAGE), flags, mmap.PROT_READ)
        except (OSError, OverflowError) as error:
            raise self._refused(error) from error
        self._address: int = np.frombuffer(self._map, np.uint8).__array_interface__["data"][0]
        place, view, self.sets = 0, memoryview(self._map), []
        for image, sets, nbytes in zip(layout.images, manifest.sets, slots, strict=True):
            for entry in self._whole(sets):
                check_set_entry(directory, entry, image)
                self._add(entry, place + entry.first % SET_SLOTS * image.set_slot)
            self.sets.append(view[place : place + nbytes])
            place += nbytes
        self.log = view[place:]
        begins = dict(zip([entry.name for entry in manifest.segments], self.begins.tolist(), strict=False))
        for entry in self._whole(manifest.segments):
            check_segment_entry(directory, entry, layout)
            self._add(entry, place + begins[entry.name])
        self._map.madvise(mmap.MADV_RANDOM)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFiles, (self.directory, self.manifest, self._layout, self._identities, self.damage)

    def _whole(self, entries: list[FileEntry]) -> list[FileEntry]:
        """Those that are not left out."""
        return [entry for entry in entries if entry.name not in self.damage]

    def _add(self, entry: FileEntry, place: int) -> None:
        """Map a file at a place of the map."""
        with open_file(self.directory, entry) as file:
            if entry.nbytes:
                flags = mmap.MAP_SHARED | MAP_FIXED
                at = self._address + place
                if _map(at, entry.nbytes, mmap.PROT_READ, flags, file.fileno(), 0) == FAILED:
                    error = ctypes.get_errno()
                    raise self._refused(OSError(error, os.strerror(error)))
            identity = self._identities[entry.name] = _identity(os.fstat(file.fileno()))
            self._places[entry.name] = place
            if self._known.get(entry.name, identity) != identity:
                raise CorruptDataError(
                    f"{self.directory / entry.name}: expected the file that was opened, got another one of its name; "
                    "open the snapshot anew"
                )

    def _refused(self, error: Exception) -> SharedMemoryError:
        count = len(self.manifest.files())
        return SharedMemoryError(
            f"{self.directory}: expected the system to map its {count} files, got {error}; see /proc/sys/vm/"
            "max_map_count and `ulimit -v`"
        )

    def page_out(self) -> None:
        """Hold no page of the files in this process; one that is read again comes back by itself."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def checked(self, entry: FileEntry) -> memoryview:
        """The bytes of a file, all of which this reads, and which are those that were saved.

        Raises:
            CorruptDataError: they are not.
        """
        path, place = self.directory / entry.name, self._places[entry.name]
        try:
            found = os.stat(path)
        except OSError:  # a newer commit has deleted it, and it stays mapped
            found = None
        is_same = found is not None and _identity(found)[:2] == self._identities[entry.name][:2]
        if found is not None and is_same and found.st_size != entry.nbytes:
            # What lies beyond its end must not be touched.
            raise CorruptDataError(f"{path}: expected {entry.nbytes} bytes, got {found.st_size}")
        data = memoryview(self._map)[place : place + entry.nbytes]
        if entry.nbytes:
            self._map.madvise(mmap.MADV_SEQUENTIAL, place, entry.nbytes)
        try:
            check_bytes(path, entry, data)
        finally:
            if entry.nbytes:
                self._map.madvise(mmap.MADV_RANDOM, place, entry.nbytes)
        return data


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """Which file it is, and when it was written."""
    return found.st_dev, found.st_ino, found.st_mtime_ns
