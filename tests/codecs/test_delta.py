"""The codec `delta`: its bytes, its two decoders side by side, its bounds, and its compiled core under sanitizers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffreplay import codecs
from diffreplay.codecs.delta import plain
from diffreplay.codecs.delta.codec import core as find_core
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.testing.damage import mutate
from diffreplay.testing.frames import frames_of
from tests.compiling import SANITIZE, compiles
from tests.together import run_together

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "diffreplay" / "codecs" / "delta"
FUZZ = Path(__file__).resolve().parent / "fuzz"
compiled = find_core()
pytestmark = pytest.mark.skipif(compiled is plain, reason="the compiled core was not built")
LEVELS = (1, 2, 3, 5)
COUNTING = np.stack([np.arange(24), np.arange(100, 124)]).astype(np.uint8).reshape(2, 4, 6, 1)


def coded(frame, references, level=1):
    """The blob of a frame against references (K, H, W, C)."""
    codec = codecs.DeltaCodec(level)
    return codec.encode(frame, codec.open_set(references.tobytes(), frame.shape))


def decoded(core, blobs, references, shape, planar=False):
    """What a core makes of blobs: frames (n, H, W, C) or, planar, (n, C, H, W); and the first damaged one or -1."""
    height, width, channels = shape
    sizes = (height * width * channels, width * channels, channels)
    lengths = np.array([len(blob) for blob in blobs], np.int64)
    out = np.full(len(blobs) * sizes[0] + 128, 0xA5, np.uint8)
    zeros, whole = np.zeros(len(blobs), np.int64), np.full(len(blobs), references.size, np.int64)
    places = np.arange(len(blobs)) * sizes[0] + 64
    starts = np.cumsum(lengths) - lengths
    damaged = core.decode_batch(
        b"".join(blobs), starts, lengths, references.tobytes(), zeros, whole, out, places, *sizes, planar
    )
    assert np.all(out[:64] == 0xA5) and np.all(out[-64:] == 0xA5)
    frames = out[64:-64].reshape(len(blobs), *((channels, height, width) if planar else shape))
    return frames, damaged


def sprites(shape, count, seed):
    """Frames in which boxes of a few shades move over a background that changes a little: every kind of copy."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    ramp = np.add.outer(np.arange(height) // 3, np.arange(width) // 2)[..., None] + np.arange(channels) * 40
    sprite = rng.integers(0, 256, (min(height, 9), min(width, 11), channels), np.uint8)
    frames = np.empty((count, *shape), np.uint8)
    for frame in frames:
        frame[:] = (ramp + rng.integers(0, 3)).astype(np.uint8)
        for _ in range(3):
            y, x = rng.integers(0, height - len(sprite) + 1), rng.integers(0, width - sprite.shape[1] + 1)
            frame[y : y + len(sprite), x : x + sprite.shape[1]] = sprite + rng.integers(0, 4)
        few = rng.integers(0, frame.size, frame.size // 100)
        frame.reshape(-1)[few] = rng.integers(0, 256, len(few))
    return frames


@pytest.fixture(scope="module")
def recorded():
    """Real frames: the walker in colour and in gray, and Pong."""
    import ale_py
    import gymnasium
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    from drqv2.environment import make

    found = {}
    for name, gray in (("walker in colour", False), ("walker in gray", True)):
        env = make("walker_walk", frame_stack=1, action_repeat=2, seed=3, grayscale=gray, black_floor=gray)
        env.reset()
        rng = np.random.default_rng(3)
        frames = [env.step(rng.uniform(-1, 1, 6).astype(np.float32)).observation for _ in range(80)]
        found[name] = np.ascontiguousarray(np.moveaxis(np.stack(frames), 1, -1))
        env.close()
    gymnasium.register_envs(ale_py)
    env = AtariWrapper(gymnasium.make("PongNoFrameskip-v4"))
    env.action_space.seed(3)
    env.reset(seed=3)
    found["Pong"] = np.stack([env.step(env.action_space.sample())[0] for _ in range(80)])
    env.close()
    return found


def test_the_example_of_the_page():
    """The bytes that docs/format.md walks through, as it prints them."""
    page = (ROOT / "docs" / "format.md").read_text().partition("### delta")[2]
    example = re.search(r"```text\nframe(.*?)blob(.*?)```", page, re.DOTALL)
    rows = [re.split(r"   +(?=[a-z])", line)[0].split() for line in example[1].strip().splitlines()]
    frame = np.array(rows, int).astype(np.uint8).reshape(1, 3, 12, 1)
    blob = b"".join(
        bytes.fromhex(re.match(r" *((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", line)[1])
        for line in example[2].splitlines()
        if re.match(r" *(?:[0-9a-f]{2} )", line)
    )
    assert blob.hex(" ") == "21 11 e7 fa 01 69 8b f0"
    references = np.stack([np.arange(36) * 5, np.full(36, 7)]).astype(np.uint8).reshape(2, 3, 12, 1)
    for core in (plain, compiled):
        frames, damaged = decoded(core, [blob], references, (3, 12, 1))
        assert damaged == -1
        np.testing.assert_array_equal(frames, frame)


@pytest.mark.parametrize("core", [plain, compiled], ids=["plain", "compiled"])
def test_golden_bytes(core):
    """Tokens of each kind against two reference frames, 0 to 23 and 100 to 123, in rows of 6 pixels."""
    zero, one = list(range(24)), list(range(100, 124))
    golden = {
        "": zero,  # nothing said: as in reference 0
        "00 01": one,  # SAME, to the end
        "10 09 08 07 06 05 04 03 02 01 00": [9, 8, 7, 6, 5, 4, 3, 2, *one[8:]],  # 8 literals, SAME of 3 bytes, the rest
        "20 00 01": [0, 1, *one[2:]],  # AGAIN of 2 bytes, SAME to the end
        "50 00 99": [7, 8, 9, 10, 11, *zero[5:]],  # SHIFT by 1 row and 1 pixel, 5 bytes
        "70 01 fe 03": [15, 16, 17, 18, 19, 20, *zero[6:]],  # FAR by -2 rows and 3 pixels, into the frame before
        "50 00 99 85": [7, 8, 9, 10, 11, 12, 13, 14, *zero[8:]],  # SHIFTED, 3 bytes
        "21 03 a8 30": [*zero[:6], 0, 1, 2, *zero[9:]],  # AGAIN of 6 bytes, BACK by a row, 3 bytes
        "21 03 ae 01 00": [*zero[:6], 4, 5, 4, 5, 4, 5, 4, 5, 4, *zero[15:]],  # BACK by 2 pixels, 9 bytes: over itself
        "cf 37 00 01": [55, 55, 55, *one[3:]],  # a literal, RUN of 2 bytes, SAME
        "dd 01 98 f0": [100, 102, 94, 110, *one[4:]],  # ADJUST, 2 pairs by 0, 1, -8 and 7
    }
    for blob, frame in golden.items():
        frames, damaged = decoded(core, [bytes.fromhex(blob)], COUNTING, (4, 6, 1))
        assert (blob, damaged) == (blob, -1)
        assert (blob, frames.reshape(-1).tolist()) == (blob, frame)


@pytest.mark.parametrize(
    "blob",
    [
        "ff",
        "f8",
        "00",
        "00 02",
        "1e 01",
        "50 00",
        "50 00 00",
        "70 00 80 00",
        "85",
        "c8",
        "a8 30",
        "de 01 98 f0",
        "00 00 ff",
        "00 01 15 20",
        "00 01 15 00 00",
        "10 01 01 01",
        "21 ff",
        "22 ff ff",
        "0f",
        "21 03 a8 00 ff",
    ],
)
def test_damaged_bytes_are_refused(blob):
    """By both, in the same way: numbers cut off, codes that there are not, sources outside, bytes too many."""
    wrong = bytes.fromhex(blob)
    if blob == "85":  # SHIFTED before any shift is SAME from 0
        assert (
            decoded(plain, [wrong], COUNTING, (4, 6, 1))[1] == decoded(compiled, [wrong], COUNTING, (4, 6, 1))[1] == -1
        )
        wrong = b""
        assert decoded(plain, [wrong], COUNTING[:0], (4, 6, 1))[1] == 0
        assert decoded(compiled, [wrong], COUNTING[:0], (4, 6, 1))[1] == 0
        return
    assert decoded(plain, [wrong], COUNTING, (4, 6, 1))[1] == 0
    assert decoded(compiled, [wrong], COUNTING, (4, 6, 1))[1] == 0
    codec = codecs.DeltaCodec()
    opened = codec.open_set(COUNTING.tobytes(), (4, 6, 1))
    with pytest.raises(CorruptDataError, match="coded frame 0 of 1"):
        codec.decode(wrong, np.array([len(wrong)]), opened, np.empty((1, 4, 6, 1), np.uint8))


def agree(blobs, references, shape):
    """Both decoders give the same frame for each blob, or both refuse it; returns how many are refused."""
    refused = 0
    for blob in blobs:
        (one, first), (other, second) = (decoded(core, [blob], references, shape) for core in (plain, compiled))
        assert (blob, first) == (blob, second)
        refused += first == 0
        if first == -1:
            np.testing.assert_array_equal(one, other)
    return refused


@pytest.mark.parametrize("name", ["walker in colour", "walker in gray", "Pong"])
def test_decoders_agree_on_real_frames(recorded, name):
    """And on what becomes of their bytes when they are damaged."""
    frames, rng = recorded[name], np.random.default_rng(0)
    references, frames = frames[:40:2], frames[41::4]
    shape = frames.shape[1:]
    blobs = [coded(frame, references, level) for level in LEVELS for frame in frames]
    assert all(blobs)
    for core in (plain, compiled):
        out, damaged = decoded(core, blobs, references, shape)
        assert damaged == -1
        np.testing.assert_array_equal(out, np.tile(frames, (len(LEVELS), 1, 1, 1)))
    mutated = [mutate(blobs[k % len(blobs)], rng)[: frames[0].size - 1] for k in range(300)]
    assert 0 < agree(mutated, references, shape) < 300


def test_decoders_agree_on_damaged_bytes():
    """Many small frames."""
    rng = np.random.default_rng(1)
    for seed, shape in enumerate([(9, 13, 1), (5, 7, 3), (20, 24, 4), (1, 40, 2)]):
        frames = sprites(shape, 12, seed) if min(shape[:2]) >= 5 else frames_of("gradient", shape, 12)
        references = frames[:5]
        blobs = [blob for frame in frames[5:] if (blob := coded(frame, references, 3))]
        mutated = [mutate(blobs[k % len(blobs)], rng)[: frames[0].size - 1] for k in range(1500)]
        assert 0 < agree(mutated, references, shape) < 1500


SHAPES = [(1, 1, 1), (1, 2, 1), (3, 5, 1), (3, 5, 4), (1, 300, 1), (300, 1, 3), (84, 84, 1), (84, 84, 3), (210, 160, 3)]


@pytest.mark.parametrize("shape", [*SHAPES, (480, 640, 3)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_shapes_and_sets(shape, count):
    """Both ways, and as planes."""
    frames = sprites(shape, 7, 0) if min(shape[:2]) >= 9 else frames_of("gradient", shape, 7)
    frames[6] = frames[0]
    references, frames = frames[:count], frames[count:]
    for level in LEVELS[:2]:
        blobs = [coded(frame, references, level) for frame in frames]
        kept = [k for k, blob in enumerate(blobs) if blob is not None]
        assert kept or not count or frames[0].size < 20
        for planar in (False, True):
            out, damaged = decoded(compiled, [blobs[k] for k in kept], references, shape, planar)
            assert damaged == -1
            np.testing.assert_array_equal(out.transpose(0, 2, 3, 1) if planar else out, frames[kept])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_round_trip(data):
    """Frames that are made of few runs, against sets of any number that are made of them, too."""
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 4)))
    size = int(np.prod(shape))
    run = st.tuples(st.integers(0, 255), st.integers(1, max(size // 2, 1)), st.integers(0, 3))

    def frame():
        pixels = [
            (value + step * k) % 256
            for value, count, step in data.draw(st.lists(run, min_size=1))
            for k in range(count)
        ]
        return np.resize(np.array(pixels, np.uint8), size)

    few = [frame() for _ in range(data.draw(st.integers(0, 3)))]
    references = np.stack(few * data.draw(st.sampled_from([1, 3, 20, 60]))) if few else np.empty((0, size), np.uint8)
    references = references.reshape(-1, *shape) + np.arange(len(references), dtype=np.uint8).reshape(-1, 1, 1, 1) // 3
    wanted = frame().reshape(shape)
    for level in LEVELS:
        blob = coded(wanted, references, level)
        if blob is not None:
            assert len(blob) < size
            for core in (plain, compiled):
                out, damaged = decoded(core, [blob], references, shape)
                assert damaged == -1
                np.testing.assert_array_equal(out[0], wanted)


@pytest.mark.parametrize("count", [8, 9, 33, 65, 129, 256])
def test_any_number_of_references(count):
    """The last one is what the frame is, but for a pixel."""
    references = np.random.default_rng(count).integers(0, 256, (count, 9, 30, 1), np.uint8)
    frame = references[-1].copy()
    frame[4, 7] ^= 1
    blob = coded(frame, references)
    assert len(blob) < 12
    for core in (plain, compiled):
        np.testing.assert_array_equal(decoded(core, [blob], references, frame.shape)[0][0], frame)


def test_incompressible_frames_are_left_raw():
    noise, *others = np.random.default_rng(0).integers(0, 256, (4, 84, 84, 1), np.uint8)
    for count in (0, 3):
        assert coded(noise, np.array(others[:count], np.uint8).reshape(-1, 84, 84, 1)) is None


def test_long_literals_and_long_copies():
    """More of either than two bytes count."""
    rng = np.random.default_rng(0)
    references = np.zeros((1, 400, 300, 3), np.uint8)
    noise = rng.integers(0, 256, 180_000, np.uint8)
    for begin in (0, 90_000, 180_000):
        frame = references[0].copy()
        frame.reshape(-1)[begin : begin + len(noise)] = noise
        blob = coded(frame, references)
        assert len(blob) < len(noise) + 5000
        np.testing.assert_array_equal(decoded(compiled, [blob], references, frame.shape)[0][0], frame)


def test_batch_takes_frames_from_anywhere_to_anywhere():
    """Coded, raw and empty ones, each with its own set; what is outside is refused, the rest left alone."""
    shape, size = (6, 8, 2), 96
    frames = np.random.default_rng(0).integers(0, 4, (8, *shape), np.uint8)
    sets = frames[:5].tobytes()
    parts = [coded(frames[6], frames[:2]), frames[5].tobytes(), coded(frames[7], frames[2:5])]
    log = b"???" + b"".join(parts)
    lengths = np.array([len(parts[0]), size, len(parts[2]), -1])
    starts = np.array([3, 3 + len(parts[0]), 3 + len(parts[0]) + size, 0])
    columns = [starts, lengths, np.array([0, 0, 2 * size, 0]), np.array([2 * size, 0, 3 * size, 0])]
    columns += [np.array([size + 1, 5 * size, 3 * size, 0])]
    expected = [frames[6], frames[5], frames[7], np.zeros(shape, np.uint8)]

    def run(core, columns, planar=False):
        out = np.full(6 * size, 0xA5, np.uint8)
        one, two, three, four, places = columns
        return core.decode_batch(log, one, two, sets, three, four, out, places, size, 16, 2, planar), out

    for core in (plain, compiled):
        for planar in (False, True):
            damaged, out = run(core, columns, planar)
            assert damaged == -1
            for place, frame in zip(columns[-1], expected, strict=True):
                wanted = frame.transpose(2, 0, 1) if planar else frame
                assert out[place : place + size].tobytes() == wanted.tobytes()
                out[place : place + size] = 0xA5
            assert np.all(out == 0xA5)
        for column in range(5):
            for value in (-2, -(2**63), 2**63 - 1, 10_000):
                wrong = [numbers.copy() for numbers in columns]
                wrong[column][2] = value
                assert run(core, wrong)[0] == 2
    with pytest.raises(ValueError, match="as many int64"):
        run(compiled, [*columns[:4], columns[4][:3]])


def test_arguments_that_do_not_fit_are_refused():
    for wrong in ({"level": 0}, {"level": 6}, {"set_frames": 0}, {"set_frames": 257}, {"refresh_interval": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected"):
            codecs.DeltaCodec(**wrong)
    with pytest.raises(ValueError, match="expected a frame of 1 to"):
        compiled.index(b"", 10, 4, 3, 1)
    with pytest.raises(ValueError, match="expected a set of at most 256 frames"):
        compiled.index(bytes(257 * 4), 4, 2, 1, 1)
    index = compiled.index(bytes(8), 4, 2, 1, 1)
    with pytest.raises(ValueError, match="expected a set of 8 bytes and a frame of 4"):
        compiled.encode(index, bytes(8), bytes(5))
    with pytest.raises(TypeError, match="read-write"):
        compiled.decode_batch(b"", b"", b"", b"", b"", b"", b"read only", b"", 4, 2, 1, False)


def test_threads_code_against_one_set(recorded):
    frames = recorded["walker in gray"]
    codec, references = codecs.DeltaCodec(2), frames[:16]
    opened = codec.open_set(references.tobytes(), frames.shape[1:])
    expected = [codec.encode(frame, opened) for frame in frames]

    def check():
        assert [codec.encode(frame, opened) for frame in frames] == expected

    run_together(*[check] * 4)


def test_without_the_core():
    """Everything works, slowly, and says so once."""
    script = """
import sys, warnings
sys.modules["diffreplay.codecs.delta._core"] = sys.modules["diffreplay.store._lookup"] = None
warnings.simplefilter("always")
import numpy as np
import diffreplay
from diffreplay.testing import TimeStep
replay = diffreplay.ReplayBuffer(50, (2, 12, 12), (1,), frame_stack=2, codec="delta")
rng = np.random.default_rng(0)
stack = rng.integers(0, 4, (2, 12, 12), np.uint8)
stacks = []
for t in range(40):
    new = stack[1].copy()
    new[rng.integers(12), rng.integers(12)] = t
    stack = np.stack([stack[1], new])
    stacks.append(stack if t else np.stack([new, new]))
    replay.add(TimeStep(stacks[-1], np.array([t]), is_first=t == 0, is_last=t == 39))
    stack = stacks[-1]
batch = replay.sample(30)
for action, next_obs in zip(batch.action[:, 0].tolist(), batch.next_obs):
    assert np.array_equal(next_obs, stacks[int(action)])
replay.check_invariants()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=800)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("RuntimeWarning") == 1 and "apt-get install gcc python3-dev" in run.stderr
    # Here it is the sources that are imported; a user may have installed the package with its core, too.
    for said in (f"from its sources, {ROOT}", "start Python in another folder", f"pip install -e {ROOT}"):
        assert said in run.stderr


def test_both_code_what_both_read(recorded):
    frames = recorded["walker in gray"]
    references, frames = frames[:20], frames[20::5]
    index = plain.index(references.tobytes(), 7056, 84, 1, 1)
    blobs = [plain.encode(index, references.tobytes(), frame) for frame in frames]
    np.testing.assert_array_equal(decoded(compiled, blobs, references, frames.shape[1:])[0], frames)


@pytest.mark.skipif(not compiles(*SANITIZE), reason="needs gcc with its sanitizers")
def test_sanitizers_find_nothing(tmp_path):
    """The fuzzer's corpus, and each of its files changed at random."""
    program = tmp_path / "fuzz"
    sources = [FUZZ / "fuzz_delta.c", *(CORE / f"{name}.c" for name in ("batch", "decode", "encode", "index", "write"))]
    flags = [*SANITIZE, "-DREPLAY", "-DINLINE=static", f"-I{CORE}"]
    subprocess.run(["gcc", *flags, *sources, "-o", program], check=True)
    corpus = sorted((FUZZ / "corpus").iterdir())
    assert len(corpus) > 100
    run = subprocess.run([program, *corpus], capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr
