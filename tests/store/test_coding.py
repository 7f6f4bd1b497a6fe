"""What a codec codes against decides what a row needs; a codec of anyone's own is one of three kinds."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from snapshot_tools import EveryNineRows

from diffreplay import ReplayBuffer, codecs
from diffreplay.errors import CorruptDataError
from diffreplay.store.against import CODINGS, AgainstSet, coding_of, frames_before
from diffreplay.store.layout import Counter
from diffreplay.testing import TimeStep, check_codec


class Deflate(codecs.Codec):
    """Codes every frame by itself."""

    name = "deflate"

    def encode(self, frame, reference=None):
        coded = zlib.compress(frame.tobytes(), 1)
        return coded if len(coded) < frame.size else None

    def gather(self, blobs, frame_bytes):
        return b"".join(blobs)

    def decode(self, data, lengths, reference, out):
        place = 0
        for k, length in enumerate(lengths.tolist()):
            try:
                pixels = zlib.decompress(bytes(memoryview(data)[place : place + length]))
            except zlib.error as error:
                raise CorruptDataError(str(error)) from error
            if len(pixels) != out[k].size:
                raise CorruptDataError(f"expected {out[k].size} bytes, got {len(pixels)}")
            out[k] = np.frombuffer(pixels, np.uint8).reshape(out[k].shape)
            place += length


def test_every_codec_of_the_registry_has_a_kind():
    assert {kind.reference for kind in codecs.REGISTRY.values()} == set(CODINGS)
    assert [frames_before(codecs.get(name), 4) for name in ("raw", "sparse", "zstd", "delta")] == [0, 3, 0, 0]
    assert coding_of(codecs.get("sparse")).kept_frames == 1


def test_a_codec_of_ones_own_that_codes_alone(tmp_path):
    check_codec(Deflate())
    replay = ReplayBuffer(300, (3, 24, 24), (1,), frame_stack=3, codec=Deflate())
    rng, written = np.random.default_rng(0), []
    for t in range(700):
        frame = (rng.integers(0, 2, (1, 24, 24)) * 200).astype(np.uint8)
        stack = np.repeat(frame, 3, 0) if t % 50 == 0 else np.concatenate([written[-1][1:], frame])
        written.append(stack)
        replay.add(TimeStep(stack, np.zeros(1, np.float32), float(t), 1.0, t % 50 == 0, t % 50 == 49))
    replay.check_invariants()
    assert replay.stats().payload_bytes < len(replay) * 24 * 24 // 3
    replay.save(tmp_path)
    for buffer in (replay, ReplayBuffer.load(tmp_path, codec=Deflate())):
        buffer.check_invariants()
        batch = buffer.sample(200)
        for k, reward in enumerate(batch.reward[:, 0].tolist()):
            assert np.array_equal(batch.next_obs[k].numpy(), written[int(reward)])


class ManySets(codecs.DeltaCodec):
    """Builds a set every few rows."""

    def planner(self, frame_shape):
        return EveryNineRows()


class Long(Deflate):
    """Ignores that what it codes is no shorter than the frame."""

    name = "long"

    def __init__(self, more):
        self.more = more

    def encode(self, frame, reference=None):
        return bytes(frame.size + self.more)


@pytest.mark.parametrize("more", [0, 1, 5000])
def test_what_is_no_shorter_than_the_frame_is_stored_raw(more):
    replay = ReplayBuffer(50, (3, 8, 8), (1,), frame_stack=3, codec=Long(more))
    rng = np.random.default_rng(0)
    stack = rng.integers(1, 256, (3, 8, 8), np.uint8)
    for t in range(30):
        stack = np.concatenate([stack[1:], rng.integers(1, 256, (1, 8, 8), np.uint8)])
        replay.add(TimeStep(stack, np.zeros(1, np.float32), 0.0, 1.0, t == 0, False))
    replay.check_invariants()
    assert replay.sample(64).obs.min() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_decoded_in_place_are_those_that_are_copied_first(channels):
    """Coded and raw ones, zeros, of several sets; as frames and as windows with the channels first."""
    replay = ReplayBuffer(400, (3 * channels, 24, 20), (1,), frame_stack=3, codec=ManySets(set_frames=4))
    rng, stack = np.random.default_rng(0), np.zeros((3 * channels, 24, 20), np.uint8)
    for t in range(300):
        frame = np.broadcast_to((np.arange(20) * 9).astype(np.uint8), (channels, 24, 20)).copy()
        frame[:, t % 20 : t % 20 + 3, t % 17 :] = t % 250
        if t % 7 == 0:
            frame = rng.integers(0, 256, frame.shape, np.uint8)
        stack = np.concatenate([stack[channels:], frame])
        replay.add(TimeStep(stack, np.zeros(1, np.float32), 0.0, 1.0, t % 60 == 0, t % 60 == 59))
    store = replay.store
    assert len(store.sets[0].numbers()) > 3
    rows = np.append(rng.integers(store.tail, store.head, 60), [-1, -1]).reshape(-1, 2)
    wanted = np.empty((rows.size, 24, 20, channels), np.uint8)
    copied = AgainstSet(store.codec, store.layout, store.memory, store.index, store.sets[0], 0)
    assert copied.read(rows.reshape(-1), wanted, lambda: True)
    out = np.full_like(wanted, 7)
    assert store.read_into(rows.reshape(-1), store.tail, out) and np.array_equal(out, wanted)
    windows = np.full((*rows.shape, channels, 24, 20), 7, np.uint8)
    assert store.read_windows(rows, store.tail, windows)
    assert np.array_equal(windows, wanted.reshape(*rows.shape, 24, 20, channels).transpose(0, 1, 4, 2, 3))
    assert not store.read_windows(rows, store.counter(Counter.FREED) - 1, windows)
    start, length = store.locate(store.present(np.arange(store.tail, store.head)))
    coded = np.flatnonzero(length < store.layout.row_bytes)[5]
    store.memory.log[int(start[coded]) : int(start[coded] + length[coded])] = b"\xff" * int(length[coded])
    with pytest.raises(CorruptDataError, match="do not decode"):
        store.read(np.arange(store.tail, store.head))


@pytest.mark.parametrize("codec", list(codecs.REGISTRY))
def test_the_oldest_row_that_is_needed(codec):
    replay = ReplayBuffer(300, (3, 12, 12), (1,), frame_stack=3, codec=codec)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 12, 12), np.uint8)
    stack = np.repeat(frame, 3, 0)
    for t in range(40):
        frame = frame.copy()
        frame[0, t % 12, :2] += 1
        stack = np.concatenate([stack[1:], frame]) if t else stack
        replay.add(TimeStep(stack, np.zeros(1, np.float32), 0.0, 1.0, t == 0, False))
    rows = np.arange(replay.store.tail, replay.store.head)
    needed = replay.store.oldest_needed(rows)
    if codec == "sparse":  # every third frame is raw, and what the next two are coded against
        assert needed.tolist() == [row - row % 3 for row in rows]
    else:
        assert np.array_equal(needed, rows)
