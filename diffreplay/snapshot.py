"""Incremental, crash-safe snapshots of a replay buffer. docs/snapshots.md describes the format.

A snapshot is a directory of files that never change, and a manifest that names them. Saving writes files for what
is new, then replaces the manifest in one step: whenever it is interrupted, the manifest that is there names a
complete state. The manifest before it stays, with its files, so that a program that saves other things, too, can
go back to the state that fits them. Frames stay coded throughout.
"""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffreplay import codecs
from diffreplay.errors import CorruptDataError, InputError, ReplayError, UnknownCodecError
from diffreplay.files import sync_directory
from diffreplay.frames import FrameStore
from diffreplay.layout import Counter
from diffreplay.manifest import (
    MANIFEST,
    PREVIOUS,
    FileEntry,
    Manifest,
    commit,
    find_manifest,
    read_manifest,
    readable,
    short,
    whole_number,
)
from diffreplay.reader import NO_ROW, OverrunError
from diffreplay.restore import restore
from diffreplay.segments import read_file, segment_end, write_segment, write_set

if TYPE_CHECKING:
    from diffreplay.replay import ReplayBuffer

VERIFY_ROWS = 1024
LARGEST_CAPACITY = 1 << 32
LARGEST_ACTION = 1 << 24


def save(replay: ReplayBuffer, directory: Path, base: str | None) -> str:
    """Save a buffer, writing only what the commit `base` in `directory` does not hold yet; return the new commit.

    Raises:
        OSError: the directory cannot be written to; what was saved before is as it was.
    """
    state = _describe(replay)
    if not directory.exists():
        directory.mkdir(parents=True)
        sync_directory(directory.parent)
    known = [manifest for name in (MANIFEST, PREVIOUS) if (manifest := readable(directory, name)) is not None]
    before = next((manifest for manifest in known if manifest.commit == base), None)
    store, name = replay.store, secrets.token_hex(8)
    manifest = Manifest(
        name,
        store.tail,
        store.head,
        store._log_tail % store.layout.log_bytes,
        _save_rows(store, directory, name, before.segments if before else []),
        _save_sets(store, directory, name, before.sets if before else []),
        state,
    )
    commit(directory, manifest, base)
    return name


def _save_rows(store: FrameStore, directory: Path, name: str, saved: list[FileEntry]) -> list[FileEntry]:
    segments = [entry for entry in saved if entry.end > store.tail]
    first = max(segments[-1].end if segments else 0, store.tail)
    while first < store.head:
        end = segment_end(store, first)
        segments.append(write_segment(directory, name, store, first, end))
        first = end
    return segments


def _save_sets(store: FrameStore, directory: Path, name: str, saved: list[FileEntry]) -> list[FileEntry]:
    kept = {entry.first: entry for entry in saved}
    numbers = range(store.counter(Counter.SET_TAIL), store.counter(Counter.SET_HEAD))
    return [kept.get(number) or write_set(directory, name, store, number) for number in numbers]


def load(
    cls: type[ReplayBuffer],
    directory: Path,
    name: str | None,
    codec: str | codecs.Codec | None,
    skip_damaged: bool,
    cap: int | str | None,
) -> tuple[ReplayBuffer, str | None]:
    """The buffer that was saved as commit `name`, and the commit that it may add to: None if some of it is left out.

    Its cap is still the saved one or, as what is made for a cap has no place for more, `cap` where that is higher.

    Raises:
        CorruptDataError: there is no snapshot, or a file of it is damaged or missing.
    """
    while True:
        manifest = find_manifest(directory, name)
        replay = _make(cls, directory, manifest.buffer, codec, cap)
        damage = restore(replay.store, directory, manifest)
        if not damage or find_manifest(directory, name).commit == manifest.commit:
            break  # else another process saved meanwhile, and deleted what was being read
    if damage and not skip_damaged:
        others = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        raise CorruptDataError(f"{damage[0]}{others}; load with skip_damaged=True to keep the rest")
    for problem in damage:
        warnings.warn(f"left out: {problem}", RuntimeWarning, stacklevel=3)
    try:
        _resume(replay, manifest)
    except (LookupError, TypeError, ValueError, OverflowError, CorruptDataError, OverrunError) as error:
        raise _nonsense(directory, error) from error
    return replay, None if damage else manifest.commit


