"""What adds to a buffer: a step of an episode, a transition, or a vector environment's step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import ArrayLike, NDArray

from diffreplay import checks
from diffreplay.adding import vector
from diffreplay.errors import InputError
from diffreplay.store import EpisodeWriter, FrameStore, Transition

Observation = NDArray[Any] | Mapping[str, Any]


class Adding:
    """The half of `ReplayBuffer` that adds."""

    capacity: int
    store: FrameStore
    _check: checks.StepCheck
    _episodes: EpisodeWriter

    def add(
        self, time_step: checks.TimeStep, stream: int | str = 0, extras: Mapping[str, ArrayLike] | None = None
    ) -> None:
        """Append a step of an episode.

        Args:
            time_step: dm_env style; its observation is copied.
            stream: which of several episodes that run side by side it continues.
            extras: further values, where the buffer was made with such; those of a first step are ignored.

        Raises:
            InputError: a field has the wrong type, shape or range, or a step follows a last one without a
                first one between. The buffer is as it was.
        """
        step, name = self._check.time_step(time_step, extras), checks.stream_name(stream)
        self.store.change(self._episodes.add_step, name, name, *step)

    def add_transition(
        self,
        obs: Observation,
        action: ArrayLike,
        reward: float,
        next_obs: Observation,
        terminated: bool,
        truncated: bool,
        stream: int | str = 0,
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Append a Gymnasium style transition.

        Where `obs` is the `next_obs` of the stream's transition before, it is stored already. Else it begins an
        episode. A RuntimeWarning tells once of what looks like a mistake: the reset of a vector environment, or a
        forgotten `stream`.

        Args:
            obs: (frame_stack * C, H, W) uint8, or as `observation_shape` says; copied.
            action: what was done in `obs`.
            reward: what that gave.
            next_obs: like `obs`; at an episode's end the terminal observation, not the next episode's first.
            terminated: the episode ended for good: discount 0.
            truncated: it was cut off: it ends here, and the discount stays 1.
            stream: which of several environments it comes from.
            extras: further values, where the buffer was made with such.

        Raises:
            InputError: a field has the wrong type, shape or range. The buffer is as it was.
        """
        before, after = self._check.observation("obs", obs), self._check.observation("next_obs", next_obs)
        terminated, truncated = checks.flag("terminated", terminated), checks.flag("truncated", truncated)
        values = self._check.values(action, reward, 0.0 if terminated else 1.0, extras)
        name = checks.stream_name(stream)
        transition = Transition(name, before, after, values, terminated or truncated)
        self.store.change(self._episodes.add_transitions, None, (transition,))

    def add_batch(
        self,
        obs: Observation,
        action: ArrayLike,
        reward: ArrayLike,
        next_obs: Observation,
        terminated: ArrayLike,
        truncated: ArrayLike,
        streams: Iterable[int | str] | None = None,
        extras: Mapping[str, ArrayLike] | None = None,
        *,
        infos: Mapping[str, Any] | None = None,
        skip: ArrayLike | None = None,
    ) -> None:
        """Append the step of a vector environment: a transition of each of N environments, all of them or none.

        The buffer is the same as after N calls of `add_transition` in that order, bit for bit, but is told of all of
        them at once. Frames are coded on as many cores as the process may use, where the codec can (`delta` does); each
        further core takes 0.2 MB and a frame for that moment, which `max_bytes` does not count.

        Args:
            obs: as of `add_transition` with a leading axis, (N, ...); of a mapping, each part.
            action: (N, *action_shape).
            reward: (N,).
            next_obs: like `obs`.
            terminated: (N,) bool.
            truncated: (N,) bool.
            streams: names of the N environments, each once; 0 to N - 1 by default.
            extras: (N, ...) each.
            infos: what the step of a Gymnasium environment gave last. Where that resets itself in the same step
                (SAME_STEP), the last observations of episodes are taken from `infos["final_obs"]`; else nothing is.
            skip: (N,) bool, those whose step is no transition, as it was a reset (NEXT_STEP): those whose episode
                ended in the step before.

        Raises:
            InputError: an argument has the wrong type, shape or range, they are of different numbers of environments, a
                stream is there twice, or the buffer does not hold as many. The buffer is as it was.
        """
        found = vector.transitions(
            self._check, obs, action, reward, next_obs, terminated, truncated, streams, extras, infos, skip
        )
        if len(found) > self.capacity:
            raise InputError(
                f"add_batch: expected at most {self.capacity} transitions, which the buffer holds, got {len(found)}"
            )
        self.store.check_batch([each.stream for each in found])
        if found:
            self.store.change(self._episodes.add_transitions, None, found)
