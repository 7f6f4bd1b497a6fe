"""`diffreplay.testing`: codecs that hold the contract pass `check_codec`; each that breaks a rule is told which."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
import zlib

import numpy as np
import pytest

import diffreplay
from diffreplay.codecs import Codec, SetPlanner
from diffreplay.errors import CodecError, CorruptDataError, ReplayError
from diffreplay.testing import TimeStep, check_codec, damage


def test_the_example_of_a_time_step():
    replay = diffreplay.ReplayBuffer(1000, (3, 8, 8), (1,))
    for t in range(50):
        step = TimeStep(np.full((3, 8, 8), t, np.uint8), np.array([0.5]), reward=1.0, is_first=t == 0, is_last=t == 49)
        assert (step.first(), step.last()) == (t == 0, t == 49)
        replay.add(step)
    batch = replay.sample(4)
    assert (batch.reward == 1).all() and (batch.action == 0.5).all()


# Three that hold it, one for each kind of reference.


class Deflate(Codec):
    name = "deflate"

    def __init__(self, level: int = 1) -> None:
        self.level = level

    def options(self):
        return {"level": self.level}

    def encode(self, frame, reference=None):
        deflater = zlib.compressobj(self.level, **({"zdict": reference} if reference else {}))
        blob = deflater.compress(frame.tobytes()) + deflater.flush()
        return blob if len(blob) < frame.size else None

    def decode(self, data, lengths, reference, out):
        begin = 0
        for frame, length in zip(out, lengths.tolist(), strict=True):
            frame[...] = self.inflate(data[begin : begin + length], frame, reference)
            begin += length

    def inflate(self, blob, frame, reference):
        try:
            pixels = zlib.decompressobj(**({"zdict": reference} if reference else {})).decompress(blob, frame.size + 1)
        except zlib.error as error:
            raise CorruptDataError(str(error)) from error
        if len(pixels) != frame.size:
            raise CorruptDataError(f"expected {frame.size} bytes, got {len(pixels)}")
        return np.frombuffer(pixels, np.uint8).reshape(frame.shape)


class Difference(Deflate):
    name, reference = "difference", "frame"

    def encode(self, frame, reference=None):
        return None if reference is None else super().encode(frame - reference)

    def inflate(self, blob, frame, reference):
        return frame + super().inflate(blob, frame, None) if len(blob) else frame


class EverySixtyRows(SetPlanner):
    def due(self, head):
        return head >= self.next_check

    def choose(self, store):
        self.next_check = store.head + 60
        return store.read(np.array([store.head - 1]))


class Dictionary(Deflate):
    name, reference = "dictionary", "set"

    def set_frames(self, frame_bytes):
        return 2

    def open_set(self, data, frame_shape):
        return bytes(data)

    def planner(self, frame_shape):
        return EverySixtyRows()


@pytest.mark.parametrize("codec", [Deflate(), Deflate(9), Difference(), Dictionary()], ids=lambda codec: codec.name)
def test_codecs_that_hold_the_contract_pass(codec):
    assert check_codec(codec) is None
    check_codec(codec, seed=1)


# Each of these breaks one rule.


class Lossy(Deflate):
    def encode(self, frame, reference=None):
        return super().encode(frame & 254)


class LossyAgainstASet(Dictionary):
    def encode(self, frame, reference=None):
        return super().encode(frame & 254 if len(reference) > frame.size else frame, reference)


class OneFrameACall(Deflate):
    def decode(self, data, lengths, reference, out):
        super().decode(data, lengths[:1], reference, out[:1])


class Stateful(Deflate):
    last = b""

    def encode(self, frame, reference=None):
        self.last, before = frame.tobytes(), self.last
        return super().encode(frame, before)


class Long(Deflate):
    def encode(self, frame, reference=None):
        return zlib.compress(frame.tobytes())


class Raw(Deflate):
    def encode(self, frame, reference=None):
        return frame.tobytes()


class ArrayOfWords(Deflate):
    def encode(self, frame, reference=None):
        return np.zeros(frame.size // 8, np.uint32)


class Text(Deflate):
    def encode(self, frame, reference=None):
        return ""


class ChangesFrame(Deflate):
    def encode(self, frame, reference=None):
        blob = super().encode(frame)
        frame[0] += 1
        return blob


class ChangesReference(Difference):
    def encode(self, frame, reference=None):
        blob = super().encode(frame, reference)
        if reference is not None:
            reference += 1
        return blob


class ChangesSet(Dictionary):
    def open_set(self, data, frame_shape):
        if len(data):
            np.frombuffer(data, np.uint8)[:1] += 1
        return bytes(data)


class ChangesLengths(Deflate):
    def decode(self, data, lengths, reference, out):
        super().decode(data, lengths, reference, out)
        lengths += 1


class LeavesZeros(Deflate):
    """As if `out` came cleared."""

    def inflate(self, blob, frame, reference):
        return np.where((pixels := super().inflate(blob, frame, reference)) != 0, pixels, frame)


class WritesBeside(Deflate):
    def decode(self, data, lengths, reference, out):
        super().decode(data, lengths, reference, out)
        ctypes.memset(out.ctypes.data + out.size, 0, 1)


class WritesBesideWhenDamaged(Deflate):
    def decode(self, data, lengths, reference, out):
        try:
            super().decode(data, lengths, reference, out)
        except CorruptDataError:
            ctypes.memset(out.ctypes.data - 1, 0, 1)
            raise


class TakesNothingForZeros(Difference):
    def inflate(self, blob, frame, reference):
        return super().inflate(blob, frame, None) if len(blob) else np.zeros_like(frame)


class NeedsASet(Dictionary):
    def open_set(self, data, frame_shape):
        if not len(data):
            raise ValueError("no set")
        return bytes(data)


class NeedsEvenSides(Deflate):
    def encode(self, frame, reference=None):
        return super().encode(frame.reshape(frame.shape[0] // 2, 2, -1))


class GathersBackwards(Deflate):
    def gather(self, blobs, frame_bytes):
        return b"".join(reversed(blobs))


class ForgetsItsLevel(Deflate):
    def options(self):
        return {}


class OtherOptions(Deflate):
    def options(self):
        return {"level": self.level - 1}


class OptionsOfNoArgument(Deflate):
    def options(self):
        return {"depth": 3}


class OptionsBeyondJson(Deflate):
    def options(self):
        return {"level": np.int64(1)}


class CapsToAnotherCoding(Deflate):
    def within(self, max_bytes):
        return self if max_bytes is None else Inverted(self.level)


class Inverted(Deflate):
    def encode(self, frame, reference=None):
        return super().encode(~frame)

    def inflate(self, blob, frame, reference):
        return ~super().inflate(blob, frame, reference)


class ForgetsWithin(Deflate):
    def within(self, max_bytes):
        pass


class NoFramesInASet(Dictionary):
    def set_frames(self, frame_bytes):
        return 0


class OnePlanner(Dictionary):
    only = EverySixtyRows()

    def planner(self, frame_shape):
        return self.only


class PlannerOfOtherFrames(Dictionary):
    def planner(self, frame_shape):
        planner = EverySixtyRows()
        planner.choose = lambda store: 1 / 0
        return planner


class NegativeBytes(Dictionary):
    def private_bytes(self, reference):
        return -1


class Nameless(Deflate):
    name = ""


class OtherReference(Deflate):
    reference = "previous"


class LetsErrorsOut(Deflate):
    def inflate(self, blob, frame, reference):
        return np.frombuffer(zlib.decompress(blob), np.uint8).reshape(frame.shape)


class BelievesSizes(Deflate):
    def encode(self, frame, reference=None):
        blob = super().encode(frame)
        return None if blob is None or len(blob) + 4 >= frame.size else frame.size.to_bytes(4, "little") + blob

    def inflate(self, blob, frame, reference):
        bytearray(int.from_bytes(blob[:4], "little"))
        return super().inflate(blob[4:], frame, reference)


class Panics(Deflate):
    """As an extension in Rust does."""

    def inflate(self, blob, frame, reference):
        try:
            return super().inflate(blob, frame, reference)
        except CorruptDataError as error:
            raise BaseException("panic") from error


class Crashes(Deflate):
    def inflate(self, blob, frame, reference):
        try:
            return super().inflate(blob, frame, reference)
        except CorruptDataError:
            ctypes.string_at(0)


class Exits(Deflate):
    def inflate(self, blob, frame, reference):
        try:
            return super().inflate(blob, frame, reference)
        except CorruptDataError:
            os._exit(3)


class NeverEnds(Deflate):
    def inflate(self, blob, frame, reference):
        try:
            return super().inflate(blob, frame, reference)
        except CorruptDataError:
            time.sleep(1000)


ANOTHER_FRAME = r"decode: expected the frame that was coded, got one that differs in \d+ of \d+ bytes"
BROKEN = {
    Lossy: ANOTHER_FRAME,
    LossyAgainstASet: ANOTHER_FRAME + ".*against a set of 2",
    OneFrameACall: ANOTHER_FRAME + r".*frame 1 of \d+ in a call",
    Stateful: "decode: expected no exception, got CorruptDataError",
    Long: r"encode: expected fewer bytes than the 1 of the raw frame, or None, got 9 bytes",
    Raw: r"encode: expected fewer bytes than the 1 of the raw frame, or None, got 1 bytes",
    ArrayOfWords: "encode: expected None or bytes, got ndarray",
    Text: "encode: expected None or bytes, got str",
    ChangesFrame: "encode: expected the frame that it was given as it was",
    ChangesReference: "encode: expected the reference frames that it was given as they were",
    ChangesSet: "encode: expected the reference frames that it was given as they were",
    ChangesLengths: "decode: expected `lengths` as they were",
    LeavesZeros: ANOTHER_FRAME + ".*`out` held 255 before",
    WritesBeside: "decode: expected nothing to be written beside `out`",
    WritesBesideWhenDamaged: "decode: expected nothing to be written beside `out`.*damaged bytes",
    TakesNothingForZeros: "decode: expected the reference frame for no bytes",
    NeedsASet: "open_set: expected no exception, got ValueError: no set",
    NeedsEvenSides: r"encode: expected no exception, got ValueError: .*of shape \(1, 1, 1\)",
    GathersBackwards: "decode: expected no exception, got CorruptDataError",
    ForgetsItsLevel: "options: expected them to make an equal codec, got one that codes other bytes",
    OtherOptions: "options: expected them to make an equal codec, got",
    OptionsOfNoArgument: "options: expected arguments of OptionsOfNoArgument, got {'depth': 3}",
    OptionsBeyondJson: "options: expected what JSON can hold, got",
    CapsToAnotherCoding: ANOTHER_FRAME + r".*within\(65536\)",
    ForgetsWithin: r"within\(None\): expected a codec of its kind, got None",
    NoFramesInASet: "set_frames: expected 1 or more, got 0",
    OnePlanner: "planner: expected a fresh SetPlanner each time",
    PlannerOfOtherFrames: "expected a ReplayBuffer to add and sample .*ZeroDivisionError",
    NegativeBytes: "private_bytes: expected a number of bytes, got -1",
    Nameless: "name: expected a string that is not empty, got ''",
    OtherReference: "reference: expected 'none', 'frame' or 'set', got 'previous'",
    LetsErrorsOut: "decode: expected no exception, got (error|ValueError): .*damaged bytes",
    BelievesSizes: "decode: expected no exception, got MemoryError: .*damaged bytes",
    Panics: "damaged bytes: expected CorruptDataError or some frame, got BaseException: panic",
    Crashes: rf"damaged bytes: expected .*, got the end of the process by signal {int(signal.SIGSEGV)}",
    Exits: "damaged bytes: expected .*, got the end of the process by exit code 3",
    NeverEnds: "damaged bytes: expected .* within 2 seconds",
}


@pytest.mark.parametrize("codec", BROKEN, ids=lambda codec: codec.__name__)
def test_a_broken_rule_is_named(codec, monkeypatch):
    monkeypatch.setattr(damage, "SECONDS", 2 if codec is NeverEnds else damage.SECONDS)
    made = codec(6)
    with pytest.raises(CodecError) as info:
        check_codec(made)
    assert re.match(rf"codec '?{made.name or codec.__name__}'?: ", str(info.value))
    assert re.search(BROKEN[codec], str(info.value))
    assert isinstance(info.value, ReplayError)


@pytest.mark.parametrize("value", ["zstd", None, Deflate])
def test_what_is_no_codec_is_refused(value):
    with pytest.raises(CodecError, match="expected an instance of a subclass of Codec, got"):
        check_codec(value)
