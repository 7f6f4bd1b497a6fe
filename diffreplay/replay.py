"""ReplayBuffer: steps in, n-step transitions out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from diffreplay import codecs, snapshot
from diffreplay.batch import ReplayBatch
from diffreplay.errors import InputError
from diffreplay.files import Lock
from diffreplay.frames import FrameStore, same
from diffreplay.invariants import check_invariants
from diffreplay.layout import Column, Counter
from diffreplay.sampling import Sampler
from diffreplay.verify import verify

FLOAT32_MAX = float(np.finfo(np.float32).max)


class TimeStep(Protocol):
    """A dm_env style step that carries the action that led to it."""

    @property
    def observation(self) -> NDArray[np.uint8]:
        """(frame_stack * C, H, W)."""

    @property
    def action(self) -> Any:
        """What led here; ignored on the first step."""

    @property
    def reward(self) -> Any:
        """Received on arriving here; ignored on the first step."""

    @property
    def discount(self) -> Any:
        """0 where the episode ended for good; ignored on the first step."""

    def first(self) -> bool:
        """Whether it begins an episode."""

    def last(self) -> bool:
        """Whether it ends an episode."""


class ReplayBuffer(Sampler):
    """A replay buffer in shared memory that stores every frame once, losslessly coded.

    One process writes: the one that made it. Its threads may add, save and sample at the same time; adding and saving
    take turns. Other processes read over the same memory; see `make_replay_loader`.

    Args:
        capacity: transitions kept; an episode of T steps holds T - 1. The oldest frames leave first.
        observation_shape: (frame_stack * C, H, W) of one stacked observation, uint8, oldest frame first.
        action_shape: shape of one action.
        action_dtype: dtype of actions.
        frame_stack: frames in an observation.
        nstep: steps that a sampled transition spans.
        discount: gamma, for n-step returns.
        codec: "raw", "sparse", "zstd" or a codec instance.
        max_bytes: hard cap on `stats().total_bytes`; the oldest frames leave first.
        seed: of `sample`.

    Raises:
        InputError: an argument makes no sense.
        UnknownCodecError: no such codec.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, int, int],
        action_shape: tuple[int, ...],
        *,
        action_dtype: DTypeLike = "float32",
        frame_stack: int = 3,
        nstep: int = 1,
        discount: float = 0.99,
        codec: str | codecs.Codec = "zstd",
        max_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        self.capacity = _positive("capacity", capacity)
        frame_stack, nstep = _positive("frame_stack", frame_stack), _positive("nstep", nstep)
        codec = codecs.get(codec)
        # What one window needs: its frames, and with them the group of the oldest one's reference frame.
        window_frames = nstep + frame_stack + (frame_stack - 1 if codec.reference == "frame" else 0)
        if capacity < window_frames - 1:
            raise InputError(
                f"capacity: expected at least {window_frames - 1} transitions, which a window of nstep {nstep} and "
                f"frame_stack {frame_stack} takes, got {capacity}"
            )
        if not 0 <= _finite("discount", discount) <= 1:
            raise InputError(f"discount: expected a number in [0, 1], got {discount}")
        if max_bytes is not None:
            max_bytes = _positive("max_bytes", max_bytes)
        shape = _shape("observation_shape", observation_shape)
        if len(shape) != 3 or shape[0] % frame_stack:
            raise InputError(
                f"observation_shape: expected (frame_stack * C, H, W) with frame_stack {frame_stack}, got {shape}"
            )
        self.observation_shape = shape
        self.action_shape, self.action_dtype = _shape("action_shape", action_shape), _number_dtype(action_dtype)
        columns = (
            Column("action", self.action_dtype.str, self.action_shape),
            Column("reward", "<f4"),
            Column("discount", "<f4"),
        )
        self.store = FrameStore(
            (shape[1], shape[2], shape[0] // frame_stack),
            frame_stack,
            2 * frame_stack * (capacity + 1),  # every transition in an episode of its own, no stack shifted by one
            codec,
            columns,
            max_bytes,
            window_frames,
        )
        super().__init__(self.store, nstep, discount)
        self._rng = np.random.default_rng(seed)
        self._commits: dict[Path, str | None] = {}  # snapshots of this buffer, and which commit holds its last state
        self._locks: dict[Path, Lock] = {}  # on the commits that it saved, as long as these are the present ones

    def add(self, time_step: TimeStep, stream: int = 0) -> None:
        """Append a step of an episode.

        Args:
            time_step: dm_env style; its observation is copied.
            stream: which of several episodes that run side by side it continues.

        Raises:
            InputError: a field has the wrong type, shape or range, or a step follows a last one without a
                first one between. The buffer is as it was.
        """
        observation = self._observation("observation", time_step.observation)
        first, last = bool(time_step.first()), bool(time_step.last())
        values = self._blank() if first else self._values(time_step.action, time_step.reward, time_step.discount)
        self.store.change(self._add_step, stream, stream, observation, values, first, last)

    def add_transition(
        self,
        obs: NDArray[np.uint8],
        action: ArrayLike,
        reward: float,
        next_obs: NDArray[np.uint8],
        terminated: bool,
        truncated: bool,
        stream: int = 0,
    ) -> None:
        """Append a Gymnasium style transition.

        `obs` is stored only when it is not the `next_obs` of the stream's transition before, with which an
        episode begins anew.

        Args:
            obs: (frame_stack * C, H, W) uint8; copied.
            action: what was done in `obs`.
            reward: what that gave.
            next_obs: like `obs`; at an episode's end the terminal observation, not the next episode's first.
            terminated: the episode ended for good: discount 0.
            truncated: it was cut off: it ends here, and the discount stays 1.
            stream: which of several environments it comes from.

        Raises:
            InputError: a field has the wrong type, shape or range. The buffer is as it was.
        """
        before = self._observation("obs", obs)
        after = self._observation("next_obs", next_obs)
        values = self._values(action, reward, 0.0 if terminated else 1.0)
        ended = bool(terminated or truncated)
        self.store.change(self._add_pair, stream, stream, before, after, values, ended)

    def sample(self, batch_size: int) -> ReplayBatch:
        """A batch drawn uniformly from all complete windows, on the CPU.

        Raises:
            EmptyBufferError: there is no complete window yet.
        """
        return self.draw(_positive("batch_size", batch_size), self._rng)

    def check_invariants(self) -> None:
        """Recount and decode all that the buffer holds; for tests, as it takes time in proportion to that.

        Raises:
            CorruptDataError: names what should hold and does not.
        """
        check_invariants(self.store, self.capacity)

    def save(self, directory: str | Path) -> str:
        """Save a snapshot: only what is new since the last one in the same directory is written.

        Sampling goes on meanwhile; adding waits. Interrupted at any moment, the directory holds the state before or
        after.

        Args:
            directory: made if needed; a snapshot of another buffer in it is replaced.

        Returns:
            The commit that holds this state; the directory keeps the newest commit and the one before.

        Raises:
            InUseError: another running process has saved to it; the snapshot in it is as it was.
            OSError: it cannot be written to; the snapshot in it is as it was, and what was written of the new one is
                deleted.
        """
        directory = Path(directory)
        commits: list[str] = []
        self.store.change(self._save, None, directory, commits)
        return commits[0]

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        commit: str | None = None,
        codec: str | codecs.Codec | None = None,
        skip_damaged: bool = False,
    ) -> ReplayBuffer:
        """The buffer that was saved, in new memory; it may add to the same snapshot.

        Args:
            directory: of `save`.
            commit: which of the two that it keeps; the newest by default.
            codec: needed where the buffer was made with a codec of one's own.
            skip_damaged: leave out what is damaged, with a warning, rather than refuse to load; no window
                bridges what is left out.

        Raises:
            CorruptDataError: there is no snapshot, or a file of it is damaged or missing; the message names it.
            InputError: `codec` is not the one that it was saved with, or is needed and missing.
            SharedMemoryError: there is too little memory for it.
        """
        directory = Path(directory)
        replay, base = snapshot.load(cls, directory, commit, codec, skip_damaged)
        replay._commits[directory.resolve()] = base
        return replay

    def verify(self) -> list[str]:
        """Decode every frame, and check every file of the snapshots this buffer was saved to or loaded from.

        Returns:
            What is damaged, a sentence each; empty when all is well.
        """
        problems: list[str] = []
        self.store.change(lambda: problems.extend(verify(self)), None)
        return problems

    def _add_step(
        self, stream: int, stack: NDArray[np.uint8], values: tuple[Any, ...], first: bool, last: bool
    ) -> None:
        is_open = self.store.is_open(stream)
        if first and is_open:
            warnings.warn("a first step came in mid-episode: the episode before counts as truncated", stacklevel=4)
        if not first and not is_open:
            raise InputError("time_step: expected a first step at an episode's start, got one that is not")
        self._append(stack, values, stream, first=first)
        self.store.streams[stream].is_open = not last

    def _add_pair(
        self, stream: int, before: NDArray[np.uint8], after: NDArray[np.uint8], values: tuple[Any, ...], ended: bool
    ) -> None:
        newest = self.store.goes_on_from(stream)
        if newest is None or not same(before, newest):
            self._append(before, self._blank(), stream, first=True)
        self._append(after, values, stream, first=False)
        self.store.streams[stream].is_open = not ended

    def _append(self, stack: NDArray[np.uint8], values: tuple[Any, ...], stream: int, *, first: bool) -> None:
        while not first and self.store.counter(Counter.TRANSITIONS) >= self.capacity:
            self.store.evict()
        self.store.add_observation(stack, values, stream, first)

    def _save(self, directory: Path, commits: list[str]) -> None:
        known = directory.resolve()
        commits.append(snapshot.save(self, directory, self._commits.get(known)))
        self._commits[known] = commits[0]

    def _observation(self, name: str, value: Any) -> NDArray[np.uint8]:
        """Check an observation; a view of it as (frame_stack, C, H, W)."""
        array = np.asarray(value)
        if array.dtype != np.uint8 or array.shape != self.observation_shape:
            raise InputError(
                f"{name}: expected uint8 of shape {self.observation_shape}, got {array.dtype} of shape {array.shape}"
            )
        frame_stack = self.store.layout.frame_stack
        return array.reshape(frame_stack, -1, *self.observation_shape[1:])

    def _values(self, action: Any, reward: Any, discount: Any) -> tuple[Any, ...]:
        """Check what a step carries besides its observation."""
        try:
            array = np.asarray(action)
        except ValueError as error:
            raise InputError(
                f"action: expected {self.action_dtype} of shape {self.action_shape}, but {error}"
            ) from None
        if array.shape != self.action_shape or not np.can_cast(array.dtype, self.action_dtype, "same_kind"):
            raise InputError(
                f"action: expected {self.action_dtype} of shape {self.action_shape}, got {array.dtype} of shape "
                f"{array.shape}"
            )
        return array, _finite("reward", reward), _finite("discount", discount)

    def _blank(self) -> tuple[Any, ...]:
        """What the first step of an episode carries: nothing leads to it."""
        return np.zeros(self.action_shape, self.action_dtype), 0.0, 1.0


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: expected a positive integer, got {value!r}")
    return int(value)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a tuple of positive integers, got {value!r}")
    return tuple(_positive(name, side) for side in value)


def _number_dtype(value: DTypeLike) -> np.dtype[Any]:
    try:
        dtype = np.dtype(value)
    except TypeError as error:
        raise InputError(f"action_dtype: expected a dtype of numbers, got {value!r} ({error})") from None
    if dtype.kind not in "biuf":
        raise InputError(f"action_dtype: expected a dtype of numbers, got {dtype}")
    return dtype


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected a finite number, got {value!r}") from None
    if not abs(number) <= FLOAT32_MAX:  # so that NaN does not pass either
        raise InputError(f"{name}: expected a finite number (float32), got {value!r}")
    return number
