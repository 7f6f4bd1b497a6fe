"""Parts: from observations to stored frames and back, and from windows to batches, compared with what is spelt out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from says import says

from diffreplay.errors import InputError
from diffreplay.parts import ArraySpec, Part, parts_of

LAYOUTS = ["CHW", "HWC", "FCHW", "FHWC", "FHW", "HW"]
STACKS = [1, 2, 4]
IMAGES = [
    (layout, frame_stack, channels, dtype, channels_first)
    for layout in LAYOUTS
    for frame_stack in (STACKS if layout != "HW" else [1])
    for channels in ([1, 2, 3] if "C" in layout else [1])
    for dtype in ("uint8", "uint16")
    for channels_first in (False, True)
]
COLUMNS = [
    (layout, frame_stack, shape, dtype)
    for layout in ("", "F")
    for frame_stack in STACKS
    for shape in ((), (1,), (5,), (2, 3), (3, 4, 2))
    for dtype in ("bool", "uint8", "uint16", "int64", "float16", "float32", "float64")
]
H, W = 5, 7


def image(layout, frame_stack, channels, dtype, channels_first):
    shape = {"C": channels, "H": H, "W": W}
    return Part(
        "front", ArraySpec([shape[axis] for axis in layout if axis != "F"], dtype, layout), frame_stack, channels_first
    )


def laid_out(frames, layout):
    """Frames (f, H, W, C), oldest first, as an observation."""
    planes = [frame.transpose(2, 0, 1) for frame in frames]
    return {
        "CHW": lambda: np.concatenate(planes),
        "HWC": lambda: np.concatenate(list(frames), axis=2),
        "FCHW": lambda: np.stack(planes),
        "FHWC": lambda: np.stack(list(frames)),
        "FHW": lambda: np.stack([plane[0] for plane in planes]),
        "HW": lambda: planes[0][0],
    }[layout]()


def numbers(rng, shape, dtype):
    """Any bits at all, but for flags."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)


