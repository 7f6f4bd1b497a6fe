"""Pictures and videos of what a replay buffer holds. Needs Pillow and imageio; nothing else in the package does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.errors import InputError, ReplayError
from diffreplay.parts import Part
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

    Each image of an observation has its own three lines, one image below the other.

    Args:
        replay: the buffer.
        path: of the picture; its suffix says in which format.

    Raises:
        InputError: the buffer holds no frame, or the suffix is of no known format.
        ReplayError: Pillow is missing.
        OSError: the file cannot be written.
    """
    image, draw = _need("PIL.Image", "Pillow"), _need("PIL.ImageDraw", "Pillow")
    cameras = _cameras(replay)
    if not cameras:
        raise InputError("--frames: expected observations with an image to draw, got a snapshot of columns alone")
    blocks = [_block(replay, number, part) for number, part in enumerate(cameras)]
    count = max(len(columns) for columns, _ in blocks)
    if not count:
        raise InputError("expected a snapshot that holds frames to draw, got one without any")
    sizes = [_tile(part) for part in cameras]
    size = MARGIN + max(count * (width + GAP) for width, _, _ in sizes), sum(3 * height for _, height, _ in sizes)
    grid = image.new("RGB", size, "white")
    pen, top = draw.Draw(grid), 0
    for part, (columns, brightest), (width, height, scale) in zip(cameras, blocks, sizes, strict=True):
        pen.text((4, top), part.name, fill="black")
        for line, name in enumerate(("frame", "reference", "difference")):
            pen.text((4, top + line * height + LABEL), name, fill="black")
        for k, column in enumerate(columns):
            for line, (text, pixels) in enumerate(column):
                place = MARGIN + k * (width + GAP), top + line * height
                pen.text(place, text, fill="black")
                if pixels is not None:
                    tile = _enlarge(_rgb(pixels, brightest), scale)
                    grid.paste(image.fromarray(tile), (place[0], place[1] + LABEL))
        top += 3 * height
    try:
        grid.save(path)
    except ValueError as error:
        raise InputError(f"--frames: expected a file name that ends in .png, got {path} ({error})") from None
    return f"drew {count} frames{f' of each of {len(cameras)} images' if len(cameras) > 1 else ''} to {path}"


Column = list[tuple[str, NDArray[Any] | None]]
"""What stands above one another: a frame, what it is coded against and their difference, each under a line of text."""


def _cameras(replay: ReplayBuffer) -> list[Part]:
    """The images of an observation, in the order in which they are stored."""
    return [part for part in replay.parts if part.is_image]


def _tile(part: Part) -> tuple[int, int, int]:
    """Pixels of a tile: its width, its height and the text above it; and how often a pixel is repeated."""
    height, width, _ = _frame_shape(part)
    scale = -(-TILE // max(height, width))
    return width * scale, height * scale + LABEL + GAP, scale


def _block(replay: ReplayBuffer, number: int, part: Part) -> tuple[list[Column], int]:
    """A few frames of an image, and its largest value in them."""
    rows = _rows_to_show(replay, number)
    frames = _pixels(part, replay.store.read(rows, number))
    columns = [_column(replay, number, part, row, frame) for row, frame in zip(rows.tolist(), frames, strict=True)]
    return columns, _brightest(frames)


def _rows_to_show(replay: ReplayBuffer, number: int) -> Rows:
    """A few rows, evenly spread; those whose frame of an image is coded if there are any."""
    rows = _decodable(replay)
    coded = rows[replay.store.lengths(rows, number) < replay.store.layout.images[number].frame_bytes]
    rows = coded if len(coded) else rows
    return rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), min(SHOWN, len(rows))).astype(int))]


def _column(replay: ReplayBuffer, number: int, part: Part, row: int, frame: NDArray[Any]) -> Column:
    label, reference = _reference(replay, number, part, row, frame)
    nbytes = int(replay.store.lengths(np.array([row]), number)[0])
    column: Column = [(f"row {row}: {nbytes} bytes", frame), (label, reference)]
    if reference is not None:
        different = np.any(frame != reference, axis=2).mean()
        column.append((f"{different:.1%} of the pixels", _difference(frame, reference)))
    return column


