"""What a snapshot holds, in words."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffreplay.replay import ReplayBuffer
from diffreplay.snapshots import find_manifest
from diffreplay.store import NO_ROW, Flag, Rows


@dataclass(frozen=True)
class Report:
    """A snapshot, loaded as far as it is not damaged.

    Attributes:
        replay: what could be loaded.
        episodes: rows of the steps of each episode, oldest first.
        damage: a sentence for each thing that is damaged.
        lines: all of it for people to read.
    """

    replay: ReplayBuffer
    episodes: list[Rows]
    damage: list[str]
    lines: list[str]


def inspect(directory: Path) -> Report:
    """Load a snapshot, compare every checksum, decode every frame, and describe what there is.

    Takes as much memory as the buffer.

    Raises:
        CorruptDataError: there is no snapshot, or its manifest is damaged.
        InputError: it was saved with a codec that is neither in the registry nor of an installed package.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # `verify` names what is left out
        replay = ReplayBuffer.load(directory, skip_damaged=True)
    damage, episodes = replay.verify(), find_episodes(replay)
    lines = [*_describe_files(directory), *_describe(replay, episodes)]
    lines += [_line("damage", problem) for problem in damage or ["none: every checksum fits, every frame decodes"]]
    return Report(replay, episodes, damage, lines)


def find_episodes(replay: ReplayBuffer) -> list[Rows]:
    """Rows of the steps of each episode that are held, in the order in which the episodes begin."""
    store = replay.store
    rows = np.arange(store.tail, store.head)
    steps = rows[(store.column("flags", rows) & Flag.CONTEXT) == 0]
    episodes: dict[int, list[int]] = {}
    begins: dict[int, int] = {}  # of each step, where its episode begins
    for step, before in zip(steps.tolist(), store.previous_steps(steps).tolist(), strict=True):
        begins[step] = begins.get(before, step)
        episodes.setdefault(begins[step], []).append(step)
    return [np.array(steps) for steps in episodes.values()]


def _line(name: str, value: str) -> str:
    return f"{name:<14}{value}"


def _describe_files(directory: Path) -> list[str]:
    manifest = find_manifest(directory, None)
    files = manifest.files()
    nbytes = sum(entry.nbytes for entry in files)
    priorities = f"{len(manifest.priorities)} of priorities, " if manifest.priorities else ""
    return [
        _line("snapshot", f"{directory}, commit {manifest.commit}"),
        _line(
            "files",
            f"{len(manifest.segments)} of rows, {sum(map(len, manifest.sets))} of references, {priorities}"
            f"{_size(nbytes)}",
        ),
    ]


def _describe(replay: ReplayBuffer, episodes: list[Rows]) -> list[str]:
    store, stats, layout = replay.store, replay.stats(), replay.store.layout
    steps = [len(episode) for episode in episodes]
    options = ", ".join(f"{key}={value}" for key, value in store.codec.options().items())
    frames, lost = _count_frames(replay)
    sets = sum(len(sets.numbers()) for sets in store.sets)
    open_steps = {stream.row for stream in store.streams.values() if stream.is_open} - {NO_ROW}
    unfinished = sum(int(episode[-1]) in open_steps for episode in episodes)
    shorter = " or fewer at an episode's end" if replay.shorter_at_end else ""
    lengths = f", {min(steps)} to {max(steps)} long, {np.median(steps):.0f} in the middle" if steps else ""
    extras = f", and of {', '.join(replay.extras)}" if replay.extras else ""
    return [
        *(_line("observation", text) for text in _describe_parts(replay)),
        _line("transitions", f"{stats.transitions} of at most {replay.capacity}, n-step {replay.nstep}" + shorter),
        _line("frames", f"{frames}" + (f", {lost} of them lost with damaged files or after such" if lost else "")),
        _line("steps", f"{sum(steps)}{lengths}"),
        _line("episodes", f"{len(episodes)}, {unfinished} of them unfinished, in {len(store.streams)} stream(s)"),
        _line("codec", f"{store.codec.name}" + (f" ({options})" if options else "") + f", {sets} reference set(s)"),
        _line(
            "coded frames",
            f"{_size(stats.payload_bytes)}, index {_size(stats.index_bytes)}, references "
            f"{_size(stats.reference_bytes)}",
        ),
        *([_line("columns", _size(stats.column_bytes))] if layout.stacked else []),
        _line("other values", f"{_size(stats.scalar_bytes)} of actions, rewards and discounts" + extras),
        _line("memory", f"{_size(stats.total_bytes)} in all"),
        _line("ratio", f"{stats.compression_ratio:.1f} to stacks of {_size(stats.stacked_bytes)}"),
    ]


def _describe_parts(replay: ReplayBuffer) -> list[str]:
    """What each part of an observation is; of several images, what their coded frames take."""
    store, found = replay.store, []
    rows = np.arange(store.tail, store.head)
    for image, part in enumerate(replay.parts):
        sides, steps = part.spec.shape, part.frame_stack
        if part.is_image:
            by_axis = dict(zip(part.spec.layout.removeprefix("F"), sides, strict=True))
            sides = (by_axis["H"], by_axis["W"], by_axis.get("C", 1))
        shape = " x ".join(map(str, sides)) or "1"
        text = f"{steps} {'frames' if part.is_image else 'steps'} of {shape}, {part.dtype}"
        if part.name:
            coded = f", {_size(int(store.lengths(rows, image).sum()))} coded" if part.is_image else ""
            text = f"{part.name}: {text}{coded}"
        found.append(text)
    return found


def _count_frames(replay: ReplayBuffer) -> tuple[int, int]:
    """Frames that were stored, and how many of them are lost."""
    store = replay.store
    rows = np.arange(store.tail, store.head)
    empty = np.setdiff1d(rows, store.present(rows))
    # A row in place of a frame that is stored elsewhere leads on to another; of a file's lost rows nothing is known.
    elsewhere = (store.lengths(empty) == 0) & (store.column("link", empty) > 0) & (store.oldest_needed(empty) == empty)
    return len(rows) - int(elsewhere.sum()), int((~elsewhere).sum())


def _size(nbytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"
