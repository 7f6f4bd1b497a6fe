"""What a snapshot holds, in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffreplay.cli.contents import Camera, count_frames, find_cameras, find_episodes, find_returns
from diffreplay.offline import SavedReplay
from diffreplay.offline import open as open_snapshot
from diffreplay.parts import Part
from diffreplay.snapshots import open_rows, undecodable, verify_files
from diffreplay.stats import in_bytes
from diffreplay.store import Rows


@dataclass(frozen=True)
class Report:
    """A snapshot, open as far as it is not damaged.

    Attributes:
        replay: what is not damaged.
        episodes: rows of the steps of each episode, oldest first.
        returns: of each episode the sum of its rewards.
        cameras: what each image takes.
        damage: a sentence for each thing that is damaged.
        facts: all of it for people to read, each with its name.
    """

    replay: SavedReplay
    episodes: list[Rows]
    returns: NDArray[np.float64]
    cameras: list[Camera]
    damage: list[str]
    facts: list[tuple[str, str]]

    @property
    def lines(self) -> list[str]:
        """The facts, a line each."""
        return [f"{name:<14}{value}" for name, value in self.facts]


def inspect(directory: Path, decode: bool = True) -> Report:
    """Open a snapshot, compare every checksum, decode every frame, and describe what there is.

    Nothing is loaded: its files are read one after the other. It takes memory for the index, and for some frames.

    Args:
        directory: of the snapshot.
        decode: every frame; else checksums are compared alone.

    Raises:
        CorruptDataError: there is no snapshot, or its manifest is damaged.
        InputError: it was saved with a codec that is neither in the registry nor of an installed package.
    """
    replay = open_snapshot(directory, skip_damaged=True)
    manifest = replay.frames.files.manifest
    damage = [*replay.damage, *verify_files(replay.directory, {entry.name for entry in manifest.files()})]
    for found in undecodable(replay.frames) if decode else ():
        damage += found
        replay.frames.files.page_out()
    episodes, cameras = find_episodes(replay), find_cameras(replay)
    returns = find_returns(replay, episodes)
    well = "every checksum fits" + (", every frame decodes" if decode else "; no frame was decoded")
    facts = [
        *_describe_files(directory, replay),
        *_describe(replay, cameras, episodes, returns),
        *_describe_sizes(replay, cameras),
        *(("damage", problem) for problem in damage or [f"none: {well}"]),
    ]
    return Report(replay, episodes, returns, cameras, damage, [(name, printable(value)) for name, value in facts])


def printable(text: str) -> str:
    """Text in which what would move a terminal's cursor, or is no character, is written as Python does."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _describe_files(directory: Path, replay: SavedReplay) -> list[tuple[str, str]]:
    manifest = replay.frames.files.manifest
    nbytes = sum(entry.nbytes for entry in manifest.files())
    priorities = f"{len(manifest.priorities)} of priorities, " if manifest.priorities else ""
    sets = sum(map(len, manifest.sets))
    return [
        ("snapshot", f"{directory}, commit {manifest.commit}"),
        ("files", f"{len(manifest.segments)} of rows, {sets} of references, {priorities}{in_bytes(nbytes)}"),
    ]


def _describe(
    replay: SavedReplay, cameras: list[Camera], episodes: list[Rows], returns: NDArray[np.float64]
) -> list[tuple[str, str]]:
    """What there is of each thing."""
    manifest = replay.frames.files.manifest
    steps = [len(episode) for episode in episodes]
    frames, lost = count_frames(replay.frames)
    going_on = set(open_rows(replay.directory, manifest))
    unfinished = sum(int(episode[-1]) in going_on for episode in episodes)
    shorter = " or fewer at an episode's end" if replay.reader.shorter_at_end else ""
    lengths = f", {min(steps)} to {max(steps)} long, {np.median(steps):.0f} in the middle" if steps else ""
    counted = f"{len(episodes)}, {unfinished} of them unfinished, in {len(manifest.buffer['streams'])} stream(s)"
    return [
        *(("observation", text) for text in _describe_parts(replay, cameras)),
        ("transitions", f"{len(replay)} of at most {replay.capacity}, n-step {replay.nstep}{shorter}"),
        ("frames", f"{frames}" + (f", {lost} of them lost with damaged files or after such" if lost else "")),
        ("steps", f"{sum(steps)}{lengths}"),
        ("episodes", counted),
        *([("returns", _describe_returns(returns))] if episodes else []),
    ]


def _describe_returns(returns: NDArray[np.float64]) -> str:
    lowest, middle, highest = (f"{value:.6g}" for value in (returns.min(), np.median(returns), returns.max()))
    return f"{lowest} to {highest}, {middle} in the middle"


def _describe_parts(replay: SavedReplay, cameras: list[Camera]) -> list[str]:
    """What each part of an observation is; of several images, what their coded frames take."""
    coded = {camera.part.name: camera.coded_bytes for camera in cameras}
    found = []
    for part in replay.parts:
        text = f"{part.frame_stack} {'frames' if part.is_image else 'steps'} of {sides_of(part)}, {part.dtype}"
        if part.name:
            more = f", {in_bytes(coded[part.name])} coded" if part.is_image else ""
            text = f"{part.name}: {text}{more}"
        found.append(text)
    return found


def sides_of(part: Part) -> str:
    """What one frame or one step of a part measures, height first."""
    sides = part.spec.shape
    if part.is_image:
        by_axis = dict(zip(part.spec.layout.removeprefix("F"), sides, strict=True))
        sides = (by_axis["H"], by_axis["W"], by_axis.get("C", 1))
    return " x ".join(map(str, sides)) or "1"


def _describe_sizes(replay: SavedReplay, cameras: list[Camera]) -> list[tuple[str, str]]:
    """How frames are coded, and what all of it takes."""
    stats, codec = replay.stats(), replay.codec
    manifest, layout = replay.frames.files.manifest, replay.frames.layout
    options = ", ".join(f"{key}={value}" for key, value in codec.options().items())
    sets = sum(map(len, manifest.sets))
    extras = f", and of {', '.join(replay.extras)}" if replay.extras else ""
    # Reference frames are held a second time by whoever codes or decodes, and of each stream its newest observation.
    streams = len(manifest.buffer["streams"]) * layout.frame_stack * layout.step_bytes
    memory = stats.observation_bytes + stats.scalar_bytes + stats.reference_bytes + streams
    coded = f"{in_bytes(stats.payload_bytes)}, index {in_bytes(stats.index_bytes)}"
    return [
        ("codec", codec.name + (f" ({options})" if options else "") + f", {sets} reference set(s)"),
        ("coded frames", f"{coded}, references {in_bytes(stats.reference_bytes)}"),
        *(("camera", describe_camera(camera)) for camera in cameras),
        *([("columns", in_bytes(stats.column_bytes))] if layout.stacked else []),
        ("other values", f"{in_bytes(stats.scalar_bytes)} of actions, rewards and discounts{extras}"),
        ("memory", f"{in_bytes(memory)} to load it, at least"),
        ("ratio", f"{stats.compression_ratio:.1f} to stacks of {in_bytes(stats.stacked_bytes)}"),
    ]


def describe_camera(camera: Camera) -> str:
    """What the frames of an image take."""
    name = f"{camera.part.name}: " if camera.part.name else ""
    return (
        f"{name}{in_bytes(camera.coded_bytes)} coded, {camera.share:.1%} of all, {camera.bytes_a_frame:.0f} bytes a "
        f"frame; {camera.ratio:.1f} times smaller than {in_bytes(camera.raw_bytes)} raw, with references of "
        f"{in_bytes(camera.reference_bytes)}"
    )
