"""Loops over Gymnasium's vector environments as docs/gymnasium.md has them: every sample is a step that was taken."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from diffreplay import ReplayBuffer

PAGE = (Path(__file__).resolve().parents[1] / "docs/gymnasium.md").read_text()
SHAPE, STEPS, ENVS, NSTEP, GAMMA = (3, 8, 8), 120, 8, 3, 0.5
WARNING = "episode had just ended"


class Frames(gymnasium.Env):
    """Short episodes of frames that are each unique; an observation tells environment, episode and step."""

    observation_space = gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gymnasium.spaces.Discrete(200)

    def __init__(self, number=0, blank=False):
        self.number, self.episode, self.t, self.blank = number, -1, 0, blank

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        self.length, self.dies = int(self.np_random.integers(1, 9)), bool(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action):
        assert self.t < self.length, "a step past the end"
        self.t += 1
        ended = self.t == self.length
        return self._observation(), reward(action), ended and self.dies, ended and not self.dies, {}

    def _observation(self):
        frames = [np.full(SHAPE[1:], max(self.t - back, 0), np.uint8) for back in (2, 1, 0)]
        for frame in frames:
            frame[0, :2] = self.number, self.episode
        return np.zeros(SHAPE, np.uint8) if self.blank and self.t in (0, self.length) else np.stack(frames)


class Robots(Frames):
    """The same with a second part, which tells the steps that the frames show."""

    observation_space = gymnasium.spaces.Dict(
        {"front": Frames.observation_space, "body": gymnasium.spaces.Dict({"t": gymnasium.spaces.Box(-9, 99, (6,))})}
    )

    def _observation(self):
        shown = [max(self.t - back, 0) for back in (2, 1, 0)]
        return {"front": super()._observation(), "body": {"t": np.repeat(shown, 2).astype(np.float32) / 7}}


def reward(action):
    return float(action) - 100


class Recorder(gymnasium.vector.VectorWrapper):
    """Notes what went in and came out, and sorts it into episodes by what the observations themselves tell."""

    def __init__(self, env):
        super().__init__(env)
        self.steps, self._before = {}, None  # (environment, episode, t) to how that observation was reached

    def reset(self, **options):
        self._before, infos = self.env.reset(**options)
        return self._before, infos

    def step(self, action):
        out = obs, _, terminated, truncated, infos = self.env.step(action)
        for k in range(ENVS):
            before, reached = of_one(self._before, k), of_one(obs, k)
            if "final_obs" in infos and infos["_final_obs"][k]:
                reached = flat(infos["final_obs"][k])
            if label(reached)[:2] == label(before)[:2]:  # no reset
                self.steps[label(reached)] = reached, int(action[k]), bool(terminated[k]), bool(truncated[k])
            else:
                self.steps.setdefault(label(reached), (reached, None, False, False))
            self.steps.setdefault(label(before), (before, None, False, False))
        self._before = obs
        return out


def flat(observation):
    """A copy of an observation as a mapping from names of parts to arrays; that of a plain one is ""."""
    if not isinstance(observation, dict):
        return {"": np.array(observation)}
    return {"front": observation["front"].copy(), "body/t": observation["body"]["t"].copy()}


def of_one(observations, k):
    """The observation of one environment, or of one sample."""
    return {name: values[k] for name, values in flat(observations).items()}


def label(observation):
    """(environment, episode, t) of what `flat` gave."""
    frame = observation.get("", observation.get("front"))[-1]
    return int(frame[0, 0]), int(frame[0, 1]), int(frame[1, 1])


def same_episode(batch):
    """Whether obs and next_obs are of one episode, for each transition without a blank screen."""
    pairs = [pair for pair in zip(batch.obs.numpy(), batch.next_obs.numpy(), strict=True) if all(x.any() for x in pair)]
    return [label(flat(obs))[:2] == label(flat(next_obs))[:2] for obs, next_obs in pairs]


def samples(observations, k):
    """One observation of a batch, as of `flat`."""
    return {
        name: values[k].numpy()
        for name, values in (observations if isinstance(observations, dict) else {"": observations}).items()
    }


def same_observation(one, other):
    """Whether all parts are the same, in dtype and shape as well."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def loop(mode):
    """The code under that mode's name on the page."""
    text = PAGE.split(f"With `AutoresetMode.{mode}`")[1]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def run(code, mode, make=SyncVectorEnv, nstep=NSTEP, kind=Frames, **options):
    """Run a loop from the page; return the buffer, the record of episodes and the warnings."""
    made = [lambda k=k: kind(k, **options) for k in range(ENVS)]
    env = Recorder(make(made, autoreset_mode=AutoresetMode[mode]))
    spaces = env.single_observation_space, env.single_action_space
    replay = ReplayBuffer.from_spaces(10_000, *spaces, frame_stack=3, nstep=nstep, discount=GAMMA)
    rng = np.random.default_rng(1)
    env.action_space.seed(0)
    names = {"np": np, "AutoresetMode": AutoresetMode, "start": lambda mode: (env, replay), "steps": STEPS}
    names["act"] = lambda obs: rng.integers(0, 200, ENVS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, names)
    env.close()
    ours = [warning for warning in caught if issubclass(warning.category, RuntimeWarning | UserWarning)]
    return replay, env.steps, [str(warning.message) for warning in ours if "gymnasium" not in warning.filename]


