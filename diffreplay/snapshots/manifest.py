"""The manifest of a snapshot: it names every file of one state, with size and checksum.

docs/snapshot-format.md describes it.

Nothing in it is believed before its own checksum is found to be right, and
nothing is done with what it says before that is found to make sense.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffreplay.errors import CorruptDataError
from diffreplay.snapshots.files import checksum, open_regular
from diffreplay.store import MAX_IMAGES, SET_SLOTS, VERSION

MANIFEST = "manifest.json"
PREVIOUS = "previous.json"
MANIFEST_BYTES = 1 << 21  # of a manifest at most, as parsed JSON takes up to 35 times as much memory,
FILE_BYTES = 256  # and so many more for each file of rows or references that is there: naming it takes less
SEGMENT_ROWS = 4096  # in a file at most
FORMAT = "diffreplay snapshot"
LARGEST_NUMBER = 1 << 48  # of rows, sets and bytes: more than any run writes, and sums of a few fit in 64 bits
VERSIONS = [1, VERSION]  # that are read
DATA_FILE = re.compile(r"((rows|priorities)-\d{12,15}|set-(\d{2}-)?\d{6,15})-[0-9a-f]{16}\.bin")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
TEMPORARY_FILE = re.compile(r"(manifest|previous)\.json\.[0-9a-f]{16}")


class FileEntry(NamedTuple):
    """A file as the manifest lists it."""

    name: str
    nbytes: int
    checksum: str  # BLAKE2b, 16 bytes, hexadecimal
    first: int  # first row of a segment or of priorities; number of a reference set
    end: int  # row after the last of a segment or of priorities; first row coded against a reference set


class Held(NamedTuple):
    """What the rows come to, as those who read a snapshot in place would have to read all of it to know."""

    transitions: int
    payload_bytes: int
    frames: int


@dataclass
class Manifest:
    """What a snapshot holds.

    Attributes:
        commit: names this state; a buffer that knows it may add to it.
        tail: oldest row that counts.
        head: rows written so far.
        log_tail: where in the log's ring the coded frames of the oldest row begin.
        segments: files of rows, in the order of their rows.
        sets: for each image, files of reference sets, in their order.
        buffer: everything else, as `state.describe` gave it, and where there are priorities the file of these: of the
            keys beside it others are refused, and earlier versions of this package load what they find here.
    """

    commit: str
    tail: int
    head: int
    log_tail: int
    segments: list[FileEntry]
    sets: list[list[FileEntry]]
    buffer: dict[str, Any]

    def files(self) -> list[FileEntry]:
        """All files besides the manifest."""
        return [*self.segments, *chain.from_iterable(self.sets), *self.priorities]

    @property
    def priorities(self) -> list[FileEntry]:
        """The file of priorities, where there is one."""
        return self.buffer.get("priorities", [])

    @property
    def held(self) -> Held | None:
        """What the rows come to; None where it was saved before that was told."""
        found = self.buffer.get("held")
        return None if found is None else Held(**found)


class Kept(NamedTuple):
    """The manifests that a directory keeps; None for one that is missing or damaged."""

    present: Manifest | None
    previous: Manifest | None


def find_manifest(directory: Path, commit: str | None) -> Manifest:
    """The manifest of commit `commit`, which is the present or the previous one; the present one for None.

    Raises:
        CorruptDataError: there is none, or it is damaged, of another version, or makes no sense.
    """
    try:
        manifest = read_manifest(directory)
    except CorruptDataError as error:
        if _readable(directory, PREVIOUS) is None:
            raise
        raise CorruptDataError(
            f"{error}; {directory / PREVIOUS} holds the commit before, which counts once it has the name {MANIFEST}"
        ) from None
    if commit is None or manifest.commit == commit:
        return manifest
    previous = read_manifest(directory, PREVIOUS) if (directory / PREVIOUS).exists() else None
    if previous is None or previous.commit != commit:
        before = "none" if previous is None else previous.commit
        raise CorruptDataError(f"{directory}: expected commit {commit}, got {manifest.commit} and before it {before}")
    return previous


def kept_manifests(directory: Path) -> Kept:
    """The present and the previous manifest, as far as they can be read."""
    return Kept(_readable(directory, MANIFEST), _readable(directory, PREVIOUS))


def _readable(directory: Path, name: str) -> Manifest | None:
    try:
        return read_manifest(directory, name)
    except CorruptDataError:
        return None


def encode(value: Any) -> bytes:
    """JSON on one line.

    Raises:
        TypeError: something in it is no number, string, list or dict.
    """
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """NumPy's numbers as JSON can hold them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected numbers, strings, lists and dicts only, got {value!r}")


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """The manifest of a snapshot; `name` is MANIFEST or PREVIOUS.

    Raises:
        CorruptDataError: there is none, or it is damaged, of another version, or makes no sense.
    """
    path = directory / name
    try:
        with open_regular(path) as file:
            size, most = os.fstat(file.fileno()).st_size, MANIFEST_BYTES
            if size > most:
                most += FILE_BYTES * sum(DATA_FILE.fullmatch(other) is not None for other in os.listdir(directory))
            if size > most:
                raise CorruptDataError(f"{path}: expected a file of at most {most} bytes, got {size}")
            data = file.read(size)
    except OSError as error:
        if not directory.exists():
            raise CorruptDataError(
                f"{directory}: expected a snapshot with a {name}, and there is no such folder"
            ) from None
        raise CorruptDataError(
            f"{directory}: expected a snapshot with a {name}, which cannot be read: {error.strerror}"
        ) from error
    body, _, rest = data.partition(b"\n")
    if rest != checksum(body).encode() + b"\n":
        raise CorruptDataError(f"{path}: expected a manifest that ends in its checksum, got damaged or other data")
    try:
        return _parse(json.loads(body))
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise CorruptDataError(f"{path}: makes no sense: {error}") from error


