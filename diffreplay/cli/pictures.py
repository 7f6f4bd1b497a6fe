"""Pictures and videos of what a replay buffer holds. Needs Pillow and imageio; nothing else in the package does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from diffreplay.codecs import Frame
from diffreplay.errors import InputError, ReplayError
from diffreplay.replay import ReplayBuffer
from diffreplay.store import NO_ROW, Rows

SHOWN = 8
TILE = 168  # pixels of the longer side of a frame, at least
LABEL, GAP, MARGIN = 14, 6, 78  # pixels: a line of text, between tiles, and left of them
VIDEO_SIDE = 252  # pixels, at least
FRAMES_PER_SECOND = 20
INSTALL = "pip install 'imageio[ffmpeg]'"


def write_picture(replay: ReplayBuffer, path: Path) -> str:
    """Write a picture of some frames, what each is coded against, and where they differ; say what was written.

    Args:
        replay: the buffer.
        path: of the picture; its suffix says in which format.

    Raises:
        InputError: the buffer holds no frame, or the suffix is of no known format.
        ReplayError: Pillow is missing.
        OSError: the file cannot be written.
    """
    image, draw = _need("PIL.Image", "Pillow"), _need("PIL.ImageDraw", "Pillow")
    rows = _rows_to_show(replay)
    if not len(rows):
        raise InputError("expected a snapshot that holds frames to draw, got one without any")
    frames = replay.store.read(rows)
    columns = [_column(replay, row, frame) for row, frame in zip(rows.tolist(), frames, strict=True)]
    scale = -(-TILE // max(frames.shape[1:3]))
    height, width = (side * scale for side in frames.shape[1:3])
    height += LABEL + GAP
    grid = image.new("RGB", (MARGIN + len(rows) * (width + GAP), 3 * height), "white")
    pen = draw.Draw(grid)
    for line, name in enumerate(("frame", "reference", "difference")):
        pen.text((4, line * height + LABEL), name, fill="black")
    for k, column in enumerate(columns):
        for line, (text, pixels) in enumerate(column):
            place = MARGIN + k * (width + GAP), line * height
            pen.text(place, text, fill="black")
            if pixels is not None:
                grid.paste(image.fromarray(_enlarge(_rgb(pixels), scale)), (place[0], place[1] + LABEL))
    try:
        grid.save(path)
    except ValueError as error:
        raise InputError(f"--frames: expected a file name that ends in .png, got {path} ({error})") from None
    return f"drew {len(rows)} frames to {path}"


def _rows_to_show(replay: ReplayBuffer) -> Rows:
    """A few rows, evenly spread; coded ones if there are any."""
    rows = _decodable(replay)
    coded = rows[replay.store.lengths(rows) < replay.store.layout.frame_bytes]
    rows = coded if len(coded) else rows
    return rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), min(SHOWN, len(rows))).astype(int))]


def _column(replay: ReplayBuffer, row: int, frame: Frame) -> list[tuple[str, Frame | None]]:
    """A frame, what it is coded against and their difference, each under a line of text."""
    label, reference = _reference(replay, row, frame)
    nbytes = int(replay.store.lengths(np.array([row]))[0])
    column = [(f"row {row}: {nbytes} bytes", frame), (label, reference)]
    if reference is not None:
        different = np.any(frame != reference, axis=2).mean()
        column.append((f"{different:.1%} of the pixels", _difference(frame, reference)))
    return column


def write_video(replay: ReplayBuffer, episodes: Sequence[Rows], number: int | None, path: Path) -> str:
    """Write the newest frame of each step of an episode as a video; say what was written.

    Args:
        replay: the buffer.
        episodes: rows of the steps of each episode.
        number: of the episode in that list, or None for the longest.
        path: of the video, ending in .mp4.

    Raises:
        InputError: there is no such episode, or the file cannot be written or does not end in .mp4.
        ReplayError: imageio is missing.
    """
    if path.suffix != ".mp4":
        raise InputError(f"--mp4: expected a file name that ends in .mp4, got {path}")
    imageio = _need("imageio.v3", "imageio")
    _need("imageio_ffmpeg", "imageio's FFmpeg plugin")
    decodable = set(_decodable(replay).tolist())
    episodes = [rows[[row in decodable for row in rows.tolist()]] for rows in episodes]
    if not any(map(len, episodes)):
        raise InputError("expected a snapshot that holds an episode to render, got one without any")
    if number is None:
        number = int(np.argmax([len(rows) for rows in episodes]))
    if not -len(episodes) <= number < len(episodes) or not len(episodes[number]):
        raise InputError(f"--episode: expected {-len(episodes)} to {len(episodes) - 1}, got {number}")
    frames = replay.store.read(episodes[number])
    scale = -(-VIDEO_SIDE // max(frames.shape[1:3]))
    pixels = np.stack([_enlarge(_rgb(frame), scale) for frame in frames])
    odd = [(0, side % 2) for side in pixels.shape[1:3]]  # yuv420p wants even sides
    pixels = np.pad(pixels, [(0, 0), *odd, (0, 0)], mode="edge")
    options = {"fps": FRAMES_PER_SECOND, "codec": "libx264", "macro_block_size": 2}
    try:
        imageio.imwrite(path, pixels, plugin="FFMPEG", **options)
    except (OSError, ValueError) as error:
        raise InputError(f"--mp4: expected a file name in a folder that can be written, got {path} ({error})") from None
    return f"rendered episode {number % len(episodes)}, {len(frames)} steps, to {path}"


def _need(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ReplayError(f"expected {name} to be installed, which draws and renders; run {INSTALL}") from None


def _decodable(replay: ReplayBuffer) -> Rows:
    """Rows that were neither lost nor lost what they are coded against."""
    store = replay.store
    rows = store.present(np.arange(store.tail, store.head))
    return rows[store.oldest_needed(rows) >= store.tail]


def _reference(replay: ReplayBuffer, row: int, frame: Frame) -> tuple[str, Frame | None]:
    """What a row is coded against, and what to call it; of a set the frame that is most like it."""
    store = replay.store
    if int(store.lengths(np.array([row]))[0]) == store.layout.frame_bytes:
        return "none: stored raw", None
    reference = int(store.oldest_needed(np.array([row]))[0])
    if reference != row:
        return f"row {reference}", store.read(np.array([reference]))[0]
    number = store.sets.serving(row)
    frames = np.frombuffer(store.sets.frames(number) if number != NO_ROW else b"", np.uint8).reshape(-1, *frame.shape)
    if not len(frames):
        return "none: coded alone", None
    best = int(np.argmin([np.count_nonzero(reference != frame) for reference in frames]))
    return f"set {number}, {best + 1} of {len(frames)}", frames[best]


def _difference(frame: Frame, reference: Frame) -> Frame:
    """How far apart the pixels are; what differs at all can be seen."""
    apart = np.abs(frame.astype(np.int16) - reference)
    return np.where(apart > 0, 55 + apart * 200 // 255, 0).astype(np.uint8)


def _rgb(frame: Frame) -> Frame:
    """A frame of three channels: itself if it has three, else its last one in gray."""
    return frame if frame.shape[2] == 3 else np.repeat(frame[..., -1:], 3, axis=2)


def _enlarge(frame: Frame, scale: int) -> Frame:
    return np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
