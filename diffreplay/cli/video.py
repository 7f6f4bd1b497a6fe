"""Videos of the episodes that a snapshot holds. Needs imageio and its FFmpeg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.cli.contents import decodable
from diffreplay.cli.pictures import brightest, enlarge, need, read, rgb
from diffreplay.errors import InputError
from diffreplay.offline import SavedReplay
from diffreplay.parts import Part
from diffreplay.store import Rows

VIDEO_SIDE = 252  # pixels, at least
FRAMES_PER_SECOND = 20
PIECE, PIECE_BYTES = 64, 1 << 23  # frames that are decoded at once at most, or so many bytes of them


def write_video(
    replay: SavedReplay, episodes: Sequence[Rows], number: int | None, path: Path, camera: str | None = None
) -> str:
    """Write the newest frame of each step of an episode as a video; say what was written.

    Args:
        replay: the snapshot.
        episodes: rows of the steps of each episode.
        number: of the episode in that list, or None for the longest.
        path: of the video, ending in .mp4.
        camera: name of the image, or None for the first.

    Raises:
        InputError: there is no such episode or image, or the file cannot be written or does not end in .mp4.
        ReplayError: imageio is missing.
    """
    check_video(path)
    image, part = _camera(replay, camera)
    imageio = need("imageio.v2", "imageio")
    number, rows = _episode(replay, episodes, number)
    size = max(1, min(PIECE, PIECE_BYTES // part.frame_bytes))
    pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
    white = max(brightest(read(replay, image, part, piece)) for piece in pieces) if part.dtype != np.uint8 else 255
    options = {"fps": FRAMES_PER_SECOND, "codec": "libx264", "macro_block_size": 2}
    try:
        with imageio.get_writer(path, format="FFMPEG", mode="I", **options) as video:
            for piece in pieces:
                for frame in read(replay, image, part, piece):
                    video.append_data(_picture(frame, white))
                replay.frames.files.page_out()
    except (OSError, ValueError) as error:
        raise InputError(f"--mp4: expected a file name in a folder that can be written, got {path} ({error})") from None
    return f"rendered episode {number}, {len(rows)} steps, to {path}"


def check_video(path: Path) -> None:
    """Refuse what no video can be written to.

    Raises:
        InputError: the file name does not end in .mp4, or is a directory's.
        ReplayError: imageio is missing.
    """
    if path.suffix != ".mp4" or path.is_dir():
        raise InputError(f"--mp4: expected a file name that ends in .mp4, got {path}")
    need("imageio.v2", "imageio")
    need("imageio_ffmpeg", "imageio's FFmpeg plugin")


def _episode(replay: SavedReplay, episodes: Sequence[Rows], number: int | None) -> tuple[int, Rows]:
    """Number and rows of the episode to render."""
    tail, head = replay.frames.bounds()
    held = np.zeros(head - tail, bool)
    held[decodable(replay.frames) - tail] = True
    episodes = [rows[held[rows - tail]] for rows in episodes]
    if not any(map(len, episodes)):
        raise InputError("expected a snapshot that holds an episode to render, got one without any")
    if number is None:
        number = int(np.argmax([len(rows) for rows in episodes]))
    if not -len(episodes) <= number < len(episodes) or not len(episodes[number]):
        raise InputError(f"--episode: expected {-len(episodes)} to {len(episodes) - 1}, got {number}")
    return number % len(episodes), episodes[number]


def _picture(frame: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """A frame of the video; yuv420p wants even sides."""
    pixels = enlarge(rgb(frame, white), -(-VIDEO_SIDE // max(frame.shape[:2])))
    return np.pad(pixels, [*((0, side % 2) for side in pixels.shape[:2]), (0, 0)], mode="edge")


def _camera(replay: SavedReplay, name: str | None) -> tuple[int, Part]:
    """Number and part of an image by its name; of the first where that is None."""
    cameras = [part for part in replay.parts if part.is_image]
    names = [part.name for part in cameras if part.name]
    if not cameras:
        raise InputError("--mp4: expected observations with an image to render, got a snapshot of columns alone")
    if name is None:
        return 0, cameras[0]
    if name not in names:
        expected = f"one of {', '.join(map(repr, names))}" if names else "none, as the image has no name"
        raise InputError(f"--camera: expected {expected}, got {name!r}")
    return names.index(name), cameras[names.index(name)]
