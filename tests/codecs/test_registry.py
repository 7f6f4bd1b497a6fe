"""Every codec in the registry: the contract, what is coded at all, and in how many bytes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from says import says

from diffreplay import ReplayBuffer, codecs
from diffreplay.codecs.sparse import pixel_dtype
from diffreplay.errors import InputError, ReplayError, UnknownCodecError
from diffreplay.testing import check_codec
from diffreplay.testing.frames import KINDS, frames_of

SHAPES = [(84, 84, 1), (84, 84, 3), (1, 1, 1), (1, 7, 1), (12, 12, 4), (300, 200, 1), (256, 256, 3), (64, 90, 3)]
# Either side of where the indices of `sparse` become wider.
LONG_SHAPES = [(1, 256, 1), (257, 1, 1), (1, 85, 3), (1, 86, 3), (255, 257, 1), (65536, 1, 1), (1, 65536, 1)]
LONG_SHAPES += [(65537, 1, 1), (1, 65537, 1), (1, 70000, 1), (70000, 1, 3), (2, 21846, 3), (3, 350000, 2)]


def open_reference(codec, references):
    """What `encode` and `decode` take besides the frames, and what `decode` expects in `out`."""
    if codec.reference == "set":
        return codec.open_set(references.tobytes(), references.shape[1:])
    return references[0] if codec.reference == "frame" and len(references) else None


def decode(codec, blobs, frames_shape, references):
    """Decode blobs the way a reader does."""
    out = np.full(frames_shape, 170, np.uint8)
    if codec.reference == "frame":
        out[:] = references[0]
    lengths = np.array([len(blob) for blob in blobs], np.intp)
    data = codec.gather(blobs, int(np.prod(frames_shape[1:])))
    codec.decode(data, lengths, open_reference(codec, references), out)
    return out


CHECKED = [codecs.get(name) for name in codecs.REGISTRY] + [codecs.ZstdCodec(level, 5) for level in (1, 3, 19)]


@pytest.mark.parametrize("codec", CHECKED, ids=lambda codec: f"{codec.name} {codec.options()}")
def test_every_codec_holds_the_contract(codec):
    check_codec(codec)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", codecs.REGISTRY)
def test_what_is_coded(name, shape, kind, count):
    """What has nothing to gain is left raw; what moves over a background that a reference frame shows is not."""
    codec = codecs.get(name)
    frames = frames_of(kind, shape, 8)
    references, frames = frames[:count], frames[2:]
    coded = [codec.encode(frame, open_reference(codec, references)) is not None for frame in frames]
    if name == "raw" or (kind == "noise" and count < 3):
        assert not any(coded)
    elif count and kind == "moving" and shape[0] > 60:
        assert all(coded)


@pytest.mark.parametrize("shape", LONG_SHAPES, ids=str)
@pytest.mark.parametrize("name", codecs.REGISTRY)
def test_round_trip_of_long_and_wide_frames(name, shape):
    """A few pixels differ, the first and the last among them."""
    codec, rng = codecs.get(name), np.random.default_rng(shape)
    frames = np.repeat(rng.integers(0, 256, (1, *shape), np.uint8), 3, axis=0)
    frames[1].flat[[0, -1, *rng.integers(0, frames[0].size, 9)]] ^= 255
    frames[2].flat[-1] ^= 1
    blobs = [codec.encode(frame, open_reference(codec, frames[:1])) for frame in frames[1:]]
    assert all((blob is None) == (name == "raw") for blob in blobs)
    if name != "raw":
        np.testing.assert_array_equal(decode(codec, [bytes(blob) for blob in blobs], (2, *shape), frames), frames[1:])


def test_registry_is_complete():
    for module in pkgutil.iter_modules(codecs.__path__):
        importlib.import_module(f"diffreplay.codecs.{module.name}")
    found = [c for c in subclasses(codecs.Codec) if c.__module__.startswith("diffreplay.codecs.")]
    ours = {c.name: c for c in found if not inspect.isabstract(c)}
    assert ours == codecs.REGISTRY
    for name, codec in codecs.REGISTRY.items():
        assert isinstance(codecs.get(name), codec)
        assert codec.reference in ("none", "frame", "set")


def subclasses(of):
    return {c for direct in of.__subclasses__() for c in {direct, *subclasses(direct)}}


@pytest.mark.parametrize("name", ["lz4", "", "ZSTD", None, 3, [], codecs.RawCodec])
def test_unknown_codec(name):
    with pytest.raises(UnknownCodecError) as info:
        codecs.get(name)
    says(info, "'raw'", "'sparse'", "'zstd'", "instance", f"got {name!r:.12}")
    assert isinstance(info.value, ReplayError) and isinstance(info.value, ValueError)


def test_instance_is_returned_as_it_is():
    codec = codecs.ZstdCodec(level=3)
    assert codecs.get(codec) is codec


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 23}, {"set_frames": 0}, {"refresh_interval": 0}])
def test_zstd_options(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError) as info:
        codecs.ZstdCodec(**options)
    says(info, name, "got", f" {value}")


@pytest.mark.parametrize("level", [1, 3, 9, 19])
def test_zstd_levels(level):
    codec = codecs.ZstdCodec(level=level)
    frames = frames_of("moving", (84, 84, 3), 12)
    reference = open_reference(codec, frames[:4])
    blobs = [bytes(codec.encode(frame, reference)) for frame in frames[4:]]
    np.testing.assert_array_equal(decode(codec, blobs, frames[4:].shape, frames[:4]), frames[4:])
    assert sum(map(len, blobs)) < frames[4:].size / 10


def test_zstd_stores_no_header():
    """A frame equal to a reference frame takes a few bytes: one match."""
    codec = codecs.ZstdCodec()
    frames = frames_of("noise", (84, 84, 1), 3)
    assert len(codec.encode(frames[1], open_reference(codec, frames))) <= 12


@pytest.mark.parametrize("shape", [(480, 640, 3), (720, 960, 3), (836, 836, 3), (1000, 1400, 1)], ids=str)
def test_zstd_finds_all_of_a_large_reference_frame(shape):
    """A still camera: a frame takes little more than what the moving box hid in the reference frame."""
    rng, box = np.random.default_rng(0), 32
    frames = np.repeat(rng.integers(0, 256, (1, *shape), np.uint8), 6, axis=0)
    for frame in frames:
        y, x = rng.integers(0, shape[0] - box), rng.integers(0, shape[1] - box)
        frame[y : y + box, x : x + box] = rng.integers(256)
    codec = codecs.ZstdCodec()
    reference = open_reference(codec, frames[:1])
    blobs = [bytes(codec.encode(frame, reference)) for frame in frames[1:]]
    assert max(map(len, blobs)) < 1.3 * box**2 * shape[2]
    np.testing.assert_array_equal(decode(codec, blobs, frames[1:].shape, frames[:1]), frames[1:])


@pytest.mark.parametrize(
    ("shape", "itemsize"),
    [((84, 84, 1), 4), ((256, 256, 1), 4), ((84, 85, 3), 4), ((84, 86, 3), 6), ((257, 8, 1), 6), ((300, 200, 1), 6)],
)
def test_sparse_bytes_a_pixel(shape, itemsize):
    check_sparse_bytes(shape, itemsize)


@pytest.mark.parametrize(
    ("shape", "itemsize"), [((1, 65536, 1), 6), ((1, 65537, 1), 10), ((70000, 1, 1), 10), ((2, 21846, 3), 10)]
)
def test_sparse_bytes_a_pixel_of_long_and_wide_frames(shape, itemsize):
    check_sparse_bytes(shape, itemsize)


def check_sparse_bytes(shape, itemsize):
    assert pixel_dtype(shape[0], shape[1] * shape[2]).itemsize == itemsize
    rng, codec = np.random.default_rng(0), codecs.SparseCodec()
    reference = rng.integers(0, 256, shape, np.uint8)
    for count in (0, 1, 17, reference.size // itemsize - 1):
        frame = reference.copy()
        frame.reshape(-1)[rng.choice(frame.size, count, replace=False)] += 1 + rng.integers(255, dtype=np.uint8)
        assert len(codec.encode(frame, reference)) == itemsize * count
    frame = reference + np.uint8(1)
    assert codec.encode(frame, reference) is None
    assert codec.encode(frame) is None


def test_sparse_follows_the_papers_size_model():
    """I^2 d + 8 d (f - 1) + 4 N + 4 |D| f bytes: d references among |D| frames, N pixels that differ."""
    f, rng = 3, np.random.default_rng(0)
    replay = ReplayBuffer(1000, (f, 84, 84), (1,), frame_stack=f, codec="sparse")
    background = rng.integers(0, 256, (84, 84), np.uint8)
    raw = pixels = count = 0
    for length in (100, 61, 2, 200):
        stack = before = None
        for t in range(length):
            frame = np.roll(background, t, axis=1) if length == 61 else background.copy()
            frame[t % 50 : t % 50 + 20, :30] = t
            stack = np.stack([frame] * f) if t == 0 else np.concatenate([stack[1:], frame[None]])
            if t:
                replay.add_transition(before, [0.0], 0.0, stack, False, t == length - 1)
            before = stack
            if t % f == 0:
                reference = frame
            differing = np.count_nonzero(frame != reference)
            if t % f == 0 or 4 * differing >= frame.size:
                raw += 1
            else:
                pixels += differing
            count += 1
    assert raw > 140  # some frames were stored raw because that is smaller
    stats = replay.stats()
    assert stats.frames == count
    assert stats.payload_bytes == 84 * 84 * raw + 4 * pixels
    model = 84 * 84 * raw + 8 * (count - raw) + 4 * pixels + 4 * count * f
    assert stats.observation_bytes == pytest.approx(model, rel=0.01)