def verify(replay: ReplayBuffer) -> list[str]:
    """What is damaged, a sentence each: of the snapshots that `replay` knows, and of its frames in memory."""
    problems = [problem for directory in replay._commits for problem in verify_files(directory)]
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
        store.read(rows)
    except ReplayError as error:
        return str(error)
    except OverrunError:  # nobody writes meanwhile, so that the index itself is wrong
        return "expected an index that names a coded frame, got one that makes no sense"
    return ""


def _describe(replay: ReplayBuffer) -> dict[str, Any]:
    """Everything but the frames, as JSON can hold it."""
    store = replay.store
    for name in store.streams:
        if not isinstance(name, int | str | np.integer):
            raise InputError(f"stream: expected integers or strings as names to save them, got {name!r}")
    return {
        "arguments": [replay.capacity, replay.observation_shape, replay.action_shape],
        "options": {
            "action_dtype": replay.action_dtype.str,
            "frame_stack": store.layout.frame_stack,
            "nstep": replay.nstep,
            "discount": float(replay.discount),
            "shorter_at_end": replay.shorter_at_end,
            "max_bytes": store.max_bytes,
        },
        "codec": store.codec.name,
        "codec_options": store.codec.options(),
        "random_state": replay._rng.bit_generator.state,
        "next_check": store.planner.next_check,
        "streams": [
            [name, stream.row, stream.is_open, stream.reference_row, stream.group_size]
            for name, stream in store.streams.items()
        ],
    }


def _make(
    cls: type[ReplayBuffer],
    directory: Path,
    state: dict[str, Any],
    codec: str | codecs.Codec | None,
    cap: int | str | None,
) -> ReplayBuffer:
    """An empty buffer as the saved one was."""
    name = state.get("codec")
    if not isinstance(name, str):
        raise _nonsense(directory, TypeError(f"codec: expected a name, got {short(name)}"))
    if codec is not None:
        codec = codecs.get(codec)
        if codec.name != name:
            raise InputError(f"codec: expected {short(name)}, with which {directory} was saved, got {codec.name!r}")
    elif name not in codecs.REGISTRY:
        raise UnknownCodecError(f"codec: expected an instance of codec {short(name)} to load {directory}, got none")
    try:
        capacity, observation_shape, action_shape = state["arguments"]
        whole_number("capacity", capacity, 1, LARGEST_CAPACITY)
        if np.prod(action_shape, dtype=float) > LARGEST_ACTION:
            raise ValueError(f"action_shape: expected at most {LARGEST_ACTION} numbers, got {short(action_shape)}")
        codec = codec or codecs.REGISTRY[name](**state["codec_options"])
        options, saved = state["options"], state["options"]["max_bytes"]
        if isinstance(cap, int) and saved is not None:
            options = options | {"max_bytes": max(cap, saved)}
        elif cap is None:
            options = options | {"max_bytes": None}
        return cls(capacity, observation_shape, action_shape, **options, codec=codec)
    except (LookupError, TypeError, ValueError, OverflowError) as error:  # InputError is a ValueError
        raise _nonsense(directory, error) from error


def _nonsense(directory: Path, error: Exception) -> CorruptDataError:
    return CorruptDataError(f"{directory / MANIFEST}: makes no sense: {type(error).__name__}: {error!s:.300}")


def _resume(replay: ReplayBuffer, manifest: Manifest) -> None:
    """Take up where `_describe` was called.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: the manifest makes no sense.
    """
    state, store = manifest.buffer, replay.store
    replay._rng.bit_generator.state = state["random_state"]
    store.planner.next_check = whole_number("next_check", state["next_check"])
    rows = set()
    for name, row, is_open, reference_row, group_size in state["streams"]:
        if isinstance(name, float | list | dict):
            raise TypeError(f"streams: expected integers or strings as names, got {short(name)}")
        whole_number("row of a stream", row, NO_ROW, manifest.head - 1)
        whole_number("reference_row of a stream", reference_row, NO_ROW, manifest.head)
        whole_number("group_size of a stream", group_size)
        if row in rows:
            raise ValueError(f"streams: expected each to end at a row of its own, got row {row} twice")
        if row >= store.tail:
            rows.add(row)
        store.reopen_stream(name, row, bool(is_open), reference_row, group_size)
    store.find_ends()
