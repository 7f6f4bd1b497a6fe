"""The stored format, byte for byte. A failure here means a change of format: raise `layout.VERSION`, say so in
docs/format.md, and only then write new bytes here, by hand."""

from __future__ import annotations

import os

import numpy as np
import pytest
from snapshot_tools import RestlessZstd

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.store.arena import Arena
from diffreplay.store.layout import (
    BLOCK_ROWS,
    END,
    FLAGS,
    LINK,
    REFERENCE,
    SET_ENTRY,
    Column,
    Counter,
    Flag,
    Image,
    Layout,
    Memory,
)
from diffreplay.testing import TimeStep


def square(t, height=16, width=16, channels=1):
    """(H, W, C): stripes, and a square whose place and value tell t."""
    y, x, c = np.ogrid[:height, :width, :channels]
    frame = np.broadcast_to((y * 7 + x * 3 + c * 11) % 64 * 3, (height, width, channels)).astype(np.uint8)
    y, x = t % (height - 3), 2 * t % (width - 3)
    frame[y : y + 3, x : x + 3] = 200 + t
    return frame


def dot(t):
    """(8, 8): stripes, and one pixel that tells t."""
    frame = (np.add.outer(np.arange(8) * 7, np.arange(8) * 3) % 64 * 3).astype(np.uint8)
    frame[t, t] = 100 + t
    return frame


def steps():
    """A padded start, a step shifted by one, one that is not, one more; then a start padded with zeros."""
    stacks = [(dot(0), dot(0)), (dot(0), dot(1)), (dot(5), dot(2)), (dot(2), dot(3))]
    for t, stack in enumerate(stacks):
        yield TimeStep(np.stack(stack), np.array([t, -t]), t / 2, 1.0, t == 0, t == 3)
    yield TimeStep(np.stack([np.zeros((8, 8), np.uint8), dot(4)]), np.zeros(2), 0.0, 1.0, True, False)


def stored(codec):
    replay = ReplayBuffer(20, (2, 8, 8), (2,), frame_stack=2, codec=codec)
    for step in steps():
        replay.add(step)
    return replay.store


ROWS = [dot(0), dot(1), dot(5), dot(2), dot(3), dot(4)]


def test_header():
    raw, sparse = stored("raw"), stored("sparse")
    assert bytes(raw.arena.bytes[:96]) == bytes.fromhex(
        "64667265706c6179" "0200000000000000" "0600000000000000" "0000000000000000"  # "dfreplay", version, head, tail
        "0000000000000000" "0000000000000000" "0000000000000000" "8001000000000000"  # freed, two unused, log head
        "0300000000000000" "8001000000000000" "0000000000000000" "8070010000000000"  # transitions, bytes of 3 kinds
    )  # fmt: skip
    assert sparse.memory.counters.tolist()[:12] == [0x79616C7065726664, 2, 6, 0, 0, 0, 0, 272, 3, 272, 0, 98496]
    assert not any(sparse.memory.counters[12:]) and len(sparse.memory.counters) == 128
    assert SET_ENTRY.descr == [("first_row", "<u8"), ("nbytes", "<u8")] and SET_ENTRY.itemsize == 16
    assert raw.memory.set_tables[0].ctypes.data - np.asarray(raw.memory.counters).ctypes.data == 1024
    flags = (Flag.FIRST, Flag.ZEROS, Flag.CONTEXT, Flag.RESTART, Flag.STARTS)
    assert flags == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("codec", "columns"),
    [
        ("raw", {"end": [64, 128, 192, 256, 320, 384]}),
        ("sparse", {"end": [64, 72, 136, 144, 208, 272], "reference": [0, 1, 0, 1, 0, 0]}),
    ],
)
def test_rows(codec, columns):
    memory = stored(codec).memory
    columns |= {"link": [0, 1, 1, 1, 1, 0], "flags": [17, 16, 4, 24, 0, 3], "reward": [0, 0.5, 0, 1, 1.5, 0]}
    columns |= {"discount": [1, 1, 0, 1, 1, 1], "action": [[0, 0], [1, -1], [0, 0], [2, -2], [3, -3], [0, 0]]}
    dtypes = {"end": "<u4", "link": "<u2", "flags": "|u1", "reference": "<u2"}
    assert set(columns) == set(memory.columns)
    for name, values in columns.items():
        assert memory.columns[name][0, :6].tolist() == values
        assert memory.columns[name].dtype.str == dtypes.get(name, "<f4")
    assert memory.base[0] == 0


