"""Episodes of any iterator."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from made_datasets import same_arrays
from says import says

import diffreplay
from diffreplay import ArraySpec
from diffreplay.datasets import Episode, convert, from_episodes
from diffreplay.datasets.formats import FORMATS
from diffreplay.errors import InputError


class Counting(gymnasium.Env):
    """Shows how many steps were taken, as an image and as a number; every other episode is cut off."""

    observation_space = gymnasium.spaces.Dict(
        image=gymnasium.spaces.Box(0, 255, (18, 20, 3), np.uint8), count=gymnasium.spaces.Box(-9, 99, (1,), np.float32)
    )
    action_space = gymnasium.spaces.Discrete(5)

    def __init__(self):
        self.episodes = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episodes = 0, self.episodes + 1
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == 4 + self.episodes
        return self._observe(), float(action), over and self.episodes % 2 == 0, over and self.episodes % 2 == 1, {}

    def _observe(self):
        return {
            "image": np.full((18, 20, 3), 20 * self.episodes + self.steps, np.uint8),
            "count": np.array([self.steps], np.float32),
        }


def played(episodes):
    """As a loop collects them: lists."""
    env = Counting()
    env.action_space.seed(0)
    for _ in range(episodes):
        obs, _ = env.reset()
        steps = {key: [] for key in ("actions", "rewards", "terminated", "truncated")}
        observations, over = [obs], False
        while not over:
            action = env.action_space.sample()
            obs, reward, terminated, truncated, _ = env.step(action)
            for values, value in zip(steps.values(), (action, reward, terminated, truncated), strict=True):
                values.append(value)
            observations.append(obs)
            over = terminated or truncated
        yield {"observations": observations, **steps, "extras": {"twice": [2 * reward for reward in steps["rewards"]]}}


def test_a_loop_over_an_environment(tmp_path):
    done = convert(from_episodes(played(6)), tmp_path / "snapshot", capacity=100)
    assert (done.episodes, done.steps) == (6, 4 + 5 + 6 + 7 + 8 + 9)
    batch = diffreplay.open(tmp_path / "snapshot").sample(400)
    counts, after = batch.obs["count"][:, 0], batch.next_obs["count"][:, 0]
    assert (after == counts + 1).all()
    assert (batch.reward[:, 0] == batch.action).all() and (batch.extras["twice"] == 2 * batch.action).all()
    episode = (batch.next_obs["image"][:, 0, 0, 0] - after) // 20
    ends = (after == 4 + episode) & (episode % 2 == 0)
    assert ends.any() and ((batch.discount[:, 0] == 0) == ends).all()


def test_frames_are_stacked(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 3, 16, 18), np.uint8)
    episode = episode_of(frames, np.arange(8))
    convert(from_episodes([episode], frame_stack=4, steps=8), tmp_path / "snapshot")
    batch = diffreplay.open(tmp_path / "snapshot").sample(50)
    for obs, action in zip(batch.obs.numpy(), batch.action.numpy(), strict=True):
        expected = [frames[max(0, int(action) - back)] for back in (3, 2, 1, 0)]
        same_arrays(obs, np.concatenate(expected))


def episode_of(observations, actions, **others):
    """An episode that was cut off, as a mapping."""
    given = {"observations": observations, "actions": actions, "rewards": np.zeros(len(actions))}
    return given | {"terminated": False, "truncated": True} | others


GOOD = episode_of(np.zeros((4, 16, 16, 3), np.uint8), np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"observations": np.zeros((3, 16, 16, 3), np.uint8)}, "observations | (4, 16, 16, 3) | (3, 16, 16, 3)"),
        ({"observations": np.zeros((4, 16, 16, 3), np.float32)}, "observations | uint8 | float32"),
        ({"actions": np.zeros((3, 1), np.float32)}, "actions | (3, 2) | (3, 1)"),
        ({"actions": np.full((3, 2), np.nan, np.float32)}, "finite actions"),
        ({"actions": np.zeros((0, 2), np.float32)}, "at least one action"),
        ({"rewards": [0, 1]}, "rewards | (3,) | (2,)"),
        ({"rewards": [0, np.inf, 0]}, "finite rewards | step 1"),
        ({"rewards": [0, None, 0]}, "rewards | numbers"),
        ({"terminated": [True, False, False]}, "terminated | last one"),
        ({"terminated": 2}, "terminated | True or False"),
        ({"extras": {"more": [1, 2, 3]}}, "extras | more"),
        ({"observation": 1}, "observations, actions | observation"),
    ],
)
def test_what_is_wrong_is_told_and_what_was_there_stays(tmp_path, wrong, told):
    with pytest.raises(InputError) as refused:
        convert(from_episodes([GOOD, GOOD | wrong]), tmp_path / "snapshot", capacity=50)
    says(refused, "episodes[1]", told)
    done = convert(from_episodes([GOOD, GOOD]), tmp_path / "snapshot", capacity=50)  # mended, it goes on
    assert done.episodes == 2


def test_what_cannot_begin(tmp_path):
    with pytest.raises(InputError) as refused:
        from_episodes([])
    says(refused, "at least one episode")
    with pytest.raises(InputError) as refused:
        convert(from_episodes([GOOD]), tmp_path / "snapshot")
    says(refused, "capacity")
    with pytest.raises(InputError) as refused:
        convert(from_episodes([GOOD] * 30), tmp_path / "snapshot", capacity=50)
    says(refused, "at most 50 steps | capacity=")


def test_an_array_that_could_be_anything_is_what_it_is_said_to_be(tmp_path):
    given = episode_of(np.zeros((4, 3, 40, 3), np.uint8), np.zeros(3))
    source = from_episodes([given], observations=ArraySpec((3, 40, 3), "uint8", "CHW"))
    convert(source, tmp_path / "snapshot", capacity=50)
    assert diffreplay.open(tmp_path / "snapshot").reader.parts[0].spec.layout == "CHW"


def test_formats_are_known_by_name():
    assert {"snapshot", "drqv2", "robomimic", "zarr"} <= set(FORMATS)
    assert Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1)).parts.keys() == {""}
