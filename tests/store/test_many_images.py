"""Rows of many and of large images."""

from __future__ import annotations

import numpy as np
import pytest
from forms import form_of
from oracle import Oracle
from says import says
from snapshot_tools import check_samples, contents, make_directory  # noqa: F401

from diffreplay import ArraySpec, ReplayBuffer, codecs
from diffreplay.errors import InputError

OPTIONS = {"action_shape": (1,), "action_dtype": "int64"}


def box_moves(spec, count, seed):
    """Frames of an image: a noisy background over which a box of noise moves."""
    rng = np.random.default_rng(seed)
    largest = np.iinfo(spec.dtype).max + 1
    background = rng.integers(0, largest, spec.shape).astype(spec.dtype)
    frames = []
    for t in range(count):
        frame = background.copy()
        rows = slice(t, t + 3)
        place = (slice(None), rows) if spec.layout.endswith("CHW") else (rows,)
        frame[place] = rng.integers(0, largest, frame[place].shape)
        frames.append(frame)
    return frames


def fill(oracle, count, episode):
    """Add steps of images that move, in episodes."""
    form = form_of(oracle.replay)
    parts = [box_moves(spec, count, seed) for seed, spec in enumerate(form.specs.values())]
    steps = [list(step) for step in zip(*parts, strict=True)]
    for t in range(count):
        begin = t // episode * episode
        shown = [steps[max(k, begin)] for k in range(t - form.frame_stack + 1, t + 1)]
        oracle.add(form.join(shown), float(t), first=t == begin, last=t == begin + episode - 1)


LARGE = {
    "left": ArraySpec((3, 480, 640)),
    "right": ArraySpec((480, 640, 3), layout="HWC"),
    "wrist": ArraySpec((3, 480, 640)),
    "depth": ArraySpec((480, 640), "uint16", "FHW"),
}


@pytest.mark.parametrize("codec", ["delta", "zstd", "sparse"])
def test_rows_of_more_bytes_than_32_bits_hold_in_a_block(codec, directory):
    """3.4 MB a row: places within a block take 64 bits."""
    replay = ReplayBuffer(10, LARGE, frame_stack=2, codec=codec, **OPTIONS)
    assert replay.store.layout.row_bytes > 3_000_000
    assert {replay.store.memory.columns[name].dtype.str for name in replay.store.layout.ends} == {"<u8"}
    oracle = Oracle(replay)
    oracle.check = lambda: None  # each time, it would take seconds
    fill(oracle, 16, 8)
    del oracle.check
    oracle.check()
    oracle.check_batch(replay.sample(6))
    replay.save(directory)
    loaded = ReplayBuffer.load(directory)
    assert contents(loaded) == contents(replay)


@pytest.mark.parametrize("codec", codecs.REGISTRY)
def test_as_many_images_as_there_may_be(codec, directory):
    specs = {f"{k:02d}": ArraySpec((1 + k % 3, 9 + k, 12)) for k in range(31)} | {
        "wide": ArraySpec((1, 9, 9), "uint16")
    }
    replay = ReplayBuffer(60, specs, frame_stack=2, codec=codec, **OPTIONS)
    oracle = Oracle(replay)
    check, oracle.check = oracle.check, lambda: None
    fill(oracle, 90, 20)
    check()
    check_samples(oracle)
    replay.save(directory)
    assert contents(ReplayBuffer.load(directory)) == contents(replay)


def test_one_image_more_is_refused():
    specs = {str(k): ArraySpec((1, 8, 8)) for k in range(33)}
    with pytest.raises(InputError) as info:
        ReplayBuffer(60, specs, **OPTIONS)
    says(info, "observation_shape: | at most 32 images", "got 33")
    columns = {f"c{k}": ArraySpec((2,), "float32") for k in range(200)}
    replay = ReplayBuffer(60, dict(list(specs.items())[:32]) | columns, frame_stack=1, **OPTIONS)
    oracle = Oracle(replay)
    oracle.add(oracle.form.join([oracle.form.blank()]), first=True)
    oracle.add(oracle.form.join([oracle.form.blank()]))
    oracle.check_batch(replay.sample(3))


@pytest.mark.parametrize("layout", ["CHW", "HWC", "FCHW", "FHWC", "FHW"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_every_value_of_16_bits_comes_back(layout, channels_first):
    """All 65,536 of them in one frame, in other places in each."""
    sides = {"C": 1 if layout == "FHW" else 4, "H": 128, "W": 128 if layout != "FHW" else 512}
    spec = ArraySpec([sides[axis] for axis in layout.removeprefix("F")], "uint16", layout)
    replay = ReplayBuffer(40, spec, frame_stack=2, channels_first=channels_first, **OPTIONS)
    oracle, every = Oracle(replay), np.arange(1 << 16, dtype=np.uint16).reshape(spec.shape)
    check, oracle.check = oracle.check, lambda: None
    for t in range(12):
        steps = [[np.roll(every, 97 * (k // 3))] for k in (max(t - 1, 0), t)]
        oracle.add(oracle.form.join(steps), first=t == 0)
    check()
    oracle.check_batch(replay.sample(20))
