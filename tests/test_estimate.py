"""Predicted against real sizes, on frames of a real Atari game and on noise."""

from __future__ import annotations

import numpy as np
import pytest
from says import says

import diffreplay
import diffreplay.testing

gymnasium = pytest.importorskip("gymnasium")
ale_py = pytest.importorskip("ale_py")


def pong(steps: int) -> list[np.ndarray]:
    """Gray 80x80 frames of episodes of Pong under random play, (T, 80, 80) each."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Pong-v5", obs_type="grayscale", frameskip=4)
    env.action_space.seed(0)
    episodes, frames = [], [env.reset(seed=0)[0]]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        frames.append(observation)
        if terminated or truncated:
            episodes.append(frames)
            frames = [env.reset()[0]]
    return [np.stack(part)[:, 34:194:2, ::2] for part in [*episodes, frames]]


def fill(episodes: list[np.ndarray], codec: str) -> diffreplay.ReplayStats:
    replay = diffreplay.ReplayBuffer(sum(map(len, episodes)), (4, 80, 80), (1,), frame_stack=4, codec=codec)
    for frames in episodes:
        for t in range(1, len(frames)):
            stacks = [frames[np.maximum(np.arange(k - 3, k + 1), 0)] for k in (t - 1, t)]
            replay.add_transition(stacks[0], [0.0], 0.0, stacks[1], False, t == len(frames) - 1)
    return replay.stats()


@pytest.mark.parametrize("codec", ["raw", "sparse", "zstd", "delta"])
def test_the_size_of_a_full_buffer_is_predicted_within_15_percent(codec: str) -> None:
    episodes = pong(3000)
    found = fill(episodes, codec)
    frames = np.concatenate(episodes)
    sample = frames[:: len(frames) // 300] if codec in ("zstd", "delta") else frames[100:400]
    predicted = diffreplay.estimate(
        sample, found.transitions, frame_stack=4, codec=codec, episode_length=len(frames) // len(episodes)
    )
    assert predicted.total_bytes == pytest.approx(found.total_bytes, rel=0.15)
    assert predicted.frames == pytest.approx(found.frames, rel=0.01)
    assert predicted.stacked_bytes == found.stacked_bytes


def test_noise_is_predicted_to_be_raw() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 20, 20), np.uint8)
    predicted = diffreplay.estimate(frames, 10_000)
    assert predicted.payload_bytes == predicted.frames * frames[0].nbytes


@pytest.mark.parametrize("frames", [np.zeros((5, 8, 8), np.uint8), np.zeros((50, 8, 8)), np.zeros((50, 8), np.uint8)])
def test_frames_that_make_no_sense_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(diffreplay.errors.InputError, match="uint8 frames"):
        diffreplay.estimate(frames, 1000)


FRAMES = np.random.default_rng(0).integers(0, 256, (60, 20, 20), np.uint8)


@pytest.mark.parametrize("episode_length", [0, -5, 1, 2.5, None, "1000", True])
def test_an_episode_that_holds_no_transition_is_refused(episode_length: object) -> None:
    with pytest.raises(diffreplay.errors.InputError) as info:
        diffreplay.estimate(FRAMES, 1000, episode_length=episode_length)
    says(info, "episode_length: | from 2 on", f"got {episode_length!r}")


@pytest.mark.parametrize(
    ("name", "value"), [("capacity", "many"), ("capacity", 0), ("frame_stack", None), ("frame_stack", 0)]
)
def test_arguments_of_the_buffer_are_refused_as_there(name: str, value: object) -> None:
    with pytest.raises(diffreplay.errors.InputError) as info:
        diffreplay.estimate(FRAMES, **{"capacity": 1000, name: value})
    says(info, f"{name}: | positive integer", f"got {value!r}")


def test_short_episodes_take_more_frames() -> None:
    assert diffreplay.estimate(FRAMES, np.int64(1000), episode_length=np.int32(2)).frames == 2000
    assert diffreplay.estimate(FRAMES, 1000, episode_length=11).frames == 1100


@pytest.mark.parametrize("codec", ["raw", "sparse", "delta"])
def test_the_size_of_a_full_buffer_of_several_parts_is_predicted_within_15_percent(codec: str) -> None:
    rng = np.random.default_rng(0)
    count, specs = 3000, {"depth": diffreplay.ArraySpec((40, 40), "uint16", "FHW")}
    parts = {"front": np.repeat(rng.integers(0, 256, (1, 3, 36, 36), np.uint8), count, axis=0)}
    parts["depth"] = np.repeat(rng.integers(0, 4000, (1, 40, 40)).astype("u2"), count, axis=0)
    parts["state"] = rng.normal(size=(count, 5))
    for t in range(count):
        y, x = rng.integers(0, 25, 2)
        parts["front"][t, :, y : y + 9, x : x + 9] = t % 200
        parts["depth"][t, x : x + 9, y : y + 9] = t
    shapes = {"front": diffreplay.ArraySpec((3, 36, 36)), "state": diffreplay.ArraySpec((5,), "float64")} | specs
    extras = {"log_prob": diffreplay.ArraySpec((2,), "float32")}
    options = {"frame_stack": 2, "codec": codec, "extras": extras}
    replay = diffreplay.ReplayBuffer(count - 10, shapes, (1,), **options)
    values = {name: np.zeros(2, "f4") for name in extras}
    for t in range(count):
        shown = {name: array[[max(t - 1, t // 300 * 300), t]] for name, array in parts.items()}
        shown = {name: array if name == "depth" else np.concatenate(array) for name, array in shown.items()}
        step = diffreplay.testing.TimeStep(shown, [0.0], is_first=t % 300 == 0, is_last=t % 300 == 299)
        replay.add(step, extras=values)
    found = replay.stats()
    sample = {name: array[::4] if codec == "delta" else array[100:400] for name, array in parts.items()}
    predicted = diffreplay.estimate(sample, count - 10, episode_length=300, specs=specs, **options)
    assert predicted.total_bytes == pytest.approx(found.total_bytes, rel=0.15)
    assert (predicted.frames, predicted.stacked_bytes) == (found.frames, found.stacked_bytes)
    for name in ("column_bytes", "scalar_bytes", "index_bytes"):
        assert getattr(predicted, name) == getattr(found, name)


def test_observations_without_images_are_predicted() -> None:
    predicted = diffreplay.estimate({"state": np.zeros((30, 4), "f8")}, 1000, episode_length=11)
    assert (predicted.payload_bytes, predicted.column_bytes) == (0, 1100 * 32)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ({}, {}, "observation_shape: | at least one part"),
        ({"a": np.zeros((30, 4)), "b": np.zeros((29, 4))}, {}, "frames: | as many steps | 'b': 29"),
        ({"a": np.zeros((5, 4))}, {}, "frames['a']: | at least 20 steps | (5, 4)"),
        ({"a": np.zeros((30, 4), "c8")}, {}, "frames['a']: | dtype | complex64"),
        ({"a": np.zeros((30, 4))}, {"specs": {"b": None}}, "specs: | ['a']"),
        ({"a": np.zeros((30, 4))}, {"specs": {"a": (4,)}}, "specs: | ArraySpec | frames['a']"),
        (
            {"a": np.zeros((30, 4))},
            {"specs": {"a": diffreplay.ArraySpec((4,), "f4")}},
            "frames['a']: | float32 | float64",
        ),
    ],
)
def test_parts_that_make_no_sense_are_refused(frames: object, options: dict, message: str) -> None:
    with pytest.raises(diffreplay.errors.InputError) as info:
        diffreplay.estimate(frames, 1000, **options)
    says(info, *message.split(" | "))
