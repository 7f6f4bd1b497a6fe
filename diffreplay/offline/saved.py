"""What a commit says of its buffer, and the rows of it: all of them, or those that are not damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffreplay import checks, codecs
from diffreplay.errors import CorruptDataError
from diffreplay.loading import columns_of
from diffreplay.offline.frames import MappedFrames
from diffreplay.offline.mapping import MappedFiles
from diffreplay.offline.rest import RestOfFrames
from diffreplay.parts import ArraySpec, Shape, extras_of, parts_of
from diffreplay.snapshots import Manifest, check_rest, damage_by_size, open_rows, read_priorities
from diffreplay.store import layout_of

F = TypeVar("F", bound=MappedFrames)


class Saved:
    """What a snapshot says of its buffer: arguments as of `ReplayBuffer`.

    Attributes:
        parts: of an observation.
        extras: names of further values of a step.
        layout: as of the buffer's store, but for how much that holds.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: Shape,
        action_shape: tuple[int, ...],
        *,
        codec: codecs.Codec,
        frame_stack: int,
        nstep: int,
        discount: float,
        action_dtype: str,
        shorter_at_end: bool = False,
        extras: Mapping[str, ArraySpec] | None = None,
        channels_first: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self.capacity, self.nstep = checks.positive("capacity", capacity), checks.positive("nstep", nstep)
        self.discount, self.codec = checks.share("discount", discount), codec
        self.shorter_at_end = bool(shorter_at_end) and nstep > 1
        frame_stack = checks.positive("frame_stack", frame_stack)
        self.parts, more = parts_of(observation_shape, frame_stack, channels_first), extras_of(extras)
        self.extras = tuple(part.name for part in more)
        action = checks.number_dtype(action_dtype), checks.shape("action_shape", action_shape)
        columns, stacked = columns_of(self.parts, *action, more)
        images = [part.image_shape for part in self.parts if part.is_image]
        self.layout = layout_of(images, frame_stack, 0, codec, columns, max_bytes, stacked)


def all_frames(directory: Path, manifest: Manifest, saved: Saved) -> tuple[MappedFrames, dict[str, Any] | None]:
    """The rows and the priorities of a commit, of which nothing may be damaged."""
    _check_images(directory, manifest, saved)
    return _frames(MappedFrames, directory, manifest, saved, {}), read_priorities(directory, manifest)


def rest_of_frames(
    directory: Path, manifest: Manifest, saved: Saved
) -> tuple[MappedFrames, dict[str, Any] | None, list[str]]:
    """The rows and the priorities of a commit that are not damaged, and a sentence for each file that is."""
    _check_images(directory, manifest, saved)
    left_out = damage_by_size(saved.layout, directory, manifest)
    check_rest(directory, manifest, left_out)
    frames, priorities = _frames(RestOfFrames, directory, manifest, saved, left_out), None
    frames.leave_out_damaged()
    damage = list(frames.files.damage.values())
    try:
        priorities = read_priorities(directory, manifest)
    except CorruptDataError as error:
        damage.append(str(error))
    return frames, priorities, damage


def _frames(kind: type[F], directory: Path, manifest: Manifest, saved: Saved, left_out: dict[str, str]) -> F:
    """The rows of a commit, but for files that are left out.

    Raises:
        CorruptDataError: its files are not what it says.
    """
    going_on = open_rows(directory, manifest) if saved.shorter_at_end else None
    files = MappedFiles(directory, manifest, saved.layout, damage=left_out)
    return kind(files, saved.layout, saved.codec, going_on)


def _check_images(directory: Path, manifest: Manifest, saved: Saved) -> None:
    """Refuse a manifest of other images.

    Raises:
        CorruptDataError: so it is.
    """
    if len(manifest.sets) != len(saved.layout.images):
        raise CorruptDataError(
            f"{directory}: expected a manifest of reference sets for {len(saved.layout.images)} images, got "
            f"{len(manifest.sets)}"
        )
