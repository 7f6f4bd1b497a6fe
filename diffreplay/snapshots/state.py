"""All of a buffer but its frames, as a manifest holds it: options, random state, and where each stream goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from diffreplay import codecs
from diffreplay.errors import CorruptDataError, InputError, UnknownCodecError
from diffreplay.parts import ArraySpec, Shape, parts_of, shape_from_json, shape_to_json
from diffreplay.snapshots.files import Lock
from diffreplay.snapshots.manifest import MANIFEST, MANIFEST_BYTES, Manifest, encode, short, whole_number
from diffreplay.store import (
    BLOCK_ROWS,
    NO_ROW,
    NO_SET,
    RANGES,
    Counter,
    FrameStore,
    OverrunError,
    export_state,
    reopen_streams,
)

LARGEST_CAPACITY = 1 << 32
LARGEST_ACTION = 1 << 24
LARGEST_STACK = 1 << 10  # in frames,
LARGEST_OBSERVATION = 1 << 26  # and in bytes
ADDRESS_SPACE = 1 << 47  # of a process
ROOM = 1 << 10  # of a manifest, for what is neither a buffer's state nor a file
NONSENSE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)


class Buffer(Protocol):
    """What a snapshot keeps: `diffreplay.ReplayBuffer`."""

    store: FrameStore
    capacity: int
    observation_shape: Shape
    channels_first: bool
    extras: dict[str, ArraySpec]
    action_shape: tuple[int, ...]
    action_dtype: np.dtype[Any]
    nstep: int
    discount: float
    shorter_at_end: bool
    rng: np.random.Generator
    notes: dict[str, Any]
    commits: dict[Path, str | None]
    commit_locks: dict[Path, Lock]


B = TypeVar("B", bound=Buffer)
T = TypeVar("T")


def describe(replay: Buffer) -> dict[str, Any]:
    """Everything but the frames, as JSON can hold it."""
    store, stored = replay.store, export_state(replay.store)
    state: dict[str, Any] = {
        "arguments": [replay.capacity, shape_to_json(replay.observation_shape), replay.action_shape],
        "options": {
            "action_dtype": replay.action_dtype.str,
            "frame_stack": store.layout.frame_stack,
            "nstep": replay.nstep,
            "discount": float(replay.discount),
            "shorter_at_end": replay.shorter_at_end,
            "max_bytes": store.max_bytes,
            "extras": {name: spec.to_json() for name, spec in replay.extras.items()},
            "channels_first": replay.channels_first,
        },
        "codec": store.codec.name,
        "codec_options": store.codec.options(),
        "random_state": replay.rng.bit_generator.state,
        "next_checks": stored.next_checks,
        "ranges": stored.ranges,
        "held": _held(store),
        "streams": [list(stream) for stream in stored.streams],
        "notes": replay.notes,
    }
    try:
        _check_limits(*state["arguments"], **state["options"])
    except ValueError as error:
        raise InputError(f"a snapshot cannot hold this buffer: {error}") from error
    if (size := len(encode(state))) > MANIFEST_BYTES - ROOM:
        raise InputError(
            f"stream: expected fewer or shorter names to save them, got {len(store.streams)}, and {size} bytes for all "
            f"that a manifest of {MANIFEST_BYTES} bytes says of the buffer"
        )
    return state


def _held(store: FrameStore) -> dict[str, int]:
    """What reading all rows would tell, for those who open a snapshot without."""
    return {
        "transitions": store.counter(Counter.TRANSITIONS),
        "payload_bytes": store.counter(Counter.PAYLOAD_BYTES),
        "frames": store.head - store.tail - store.frames_elsewhere(store.tail, store.head),
    }


def make(
    cls: Callable[..., T],
    directory: Path,
    state: dict[str, Any],
    codec: str | codecs.Codec | None,
    cap: int | str | None,
) -> T:
    """What `cls` makes of the arguments of the saved buffer, or with the cap `cap` where that is higher."""
    name = state.get("codec")
    if not isinstance(name, str):
        raise _nonsense(directory, TypeError(f"codec: expected a name, got {short(name)}"))
    if codec is not None:
        codec = codecs.get(codec)
        if codec.name != name:
            raise InputError(f"codec: expected {short(name)}, with which {directory} was saved, got {codec.name!r}")
    else:
        try:
            kind = codecs.find(name)
        except UnknownCodecError as error:
            message = f"codec: expected an instance of codec {short(name)} to load {directory}, got none"
            raise UnknownCodecError(f"{message} ({error})") from error
    try:
        _check_limits(*state["arguments"], **state["options"])
        codec = codec or kind(**state["codec_options"])
        capacity, observation_shape, action_shape = state["arguments"]
        options, saved = dict(state["options"]), state["options"]["max_bytes"]
        options["extras"] = _specs(options.get("extras", {}))  # that version 1 knows none of
        if isinstance(cap, int) and saved is not None:
            options["max_bytes"] = max(cap, saved)
        elif cap is None:
            options["max_bytes"] = None
        return cls(capacity, shape_from_json(observation_shape), action_shape, **options, codec=codec)
    except NONSENSE as error:  # InputError is a ValueError
        raise _nonsense(directory, error) from error


def _check_limits(
    capacity: Any,
    observation_shape: Any,
    action_shape: Any,
    *,
    frame_stack: Any,
    action_dtype: Any,
    max_bytes: Any,
    extras: Any = None,
    **_: Any,
) -> None:
    """Refuse a buffer that is beyond what is loaded again, before any memory is taken for it.

    Raises:
        TypeError, ValueError: it is, or makes no sense.
    """
    whole_number("capacity", capacity, 1, LARGEST_CAPACITY)
    whole_number("frame_stack", frame_stack, 1, LARGEST_STACK)
    action = float(np.prod(action_shape, dtype=float))
    parts = parts_of(shape_from_json(observation_shape), frame_stack)
    observation = frame_stack * sum(part.frame_bytes for part in parts)
    more = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in _specs(extras or {}).values())
    if more > LARGEST_OBSERVATION:
        raise ValueError(f"extras: expected at most {LARGEST_OBSERVATION} bytes, got {more}")
    if not action <= LARGEST_ACTION:
        raise ValueError(f"action_shape: expected at most {LARGEST_ACTION} numbers, got {short(action_shape)}")
    if not observation <= LARGEST_OBSERVATION:
        raise ValueError(f"observation_shape: expected at most {LARGEST_OBSERVATION} bytes, got {observation:.0f}")
    row = observation / frame_stack + action * np.dtype(action_dtype).itemsize + more
    if max_bytes is None and not 2 * frame_stack * (capacity + 1) * row < ADDRESS_SPACE:
        raise ValueError(
            f"capacity: expected less than {ADDRESS_SPACE} bytes of rows in all, got {capacity} transitions"
        )


def _specs(extras: dict[str, Any]) -> dict[str, ArraySpec]:
    return {name: ArraySpec.from_json(spec) for name, spec in extras.items()}


def _nonsense(directory: Path, error: Exception) -> CorruptDataError:
    return CorruptDataError(f"{directory / MANIFEST}: makes no sense: {type(error).__name__}: {error!s:.300}")


def saved_ranges(directory: Path, manifest: Manifest) -> list[list[tuple[int, int]]] | None:
    """`StoreState.ranges` of what was saved; None of version 1.

    Raises:
        CorruptDataError: it makes no sense.
    """
    ranges = manifest.buffer.get("ranges")
    if ranges is None:
        return None
    try:
        if len(ranges) != len(manifest.sets):
            raise ValueError(f"ranges: expected those of {len(manifest.sets)} images, got {short(ranges)}")
        found = []
        for entries in ranges:
            places = [whole_number("place of a range", place, 0, BLOCK_ROWS - 1) for place, _ in entries]
            slots = [whole_number("slot of a range", slot, 0, NO_SET) for _, slot in entries]
            if places != sorted(set(places)) or len(places) > RANGES:
                raise ValueError(f"ranges: expected at most {RANGES} places in order, got {short(places)}")
            found.append(list(zip(places, slots, strict=True)))
    except NONSENSE as error:
        raise _nonsense(directory, error) from error
    return found


def open_rows(directory: Path, manifest: Manifest) -> list[int]:
    """The newest row of each stream whose episode goes on.

    Raises:
        CorruptDataError: the manifest makes no sense.
    """
    try:
        return [
            whole_number("row of a stream", row, NO_ROW)
            for _, row, is_open, *_ in manifest.buffer["streams"]
            if is_open
        ]
    except NONSENSE as error:
        raise _nonsense(directory, error) from error


def resume(replay: Buffer, directory: Path, manifest: Manifest) -> None:
    """Take up where `describe` was called.

    Raises:
        CorruptDataError: the manifest makes no sense.
    """
    try:
        _resume(replay, manifest)
    except (*NONSENSE, CorruptDataError, OverrunError) as error:
        raise _nonsense(directory, error) from error


def _resume(replay: Buffer, manifest: Manifest) -> None:
    state, store = manifest.buffer, replay.store
    replay.notes = state.get("notes", {})
    if not isinstance(replay.notes, dict):
        raise TypeError(f"notes: expected an object, got {short(replay.notes)}")
    replay.rng.bit_generator.state = state["random_state"]
    next_checks = state["next_checks"] if "next_checks" in state else [state["next_check"]]  # as of version 1
    for next_check in next_checks:
        whole_number("next_check", next_check)
    rows: set[int] = set()
    names: set[Any] = set()
    streams = []
    for name, row, is_open, reference_row, group_size in state["streams"]:
        if isinstance(name, float | list | dict):
            raise TypeError(f"streams: expected integers or strings as names, got {short(name)}")
        whole_number("row of a stream", row, NO_ROW, manifest.head - 1)
        whole_number("reference_row of a stream", reference_row, NO_ROW, manifest.head)
        whole_number("group_size of a stream", group_size)
        if name in names:
            raise ValueError(f"streams: expected names that differ, got {short(name)} twice")
        names.add(name)
        if row in rows:
            raise ValueError(f"streams: expected each to end at a row of its own, got row {row} twice")
        if row >= store.tail:
            rows.add(row)
        streams.append((name, row, bool(is_open), reference_row, group_size))
    reopen_streams(store, next_checks, streams)