def write_video(
    replay: ReplayBuffer, episodes: Sequence[Rows], number: int | None, path: Path, camera: str | None = None
) -> str:
    """Write the newest frame of each step of an episode as a video; say what was written.

    Args:
        replay: the buffer.
        episodes: rows of the steps of each episode.
        number: of the episode in that list, or None for the longest.
        path: of the video, ending in .mp4.
        camera: name of the image, or None for the first.

    Raises:
        InputError: there is no such episode or image, or the file cannot be written or does not end in .mp4.
        ReplayError: imageio is missing.
    """
    if path.suffix != ".mp4":
        raise InputError(f"--mp4: expected a file name that ends in .mp4, got {path}")
    image, part = _camera(replay, camera)
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
    frames = _pixels(part, replay.store.read(episodes[number], image))
    scale, brightest = -(-VIDEO_SIDE // max(frames.shape[1:3])), _brightest(frames)
    pixels = np.stack([_enlarge(_rgb(frame, brightest), scale) for frame in frames])
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


def _reference(
    replay: ReplayBuffer, image: int, part: Part, row: int, frame: NDArray[Any]
) -> tuple[str, NDArray[Any] | None]:
    """What a row is coded against, and what to call it; of a set the frame that is most like it."""
    store, layout = replay.store, replay.store.layout.images[image]
    if int(store.lengths(np.array([row]), image)[0]) == layout.frame_bytes:
        return "none: stored raw", None
    reference = int(store.oldest_needed(np.array([row]))[0])
    if reference != row:
        return f"row {reference}", _pixels(part, store.read(np.array([reference]), image))[0]
    number = int(store.sets[image].serving(np.array([row]))[0])
    stored = np.frombuffer(store.sets[image].frames(number) if number != NO_ROW else b"", np.uint8)
    frames = _pixels(part, stored.reshape(-1, *layout.frame_shape))
    if not len(frames):
        return "none: coded alone", None
    best = int(np.argmin([np.count_nonzero(reference != frame) for reference in frames]))
    return f"set {number}, {best + 1} of {len(frames)}", frames[best]


def _camera(replay: ReplayBuffer, name: str | None) -> tuple[int, Part]:
    """Number and part of an image by its name; of the first where that is None."""
    cameras = _cameras(replay)
    names = [part.name for part in cameras if part.name]
    if not cameras:
        raise InputError("--mp4: expected observations with an image to render, got a snapshot of columns alone")
    if name is None:
        return 0, cameras[0]
    if name not in names:
        expected = f"one of {', '.join(map(repr, names))}" if names else "none, as the image has no name"
        raise InputError(f"--camera: expected {expected}, got {name!r}")
    return names.index(name), cameras[names.index(name)]


def _frame_shape(part: Part) -> tuple[int, int, int]:
    """(H, W, C) of a frame of an image."""
    sides = dict(zip(part.spec.layout.removeprefix("F"), part.spec.shape, strict=True))
    return sides["H"], sides["W"], sides.get("C", 1)


def _pixels(part: Part, stored: NDArray[np.uint8]) -> NDArray[Any]:
    """Stored frames of an image as (N, H, W, C) in its dtype."""
    if part.dtype == np.uint8:
        return stored
    one = Part(part.name, part.spec, 1, part.channels_first)
    frames = [one.observation(frame[None]).reshape(part.spec.shape) for frame in stored]
    if part.spec.layout.endswith("CHW"):
        frames = [np.moveaxis(frame, 0, 2) for frame in frames]
    shape = _frame_shape(part)
    return np.array([frame.reshape(shape) for frame in frames], part.dtype).reshape(-1, *shape)


def _brightest(frames: NDArray[Any]) -> int:
    """What is to be shown as white: of uint16 images the largest value in `frames`."""
    return 255 if frames.dtype == np.uint8 else max(1, int(frames.max(initial=0)))


def _difference(frame: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.uint8]:
    """How far apart the pixels are; what differs at all can be seen."""
    apart, most = np.abs(frame.astype(np.int64) - reference), np.iinfo(frame.dtype).max
    return np.where(apart > 0, 55 + apart * 200 // most, 0).astype(np.uint8)


def _rgb(frame: NDArray[Any], brightest: int) -> NDArray[np.uint8]:
    """A frame of three channels: itself if it has three, else its last one in gray."""
    if frame.dtype != np.uint8:
        frame = np.minimum(frame.astype(np.int64) * 255 // brightest, 255).astype(np.uint8)
    return frame if frame.shape[2] == 3 else np.repeat(frame[..., -1:], 3, axis=2)


def _enlarge(frame: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
