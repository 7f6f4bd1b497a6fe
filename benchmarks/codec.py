"""Size and speed of a codec on recordings, beside plain arrays of the same frames.

The ratio is marginal: what the second half of the episodes added, so that a short recording is not charged with what
a buffer costs once. It is against stacks as DrQ-v2 (RGB) and Stable-Baselines3 (gray) store them. `add` is processor
time over that half, reference frames included; a batch is 256 transitions, and `gather` takes the same
number of stacks, obs and next_obs, from one NumPy array of raw frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

import diffreplay
from benchmarks.common import BATCH, chosen, machine, parser, print_table, process_ms
from benchmarks.playback import Playback
from benchmarks.recordings import Frames, Recording

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


def measure(recording: Recording, codec: str | diffreplay.codecs.Codec) -> tuple[float, ...]:
    """The values of HEADER."""
    playback = Playback(recording)
    replay = playback.buffer(recording.frames, codec)
    steps = islice(playback.steps(), recording.frames)
    for step in islice(steps, recording.frames // 2):
        replay.add(step)
    before = replay.stats()
    costs = []
    for step in steps:
        start = time.process_time()
        replay.add(step)
        costs.append(time.process_time() - start)
    after = replay.stats()
    for _ in range(4):
        playback.check(replay.sample(BATCH))
    frame_bytes = (after.observation_bytes - before.observation_bytes) / (after.frames - before.frames)
    batch, gather = process_ms([lambda: replay.sample(BATCH), raw_gather(recording)])
    mean, tail = 1e6 * float(np.mean(costs)), 1e6 * float(np.percentile(costs, 99))
    return recording.stacked_bytes / frame_bytes, frame_bytes, mean, tail, batch, gather, batch / gather


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


def print_codec_table(
    description: str | None,
    names: Sequence[str],
    header: Sequence[str],
    measure: Callable[[Recording, str], tuple[float, ...]],
    argv: list[str] | None,
) -> None:
    """What a benchmark of a codec does from the command line: a row a recording.

    Args:
        description: of the benchmark.
        names: recordings, unless others are asked for.
        header: of the values.
        measure: gives them, for a recording and the name of a codec.
        argv: options; those of the command line by default.
    """
    options = parser(description, *names)
    options.add_argument("--codec", default=diffreplay.codecs.DEFAULT, choices=sorted(diffreplay.codecs.REGISTRY))
    args = options.parse_args(argv)
    print(f"{machine()}\ncodec {args.codec}\n")

    def rows() -> Any:
        for recording in chosen(args):
            yield f"{recording.name} ({recording.frames})", *measure(recording, args.codec)

    print_table(("recording (frames)", *header), rows())


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    print_codec_table(__doc__, NAMES, HEADER, measure, argv)


if __name__ == "__main__":
    main()
