"""Random frames and episodes, which are added to the real buffer and to the naive oracle."""

from __future__ import annotations

import numpy as np
from forms import random_array
from oracle import Oracle

KINDS = ("moving", "constant", "noise")
EPISODES = [
    {"length": 20, "kind": "moving", "start": "first frame", "restarts": 0.0, "style": "dm_env", "end": "terminated"},
    {"length": 9, "kind": "noise", "start": "arbitrary", "restarts": 0.2, "style": "dm_env", "end": "truncated"},
    {"length": 12, "kind": "moving", "start": "zeros", "restarts": 0.2, "style": "gymnasium", "end": "terminated"},
    {"length": 25, "kind": "constant", "start": "first frame", "restarts": 0.0, "style": "gymnasium", "end": "cut off"},
    {"length": 14, "kind": "moving", "start": "first frame", "restarts": 0.0, "style": "dm_env", "end": "cut off"},
]
PLAN = [episode | {"stream": k % 2, "others": 0.4} for k, episode in enumerate(EPISODES)]


class Frames:
    """Draws steps of a kind, one array of each part; floats are of any bits where the kind is noise."""

    def __init__(self, specs, seed) -> None:
        self.specs, self.rng = list(specs), np.random.default_rng(seed)
        self.backgrounds = [random_array(spec, self.rng) for spec in self.specs]

    def draw(self, kind):
        return [
            self._draw(spec, background, kind) for spec, background in zip(self.specs, self.backgrounds, strict=True)
        ]

    def _draw(self, spec, background, kind):
        if kind == "noise":
            return random_array(spec, self.rng)
        if kind == "constant":
            return np.full(spec.shape, self.rng.integers(3), spec.dtype)  # 0 looks like padding
        frame = background.copy()
        if not spec.is_image:
            return frame if self.rng.random() < 0.3 else random_array(spec, self.rng)
        y, x = self.rng.integers(0, 8, 2)
        value = self.rng.integers(np.iinfo(spec.dtype).max + 1)
        if spec.layout.endswith("CHW"):
            frame[:, y : y + 5, x : x + 5] = value
        else:
            frame[y : y + 5, x : x + 5] = value
        return frame


class Driver:
    """Turns episodes into calls of the oracle."""

    def __init__(self, replay, seed) -> None:
        self.oracle = Oracle(replay)
        self.form, self.frame_stack = self.oracle.form, self.oracle.frame_stack
        self.frames = Frames(self.form.specs.values(), seed)
        self.rng = self.frames.rng

    def start(self, episode):
        newest = self.frames.draw(episode["kind"])
        if episode["start"] == "arbitrary":
            return self.form.join([self.frames.draw(episode["kind"]) for _ in range(self.frame_stack)])
        older = newest if episode["start"] == "first frame" else self.form.blank()
        return self.form.join([older] * (self.frame_stack - 1) + [newest])

    def follow(self, stack, episode):
        if self.rng.random() < episode["restarts"]:
            return self.start(episode | {"start": "arbitrary"})
        return self.shifted(stack, self.frames.draw(episode["kind"]))

    def shifted(self, stack, newest):
        return self.form.join([*self.form.split(stack)[1:], newest])

    def run(self, episode):
        """Add an episode and, here and there, steps of stream 3 and 4 in between."""
        add = self.run_transition if episode["style"] == "gymnasium" else self.run_step
        stack = None
        for t in range(episode["length"] + 1):
            end = episode["end"] if t == episode["length"] else None
            stack = add(stack, episode, end, episode["stream"])
            if self.rng.random() < episode["others"]:
                self.run_other(episode)

    def run_step(self, stack, episode, end, stream):
        first = stack is None
        stack = self.start(episode) if first else self.follow(stack, episode)
        discount = 0.0 if end == "terminated" else float(np.float32(self.rng.random()))
        last = end in ("terminated", "truncated")
        self.oracle.add(stack, self.reward(), discount, first=first, last=last, stream=stream)
        return stack

    def run_transition(self, stack, episode, end, stream):
        obs = self.start(episode) if stack is None else stack
        next_obs = self.follow(obs, episode)
        ends = {"terminated": end == "terminated", "truncated": end == "truncated"}
        self.oracle.add_transition(obs, self.reward(), next_obs, **ends, stream=stream)
        return next_obs

    def run_other(self, episode):
        stream = int(self.rng.integers(3, 5))
        known = self.oracle.newest.get(stream) if stream in self.oracle.open else None
        end = "truncated" if self.rng.random() < 0.1 and known else None
        self.run_step(None if known is None else known.stack, episode, end, stream)

    def reward(self):
        return float(np.float32(self.rng.normal()))
