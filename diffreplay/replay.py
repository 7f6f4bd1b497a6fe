"""ReplayBuffer: steps in, n-step transitions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike

from diffreplay import checks, codecs, snapshots, spaces
from diffreplay.adding import Adding
from diffreplay.errors import InputError
from diffreplay.limits import warn_if_too_large
from diffreplay.loading import Readable, ReplayReader, columns_of, keep_priorities, priorities_over
from diffreplay.parts import ArraySpec, Part, Shape, extras_of, parts_of
from diffreplay.sharing import Shared
from diffreplay.snapshots import Lock, verify
from diffreplay.stats import in_bytes
from diffreplay.store import EpisodeWriter, FrameStore, check_invariants, frames_before, refuse_copy


class ReplayBuffer(Adding, Readable, Shared):
    """A replay buffer in shared memory that stores every frame once, losslessly coded.

    One process writes: the one that made it. Its threads may add, save and sample at the same time; adding and saving
    take turns. Other processes sample from the same memory: `make_replay_loader` starts some, `handle()` is for any of
    your own, and multiprocessing passes the buffer on as a `ReplayReader`. Adding there raises `ReadOnlyError`.

    Args:
        capacity: transitions kept; an episode of T steps holds T - 1. The oldest frames leave first.
        observation_shape: (frame_stack * C, H, W) of one stacked observation, uint8, oldest frame first. Or an
            `ArraySpec`, or a mapping from names to such: then observations are mappings, in batches as well. Images are
            coded, everything else is kept exactly.
        action_shape: shape of one action.
        action_dtype: dtype of actions.
        frame_stack: frames in an observation.
        nstep: steps that a sampled transition spans.
        discount: gamma, for n-step returns.
        shorter_at_end: a transition starts at each step of an episode that has ended: where fewer than `nstep` steps
            follow, it spans those. Else, as in DrQ-v2, the last `nstep` - 1 steps of an episode start none, and
            an episode of fewer steps holds none.
        codec: "raw", "sparse", "zstd", "delta" (the default) or a codec instance.
        extras: further values of each step, as a mapping from names to `ArraySpec`s; a batch has them as `extras`.
        channels_first: images are sampled as (frame_stack * C, H, W), whatever their layout.
        max_bytes: hard cap on `stats().total_bytes` and what `add` takes for a moment besides; the oldest frames leave.
        seed: of `sample`.

    Attributes:
        reader: what `len`, `stats`, `can_sample` and `sample` ask; see `ReplayReader`.
        notes: what a program wants to have saved with it and to find again, as JSON holds it.
        memory_directory: of a subclass, on whose disk a file holds all of it; None for memory.

    Raises:
        InputError: an argument makes no sense.
        UnknownCodecError: no such codec.
        SharedMemoryError: the system gives no such memory.

    Examples:
        >>> buffer = diffreplay.ReplayBuffer(1000, (9, 84, 84), (6,), frame_stack=3, nstep=3)
        >>> buffer
        ReplayBuffer(0 of 1000 transitions, delta: observations 0 bytes, ... in all)
    """

    memory_directory: Path | None = None

    def __init__(
        self,
        capacity: int,
        observation_shape: Shape,
        action_shape: tuple[int, ...],
        *,
        action_dtype: DTypeLike = "float32",
        frame_stack: int = 3,
        nstep: int = 1,
        discount: float = 0.99,
        shorter_at_end: bool = False,
        codec: str | codecs.Codec = codecs.DEFAULT,
        max_bytes: int | None = None,
        seed: int = 0,
        extras: Mapping[str, ArraySpec] | None = None,
        channels_first: bool = False,
    ) -> None:
        self.capacity = checks.positive("capacity", capacity)
        frame_stack, nstep = checks.positive("frame_stack", frame_stack), checks.positive("nstep", nstep)
        codec = codecs.get(codec)
        window_frames = _window_frames(codec, nstep, frame_stack, capacity)
        self.nstep, self.discount = nstep, checks.share("discount", discount)
        if not isinstance(shorter_at_end, bool | np.bool_):
            raise InputError(f"shorter_at_end: expected True or False, got {shorter_at_end!r}")
        self.shorter_at_end = bool(shorter_at_end) and nstep > 1  # a window of one step cannot be shorter
        max_bytes = checks.cap(max_bytes)
        self.parts = parts = parts_of(observation_shape, frame_stack, channels_first)
        self.observation_shape, self.channels_first = _kept(observation_shape, parts), parts[0].channels_first
        self.action_shape = checks.shape("action_shape", action_shape)
        self.action_dtype = checks.number_dtype(action_dtype)
        self.extras, extra_parts = dict(extras or {}), extras_of(extras)
        self._check = checks.StepCheck(parts, self.action_shape, self.action_dtype, extra_parts)
        columns, stacked = columns_of(parts, self.action_dtype, self.action_shape, extra_parts)
        self.store = FrameStore(
            [part.image_shape for part in parts if part.is_image],
            frame_stack,
            2 * frame_stack * (capacity + 1),  # two whole stacks a transition, where no two observations share a frame
            codec,
            columns,
            max_bytes,
            window_frames,
            log_limit=max_bytes,
            marks_ends=self.shorter_at_end,
            stacked=stacked,
            planar=[part.planar_stack for part in parts if part.is_image],
            directory=self.memory_directory,
        )
        if isinstance(codec, codecs.RawCodec):
            least = capacity * (self.store.layout.row_bytes + sum(column.row_bytes for column in columns))
            warn_if_too_large(least if max_bytes is None else min(least, max_bytes), stacklevel=2)
        self.rng = checks.generator(seed)
        self.reader = ReplayReader(self.store, parts, nstep, self.discount, self.shorter_at_end, self.rng)
        self._episodes = EpisodeWriter(self.store, self.capacity, self._check.blank, nstep)
        self.notes: dict[str, Any] = {}
        self.commits: dict[Path, str | None] = {}  # snapshots of this buffer, and which commit holds its last state
        self.commit_locks: dict[Path, Lock] = {}  # on the commits that it saved, as long as these are the present ones

    @classmethod
    def from_spaces(
        cls,
        capacity: int,
        observation_space: Any,
        action_space: Any,
        *,
        frame_stack: int | None = None,
        nstep: int = 1,
        layouts: Mapping[str, str] | str | None = None,
        **options: Any,
    ) -> Self:
        """A buffer for the observations and actions of Gymnasium spaces; of a Dict, observations are mappings.

        Args:
            capacity: transitions kept.
            observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict of such; of a vector environment its
                `single_observation_space`. Arrays of uint8 and uint16 with three dimensions are images.
            action_space: Box, Discrete, MultiDiscrete or MultiBinary; of a vector environment its
                `single_action_space`.
            frame_stack: frames in an observation, which the space counts in already; None for one, and a warning where
                an image has four channels, which look like a stack.
            nstep: steps that a sampled transition spans.
            layouts: where a shape can be read in several ways, how an image lies in its array: see `ArraySpec`; of a
                Dict a mapping from names of parts.
            options: others of `ReplayBuffer`.

        Raises:
            InputError: a space is of another kind or can be read in several ways, or an argument makes no sense.
        """
        stack = 1 if frame_stack is None else checks.positive("frame_stack", frame_stack)
        observations = spaces.specs_of(observation_space, stack, layouts)
        spaces.warn_of_what_is_not_compressed(observations, said=frame_stack is not None or layouts is not None)
        action_shape, action_dtype = spaces.action_of(action_space)
        options = {"action_dtype": action_dtype, **options}
        return cls(capacity, observations, action_shape, frame_stack=stack, nstep=nstep, **options)

    def __repr__(self) -> str:
        stats, cap = self.stats(), "" if self.max_bytes is None else f", at most {in_bytes(self.max_bytes)}"
        held = f"{stats.transitions} of {self.capacity} transitions"
        return f"ReplayBuffer({held}, {self.codec.name}: {stats.summary}{cap})"

    @property
    def frame_stack(self) -> int:
        """Frames in an observation."""
        return self.store.layout.frame_stack

    @property
    def codec(self) -> codecs.Codec:
        """How frames are coded."""
        return self.store.codec

    @property
    def max_bytes(self) -> int | None:
        """The cap on `stats().total_bytes`; None without one."""
        return self.store.max_bytes

    __copy__ = refuse_copy

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reader.__reduce__()  # multiprocessing passes that on; nothing else pickles it

    def check_invariants(self) -> None:
        """Recount and decode all that the buffer holds; for tests, as it takes time in proportion to that.

        Raises:
            CorruptDataError: names what should hold and does not.
        """
        check_invariants(self.store, self.capacity)

    def save(self, directory: str | Path) -> str:
        """Save a snapshot: only what is new since the last one in the same directory is written.

        Sampling goes on meanwhile; adding waits. Interrupted at any moment, the directory holds the state before or
        after. The `Priorities` that were made last over the buffer are saved with it.

        Args:
            directory: made if needed; a snapshot of another buffer in it is replaced.

        Returns:
            The commit that holds this state; the directory keeps the newest commit and the one before.

        Raises:
            InputError: the buffer is larger than what a snapshot holds, or has too many or too long names of streams.
            InUseError: another running process has saved to it; the snapshot in it is as it was.
            OSError: it cannot be written to; the snapshot in it is as it was, and what was written of the new one is
                deleted.
        """
        directory = checks.path("directory", directory)
        done: list[tuple[str | None, str]] = []
        try:
            self.store.change(self._save, None, directory, done)
            return done[0][1]
        except BaseException:
            # The caller never learns of a commit that an interrupt followed, and may have to go back to the one before:
            # so the next one adds to that, and keeps it.
            for base, commit in done:
                if self.commits.get(directory.resolve()) == commit:
                    self.commits[directory.resolve()] = base
            raise

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        commit: str | None = None,
        codec: str | codecs.Codec | None = None,
        skip_damaged: bool = False,
        max_bytes: int | Literal["saved"] | None = "saved",
    ) -> ReplayBuffer:
        """The buffer that was saved, in new memory; it may save to the same directory again.

        Args:
            directory: of `save`.
            commit: which of the two that it keeps; the newest by default.
            codec: needed where the buffer was made with a codec of one's own.
            skip_damaged: leave out what is damaged, with a warning, rather than refuse to load; no window
                bridges what is left out.
            max_bytes: a cap in place of the saved one, None for none; the oldest frames leave until it holds.

        Raises:
            CorruptDataError: there is no snapshot, or a file of it is damaged or missing; the message names it.
            InputError: `codec` is not the one that it was saved with, or is needed and missing; or `max_bytes` does not
                hold a few windows.
            SharedMemoryError: there is too little memory for it.
        """
        directory = checks.path("directory", directory)
        if max_bytes != "saved":
            max_bytes = checks.cap(max_bytes)
        replay, base, priorities = snapshots.load(cls, directory, commit, codec, skip_damaged, max_bytes)
        keep_priorities(replay.reader, priorities)
        if max_bytes != "saved":
            replay.store.change_cap(max_bytes)
        replay.commits[directory.resolve()] = base
        return replay

    def verify(self) -> list[str]:
        """Decode every frame, and check every file of the snapshots this buffer was saved to or loaded from.

        Returns:
            What is damaged, a sentence each; empty when all is well.
        """
        problems: list[str] = []
        self.store.change(lambda: problems.extend(verify(self)), None)
        return problems

    def _save(self, directory: Path, done: list[tuple[str | None, str]]) -> None:
        known = directory.resolve()
        base = self.commits.get(known)
        done.append((base, snapshots.save(self, directory, base, priorities_over(self.reader))))
        self.commits[known] = done[0][1]


def _kept(observation_shape: Shape, parts: tuple[Part, ...]) -> Shape:
    """The argument as a snapshot keeps it: of a mapping, a copy."""
    if isinstance(observation_shape, Mapping):
        return dict(observation_shape)
    return observation_shape if isinstance(observation_shape, ArraySpec) else parts[0].shape


def _window_frames(codec: codecs.Codec, nstep: int, frame_stack: int, capacity: int) -> int:
    """What one window needs: its frames, and what the oldest one is coded against.

    Raises:
        InputError: that is more than the buffer holds.
    """
    frames = nstep + frame_stack + frames_before(codec, frame_stack)
    if capacity < frames - 1:
        raise InputError(
            f"capacity: expected at least {frames - 1} transitions, which a window of nstep {nstep} and frame_stack "
            f"{frame_stack} takes, got {capacity}"
        )
    return frames
