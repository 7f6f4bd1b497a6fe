"""Pictures and videos of what a snapshot holds. Needs Pillow and imageio; nothing else in the package does."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.cli.contents import decodable
from diffreplay.errors import InputError, ReplayError
from diffreplay.offline import SavedReplay
from diffreplay.parts import Part
from diffreplay.store import NO_ROW, Rows

SHOWN = 8
LARGEST = 512  # pixels of the longer side of a frame; of larger ones every second is shown, or fewer
TILE = 168  # pixels of the longer side of a frame, at least
LABEL, GAP, MARGIN = 14, 6, 78  # pixels: a line of text, between tiles, and left of them
INSTALL = "pip install 'imageio[ffmpeg]'"


def write_picture(replay: SavedReplay, path: Path) -> str:
    """Write a picture of some frames, what each is coded against, and where they differ; say what was written.

    Each image of an observation has its own three lines, one image below the other.

    Args:
        replay: the snapshot.
        path: of the picture; its suffix says in which format.

    Raises:
        InputError: the buffer holds no frame, or the suffix is of no known format.
        ReplayError: Pillow is missing.
        OSError: the file cannot be written.
    """
    check_picture(path)
    image, draw = need("PIL.Image", "Pillow"), need("PIL.ImageDraw", "Pillow")
    cameras = [part for part in replay.parts if part.is_image]
    if not cameras:
        raise InputError("--frames: expected observations with an image to draw, got a snapshot of columns alone")
    blocks = [sample(replay, number, part) for number, part in enumerate(cameras)]
    count = max(len(columns) for columns, _ in blocks)
    if not count:
        raise InputError("expected a snapshot that holds frames to draw, got one without any")
    sizes = [_tile(part) for part in cameras]
    size = MARGIN + max(count * (width + GAP) for width, _, _ in sizes), sum(3 * height for _, height, _ in sizes)
    grid = image.new("RGB", size, "white")
    pen, top = draw.Draw(grid), 0
    for part, (columns, white), (width, height, scale) in zip(cameras, blocks, sizes, strict=True):
        pen.text((4, top), part.name, fill="black")
        for line, name in enumerate(("frame", "reference", "difference")):
            pen.text((4, top + line * height + LABEL), name, fill="black")
        for k, column in enumerate(columns):
            for line, (text, pixels) in enumerate(column):
                place = MARGIN + k * (width + GAP), top + line * height
                pen.text(place, text, fill="black")
                if pixels is not None:
                    tile = enlarge(rgb(pixels, white), scale)
                    grid.paste(image.fromarray(tile), (place[0], place[1] + LABEL))
        top += 3 * height
    try:
        grid.save(path)
    except ValueError as error:
        raise InputError(f"--frames: expected a file name that ends in .png, got {path} ({error})") from None
    return f"drew {count} frames{f' of each of {len(cameras)} images' if len(cameras) > 1 else ''} to {path}"


def check_picture(path: Path) -> None:
    """Refuse what no picture can be written to.

    Raises:
        InputError: the suffix is of no known format, or it is a directory.
        ReplayError: Pillow is missing.
    """
    image = need("PIL.Image", "Pillow")
    if path.suffix.lower() not in image.registered_extensions() or path.is_dir():
        raise InputError(f"--frames: expected a file name that ends in .png, got {path}")


Column = list[tuple[str, NDArray[Any] | None]]
"""What stands above one another: a frame, what it is coded against and their difference, each under a line of text."""


def _tile(part: Part) -> tuple[int, int, int]:
    """Pixels of a tile: its width, its height and the text above it; and how often a pixel is repeated."""
    height, width = small(np.empty(_frame_shape(part)[:2])).shape
    scale = -(-TILE // max(height, width))
    return width * scale, height * scale + LABEL + GAP, scale


def sample(replay: SavedReplay, number: int, part: Part) -> tuple[list[Column], int]:
    """A few frames of an image, and what of them is to be shown as white."""
    columns = [_column(replay, number, part, row) for row in _rows_to_show(replay, number).tolist()]
    return columns, max([brightest(pixels) for (_, pixels), *_ in columns if pixels is not None], default=255)


def _rows_to_show(replay: SavedReplay, number: int) -> Rows:
    """A few rows, evenly spread; those whose frame of an image is coded if there are any."""
    rows, frames = decodable(replay.frames), replay.frames
    coded = rows[frames.lengths(rows, number) < frames.layout.images[number].frame_bytes]
    rows = coded if len(coded) else rows
    return rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), min(SHOWN, len(rows))).astype(int))]


def small(pixels: NDArray[Any]) -> NDArray[Any]:
    """Of a large frame every second pixel, or fewer, in memory of its own."""
    step = -(-max(pixels.shape[:2]) // LARGEST)
    return pixels if step == 1 else pixels[::step, ::step].copy()


def _column(replay: SavedReplay, number: int, part: Part, row: int) -> Column:
    frame = read(replay, number, part, np.array([row]))[0]
    label, reference = _reference(replay, number, part, row, frame)
    nbytes = int(replay.frames.lengths(np.array([row]), number)[0])
    column: Column = [(f"row {row}: {nbytes} bytes", small(frame)), (label, None)]
    if reference is not None:
        different = np.any(frame != reference, axis=2).mean()
        column[1:] = [
            (label, small(reference)),
            (f"{different:.1%} of the pixels", difference(small(frame), small(reference))),
        ]
    return column


def need(module: str, name: str) -> Any:
    """A module of a package that only drawing takes.

    Raises:
        ReplayError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ReplayError(f"expected {name} to be installed, which draws and renders; run {INSTALL}") from None


