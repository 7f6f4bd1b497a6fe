"""Frames out of a video file, through PyAV, a few at a time.

The container's kind is told by the file's first bytes and never left to the library to guess: what looks like a
playlist would be followed to other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.needs import needs, told_as_damage
from diffreplay.errors import CorruptDataError
from diffreplay.snapshots import open_regular

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
MOST_PIXELS = 1 << 26
ROOM = 1 << 20  # pixels that a decoder may take at least, as what is coded is larger than what is shown
LOSSLESS = ("ffv1", "png", "qtrle", "rawvideo", "huffyuv", "ffvhuff", "utvideo")


class Video(NamedTuple):
    """What a video is."""

    height: int
    width: int
    frames: int  # 0 where the file does not say
    codec: str
    pixels: str

    @property
    def is_lossy(self) -> bool:
        """Whether the codec, or the conversion to RGB of 8 bits, loses something."""
        return self.codec not in LOSSLESS or not self.pixels.startswith(("rgb24", "bgr24", "gbrp", "bgr0", "0rgb"))


def _container(path: Path, head: bytes) -> str:
    """What kind of container a file is, by its first bytes.

    Raises:
        CorruptDataError: it is of no known kind.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    raise CorruptDataError(
        f"{path}: expected a video (MP4, Matroska or AVI), got a file that begins with {head[:12]!r}"
    )


def _check_matroska(path: Path, head: bytes, nbytes: int) -> None:
    """Refuse a Matroska file that is shorter than its segment: of such the library reads what is there, and is content.

    A size is as many bytes as its first one has leading zeros, and one more; all ones mean that it is not known.

    Raises:
        CorruptDataError: so it is.
    """
    at = 4
    for name in (None, b"\x18\x53\x80\x67"):
        if name is not None and head[at : at + 4] != name:
            return
        at += 0 if name is None else 4
        length = 9 - head[at].bit_length() if at < len(head) else 9
        size = int.from_bytes(head[at : at + length]) & ((1 << 7 * length) - 1)
        at += length
        if name is None:
            at += size
        elif size != (1 << 7 * length) - 1 and at + size > nbytes:
            raise CorruptDataError(f"{path}: expected {at + size} bytes, as it says, got {nbytes}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container of a file and its video stream; whatever PyAV fails at within is told as damage of it.

    Raises:
        CorruptDataError: it cannot be read, has no video, or one of absurd size.
        ReplayError: PyAV is not installed.
    """
    av = needs("av", str(path))
    with told_as_damage(path, "video"), open_regular(path) as file:
        head = file.read(256)
        kind = _container(path, head)
        if kind == "matroska":
            _check_matroska(path, head, file.seek(0, 2))
        file.seek(0)
        options = {"max_pixels": str(2 * MOST_PIXELS)}
        with av.open(file, format=kind, options=options) as container:
            if not container.streams.video:
                raise CorruptDataError(f"{path}: expected a video, got a file without one")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise CorruptDataError(f"{path}: expected a video whose codec PyAV knows, got another")
            height, width = stream.codec_context.height, stream.codec_context.width
            if not 0 < height * width <= MOST_PIXELS:
                raise CorruptDataError(f"{path}: expected at most {MOST_PIXELS} pixels, got {width}x{height}")
            yield container, stream


def look(path: Path) -> Video:
    """What a video is, as its file says; no frame of it is decoded.

    Raises:
        CorruptDataError: it is damaged or none.
    """
    with _opened(path) as (_, stream):
        context = stream.codec_context
        return Video(context.height, context.width, stream.frames, context.codec.canonical_name, str(context.pix_fmt))


def count(path: Path) -> int:
    """How many frames a video has, by its packets; none of them is decoded.

    Raises:
        CorruptDataError: it is damaged, or cut short.
    """
    with _opened(path) as (container, stream):
        found = 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise CorruptDataError(f"{path}: expected a whole video, got a damaged packet after {found} frames")
            found += bool(packet.size and not packet.is_discard)
        if stream.frames and stream.frames != found:
            raise CorruptDataError(f"{path}: expected {stream.frames} frames, as it says, got {found}")
        return found


class Frames:
    """The frames of a video, or of a span of it, in order, as `take` asks for them.

    Args:
        path: of the file.
        video: what it is; frames of another size are refused.
        begin: seconds at which the first frame is shown; None for the first one of all.
        frame_time: seconds from one frame to the next, where there is a `begin`.

    Raises:
        CorruptDataError: it is damaged.
    """

    def __init__(self, path: Path, video: Video, begin: float | None = None, frame_time: float = 0.0) -> None:
        self._path, self._video = path, video
        self._frames = self._decode(begin, frame_time)

    def _decode(self, begin: float | None, frame_time: float) -> Iterator[NDArray[np.uint8]]:
        size = (self._video.height, self._video.width)
        with _opened(self._path) as (container, stream):
            most = max(ROOM, 4 * size[0] * size[1])
            stream.codec_context.options = {"err_detect": "crccheck+explode", "max_pixels": str(most)}
            if begin:
                container.seek(int(begin / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if begin is not None and float(frame.time or 0) < begin - frame_time / 2:
                    continue
                if (frame.height, frame.width) != size:
                    got = f"{frame.width}x{frame.height}"
                    raise CorruptDataError(f"{self._path}: expected frames of {size[1]}x{size[0]} pixels, got {got}")
                if frame.is_corrupt:
                    raise CorruptDataError(f"{self._path}: expected a whole video, got a damaged frame")
                yield frame.to_ndarray(format="rgb24")

    def take(self, frames: int) -> NDArray[np.uint8]:
        """The next frames (n, height, width, 3); fewer where the video ends."""
        taken = np.empty((frames, self._video.height, self._video.width, 3), np.uint8)
        for number in range(frames):
            frame = next(self._frames, None)
            if frame is None:
                return taken[:number]
            taken[number] = frame
        return taken

    def close(self) -> None:
        """Let go of the file."""
        self._frames.close()  # type: ignore[attr-defined]