def test_log():
    """Raw frames as they are; coded ones at once behind them."""
    assert bytes(stored("raw").memory.log[:384]) == b"".join(frame.tobytes() for frame in ROWS)
    coded = {1: "0000 9cff 0101 4700", 3: "0202 2a00 0505 2d00"}  # row, column, difference, twice
    expected = b"".join(bytes.fromhex(coded[i]) if i in coded else frame.tobytes() for i, frame in enumerate(ROWS))
    assert bytes(stored("sparse").memory.log[:272]) == expected


TWO = {"a": ArraySpec((1, 1, 2)), "b": ArraySpec((1, 1, 1), "uint16"), "c": ArraySpec((), "float32")}


def two_images(codec, count):
    """A buffer of steps of two images and a number, with one frame a stack."""
    replay = ReplayBuffer(20, TWO, (1,), action_dtype="uint8", frame_stack=1, codec=codec)
    for t in range(count):
        parts = [[[[2 * t, 2 * t + 1]]], [[[256 * t + 7]]], t / 2]
        parts = [np.array(part, spec.dtype) for part, spec in zip(parts, TWO.values(), strict=True)]
        replay.add(TimeStep(dict(zip(TWO, parts, strict=True)), [t], 1.0, 1.0, t == 0, False))
    return replay


def test_ranges():
    """The head of a block: where it begins in the log, and for each image which rows are coded against which slot."""
    store = two_images(RestlessZstd(), 20).store
    begin = store.layout.blocks_offset
    head = bytes(store.arena.bytes[begin : begin + 128])
    ranges = "0000 ffff 0100 0000 0a00 0100 1300 0200"  # place and slot: none, then a set from rows 1, 10 and 19 on
    assert head[:8] == bytes(8)
    for image in (0, 1):
        assert head[8 + 56 * image :][:56] == bytes.fromhex(ranges) + b"\xff" * 40
    assert store.layout.offsets["end0"] == 128 and head[120:] == bytes(8)


def test_segment(tmp_path):
    """A file of rows of two images, byte for byte."""
    two_images("raw", 3).save(tmp_path)
    (path,) = tmp_path.glob("rows-*.bin")
    assert path.read_bytes() == bytes.fromhex(
        "64667273 65676d74 02000000 03000000 0000000000000000 04000000 18000000"  # version, rows, first, bytes of rows
        "02000000 02000000"  # images, ranges
        "00000000 00000000 ffffffffffffffff 01000000 00000000 ffffffffffffffff"  # image, row, set: none
        "02000000 02000000 02000000 02000000 02000000 02000000"  # bytes of each frame, of one image and of the other
        "0000 0100 0100 11 10 00"  # link, flags
        "00000000 0000003f 0000803f"  # the number
        "00 01 02 00000000 0000803f 0000803f 0000803f 0000803f 0000803f"  # action, reward, discount
        "0001 0700 0203 0701 0405 0702"  # the frames; of 16 bits the low ones first
    )


