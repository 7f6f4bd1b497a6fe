"""A training run: DrQ-v2's loop over environment, replay, agent and logs, all within one run folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from drqv2 import environment
from drqv2.actors import Actors, Episode
from drqv2.agent import DrQV2Agent
from drqv2.config import Config
from drqv2.device import resolve_device
from drqv2.environment import random_state, set_random_state
from drqv2.evaluation import evaluate
from drqv2.logger import Logger
from drqv2.observations import as_lists, shape_of
from drqv2.policy import make_policy
from drqv2.replay import OwnReplay, check_replay_mode, make_replay
from drqv2.shared_replay import SharedReplay
from drqv2.throughput import Throughput
from drqv2.video import VideoRecorder
from runs.errors import OptionError
from runs.sizes import Sizes
from runs.snapshot import check_same_run, load_snapshot, save_snapshot, unreadable

SNAPSHOT_VERSION = 2
# Options of a run whose snapshot names none, as it was made before there were any.
BEFORE_CAMERAS = {"cameras": None, "proprioception": False}


class Workspace:
    """Trains one agent on one task; a context manager, which closes everything at the end.

    A frame is a simulator step; an agent step is `action_repeat` frames, and counters of steps count those.

    Args:
        config: all options.
        directory: the run folder; everything is written there. A `snapshot.pt` in it is gone on from.

    Raises:
        OptionError: an option cannot work, or the snapshot does not fit the options.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self.device = resolve_device(config.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.step = 0
        self.episode = 0
        self._environment = environment.maker(config)
        self.train_env, self.eval_env = self._environment(config.seed), self._environment(config.seed)
        observation_shape = shape_of(self.train_env.observation_spec())
        action_shape = tuple(self.train_env.action_spec().shape)
        self.agent = DrQV2Agent(observation_shape, action_shape, config.agent, self.device, config.seed)
        self._policy = partial(make_policy, observation_shape, action_shape, config.agent)
        self.throughput = Throughput()
        self._signature = config.of_what_is_stored() | {
            "observation_shape": as_lists(observation_shape),
            "action_shape": list(action_shape),
        }
        self._sizes = Sizes(config.replay_buffer_size, config.replay_buffer_max_bytes)
        self._evaluated: int | None = None  # the step of the last evaluation
        saved = self._resume()
        resumed = saved is not None
        self.replay = make_replay(
            config, observation_shape, action_shape, directory / "buffer", self.device.type == "cuda", saved
        )
        resume_frame = self.frame if resumed else None
        self.logger = Logger(directory, config.num_train_frames, config.use_tb, resume_frame, self._is_evaluation_due())
        self._batches: Iterator[Iterable[torch.Tensor]] | None = None
        # A resumed run whose replay starts empty fills it first, lest it overfits to its first steps.
        self._seed_steps = config.num_seed_frames // config.action_repeat
        self._first_update = self._seed_steps + (self.step if len(self.replay) == 0 else 0)
        self._last_snapshot_frame = self.frame
        self._train_video = VideoRecorder(directory / "train_video")
        self.logger.message(f"run folder: {directory} | device: {self.device} | images: {config.images}")
        if resumed:
            self.logger.message(f"going on from {directory / 'snapshot.pt'} at frame {self.frame}")

    @property
    def frame(self) -> int:
        """Simulator steps of training so far."""
        return self.step * self.config.action_repeat

    def train(self) -> None:
        """Run until `num_train_frames`; evaluations and snapshots as configured, also at the very end.

        Raises:
            OptionError: an actor does not come back.
            ReplayError: nor does the shard that actors share.
        """
        last_step = self.config.num_train_frames // self.config.action_repeat
        if self.step >= last_step:
            self.logger.message(
                f"nothing to train: at frame {self.frame} of num_train_frames={self.config.num_train_frames}"
            )
        elif isinstance(self.replay, SharedReplay):
            self._train_with_actors(self.replay, last_step)
        else:
            self._train_alone(self.replay, last_step)
        if self._is_evaluation_due():
            self.evaluate()
        if self.config.save_snapshot and self._last_snapshot_frame < self.frame:
            self.save_snapshot()
        self.logger.message(self._sizes.end(self.replay.stats(), self.config.plain_stacks))

    def _train_alone(self, replay: OwnReplay, last_step: int) -> None:
        time_step = self._begin_episode(replay)
        while self.step < last_step:
            if self._is_evaluation_due():
                self.evaluate()
            action = self.agent.act(time_step.observation, self.step, evaluate=False)
            if self._is_update_due():
                self._update()
            time_step = self.train_env.step(action)
            replay.add(time_step)
            self._see(time_step)
            self._count_step()
            if time_step.last():
                self._train_video.save(f"{self.frame}.mp4")
                self._end_episode(self._episode)
                self._save_snapshot_if_due()
                if self.step < last_step:
                    time_step = self._begin_episode(replay)

    def _train_with_actors(self, replay: SharedReplay, last_step: int) -> None:
        """Collect in actors. As many updates are made as alone, at the same steps; see `drqv2.actors`."""
        every = self.config.eval_every_frames // self.config.action_repeat
        made = Actors(self.config.actors, self._environment, self._policy, replay.service, self.config.seed)
        with closing(made) as actors:
            while self.step < last_step:
                if self._is_evaluation_due():
                    self.evaluate()
                # All that was collected is learnt from before an evaluation, which comes at its very step.
                stop = min(last_step, (self.step // every + 1) * every) if every else last_step
                with self.throughput.wait():
                    collected = actors.next(self.agent.policy, self.step, stop)
                self._tell(collected.messages, replay.news())
                for _ in range(collected.steps):
                    if self._is_update_due():
                        self._update()
                    self._count_step()
                for episode in collected.episodes:
                    self._end_episode(episode)
                self._save_snapshot_if_due()

    def _tell(self, messages: list[str], news: list[str]) -> None:
        for message in [*messages, *news]:
            self.logger.message(message)
        if news:
            self._batches = None  # of a shard that is gone
            if len(self.replay) < self._seed_steps:
                self._first_update = self.step + self._seed_steps

    def _begin_episode(self, replay: OwnReplay) -> Any:
        time_step, self._episode = self.train_env.reset(), Episode(0.0, 0)
        replay.add(time_step)
        self._train_video.init(self.train_env, enabled=self.config.save_train_video)
        return time_step

    def _count_step(self) -> None:
        self.step += 1
        self.throughput.count(frames=self.config.action_repeat)
        self.logger.progress(self.config.action_repeat)

    def _see(self, time_step: Any) -> None:
        self._train_video.record(self.train_env)
        self._episode = Episode(self._episode.reward + float(time_step.reward), self._episode.steps + 1)

    def _end_episode(self, episode: Episode) -> None:
        self.episode += 1
        replay = self.replay.stats()
        self.logger.train(
            {
                "frame": self.frame,
                "step": self.step,
                "episode": self.episode,
                "episode_length": episode.steps * self.config.action_repeat,
                "episode_reward": episode.reward,
                "buffer_size": replay.transitions,
                "replay_bytes": replay.total_bytes,
                "compression_ratio": replay.compression_ratio,
                **self.throughput.report(),
            }
        )
        self.logger.message(self._sizes.line(replay))

    def _is_update_due(self) -> bool:
        return self.step >= self._first_update and self.agent.is_update_due(self.step) and self.replay.ready

    def _update(self) -> None:
        with self.throughput.wait():
            if self._batches is None:
                self._batches = self.replay.batches(self.device)
            batch = next(self._batches)
        self.logger.update(self.agent.update(batch, self.step))
        self.throughput.count(samples=self.config.batch_size)

    def _is_evaluation_due(self) -> bool:
        every = self.config.eval_every_frames // self.config.action_repeat
        if self.step == 0 and not self.config.evaluate_at_start:
            return False
        return every > 0 and self.step % every == 0 and self._evaluated != self.step

    def evaluate(self) -> float:
        """Return the mean reward of `num_eval_episodes` episodes without noise; the first one is filmed."""
        self._evaluated = self.step
        video = VideoRecorder(self.directory / "eval_video") if self.config.save_video else None
        episodes = self.config.num_eval_episodes
        with self.throughput.pause(), self.logger.evaluating(episodes) as begins:
            result = evaluate(self.eval_env, self.agent, self.step, episodes, video, f"{self.frame}.mp4", begins)
        self.logger.eval(
            {
                "frame": self.frame,
                "step": self.step,
                "episode": self.episode,
                "episode_length": result.steps * self.config.action_repeat,
                "episode_reward": result.reward,
                "total_time": self.throughput.total_time,
            }
        )
        return result.reward

    def _save_snapshot_if_due(self) -> None:
        due = self.frame - self._last_snapshot_frame >= self.config.snapshot_every_frames
        if self.config.save_snapshot and due:
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Keep agent, counters, random states and replay; meant for an episode's end.

        The replay comes first: its snapshot keeps the commit before, too, so that `snapshot.pt`, which is replaced
        in one step, always names one that is there. With actors it names none: the newest one is gone on with, which
        may hold steps that are not counted yet.
        """
        replay = self.replay.save()
        save_snapshot(
            self.directory / "snapshot.pt",
            {
                "version": SNAPSHOT_VERSION,
                "run": self._signature,
                "agent": self.agent.state_dict(),
                "step": self.step,
                "episode": self.episode,
                "evaluated": self._evaluated,
                "total_time": self.throughput.total_time,
                "environments": [random_state(env) for env in (self.train_env, self.eval_env)],
                "replay": replay,
            },
        )
        self._last_snapshot_frame = self.frame

    def _resume(self) -> dict[str, Any] | None:
        """Take up the run in `directory`, if there is one; return what its replay saved."""
        path = self.directory / "snapshot.pt"
        if not os.path.lexists(path):
            return None
        state = load_snapshot(path)
        if state.get("version") != SNAPSHOT_VERSION:
            raise unreadable(path, f"expected version {SNAPSHOT_VERSION}, got {state.get('version')!s:.20}")
        try:
            check_same_run(path, BEFORE_CAMERAS | state["run"], self._signature)
            check_replay_mode(path, state["replay"], self.config)
            self._take_up(state)
        except OptionError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise unreadable(path, f"it makes no sense: {error!s:.200}") from error
        replay: dict[str, Any] = state["replay"]
        return replay

    def _take_up(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.step, self.episode, self._evaluated = state["step"], state["episode"], state.get("evaluated")
        self.throughput = Throughput(state["total_time"])
        for env, saved in zip((self.train_env, self.eval_env), state["environments"], strict=True):
            set_random_state(env, saved)

    def close(self) -> None:
        """Stop the loader and close logs and environments."""
        self._batches = None
        self.replay.close()
        self.logger.close()
        self.train_env.close()
        self.eval_env.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
