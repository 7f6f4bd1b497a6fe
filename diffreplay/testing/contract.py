"""The contract of a codec (`diffreplay.codecs.Codec`), as something that its author runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.codecs import Codec, SetPlanner
from diffreplay.errors import CodecError, SharedMemoryError
from diffreplay.replay import ReplayBuffer
from diffreplay.testing.calls import Calls
from diffreplay.testing.damage import check_damage
from diffreplay.testing.frames import KINDS, SHAPES, frames_of
from diffreplay.testing.steps import TimeStep

FRAMES = 8
FEW_FRAMES = 4  # of large ones
LARGE_BYTES = 1 << 16
MANY_BLOBS = 150  # decoded in one call
MANY_BYTES = 1 << 22
CAPS = (None, 1 << 16, 1 << 22)
PLAIN = (24, 24, 1)


def check_codec(codec: Codec, seed: int = 0) -> None:
    """Hold a codec to its contract; takes a few seconds.

    - Frames come back as they were: games' frames, noise, constants, from 1 x 1 to 256 x 256, of 1 to 4 channels, one
      at a time and many in a call, against each `reference` that there may be.
    - A coded frame is shorter than the raw one, or None.
    - `decode` writes all of `out` and nothing else; frames and reference frames that were given stay as they are.
    - `options()` survives JSON and makes an equal codec; what `within` returns reads the same bytes.
    - Damaged bytes raise CorruptDataError or give some frame: no other exception, no crash, no memory by a size that
      they claim. They are decoded in a process that is forked.
    - A `ReplayBuffer` with the codec gives back what was added.

    The same frames and the same damage each time.

    Args:
        codec: an instance.
        seed: of the frames and of the damage.

    Raises:
        CodecError: the first rule that is broken, what was expected and what came.

    Examples:
        >>> diffreplay.testing.check_codec(diffreplay.codecs.RawCodec())
    """
    if not isinstance(codec, Codec):
        raise CodecError(f"codec: expected an instance of a subclass of Codec, got {codec!r:.100}")
    _check_description(codec)
    for shape in SHAPES:
        count = FRAMES if np.prod(shape) < LARGE_BYTES else FEW_FRAMES
        for kind in KINDS:
            frames = frames_of(kind, shape, count, seed)
            for references in _references(codec, frames):
                _check_round_trip(Calls(codec, references, f"{kind} frames"), frames)
    frames = frames_of("moving", PLAIN, FRAMES, seed)
    _check_options(codec, frames)
    for cap in CAPS:
        capped = _calls(codec, frames).call(f"within({cap})", codec.within, cap)
        if not isinstance(capped, Codec) or (capped.name, capped.reference) != (codec.name, codec.reference):
            raise CodecError(f"codec {codec.name!r}: within({cap}): expected a codec of its kind, got {capped!r:.100}")
        _check_same(codec, capped, frames, f"within({cap})")
    check_damage(codec, seed)
    _check_buffer(codec, seed)


def _check_description(codec: Codec) -> None:
    """What a codec says of itself."""
    name = getattr(codec, "name", None)
    if not isinstance(name, str) or not name:
        raise CodecError(f"codec {type(codec).__name__}: name: expected a string that is not empty, got {name!r:.100}")
    if codec.reference not in ("none", "frame", "set"):
        raise CodecError(f"codec {name!r}: reference: expected 'none', 'frame' or 'set', got {codec.reference!r:.100}")
    nothing = np.empty((0, *PLAIN), np.uint8)
    calls = Calls(codec, nothing)
    size = calls.call("set_frames", codec.set_frames, calls.frame_bytes)
    if not isinstance(size, int | np.integer) or (size < 1 if codec.reference == "set" else size != 0):
        expected = "1 or more" if codec.reference == "set" else "0, as it codes against no set,"
        raise CodecError(f"codec {name!r}: set_frames: expected {expected}, got {size!r:.100}")
    planner, other = (calls.call("planner", codec.planner, PLAIN) for _ in range(2))
    if not isinstance(planner, SetPlanner) or planner is other:
        raise CodecError(f"codec {name!r}: planner: expected a fresh SetPlanner each time, got {planner!r:.100}")
    nbytes = calls.private_bytes()
    if not isinstance(nbytes, int | np.integer) or nbytes < 0:
        raise CodecError(f"codec {name!r}: private_bytes: expected a number of bytes, got {nbytes!r:.100}")


def _references(codec: Codec, frames: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """What frames may be coded against: nothing yet, one frame, several."""
    yield frames[:0]
    most = {"none": 0, "frame": 1}.get(codec.reference, 3)
    if codec.reference == "set":
        most = min(most, codec.set_frames(frames[0].size))
    for count in sorted({min(1, most), most} - {0}):
        yield frames[:count]


def _calls(codec: Codec, frames: NDArray[np.uint8], reader: Codec | None = None) -> Calls:
    """The codec with the most that frames may be coded against."""
    *_, references = _references(codec, frames)
    return Calls(codec, references, reader=reader)


def _check_round_trip(calls: Calls, frames: NDArray[np.uint8]) -> None:
    """Each frame alone, and all together many times over, in arrays that held other bytes before."""
    encoded = [calls.encode(frame) for frame in frames]
    coded = np.flatnonzero([blob is not None for blob in encoded])
    blobs = [blob for blob in encoded if blob is not None]
    if calls.codec.reference == "frame":
        if calls.where.endswith("no frame"):
            return  # the store keeps such a frame raw
        _compare(calls, [b""], frames[:1], "decode: expected the reference frame for no bytes, as of a raw frame")
    for blob, frame in zip(blobs, frames[coded], strict=True):
        _compare(calls, [blob], frame[None])
    if blobs:
        turn = np.arange(max(2, min(MANY_BLOBS, MANY_BYTES // calls.frame_bytes)))[::-1] % len(blobs)
        _compare(calls, [blobs[k] for k in turn], frames[coded[turn]])


def _compare(
    calls: Calls,
    blobs: list[Any],
    frames: NDArray[np.uint8],
    expected: str = "decode: expected the frame that was coded",
) -> None:
    """Decode `blobs`, which are `frames`."""
    for fill in (0, 255):
        out = calls.decode(blobs, fill)
        wrong = np.flatnonzero(np.any((out != frames).reshape(len(frames), -1), axis=1))
        if len(wrong):
            differ = np.count_nonzero(out[wrong[0]] != frames[wrong[0]])
            raise calls.broken(
                f"{expected}, got one that differs in {differ} of {calls.frame_bytes} bytes, frame {wrong[0]} of "
                f"{len(blobs)} in a call; `out` held {fill} before"
            )


def _check_same(codec: Codec, other: Codec, frames: NDArray[np.uint8], what: str) -> list[bytes | None]:
    """Each reads what the other coded; what `codec` coded is returned."""
    encoded = []
    for coder, reader in ((other, codec), (codec, other)):
        calls = _calls(coder, frames, reader)
        calls.where = f"{what}: {'it reads' if reader is other else 'it is read by'} the codec it comes from"
        encoded = [calls.encode(frame) for frame in frames]
        for blob, frame in zip(encoded, frames, strict=True):
            if blob is not None:
                _compare(calls, [blob], frame[None])
    return encoded


def _check_options(codec: Codec, frames: NDArray[np.uint8]) -> None:
    """What a snapshot keeps of a codec makes it again."""
    name, calls = codec.name, _calls(codec, frames)
    options = calls.call("options", codec.options)
    try:
        kept = json.loads(json.dumps(options))
    except (TypeError, ValueError) as error:
        raise CodecError(
            f"codec {name!r}: options: expected what JSON can hold, got {options!r:.100} ({error})"
        ) from error
    if not isinstance(kept, dict):
        raise CodecError(f"codec {name!r}: options: expected a dict of arguments, got {options!r:.100}")
    try:
        again = type(codec)(**kept)
    except Exception as error:
        raise CodecError(
            f"codec {name!r}: options: expected arguments of {type(codec).__name__}, got {kept!r:.100} "
            f"({type(error).__name__}: {error!s:.300})"
        ) from error
    others = _calls(again, frames).call("options", again.options)
    if json.loads(json.dumps(others)) != kept:
        raise CodecError(
            f"codec {name!r}: options: expected them to make an equal codec, got {others!r:.100} of the one that is "
            f"made of {kept!r:.100}"
        )
    _check_same(codec, again, frames, "options")
    if [calls.encode(frame) for frame in frames] != [_calls(again, frames).encode(frame) for frame in frames]:
        raise CodecError(
            f"codec {name!r}: options: expected them to make an equal codec, got one that codes other bytes, made of "
            f"{kept!r:.100}"
        )


def _check_buffer(codec: Codec, seed: int) -> None:
    """A small replay buffer, from which the oldest frames leave."""
    frames = frames_of("moving", (40, 36, 1), 400, seed).transpose(0, 3, 1, 2)
    try:
        replay = ReplayBuffer(200, (2, 40, 36), (1,), action_dtype="int64", frame_stack=2, codec=codec, seed=seed)
        stacks = []
        for t, frame in enumerate(frames):
            first, last = t % 90 == 0, t % 90 == 89
            stacks.append(np.concatenate([frame if first else frames[t - 1], frame]))
            replay.add(TimeStep(stacks[t], np.array([t]), is_first=first, is_last=last))
        batches = [replay.sample(64) for _ in range(4)]
    except SharedMemoryError:
        raise
    except Exception as error:
        raise CodecError(
            f"codec {codec.name!r}: expected a ReplayBuffer to add and sample {len(frames)} frames of 40 x 36, "
            f"got {type(error).__name__}: {error!s:.300}"
        ) from error
    for batch in batches:
        for obs, (number,), next_obs in zip(batch.obs, batch.action.tolist(), batch.next_obs, strict=True):
            if not (np.array_equal(obs, stacks[number - 1]) and np.array_equal(next_obs, stacks[number])):
                raise CodecError(
                    f"codec {codec.name!r}: expected a ReplayBuffer to give the frames of step {number}, got others"
                )
