"""Episodes into a snapshot, through a `ReplayBuffer` that lies on disk, so that it may be larger than memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffreplay import checks, codecs
from diffreplay.datasets.episode import REWARD, Description, Episode
from diffreplay.datasets.listing import LISTING, Listing
from diffreplay.datasets.names import check_names
from diffreplay.datasets.stacks import Observations
from diffreplay.errors import CorruptDataError, InputError, ReplayError
from diffreplay.replay import ReplayBuffer
from diffreplay.snapshots import MANIFEST, find_manifest
from diffreplay.store import frames_before
from diffreplay.testing import TimeStep

NOTES = "dataset"  # key of a snapshot's notes
VERSION = 1  # of these notes and of the listing
EXACT_REWARD = "exact_reward"  # name of the extra values of rewards that are not float32
SAVE_EVERY = 20_000  # steps
PAGES_HELD = 64 << 20  # bytes of raw frames after which pages are let go
LEAST_FREE = 256 << 20  # bytes that the disk has to have left


class SnapshotTarget:
    """Writes a snapshot; where one of the same conversion is, which was not completed, it goes on with that.

    The buffer's memory is a file without a name in the directory. The system writes its pages out and this process lets
    go of them, so that memory is bounded; the disk holds them beside the snapshot until the conversion ends.

    Args:
        directory: of the snapshot.
        description: of the source.
        conversion: what tells this conversion from others, as JSON holds it.
        capacity: of the buffer.
        save_every: steps after which it is saved, at an episode's end.
        options: further ones of `ReplayBuffer`.

    Attributes:
        done: episodes that are there already.

    Raises:
        InputError: something else is there, or an option makes no sense.
    """

    def __init__(
        self,
        directory: Path,
        description: Description,
        conversion: dict[str, Any],
        capacity: int,
        save_every: int = SAVE_EVERY,
        **options: Any,
    ) -> None:
        self._directory, self._description, self._save_every = directory, description, save_every
        notes = unfinished(directory, conversion)
        if notes is None:
            check_disk(directory)
            notes = {"version": VERSION, "conversion": conversion, "done": 0, "complete": False, "listing": [0, ""]}
            replay = _new(directory, description, capacity, options)
            replay.notes[NOTES] = notes
            replay.save(directory)
        else:
            replay = _on_disk(directory).load(directory)
        self._listing = Listing(directory / LISTING, *notes["listing"])
        if not notes["listing"][0]:
            self._listing.add({"description": describe(description)})
        self._replay, self._notes = replay, dict(notes)
        self._observations = Observations(description)
        layout = replay.store.layout
        self._step_bytes = max(1, layout.row_bytes + sum(column.row_bytes for column in layout.scalars))
        self._unsaved = self._held = 0
        self._pending: dict[str, Any] | None = None  # the last action of a piece, which led to what comes next
        self._steps = 0  # of the present episode

    @property
    def done(self) -> int:
        """Episodes that are there already."""
        return int(self._notes["done"])

    def write(self, episode: Episode) -> None:
        """Take an episode, or its next piece."""
        if len(self._replay) + len(episode.actions) > self._replay.capacity:
            raise InputError(
                f"{episode.name}: expected at most {self._replay.capacity} steps in all, got more; give capacity="
            )
        if episode.begins:
            self._steps = 0
        count = len(episode.actions)
        self._observations.take(episode)
        for t in range(len(self._observations)):
            self._add(self._observations[t], first=episode.begins and not t, last=t == count)
            if t < count:
                self._pending = _values(episode, t, self._description)
        self._steps += count
        self._pace(count)
        if episode.ends:
            self._end(episode)

    def _add(self, observation: dict[str, Any], first: bool, last: bool) -> None:
        values = {} if first or self._pending is None else self._pending
        extras = values.pop("extras", None)
        self._replay.add(
            TimeStep(observation.get("", observation), is_first=first, is_last=last, **values), extras=extras
        )

    def _end(self, episode: Episode) -> None:
        line = {"name": episode.name, "steps": self._steps}
        self._listing.add(line | ({"attributes": episode.attributes} if episode.attributes else {}))
        self._notes["done"] += 1
        self._pending = None
        if self._unsaved >= self._save_every:
            self._save()

    def _pace(self, steps: int) -> None:
        """Let go of pages now and then, and look whether the disk has room for more."""
        self._unsaved += steps
        self._held += steps * self._step_bytes
        if self._held >= PAGES_HELD:
            self._held = 0
            self._replay.store.arena.page_out()
            check_disk(self._directory)

    def _save(self) -> None:
        self._notes["listing"] = list(self._listing.sync())
        self._replay.notes[NOTES] = dict(self._notes)
        self._replay.save(self._directory)
        self._replay.store.arena.page_out()
        self._unsaved = 0

    def finish(self) -> None:
        """Save the whole as complete."""
        self._notes |= {"complete": True, "rows": self._replay.store.head}
        self._save()

    def close(self) -> None:
        """Let go of the listing's file."""
        self._listing.close()


