"""`open`: a snapshot as a replay that is read where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from diffreplay import checks, codecs
from diffreplay.errors import CorruptDataError, ReadOnlyError
from diffreplay.loading import Readable, ReplayReader, keep_priorities
from diffreplay.offline.frames import MappedFrames
from diffreplay.offline.saved import Saved, all_frames, rest_of_frames
from diffreplay.snapshots import FileEntry, find_manifest, make


class SavedReplay(Readable):
    """A snapshot, to sample from: `diffreplay.open` makes it.

    Loaders, mixtures, sequences and `Priorities` take it as they take a `ReplayBuffer`. It never writes. It pickles as
    the name of its directory and commit; what it is passed to opens that anew. A loader's workers share what was found
    out about the files.

    `stats().total_bytes` counts the files on disk. Of memory, a step takes about 15 bytes, its action and its other
    values, once it or a neighbour was asked for; the page cache holds as much of the files as there is room for.

    Attributes:
        directory: of the snapshot.
        commit: the one that was opened.
        capacity: transitions that the buffer kept.
        frames: the rows.
        parts: of an observation.
        extras: names of further values of a step.
        damage: a sentence for each file that was left out, with `skip_damaged`.
        reader: what `len`, `stats`, `can_sample` and `sample` ask.

    Examples:
        >>> commit = replay.save("run/replay")
        >>> diffreplay.open("run/replay").commit == commit
        True
    """

    def __init__(
        self,
        frames: MappedFrames,
        saved: Saved,
        codec: str | codecs.Codec | None,
        seed: int,
        damage: list[str] | None = None,
    ) -> None:
        self.directory, self.commit = frames.files.directory, frames.files.manifest.commit
        self.capacity, self.extras = saved.capacity, saved.extras
        self.frames, self.parts, self.damage = frames, saved.parts, damage or []
        self._codec, self._seed, self._skips_damaged = codec, seed, damage is not None
        self.reader = ReplayReader(
            frames, saved.parts, saved.nstep, saved.discount, saved.shorter_at_end, checks.generator(seed)
        )

    def __repr__(self) -> str:
        stats = self.stats()
        held = f"{str(self.directory)!r}, {stats.transitions} transitions"
        return f"SavedReplay({held}, {self.frames.codec.name}: {stats.summary})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.directory, self.commit, self._codec, self._seed, self._skips_damaged)

    @property
    def frame_stack(self) -> int:
        """Frames in an observation."""
        return self.frames.layout.frame_stack

    @property
    def nstep(self) -> int:
        """Steps that a sampled transition spans."""
        return self.reader.nstep

    @property
    def codec(self) -> codecs.Codec:
        """How frames are coded."""
        return self.frames.codec

    def verify(self) -> list[str]:
        """Compare the checksums of all files; those of priorities were compared when it was opened.

        Returns:
            What is damaged, a sentence each; empty when all is well.
        """
        manifest, problems = self.frames.files.manifest, []
        for entry in [*manifest.segments, *(entry for sets in manifest.sets for entry in sets)]:
            if problem := self._problem(entry):
                problems.append(problem)
        return problems

    def _problem(self, entry: FileEntry) -> str:
        files = self.frames.files
        try:
            if entry.name not in files.damage:
                files.checked(entry)
        except CorruptDataError as error:
            return str(error)
        finally:
            files.page_out()
        return files.damage.get(entry.name, "")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Say that it does not write."""
        raise ReadOnlyError(
            "expected a ReplayBuffer to add to or save, got a snapshot that is open for reading; to go on writing, use "
            f"ReplayBuffer.load({str(self.directory)!r})"
        )

    add = add_transition = add_batch = save = _refuse


def open(
    directory: str | Path,
    *,
    commit: str | None = None,
    codec: str | codecs.Codec | None = None,
    verify: bool = False,
    skip_damaged: bool = False,
    seed: int = 0,
) -> SavedReplay:
    """Open a snapshot to sample from it where it lies: read-only, mapped into memory.

    Nothing is read but the manifest: a file is read, and its checksum compared, when one of its rows is first sampled.
    So it may be larger than memory, and all processes that open it share the system's page cache. It may be saved over
    meanwhile: what was opened stays as it was.

    Args:
        directory: of `ReplayBuffer.save`.
        commit: which of the two that it keeps; the newest by default.
        codec: needed where the buffer was made with a codec of one's own.
        verify: compare all checksums now.
        skip_damaged: likewise, and leave out what is damaged, as `ReplayBuffer.load` does; `damage` tells of it.
        seed: of `sample`.

    Raises:
        CorruptDataError: there is no snapshot, a file of it is missing or of another size, its priorities are damaged
            or, with `verify`, anything is; the message names it. Later, sampling raises it where it touches a damaged
            file.
        InputError: `codec` is not the one that it was saved with, or is needed and missing.
        SharedMemoryError: the system maps no such files, or has no memory for the index.

    Examples:
        >>> commit = replay.save("run/replay")
        >>> offline = diffreplay.open("run/replay")
        >>> len(offline), offline.sample(32).reward.shape
        (100, torch.Size([32, 1]))
    """
    directory = checks.path("directory", directory).absolute()
    while True:
        manifest = find_manifest(directory, commit)
        saved = make(Saved, directory, manifest.buffer, codec, "saved")
        try:
            if skip_damaged:
                frames, priorities, damage = rest_of_frames(directory, manifest, saved)
            else:
                frames, priorities, damage = *all_frames(directory, manifest, saved), None
            if not damage or find_manifest(directory, commit).commit == manifest.commit:
                break
        except CorruptDataError:
            if find_manifest(directory, commit).commit == manifest.commit:
                raise
        # Another process saved meanwhile, and deleted what was being opened.
    replay = SavedReplay(frames, saved, codec, seed, damage)
    keep_priorities(replay.reader, priorities)
    if verify and not skip_damaged:
        frames.fill_all()
    return replay


def _again(
    directory: Path, commit: str, codec: str | codecs.Codec | None, seed: int, skip_damaged: bool = False
) -> SavedReplay:
    """What is unpickled."""
    return open(directory, commit=commit, codec=codec, seed=seed, skip_damaged=skip_damaged)
