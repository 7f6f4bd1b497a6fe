"""What a snapshot holds, measured from its index: episodes and their returns, and what each camera takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffreplay.offline import SavedReplay
from diffreplay.parts import Part
from diffreplay.store import Flag, FrameReader, Rows


class HasFrames(Protocol):
    """A `ReplayReader`."""

    frames: FrameReader


class HasReader(Protocol):
    """A buffer, or an open snapshot."""

    @property
    def reader(self) -> HasFrames:
        """Reads it."""


@dataclass(frozen=True)
class Camera:
    """What the frames of one image take.

    Attributes:
        number: of the image.
        part: of an observation.
        frames: how many are held.
        coded_bytes: of these.
        share: of the coded bytes of all images.
        reference_bytes: of the frames that they are coded against.
    """

    number: int
    part: Part
    frames: int
    coded_bytes: int
    share: float
    reference_bytes: int

    @property
    def bytes_a_frame(self) -> float:
        """Coded bytes."""
        return self.coded_bytes / max(self.frames, 1)

    @property
    def raw_bytes(self) -> int:
        """Of the frames as they are sampled."""
        return self.frames * self.part.frame_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller they are than raw, reference frames counted; 0 where there is none."""
        return self.raw_bytes / max(self.coded_bytes + self.reference_bytes, 1)


def find_cameras(replay: SavedReplay) -> list[Camera]:
    """The images of a snapshot, in the order in which they are stored."""
    frames, damage = replay.frames, replay.frames.files.damage
    rows = frames.present(np.arange(*frames.bounds()))
    total = max(int(frames.lengths(rows).sum()), 1)
    found = []
    for number, part in enumerate(part for part in replay.parts if part.is_image):
        coded = int(frames.lengths(rows, number).sum())
        sets = [entry.nbytes for entry in frames.files.manifest.sets[number] if entry.name not in damage]
        found.append(Camera(number, part, len(rows), coded, coded / total, sum(sets)))
    return found


def find_episodes(replay: HasReader) -> list[Rows]:
    """Rows of the steps of each episode that are held, in the order in which the episodes begin."""
    frames = replay.reader.frames
    rows = np.arange(*frames.bounds())
    steps = rows[(frames.column("flags", rows) & Flag.CONTEXT) == 0]
    if not len(steps):
        return []
    before = frames.previous_steps(steps)
    places = np.minimum(np.searchsorted(steps, before), len(steps) - 1)
    # Of each step a place of an earlier one of its episode; in each round it is as far back again.
    begins = np.where(steps[places] == before, places, np.arange(len(steps)))
    while not np.array_equal(further := begins[begins], begins):
        begins = further
    order = np.argsort(begins, kind="stable")
    return np.split(steps[order], np.flatnonzero(np.diff(begins[order])) + 1)


def find_returns(replay: HasReader, episodes: list[Rows]) -> NDArray[np.float64]:
    """Undiscounted sum of the rewards of what is held of each episode, (N,).

    The first step's is left out: no transition ends there.
    """
    frames = replay.reader.frames
    if not episodes:
        return np.empty(0)
    rewards = frames.column("reward", np.concatenate(episodes)).astype(np.float64)
    begins = np.cumsum([0, *map(len, episodes[:-1])])
    rewards[begins] = 0
    return np.add.reduceat(rewards, begins)


def count_frames(frames: FrameReader) -> tuple[int, int]:
    """Frames that were stored, and how many of them are lost."""
    rows = np.arange(*frames.bounds())
    empty = np.setdiff1d(rows, frames.present(rows))
    # A row in place of a frame that is stored elsewhere leads on to another; of a file's lost rows nothing is known.
    elsewhere = (frames.lengths(empty) == 0) & (frames.column("link", empty) > 0)
    elsewhere &= frames.oldest_needed(empty) == empty
    return len(rows) - int(elsewhere.sum()), int((~elsewhere).sum())


def decodable(frames: FrameReader) -> Rows:
    """Rows that were neither lost nor lost what they are coded against."""
    tail, head = frames.bounds()
    rows = frames.present(np.arange(tail, head))
    return rows[frames.oldest_needed(rows) >= tail]
