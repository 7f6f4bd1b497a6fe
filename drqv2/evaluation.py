"""Evaluation: whole episodes without exploration noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from drqv2.agent import DrQV2Agent
from drqv2.video import VideoRecorder


class Evaluation(NamedTuple):
    """Means over episodes."""

    reward: float  # undiscounted sum over an episode
    steps: float  # agent steps of an episode


def evaluate(
    env: Any,
    agent: DrQV2Agent,
    step: int,
    episodes: int,
    video: VideoRecorder | None = None,
    video_name: str = "",
    begins: Callable[[int], None] = lambda episode: None,
) -> Evaluation:
    """Run episodes without noise.

    Args:
        env: where.
        agent: who acts.
        step: its agent step.
        episodes: how many.
        video: films the first, if there is one.
        video_name: of that film.
        begins: is told the number of each episode as it begins, from 0.
    """
    reward, steps = 0.0, 0
    for episode in range(episodes):
        begins(episode)
        filming = video if episode == 0 else None
        time_step = env.reset()
        if filming:
            filming.init(env)
        while not time_step.last():
            time_step = env.step(agent.act(time_step.observation, step, evaluate=True))
            reward += float(time_step.reward)
            steps += 1
            if filming:
                filming.record(env)
        if filming:
            filming.save(video_name)
    return Evaluation(reward / episodes, steps / episodes)
