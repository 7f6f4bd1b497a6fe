"""Converts a dataset, an episode at a time."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffreplay import checks
from diffreplay.datasets import formats
from diffreplay.datasets.checking import check_episode
from diffreplay.datasets.episode import Source, Target
from diffreplay.datasets.formats import FORMATS, SNAPSHOT
from diffreplay.datasets.to_snapshot import SAVE_EVERY
from diffreplay.errors import InputError

NO_FINAL = (
    "no episode has an observation after its last action: in the buffer the last one stands there again, where the "
    "episode is cut off, and is left out on the way back"
)


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        source_format: of what was read.
        target_format: of what was written.
        episodes: that the target holds now.
        steps: actions that were written, those of an earlier run that was gone on with aside.
        resumed: episodes that were there already.

    Examples:
        >>> diffreplay.datasets.Converted("drqv2", "snapshot", episodes=3, steps=1500, resumed=0).steps
        1500
    """

    source_format: str
    target_format: str
    episodes: int
    steps: int
    resumed: int


def open_source(
    source: str | Path | Source, source_format: str | None = None, frame_stack: int | None = None
) -> Source:
    """Open a dataset as a source of episodes; of its content only what tells its layout is read.

    Args:
        source: a path; a `Source` is returned as it is.
        source_format: the name of its format; None to recognise it.
        frame_stack: frames in an observation of the buffer; None for what the source says, or 1.

    Raises:
        InputError: there is nothing, or its format is not known.
        CorruptDataError: it is damaged; the message names the file.

    Examples:
        >>> commit = replay.save("run/replay")
        >>> source = diffreplay.datasets.open_source("run/replay")
        >>> source.format, source.description.episodes, source.description.steps
        ('snapshot', 1, 100)
    """
    if not isinstance(source, str | os.PathLike):
        return source
    path = checks.path("source", source)
    if frame_stack is not None:
        frame_stack = checks.positive("frame_stack", frame_stack)
    return FORMATS[formats.source_format(path, source_format)].open(path, frame_stack)


def convert(
    source: str | Path | Source,
    target: str | Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    frame_stack: int | None = None,
    capacity: int | None = None,
    save_every: int = SAVE_EVERY,
    progress: Callable[[int], None] | None = None,
    where: str | None = None,
    **options: Any,
) -> Converted:
    """Convert a dataset. Where the same conversion was cut short, it goes on.

    Memory is bounded: an episode, or a piece of a long one, is read at a time.

    Args:
        source: a path, or a `Source`, such as `from_episodes` makes.
        target: a path where nothing is yet, or what the same conversion has written so far.
        source_format: a key of `FORMATS`; None to recognise it.
        target_format: likewise; None to go by the suffix; else a snapshot becomes what it was converted from, and
            everything else a snapshot.
        frame_stack: frames in an observation of the buffer; None for what the source says, or 1.
        capacity: transitions that the buffer of a snapshot keeps; None for as many as the source has.
        save_every: steps after which a snapshot is saved at an episode's end; what was cut short goes on from there.
        progress: called with the number of steps after each episode or piece of one.
        where: what messages call the source; None for its path or format.
        options: further ones of `ReplayBuffer`, for a snapshot.

    Returns:
        What was done. What is lossy in the source is told by a UserWarning.

    Raises:
        InputError: an argument makes no sense, or the target is there and not of this conversion.
        CorruptDataError: the source is damaged; the message names the file. What was written stays, to go on with.

    Examples:
        >>> commit = replay.save("run/replay")
        >>> diffreplay.datasets.convert("run/replay", "run/episodes", target_format="drqv2")
        Converted(source_format='snapshot', target_format='drqv2', episodes=1, steps=100, resumed=0)
        >>> diffreplay.datasets.convert("run/episodes", "run/again", nstep=3).steps
        100
    """
    opened, path = open_source(source, source_format, frame_stack), checks.path("target", target)
    name = formats.target_format(path, opened, target_format)
    described = opened.description
    for sentence in described.warnings:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    if not described.final_observation and name == SNAPSHOT:
        warnings.warn(NO_FINAL, UserWarning, stacklevel=2)
    if where is None:
        where = str(source) if isinstance(source, str | os.PathLike) else opened.format
    told = {"from": opened.format, "to": name, "source": described.fingerprint, "frame_stack": described.frame_stack}
    pace: dict[str, int] = {}
    if name == SNAPSHOT:
        options |= {"capacity": _capacity(capacity, described.steps)}
        pace = {"save_every": checks.positive("save_every", save_every)}
    elif options or capacity is not None:
        raise InputError(f"expected options of a buffer for a snapshot only, got {sorted(options) or 'capacity'}")
    conversion = json.loads(json.dumps(told | {"options": {key: str(value) for key, value in options.items()}}))
    write = FORMATS[name].write
    if write is None:
        raise InputError(f"{path}: expected a format that can be written, got {name!r}")
    written = write(path, described, conversion, **pace, **options)
    try:
        return _run(opened, written, where, name, progress)
    finally:
        written.close()


def _run(source: Source, target: Target, where: str, name: str, progress: Callable[[int], None] | None) -> Converted:
    resumed, steps = target.done, 0
    for episode in source.episodes(resumed):
        check_episode(source.description, episode, where)
        target.write(episode)
        steps += len(episode.actions)
        if progress is not None:
            progress(len(episode.actions))
    target.finish()
    return Converted(source.format, name, target.done, steps, resumed)


def _capacity(capacity: int | None, steps: int | None) -> int:
    if capacity is None and steps is None:
        raise InputError("capacity: expected the number of steps at most, as the source does not tell, got None")
    capacity = checks.positive("capacity", capacity if capacity is not None else steps)
    if steps is not None and capacity < steps:
        raise InputError(f"capacity: expected at least {steps}, the steps of the source, got {capacity}")
    return capacity