def test_layout():
    columns = (Column("action", "<f4", (2,)), Column("reward", "<f4"), Column("discount", "<f4"))
    layout = Layout((Image((84, 84, 1), 64 * 7056),), 3, 5000, (END, LINK, FLAGS, REFERENCE), columns)
    assert BLOCK_ROWS == 1024
    assert layout.offsets == {
        "end": 64, "link": 4160, "flags": 6208, "reference": 7232, "action": 9280, "reward": 17472, "discount": 21568,
        "": 25664,
    }  # fmt: skip
    assert (layout.block_bytes, layout.blocks, layout.images[0].set_slot) == (28672, 7, 454656)
    assert layout.blocks_offset == 4096 + 64 * 454656
    assert layout.log_offset == layout.blocks_offset + 7 * 28672
    assert layout.log_bytes == 35323904 + 2 * 65536 == -(-5001 * 7056 // 65536) * 65536 + 131072


def test_sparse_bytes():
    codec, frame = codecs.SparseCodec(), square(0, 8, 16)
    reference = frame.copy()
    reference[:, 5] ^= 1
    blob = bytes.fromhex("000501000105ffff020501000305ffff040501000505ffff060501000705ffff")
    assert codec.encode(frame, reference) == blob
    check_decodes(codec, blob, frame, None, reference)


def test_wide_sparse_bytes():
    codec, reference = codecs.SparseCodec(), square(0, 300, 4)
    frame = reference.copy()
    frame[7, 2], frame[299, 3] = 255, 0
    blob = bytes.fromhex("0700 0200 5a00 2b01 0300 5eff")
    assert codec.encode(frame, reference) == blob
    check_decodes(codec, blob, frame, None, reference)


def test_widest_sparse_bytes():
    codec, reference = codecs.SparseCodec(), np.full((2, 70000, 1), 9, np.uint8)
    frame = reference.copy()
    frame[0, 65536], frame[1, 69999] = 255, 0
    blob = bytes.fromhex("00000000 00000100 f600 01000000 6f110100 f7ff")
    assert codec.encode(frame, reference) == blob
    check_decodes(codec, blob, frame, None, reference)


# Blobs that libzstd 1.5.7 made; another version may code otherwise, but must decode these.
ZSTD_BLOBS = {
    "alone": (
        square(3),
        0,
        "c4060009121b242d363f48515a636c757e87151e273039424b545d666f78818a939c2a333c454e576069727b848d969fa8b1cbcbcb9099"
        "a2abb4bd06cbcbcba5aeb70009121bcbcbcbba030c151e27307e870f18212a333c45939ca8b19099a5aeba030f18242d0c151e27303942"
        "13286033bb01103286856d0e6cecc01e3730c68441182a040540803d8817704e813c02161a14",
    ),
    "set": (square(3), 2, "48cbcbcbcbcbcbcbcbcb0400a401821ae01870cc06ce0504"),
    "constant": (np.full((16, 16, 1), 7, np.uint8), 0, "080701007c282704"),
    "two blocks": (
        np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None] // 16 * 9, (256, 256, 3)),
        0,
        "6c0100580009121b242d363f48515a0b6801e0c50110feffff7fc907fccffff81fffe37ffc8fffe17ff81fff2bffe3c9dd000028636c75"
        "7e8706b0703efc8fe77f3cffe3f91f8fff99bffff87b06",
    ),
}


@pytest.mark.parametrize("name", ZSTD_BLOBS)
def test_zstd_bytes(name):
    codec = codecs.ZstdCodec()
    frame, references, blob = ZSTD_BLOBS[name]
    data = b"".join(square(t).tobytes() for t in (0, 5)[:references])
    opened = codec.open_set(data, frame.shape)
    check_decodes(codec, bytes.fromhex(blob), frame, opened)
    check_decodes(codec, bytes(codec.encode(np.ascontiguousarray(frame), opened)), frame, opened)


def check_decodes(codec, blob, frame, opened, reference=None):
    out = np.empty((2, *frame.shape), np.uint8)
    if reference is not None:
        out[:] = reference
    codec.decode(codec.gather([blob, blob], frame.size), np.array([len(blob)] * 2), opened, out)
    np.testing.assert_array_equal(out, np.stack([frame] * 2))


def test_views_of_an_attached_arena_are_the_same_bytes():
    store = stored("sparse")
    other = Memory(store.layout, Arena(store.layout.nbytes, fd=os.dup(store.arena.fd)))
    assert other.counters[Counter.HEAD] == 6
    assert all(np.array_equal(other.columns[name], store.memory.columns[name]) for name in store.memory.columns)
