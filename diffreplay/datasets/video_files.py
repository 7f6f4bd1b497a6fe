"""Plain video files: frames that nobody says actions or rewards of; each file is one episode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from diffreplay.datasets import video
from diffreplay.datasets.episode import Description, Episode
from diffreplay.errors import CorruptDataError
from diffreplay.parts import ArraySpec

PIECE_BYTES = 32 << 20


def is_video(path: Path) -> bool:
    """Whether it is named like a video, or is a folder with such files in it."""
    return path.suffix.lower() in video.SUFFIXES if path.is_file() else path.is_dir() and bool(_files(path))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in video.SUFFIXES)


class VideoFiles:
    """The frames of a video, or of all videos in a folder, in the order of their names.

    A video of T + 1 frames is an episode of T steps, whose actions and rewards are zeros. What PyAV decodes as rgb24 is
    kept as it is.

    Args:
        path: of the file or folder.
        frame_stack: frames in an observation of the buffer; None for 1.

    Raises:
        CorruptDataError: a file is damaged, or has frames of another size; the message names it.
        ReplayError: PyAV is not installed.
    """

    format = "video"

    def __init__(self, path: Path, frame_stack: int | None = None) -> None:
        self._paths = _files(path)
        if not self._paths:
            raise CorruptDataError(f"{path}: expected videos ({' '.join(video.SUFFIXES)}) in the folder, got none")
        self._videos = [video.look(each) for each in self._paths]
        self._counts = [video.count(each) for each in self._paths]
        first = self._videos[0]
        for each, its, count in zip(self._paths, self._videos, self._counts, strict=True):
            if (its.height, its.width) != (first.height, first.width):
                expected = f"{first.width}x{first.height} pixels, as {self._paths[0].name} has"
                raise CorruptDataError(f"{each}: expected {expected}, got {its.width}x{its.height}")
            if count < 2:
                raise CorruptDataError(f"{each}: expected at least two frames, got {count}")
        warnings = [f"{path}: a video has no actions and rewards: they are zeros"]
        if lossy := sorted({its.codec for its in self._videos if its.is_lossy}):
            warnings.append(f"{path}: {', '.join(lossy)} is lossy: what is kept is what PyAV decodes as rgb24")
        nbytes = sum(each.stat().st_size for each in self._paths)
        self.description = Description(
            ArraySpec((first.height, first.width, 3), layout="HWC"),
            ArraySpec((1,), "float32"),
            frame_stack=frame_stack or 1,
            episodes=len(self._paths),
            steps=sum(self._counts) - len(self._paths),
            warnings=tuple(warnings),
            fingerprint=f"{len(self._paths)} videos, {sum(self._counts)} frames, {nbytes} bytes",
        )

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The videos from number `start` on, of long ones the pieces in order."""
        for path, its, count in list(zip(self._paths, self._videos, self._counts, strict=True))[start:]:
            size = max(1, PIECE_BYTES // (its.height * its.width * 3))
            with closing(video.Frames(path, its)) as frames:
                for first in range(0, count - 1, size):
                    steps = min(size, count - 1 - first)
                    ends = first + steps == count - 1
                    shown = frames.take(steps + ends)
                    found = first + len(shown)
                    if len(shown) < steps + ends or (
                        ends and len(more := frames.take(1)) and (found := found + len(more))
                    ):
                        raise CorruptDataError(f"{path}: expected {count} frames, as it has packets, got {found}")
                    yield Episode(
                        shown,
                        np.zeros((steps, 1), np.float32),
                        np.zeros(steps, np.float32),
                        truncated=ends,
                        name=path.name,
                        begins=first == 0,
                        ends=ends,
                    )