def _reference(
    replay: SavedReplay, image: int, part: Part, row: int, frame: NDArray[Any]
) -> tuple[str, NDArray[Any] | None]:
    """What a row is coded against, and what to call it; of a set the frame that is most like it."""
    frames, layout = replay.frames, replay.frames.layout.images[image]
    if int(frames.lengths(np.array([row]), image)[0]) == layout.frame_bytes:
        return "none: stored raw", None
    reference = int(frames.oldest_needed(np.array([row]))[0])
    if reference != row:
        return f"row {reference}", read(replay, image, part, np.array([reference]))[0]
    sets = frames.codings[image].sets
    number = int(sets.serving(np.array([row]))[0])
    stored = np.frombuffer(sets.frames(number) if number != NO_ROW else b"", np.uint8)
    references = _pixels(part, stored.reshape(-1, *layout.frame_shape))
    if not len(references):
        return "none: coded alone", None
    best = int(np.argmin([np.count_nonzero(reference != frame) for reference in references]))
    return f"set {number}, {best + 1} of {len(references)}", references[best]


def _frame_shape(part: Part) -> tuple[int, int, int]:
    """(H, W, C) of a frame of an image."""
    sides = dict(zip(part.spec.layout.removeprefix("F"), part.spec.shape, strict=True))
    return sides["H"], sides["W"], sides.get("C", 1)


def read(replay: SavedReplay, number: int, part: Part, rows: Rows) -> NDArray[Any]:
    """Frames of an image as (N, H, W, C) in its dtype."""
    return _pixels(part, replay.frames.read(rows, number))


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


def brightest(frames: NDArray[Any]) -> int:
    """What is to be shown as white: of uint16 images the largest value in `frames`."""
    return 255 if frames.dtype == np.uint8 else max(1, int(frames.max(initial=0)))


def difference(frame: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.uint8]:
    """How far apart the pixels are; what differs at all can be seen."""
    apart, most = np.abs(frame.astype(np.int64) - reference), np.iinfo(frame.dtype).max
    return np.where(apart > 0, 55 + apart * 200 // most, 0).astype(np.uint8)


def rgb(frame: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """A frame of three channels: itself if it has three, else its last one in gray, `white` of uint16 as white."""
    if frame.dtype != np.uint8:
        frame = np.minimum(frame.astype(np.int64) * 255 // white, 255).astype(np.uint8)
    return frame if frame.shape[2] == 3 else np.repeat(frame[..., -1:], 3, axis=2)


def enlarge(frame: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """A frame, each pixel of which is repeated."""
    return np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