def right_windows(steps):
    """Every window of NSTEP steps within an episode of the record, by the label of its first observation."""
    windows = {}
    for environment, episode, t in steps:
        within = [steps.get((environment, episode, t + i)) for i in range(NSTEP + 1)]
        if all(step is not None for step in within):
            rewards = sum(GAMMA**i * reward(step[1]) for i, step in enumerate(within[1:]))
            discount = 0.0 if any(step[2] for step in within[1:]) else GAMMA**NSTEP
            windows[environment, episode, t] = within[0][0], within[1][1], rewards, discount, within[-1][0]
    return windows


@pytest.mark.parametrize(("make", "kind"), [(SyncVectorEnv, Frames), (SyncVectorEnv, Robots), (AsyncVectorEnv, Robots)])
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_the_loop_of_each_mode_stores_every_step_as_it_was(mode, make, kind):
    replay, steps, warned = run(loop(mode), mode, make, kind=kind)
    assert not warned
    expected = right_windows(steps)
    assert len(replay) == sum(step[1] is not None for step in steps.values())
    drawn, batch = set(), replay.sample(6000)
    for k in range(6000):
        obs, next_obs = samples(batch.obs, k), samples(batch.next_obs, k)
        right = expected[label(obs)]
        drawn.add(label(obs))
        assert all(same_observation(*pair) for pair in ((obs, right[0]), (next_obs, right[4]))), label(obs)
        assert (batch.action[k].item(), batch.reward[k].item(), batch.discount[k].item()) == right[1:4], label(obs)
    assert drawn == set(expected), "every window is drawn, and no other"
    assert sum(window[3] == 0 for window in expected.values()) > 5, "episodes that end for good"
    replay.check_invariants()


def test_the_loop_of_another_mode_is_noticed():
    """Resets that are stored as transitions, and terminal observations that are not."""
    for code, mode in (
        (loop("DISABLED").split("    if ended.any")[0], "NEXT_STEP"),
        (loop("SAME_STEP"), "NEXT_STEP"),
        (loop("NEXT_STEP").replace(", skip=ended", ""), "SAME_STEP"),
    ):
        replay, _, warned = run(code, mode)
        assert [WARNING in message for message in warned] == [True], "once a buffer"
        assert "NEXT_STEP" in warned[0] and "final_obs" in warned[0]
        assert not all(same_episode(replay.sample(500))), "the loop is a wrong one"


def test_the_warning_points_at_the_caller_and_can_be_made_an_error():
    replay = ReplayBuffer(10, SHAPE, (), action_dtype="uint8")
    obs, last, first = (np.full(SHAPE, value, np.uint8) for value in range(3))
    replay.add_transition(obs, 0, 0.0, last, True, False, stream=5)
    replay.add_transition(last, 0, 0.0, first, False, False, stream=6)  # another environment's
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning, match=WARNING):
        warnings.simplefilter("error")
        replay.add_transition(last, 0, 0.0, first, False, False, stream=5)
    assert len(replay) == 2 and replay.stats().frames == 8, "nothing of it was stored"
    other = ReplayBuffer(10, SHAPE, (), action_dtype="uint8")
    other.add_transition(obs, 0, 0.0, last, False, True)
    with pytest.warns(RuntimeWarning, match=WARNING) as record:
        other.add_transition(last, 0, 0.0, first, False, False)
    assert record[0].filename == __file__


def test_episodes_that_end_and_begin_alike_are_stored_right():
    """A blank screen at either end: one warning, and nothing refused."""
    replay, _, warned = run(loop("NEXT_STEP"), "NEXT_STEP", blank=True, nstep=1)
    assert [WARNING in message for message in warned] == [True]
    assert all(same_episode(replay.sample(2000)))
    replay.check_invariants()
