"""Size and speed of a codec on recordings, beside plain arrays of the same frames.

The ratio is marginal: what the second half of the episodes added, so that a short recording is not charged with what
a buffer costs once. It is against stacks as DrQ-v2 (RGB) and Stable-Baselines3 (gray) store them. `add` is processor
time over that half, reference frames included; a batch is 256 transitions, and `gather` takes the same
number of stacks, obs and next_obs, from one NumPy array of raw frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

import diffreplay
from benchmarks.playback import Playback
from benchmarks.recordings import Frames, Recording
from benchmarks.runner import BATCH, Report, chosen, parser
from benchmarks.timing import in_turns, quartiles, timed_adds

NAMES = (
    "walker_walk_gray",
    "quadruped_walk_gray",
    "walker_walk_rgb",
    "atari_Pong",
    "atari_BeamRider",
    "atari_MsPacman",
)
HEADER = ("ratio", "bytes a frame", "add us", "add p99 us", "batch ms", "gather ms", "batch / gather")
GATHERED_BYTES = 400_000_000  # raw frames to gather from: more than caches hold


def measure(recording: Recording, codec: str | diffreplay.codecs.Codec, repeats: int) -> tuple[Any, ...]:
    """The values of HEADER."""
    playback = Playback(recording)
    replay = playback.buffer(recording.frames, codec)
    steps = islice(playback.steps(), recording.frames)
    timed_adds(replay, islice(steps, recording.frames // 2))
    before = replay.stats()
    costs = 1e6 * timed_adds(replay, steps)
    after = replay.stats()
    for _ in range(4):
        playback.check(replay.sample(BATCH))
    frame_bytes = (after.observation_bytes - before.observation_bytes) / (after.frames - before.frames)
    ((batch, gather),) = in_turns([lambda: replay.sample(BATCH), raw_gather(recording)], repeats)
    return (
        *(recording.stacked_bytes / frame_bytes, frame_bytes),
        *(float(np.mean(costs)), float(np.percentile(costs, 99))),
        *(quartiles(1e3 * batch), quartiles(1e3 * gather), quartiles(batch / gather)),
    )


def raw_gather(recording: Recording) -> Callable[[], tuple[Frames, Frames]]:
    """Takes a batch of obs and next_obs from raw frames, stored once each: two NumPy calls."""
    flat, rng = raw_frames(recording), np.random.default_rng(0)
    window = np.arange(1 - recording.frame_stack, 1)

    def gather() -> tuple[Frames, Frames]:
        rows = rng.integers(recording.frame_stack, len(flat) - 1, BATCH)[:, None] + window
        return flat[rows], flat[rows + 1]

    return gather


def raw_frames(recording: Recording) -> Frames:
    """Raw frames to gather from, each as one row, over and over."""
    frames = np.concatenate([episode.reshape(len(episode), -1) for episode in recording.episodes])
    return np.tile(frames, (max(1, GATHERED_BYTES // frames.nbytes), 1))


def codec_table(
    name: str,
    description: str | None,
    names: Sequence[str],
    header: Sequence[str],
    measure: Callable[[Recording, str, int], tuple[Any, ...]],
    argv: list[str] | None,
) -> None:
    """What a benchmark of a codec does from the command line: a row a recording.

    Args:
        name: of the module.
        description: of the benchmark.
        names: recordings, unless others are asked for.
        header: of the values.
        measure: gives them, for a recording, the name of a codec and a number of turns.
        argv: options; those of the command line by default.
    """
    options = parser(description, *names, repeats=40)
    options.add_argument("--codec", default=diffreplay.codecs.DEFAULT, choices=sorted(diffreplay.codecs.REGISTRY))
    args = options.parse_args(argv)
    with Report(name, args, argv) as report:
        report.describe(f"codec {args.codec}")
        rows = ((f"{r.name} ({r.frames})", *measure(r, args.codec, args.repeats)) for r in chosen(args))
        report.table(("recording (frames)", *header), rows)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    codec_table("benchmarks.codec", __doc__, NAMES, HEADER, measure, argv)


if __name__ == "__main__":
    main()
