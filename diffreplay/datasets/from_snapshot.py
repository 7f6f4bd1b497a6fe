"""Episodes out of a snapshot, read where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.episode_rows import EpisodeRows
from diffreplay.datasets.listing import LISTING, read_listing
from diffreplay.datasets.to_snapshot import EXACT_REWARD, NOTES
from diffreplay.errors import CorruptDataError, InputError
from diffreplay.offline import MappedFrames
from diffreplay.offline import open as open_snapshot
from diffreplay.parts import ArraySpec, Part
from diffreplay.snapshots import Manifest, find_manifest
from diffreplay.store import Rows

PIECE_BYTES = 32 << 20  # of raw frames
NONSENSE = (LookupError, TypeError, ValueError, AttributeError)


class SnapshotSource:
    """The episodes of a snapshot, in the order in which they begin; those of a conversion as they were.

    An episode whose first steps were evicted begins where it is whole; one that goes on counts as truncated.

    Args:
        directory: of the snapshot.

    Attributes:
        origin: the format that it was converted from; None where nobody did.

    Raises:
        CorruptDataError: there is no snapshot, or it is damaged.
        InputError: it is one of a conversion that was not completed.
    """

    format = "snapshot"

    def __init__(self, directory: Path) -> None:
        self._replay = open_snapshot(directory)
        self._frames = cast(MappedFrames, self._replay.reader.frames)
        self._said = _Said(directory, find_manifest(directory, self._replay.commit))
        self.origin = self._said.origin
        self._rows = EpisodeRows(self._frames)
        if self._said.lines is not None and len(self._rows) != self._said.episodes:
            raise CorruptDataError(
                f"{directory}: expected {self._said.episodes} episodes, as its {LISTING} says, got {len(self._rows)}"
            )
        self.description = self._describe()

    def _describe(self) -> Description:
        layout, said, parts = self._frames.layout, self._said, self._replay.reader.parts
        columns = {column.name: ArraySpec(column.shape, column.dtype, "") for column in layout.scalars}
        observations = {part.name: part.spec for part in parts}
        extras = {key.removeprefix("extras/"): spec for key, spec in columns.items() if key.startswith("extras/")}
        reward = extras.pop(EXACT_REWARD) if said.reward is not None else REWARD
        return Description(
            observations.get("", observations),
            columns["action"],
            frame_stack=layout.frame_stack,
            reward=reward,
            extras=extras,
            final_observation=said.final_observation,
            episodes=len(self._rows),
            steps=self._rows.steps,
            attributes=said.attributes,
            warnings=said.warnings,
            fingerprint=self._replay.commit,
        )

    def episodes(self, start: int = 0) -> Iterator[Episode]:
        """The episodes from number `start` on, of long ones the pieces in order."""
        lines = self._said.lines() if self._said.lines is not None else None
        for number, rows in enumerate(self._rows):
            line: dict[str, Any] = {} if lines is None else next(lines, {})
            if number < start:
                continue
            name = line.get("name", f"episode {number}")
            if line and line.get("steps") != len(rows) - 1:
                raise CorruptDataError(f"{name}: expected {line.get('steps')} steps, as listed, got {len(rows) - 1}")
            yield from self._pieces(rows, name, line.get("attributes", {}))
            self._frames.files.page_out()

    def _pieces(self, rows: Rows, name: str, attributes: dict[str, Any]) -> Iterator[Episode]:
        layout, final = self._frames.layout, self.description.final_observation
        is_stacked = not _is_plain(self._frames.stacks(rows), rows)
        size = layout.step_bytes * (layout.frame_stack if is_stacked else 1)
        length, count = max(1, PIECE_BYTES // max(1, size)), len(rows) - 1
        for first in range(0, count, length):
            end = min(first + length, count)
            ends = end == count
            seen = rows[first : end + (ends and final)]
            yield self._piece(seen, rows[first + 1 : end + 1], is_stacked, name, attributes, first == 0, ends)

    def _piece(
        self, seen: Rows, led_to: Rows, stacked: bool, name: str, attributes: dict[str, Any], begins: bool, ends: bool
    ) -> Episode:
        column = self._frames.column
        parts = {part.name: values for part, values in self._observations(seen, stacked)}
        values = {key: column(f"extras/{key}", led_to) for key in self.description.extras}
        discounts, plain = column("discount", led_to), self.description.reward == REWARD
        return Episode(
            parts.get("", parts),
            column("action", led_to),
            column("reward", led_to) if plain else column(f"extras/{EXACT_REWARD}", led_to),
            terminated=ends and discounts[-1] == 0,
            truncated=ends and discounts[-1] != 0,
            discounts=discounts,
            extras=values,
            stacked=stacked,
            name=name,
            attributes=attributes,
            begins=begins,
            ends=ends,
        )

    def _observations(self, rows: Rows, stacked: bool) -> Iterator[tuple[Part, NDArray[Any]]]:
        """Of each part, the single frames of steps, or their whole observations."""
        frames, image = self._frames, 0
        shown = frames.stacks(rows) if stacked else rows[:, None]
        for part in self._replay.reader.parts:
            one = part if stacked else Part(part.name, part.spec, 1, part.channels_first)
            out = np.empty((len(rows), *one.shape), one.dtype)
            if part.is_image:
                read = frames.read(shown.reshape(-1), image).reshape(*shown.shape, *part.stored_shape)
                read = np.ascontiguousarray(read.transpose(0, 1, 4, 2, 3)) if one.planar_stack else read
                for place, stack in zip(out, read, strict=True):
                    place[...] = one.observation(stack)
                image += 1
            else:
                column = next(each for each in frames.layout.scalars if each.name == f"obs/{part.name}")
                out[...] = frames.stacked(column, shown).view(part.dtype).reshape(out.shape)
            yield part, out if stacked else out.reshape(len(out), *part.spec.shape)


class _Said:
    """What a snapshot says of where its episodes come from; nothing where it was not converted, or went on since."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.lines: Callable[[], Iterator[dict[str, Any]]] | None = None
        self.final_observation, self.episodes = True, 0
        self.origin: str | None = None
        self.reward: ArraySpec | None = None
        self.attributes: dict[str, Any] = {}
        self.warnings: tuple[str, ...] = ()
        notes = manifest.buffer.get("notes", {}).get(NOTES)
        if not isinstance(notes, dict):
            return
        if not notes.get("complete"):
            raise InputError(
                f"{directory}: expected a snapshot that is whole, got a conversion that was not completed: run it "
                "again first, which goes on"
            )
        conversion = notes.get("conversion")
        self.origin = str(conversion.get("from")) if isinstance(conversion, dict) else None
        if notes.get("rows") != manifest.head or manifest.tail or not (directory / LISTING).exists():
            self.warnings = ("what was noted of the source is left out, as the buffer was changed or copied since",)
            return
        try:
            nbytes, digest = notes["listing"]
            described = next(read_listing(directory / LISTING, nbytes, digest), {})["description"]
            self.final_observation, self.attributes = described["final_observation"], described["attributes"]
            self.warnings, self.episodes = tuple(described["warnings"]), notes["done"]
            reward = ArraySpec.from_json(described["reward"])
        except NONSENSE as error:
            raise CorruptDataError(f"{directory / LISTING}: makes no sense: {error}") from error
        self.reward = None if reward == REWARD else reward
        self.lines = lambda: islice(read_listing(directory / LISTING, nbytes, digest), 1, None)


def _is_plain(stacks: Rows, rows: Rows) -> bool:
    """Whether the observations of an episode are its frames, one after the other, the first one repeated."""
    frames = stacks.shape[1]
    expected = np.concatenate([np.repeat(rows[:1], frames - 1), rows])
    return bool(np.array_equal(np.lib.stride_tricks.sliding_window_view(expected, frames), stacks))
