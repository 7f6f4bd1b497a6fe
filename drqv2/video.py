"""Videos of episodes, as mp4 files (H.264, yuv420p: playable in browsers and by every common player)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

FRAME_SIZE = 256  # pixels, height and width; H.264 wants a multiple of 16
FRAMES_PER_SECOND = 20


class Renderable(Protocol):
    """What is filmed: ``drqv2.environment.make`` returns one."""

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """The present view as RGB, (height, width, 3) uint8."""


class VideoRecorder:
    """Collects one picture an agent step and writes them as a video when the episode is over.

        recorder.init(env, enabled=episode == 0)   # after env.reset()
        recorder.record(env)                       # after each env.step()
        recorder.save("1000.mp4")

    While it is not enabled, ``record`` and ``save`` do nothing. Pictures are held in memory until saved, 0.2 MB each.

    Args:
        directory: folder of the videos; it is made with the first of them.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._enabled = False
        self._frames: list[NDArray[np.uint8]] = []

    def init(self, env: Renderable, enabled: bool = True) -> None:
        """Begin a new video with the present view, dropping what was not saved."""
        self._enabled = enabled
        self._frames = []
        self.record(env)

    def record(self, env: Renderable) -> None:
        """Add the present view."""
        if self._enabled:
            self._frames.append(env.render(FRAME_SIZE, FRAME_SIZE))

    def save(self, file_name: str) -> None:
        """Write the pictures to ``file_name`` (ending in .mp4) in the recorder's folder, and drop them.

        The file appears under its name only when it is complete; an older one of that name is replaced then.
        """
        if not self._enabled:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / file_name
        partial = path.with_name(f".{path.stem}.partial{path.suffix}")  # the suffix tells ffmpeg the format
        partial.unlink(missing_ok=True)  # an encoder that outlived a killed run may still be writing to it
        try:
            imageio.imwrite(partial, np.stack(self._frames), plugin="FFMPEG", fps=FRAMES_PER_SECOND, codec="libx264")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            self._frames = []