def unfinished(directory: Path, conversion: dict[str, Any]) -> dict[str, Any] | None:
    """The notes of a conversion in a directory that can be gone on with; None where the directory has nothing in it.

    Raises:
        InputError: something else is there.
        CorruptDataError: the snapshot that is there is damaged.
    """
    try:
        # A manifest that has not got its name yet is all that a conversion killed in its first moments leaves.
        if not directory.exists() or all(path.name.startswith(f"{MANIFEST}.") for path in directory.iterdir()):
            return None
    except NotADirectoryError:
        raise InputError(f"{directory}: expected a directory to write, or none, got a file") from None
    expected = f"{directory}: expected no target, or this conversion, unfinished, to go on with; got"
    if not (directory / MANIFEST).exists():
        raise InputError(f"{expected} other files: give another target")
    notes = find_manifest(directory, None).buffer.get("notes", {}).get(NOTES)
    if not isinstance(notes, dict) or notes.get("conversion") != conversion:
        raise InputError(f"{expected} a snapshot of something else: give another target, or remove it first")
    if notes.get("complete"):
        raise InputError(f"{expected} one that is complete: nothing is left to do")
    if notes.get("version") != VERSION:
        raise CorruptDataError(f"{directory}: expected notes of version {VERSION}, got {notes.get('version')!r:.60}")
    return notes


def describe(description: Description) -> dict[str, Any]:
    """What is kept of a description, as JSON holds it."""
    return {
        "observations": {key: spec.to_json() for key, spec in description.parts.items()},
        "action": description.action.to_json(),
        "frame_stack": description.frame_stack,
        "reward": description.reward.to_json(),
        "extras": {key: spec.to_json() for key, spec in description.extras.items()},
        "final_observation": description.final_observation,
        "attributes": dict(description.attributes),
        "warnings": list(description.warnings),
    }


def check_disk(directory: Path) -> None:
    """Refuse to go on where the disk is nearly full: memory that lies there could not be written.

    Raises:
        ReplayError: so it is.
    """
    directory = _existing(directory)
    free = shutil.disk_usage(directory).free
    if free < LEAST_FREE:
        raise ReplayError(
            f"{directory}: expected {LEAST_FREE >> 20} MB of free disk, got {free >> 20}: make room, and run the same "
            "conversion again, which goes on"
        )


def _new(directory: Path, description: Description, capacity: int, options: dict[str, Any]) -> ReplayBuffer:
    """An empty buffer for what the source has."""
    frames, extras = description.frame_stack, dict(description.extras)
    if description.reward.dtype != REWARD.dtype:
        check_names(directory, [*extras, EXACT_REWARD], nested=False)
        extras[EXACT_REWARD] = description.reward
    codec = codecs.get(options.get("codec", codecs.DEFAULT))
    window = checks.positive("nstep", options.get("nstep", 1)) + frames + frames_before(codec, frames)
    return _on_disk(directory)(
        max(checks.positive("capacity", capacity), window),
        _shape(description),
        description.action.shape,
        action_dtype=description.action.dtype,
        frame_stack=frames,
        extras=extras or None,
        **options,
    )


def _shape(description: Description) -> Any:
    return description.parts if isinstance(description.observations, Mapping) else description.observations


def _on_disk(directory: Path) -> type[ReplayBuffer]:
    """A `ReplayBuffer` whose memory is a file on the disk of a directory, which need not be there yet."""

    class OnDisk(ReplayBuffer):
        memory_directory = _existing(directory)

    return OnDisk


def _existing(directory: Path) -> Path:
    """A directory, or the one in which it will be made."""
    directory = directory.absolute()
    return directory if directory.is_dir() else _existing(directory.parent)


def _values(episode: Episode, t: int, description: Description) -> dict[str, Any]:
    """What the step after action `t` carries."""
    last = episode.ends and t == len(episode.actions) - 1
    discount = (0.0 if last and episode.terminated else 1.0) if episode.discounts is None else episode.discounts[t]
    extras = {key: values[t] for key, values in episode.extras.items()}
    if description.reward.dtype != REWARD.dtype:
        extras[EXACT_REWARD] = episode.rewards[t]
    return {
        "action": episode.actions[t],
        "reward": float(episode.rewards[t]),
        "discount": float(discount),
        "extras": extras or None,
    }
