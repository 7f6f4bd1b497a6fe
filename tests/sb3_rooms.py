"""A tiny world of images for Stable-Baselines3's algorithms: a square that walks through a room to a place."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SIDE, SQUARE = 36, 6


class Room(gymnasium.Env[Any, Any]):
    """Stacks of `stack` pictures of a walking square; an episode ends at the goal, or is cut off after 12 steps.

    Args:
        kind: "image", "dict" (image and place) or "goals" (for HER: image, and goals that are places).
        stack: gray pictures in an observation, the newest last.
        reuse: whether every observation is the same array, written anew.
    """

    def __init__(self, kind: str = "image", stack: int = 4, reuse: bool = False) -> None:
        self.kind, self.stack, self.reuse = kind, stack, reuse
        self.action_space = spaces.Discrete(4)
        image = spaces.Box(0, 255, (stack, SIDE, SIDE), np.uint8)
        place = spaces.Box(0, 1, (2,), np.float32)
        self.observation_space = {
            "image": image,
            "dict": spaces.Dict({"image": image, "place": place}),
            "goals": spaces.Dict({"observation": image, "achieved_goal": place, "desired_goal": place}),
        }[kind]
        self.pictures = np.zeros((stack, SIDE, SIDE), np.uint8)
        self.place, self.goal = np.zeros(2, int), np.zeros(2, int)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.integers(0, SIDE // SQUARE, (2, 2))
        self.steps = 0
        self.pictures[:] = self._picture()
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        move = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)][int(action)])
        self.place = np.clip(self.place + move, 0, SIDE // SQUARE - 1)
        self.pictures[:-1] = self.pictures[1:].copy()
        self.pictures[-1] = self._picture()
        reward = float(self.compute_reward(self._scaled(self.place), self._scaled(self.goal), {}))
        return self._observation(), reward, reward == 0, self.steps == 12, {}

    def compute_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> NDArray[Any]:
        """-1 until the goal is reached, as HER asks for it."""
        return -(np.abs(achieved_goal - desired_goal).max(axis=-1) > 1e-6).astype(np.float32)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which steps no wall is in the way of, as MaskablePPO asks for it."""
        y, x = self.place
        last = SIDE // SQUARE - 1
        return np.array([x < last, y < last, x > 0, y > 0])

    def _picture(self) -> NDArray[np.uint8]:
        picture = np.full((SIDE, SIDE), 40, np.uint8)
        for (y, x), shade in ((self.goal * SQUARE, 120), (self.place * SQUARE, 250)):
            picture[y : y + SQUARE, x : x + SQUARE] = shade
        picture[0, self.steps] = 255  # no two pictures of an episode are the same
        return picture

    def _observation(self) -> Any:
        image = self.pictures if self.reuse else self.pictures.copy()
        place, goal = self._scaled(self.place), self._scaled(self.goal)
        return {
            "image": image,
            "dict": {"image": image, "place": place},
            "goals": {"observation": image, "achieved_goal": place, "desired_goal": goal},
        }[self.kind]

    @staticmethod
    def _scaled(place: NDArray[Any]) -> NDArray[np.float32]:
        return (place * SQUARE / SIDE).astype(np.float32)