def strided(array):
    """The same values, not C-contiguous."""
    wide = np.zeros([2 * side for side in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


def same(first, second):
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("case", IMAGES, ids=str)
def test_images_as_stored_frames_and_back(case):
    layout, frame_stack, channels, dtype, _ = case
    part, rng = image(*case), np.random.default_rng(0)
    frames = numbers(rng, (frame_stack, H, W, channels), dtype)
    observation = np.ascontiguousarray(laid_out(frames, layout))
    assert part.is_image and part.shape == observation.shape and part.dtype == dtype
    assert part.frame_bytes == H * W * channels * np.dtype(dtype).itemsize == np.prod(part.stored_shape)
    for given in (observation, strided(observation), np.asfortranarray(observation)):
        stack = part.stack(given)
        assert stack.dtype == np.uint8 and part.stored(stack).shape == (frame_stack, *part.stored_shape)
        assert part.planar_stack == (layout in ("CHW", "FCHW") and channels > 1 and dtype == "uint8")
        assert same(part.observation(stack), observation)
        assert same(part.observation(np.ascontiguousarray(stack)), observation)
        if dtype == "uint8":
            moved = layout == "HWC" and frame_stack > 1
            assert np.array_equal(part.stored(stack), frames)
            assert given is not observation or (np.shares_memory(stack, given) != moved and stack.flags.c_contiguous)
        else:
            check_halves(part, stack, frames)


def check_halves(part, stack, frames):
    """Low bytes, then high ones, in the order in which pixels are sampled."""
    planar = part.channels_first or part.spec.layout in ("CHW", "FCHW")
    for stored, frame in zip(stack, frames, strict=True):
        pixels = (frame.transpose(2, 0, 1) if planar else frame).reshape(-1)
        low, high = stored.reshape(2, -1)
        assert np.array_equal(low, pixels % 256) and np.array_equal(high, pixels // 256)


@pytest.mark.parametrize("case", COLUMNS, ids=str)
def test_columns_as_frames_and_back(case):
    layout, frame_stack, shape, dtype = case
    part, rng = Part("", ArraySpec(shape, dtype, layout), frame_stack, True), np.random.default_rng(0)
    frames = numbers(rng, (frame_stack, *shape), dtype)
    if layout == "F":
        observation = frames
    elif shape:
        observation = np.concatenate(list(frames))
    else:
        observation = frames if frame_stack > 1 else frames[0]
    observation = np.asarray(observation)
    assert not part.is_image and not part.planar
    assert part.shape == part.sampled_shape == observation.shape and part.stored_shape == shape
    assert part.frame_bytes == frames.nbytes // frame_stack
    stack = part.stack(observation)
    assert stack.tobytes() == frames.tobytes() and stack.shape == frames.shape
    assert np.shares_memory(stack, observation) and stack.dtype == part.stored_dtype
    assert stack.dtype.kind != "f" and stack.dtype.itemsize == frames.dtype.itemsize
    assert same(part.observation(stack), observation)


def read(part, frames, window):
    """Put stored frames (N, ...) where a decoder does."""
    out = window.reshape(len(frames), *window.shape[2:])
    if part.is_image and part.dtype == np.uint16:
        part.decoded(frames, out)
    else:
        out[...] = frames.transpose(0, 3, 1, 2) if part.planar else frames.reshape(out.shape)


def check_windows(part, observations, length):
    """Windows of an episode's frames give its observations, those that overlap too."""
    steps, f = len(observations), part.frame_stack
    stacks = [part.stored(part.stack(observation)) for observation in observations]
    frames = np.concatenate([stacks[0], *(stack[-1:] for stack in stacks[1:])])
    starts = np.arange(steps + f - length)
    window = np.zeros(part.window_shape(len(starts), length), part.dtype if part.is_image else part.stored_dtype)
    read(part, np.ascontiguousarray(np.concatenate([frames[k : k + length] for k in starts])), window)
    tensor = torch.from_numpy(window.view(part.dtype))
    copies = part.spec.layout == "HWC" and f > 1 and not part.channels_first
    for taken, offset in ((part.first(tensor), 0), (part.last(tensor), length - f)):
        assert taken.shape == (len(starts), *part.sampled_shape)
        assert copies or taken.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        for k in starts:
            assert same(taken[k].numpy(), as_sampled(part, observations[k + offset])), (k, offset)


def as_sampled(part, observation):
    if not (part.channels_first and part.is_image):
        return np.ascontiguousarray(observation).reshape(observation.shape)
    return {
        "CHW": lambda array: array,
        "HWC": lambda array: array.transpose(2, 0, 1),
        "FCHW": lambda array: array.reshape(-1, H, W),
        "FHWC": lambda array: array.transpose(0, 3, 1, 2).reshape(-1, H, W),
        "FHW": lambda array: array,
        "HW": lambda array: array[None],
    }[part.spec.layout](observation)


@pytest.mark.parametrize("case", IMAGES, ids=str)
def test_batches_of_images(case):
    layout, f, channels, dtype, channels_first = case
    part = image(*case)
    frames = numbers(np.random.default_rng(1), (9, H, W, channels), dtype)
    observations = [laid_out(frames[k : k + f], layout) for k in range(10 - f)]
    for length in (f, f + 1, f + 3):
        check_windows(part, observations, length)
    first = channels_first or layout in ("CHW", "FCHW")
    assert part.planar == (first and channels > 1 and dtype == "uint8")
    assert part.sampled_shape == ((f * channels, H, W) if channels_first else part.shape)


@pytest.mark.parametrize("case", COLUMNS, ids=str)
def test_batches_of_columns(case):
    layout, f, shape, dtype = case
    part = Part("state", ArraySpec(shape, dtype, layout), f)
    frames = numbers(np.random.default_rng(2), (9, *shape), dtype)
    observations = [part.observation(frames[k : k + f]) for k in range(10 - f)]
    for length in (f, f + 2):
        check_windows(part, observations, length)


def test_the_plain_shape():
    """What a buffer has had so far."""
    (part,) = parts_of((9, H, W), 3)
    assert part == Part("", ArraySpec((3, H, W)), 3)
    observation = numbers(np.random.default_rng(0), (9, H, W), "uint8")
    assert np.array_equal(part.stack(observation), observation.reshape(3, 3, H, W))
    assert part.stack(observation).base is not None and part.stored_shape == (H, W, 3)
    window = torch.zeros(part.window_shape(4, 5), dtype=torch.uint8)
    assert torch.equal(part.first(window), window.reshape(4, 15, H, W)[:, :9])
    assert part.first(window).stride() == window.reshape(4, 15, H, W)[:, :9].stride()


def test_one_channel_is_the_same_first_or_without_an_axis():
    """So that what is (4, 84, 84) may be called either."""
    for channels_first in (False, True):
        two = [parts_of(spec, 4, channels_first)[0] for spec in (ArraySpec((H, W), "u1", "FHW"), ArraySpec((1, H, W)))]
        frames = numbers(np.random.default_rng(0), (3, 6, H, W, 1), "uint8").copy()
        assert two[0].shape == two[1].shape and two[0].stored_shape == two[1].stored_shape
        taken = [part.last(torch.from_numpy(frames.reshape(part.window_shape(3, 6)))) for part in two]
        assert taken[0].shape == (3, 4, H, W) and torch.equal(*taken)


def test_images_come_first():
    specs = {
        "state": ArraySpec((4,), "f4"),
        "wrist": ArraySpec((3, H, W)),
        "speed": ArraySpec((), "f8"),
        "depth": ArraySpec((1, H, W), "u2"),
    }
    parts = parts_of(specs, 2, channels_first=True)
    assert [part.name for part in parts] == ["wrist", "depth", "state", "speed"]
    assert all(part.spec is specs[part.name] and part.frame_stack == 2 and part.channels_first for part in parts)


def test_a_part_pickles_small():
    part = Part("front", ArraySpec((3, 84, 84), "u2", "CHW"), 3, True)
    before = pickle.dumps(part)
    part.stack(np.zeros(part.shape, "u2"))
    assert pickle.dumps(part) == before and len(before) < 250
    assert pickle.loads(before) == part and hash(pickle.loads(before)) == hash(part)


REFUSED = {
    "a number": (12, "observation_shape: | tuple of positive integers | ArraySpec | got 12"),
    "two sides": ((3, 12), "observation_shape: | (frame_stack * C, H, W) | frame_stack 3 | got (3, 12)"),
    "a 0": ((3, 0, 12), "observation_shape: | positive integer | got 0"),
    "half a frame": ((4, 8, 8), "observation_shape: | (frame_stack * C, H, W) | frame_stack 3 | got (4, 8, 8)"),
    "no part": ({}, "observation_shape: | at least one part"),
    "no name": ({"": ArraySpec((3, 8, 8))}, "observation_shape: | names | got one called ''"),
    "a number for a name": ({1: ArraySpec((3, 8, 8))}, "observation_shape: | names | got one called 1"),
    "a shape for a spec": ({"front": (3, 8, 8)}, "observation_shape['front']: | ArraySpec | got (3, 8, 8)"),
    "a stack of HW": (ArraySpec((8, 8), "u1", "HW"), "observation_shape: | 'FHW' with frame_stack 3 | got 'HW'"),
    "a part of HW": ({"eye": ArraySpec((8, 8), "u1", "HW")}, "observation_shape['eye']: | 'FHW' | got 'HW'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    value, needles = REFUSED[case]
    with pytest.raises(InputError) as info:
        parts_of(value, 3)
    says(info, needles)


def test_gymnasium_spaces_have_a_call_of_their_own():
    spaces = pytest.importorskip("gymnasium").spaces
    box = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    for space in (box, spaces.Dict({"front": box})):
        with pytest.raises(InputError, match=r"^observation_shape.* got (.|\n)*ReplayBuffer.from_spaces"):
            parts_of(space, 1)


def test_channels_first_is_a_flag():
    with pytest.raises(InputError, match="channels_first: expected True or False, got 'CHW'"):
        parts_of((3, 8, 8), 1, "CHW")