def whole_number(name: str, value: Any, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """Check a number of a manifest.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: expected an integer from {least} to {most}, got {short(value)}")
    return value


def short(value: Any) -> str:
    """A value for a message, cut off where it is long; of a large one, the rest is not even written out."""
    return f"{_SHORT.repr(value):.60}"


def _parse(fields: Any) -> Manifest:
    if (
        not isinstance(fields, dict)
        or fields.get("format") != FORMAT
        or whole_number("version", fields.get("version")) not in VERSIONS
    ):
        raise ValueError(f"expected a {FORMAT} of version 1 to {VERSION}, got {short(fields)}")
    keys = Manifest.__dataclass_fields__.keys() | {"format", "version"}
    if fields.keys() != keys:
        raise ValueError(f"expected the keys {sorted(keys)}, got {short(sorted(fields))}")
    if not isinstance(fields["commit"], str) or not re.fullmatch("[0-9a-f]{16}", fields["commit"]):
        raise ValueError(f"commit: expected 16 hexadecimal digits, got {short(fields['commit'])}")
    if not isinstance(fields["buffer"], dict):
        raise ValueError(f"buffer: expected an object, got {short(fields['buffer'])}")
    sets = [fields["sets"]] if fields["version"] == 1 else fields["sets"]
    if not isinstance(sets, list) or len(sets) > MAX_IMAGES:
        raise ValueError(f"sets: expected a list for each image, got {short(sets)}")
    manifest = Manifest(
        fields["commit"],
        whole_number("tail", fields["tail"]),
        whole_number("head", fields["head"]),
        whole_number("log_tail", fields["log_tail"]),
        _entries("segments", "rows-", fields["segments"]),
        [_entries("sets", "set-", entries) for entries in sets],
        fields["buffer"],
    )
    if "priorities" in manifest.buffer:
        manifest.buffer["priorities"] = _entries("priorities", "priorities-", manifest.buffer["priorities"])
    if "held" in manifest.buffer:
        _check_held(manifest.buffer["held"])
    _check_order(manifest)
    return manifest


def _entries(name: str, prefix: str, values: Any) -> list[FileEntry]:
    """Check a list of files; a name leads nowhere but into the snapshot's own directory."""
    if not isinstance(values, list):
        raise ValueError(f"{name}: expected a list, got {short(values)}")
    entries = []
    for value in values:
        if not isinstance(value, list) or len(value) != len(FileEntry._fields):
            raise ValueError(f"{name}: expected {list(FileEntry._fields)} of each file, got {short(value)}")
        file, nbytes, digest, first, end = value
        if not isinstance(file, str) or not (file.startswith(prefix) and DATA_FILE.fullmatch(file)):
            raise ValueError(f"{name}: expected the name of a file that begins with {prefix}, got {short(file)}")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{32}", digest):
            raise ValueError(f"{file}: expected a checksum of 32 hexadecimal digits, got {short(digest)}")
        for number in (nbytes, first, end):
            whole_number(file, number)
        if int(file.split("-")[-2]) != first:
            raise ValueError(f"{file}: expected the number that its name begins with, got {first}")
        entries.append(FileEntry(file, nbytes, digest, first, end))
    return entries


def _check_held(held: Any) -> None:
    if not isinstance(held, dict) or held.keys() != set(Held._fields):
        raise ValueError(f"held: expected {list(Held._fields)}, got {short(held)}")
    for name, value in held.items():
        whole_number(name, value)


def _check_order(manifest: Manifest) -> None:
    """Refuse a manifest whose parts do not fit together."""
    tail, head, segments = manifest.tail, manifest.head, manifest.segments
    if tail > head:
        raise ValueError(f"expected tail <= head, got {tail} and {head}")
    places = [*(entry.first for entry in segments), head]
    if [entry.end for entry in segments] != places[1:] or any(entry.first >= entry.end for entry in segments):
        raise ValueError(f"expected segments that follow one another up to row {head}, got others")
    if places[0] > tail:
        raise ValueError(f"expected segments from row {tail} on, got the first one at {places[0]}")
    if (segments and segments[0].end <= tail) or any(entry.end - entry.first > SEGMENT_ROWS for entry in segments):
        raise ValueError(f"expected segments of at most {SEGMENT_ROWS} rows from the one of row {tail} on, got others")
    of = [(entry.first, entry.end) for entry in manifest.priorities]
    if of not in ([], [(tail, head)]):
        raise ValueError(f"expected at most one file of priorities, of rows {tail} to {head}, got {short(of)}")
    for sets in manifest.sets:
        numbers, rows = [entry.first for entry in sets], [entry.end for entry in sets]
        if len(sets) > SET_SLOTS or any(b != a + 1 for a, b in pairwise(numbers)):
            raise ValueError(
                f"expected at most {SET_SLOTS} reference sets that follow one another, got {short(numbers)}"
            )
        if sorted(set(rows)) != rows or (rows and (rows[-1] > head or (numbers[0] and rows[0] > tail))):
            raise ValueError(f"expected each reference set to serve later rows than the one before, got {short(rows)}")
