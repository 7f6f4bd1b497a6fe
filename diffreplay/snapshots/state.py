"""All of a buffer but its frames, as a manifest holds it: options, random state, and where each stream goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from diffreplay import codecs
from diffreplay.errors import CorruptDataError, InputError, UnknownCodecError
from diffreplay.snapshots.files import Lock
from diffreplay.snapshots.manifest import MANIFEST, MANIFEST_BYTES, Manifest, encode, short, whole_number
from diffreplay.store import NO_ROW, FrameStore, OverrunError, export_state, reopen_streams

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
    observation_shape: tuple[int, int, int]
    action_shape: tuple[int, ...]
    action_dtype: np.dtype[Any]
    nstep: int
    discount: float
    shorter_at_end: bool
    rng: np.random.Generator
    commits: dict[Path, str | None]
    commit_locks: dict[Path, Lock]


B = TypeVar("B", bound=Buffer)


def describe(replay: Buffer) -> dict[str, Any]:
    """Everything but the frames, as JSON can hold it."""
    store, stored = replay.store, export_state(replay.store)
    state: dict[str, Any] = {
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
        "random_state": replay.rng.bit_generator.state,
        "next_check": stored.next_check,
        "streams": [list(stream) for stream in stored.streams],
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


def make(
    cls: Callable[..., B],
    directory: Path,
    state: dict[str, Any],
    codec: str | codecs.Codec | None,
    cap: int | str | None,
) -> B:
    """An empty buffer as the saved one was, or with the cap `cap` where that is higher."""
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
        options, saved = state["options"], state["options"]["max_bytes"]
        if isinstance(cap, int) and saved is not None:
            options = options | {"max_bytes": max(cap, saved)}
        elif cap is None:
            options = options | {"max_bytes": None}
        return cls(*state["arguments"], **options, codec=codec)
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
    **_: Any,
) -> None:
    """Refuse a buffer that is beyond what is loaded again, before any memory is taken for it.

    Raises:
        TypeError, ValueError: it is, or makes no sense.
    """
    whole_number("capacity", capacity, 1, LARGEST_CAPACITY)
    whole_number("frame_stack", frame_stack, 1, LARGEST_STACK)
    observation, action = (float(np.prod(shape, dtype=float)) for shape in (observation_shape, action_shape))
    if not action <= LARGEST_ACTION:
        raise ValueError(f"action_shape: expected at most {LARGEST_ACTION} numbers, got {short(action_shape)}")
    if not observation <= LARGEST_OBSERVATION:
        raise ValueError(f"observation_shape: expected at most {LARGEST_OBSERVATION} bytes, got {observation:.0f}")
    row = observation / frame_stack + action * np.dtype(action_dtype).itemsize
    if max_bytes is None and not 2 * frame_stack * (capacity + 1) * row < ADDRESS_SPACE:
        raise ValueError(
            f"capacity: expected less than {ADDRESS_SPACE} bytes of rows in all, got {capacity} transitions"
        )


def _nonsense(directory: Path, error: Exception) -> CorruptDataError:
    return CorruptDataError(f"{directory / MANIFEST}: makes no sense: {type(error).__name__}: {error!s:.300}")


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
    replay.rng.bit_generator.state = state["random_state"]
    next_check, rows, streams = whole_number("next_check", state["next_check"]), set(), []
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
        streams.append((name, row, bool(is_open), reference_row, group_size))
    reopen_streams(store, next_check, streams)
