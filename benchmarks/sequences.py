"""What sequences cost: a batch of them, beside decoding their frames alone, and gathering these from plain arrays.

A batch is 16 sequences of 64 steps. `decode` reads the frames of as many steps, from their rows, each once; `gather`
takes the observations of as many steps, stacks of frames, from one NumPy array of raw frames.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

import diffreplay
from benchmarks.codec import codec_table, raw_frames
from benchmarks.playback import Playback
from benchmarks.recordings import Frames, Recording
from benchmarks.timing import in_turns, quartiles

NAMES = ("walker_walk_gray", "quadruped_walk_gray", "atari_Pong")
HEADER = ("batch ms", "decode ms", "gather ms", "batch / decode", "batch / gather")
SEQUENCES, STEPS = 16, 64


def measure(recording: Recording, codec: str, repeats: int) -> tuple[Any, ...]:
    """The values of HEADER."""
    playback = Playback(recording)
    replay = playback.filled(recording.frames, codec)
    samples = replay.reader.samples(STEPS)
    windows = [samples.draw(SEQUENCES, np.random.default_rng(k)) for k in range(16)]
    _, channels, height, width = recording.episodes[0].shape
    turn = count()

    def decode() -> Frames:
        rows = windows[next(turn) % len(windows)].frames
        out = np.empty((*rows.shape, channels, height, width), np.uint8)
        if not replay.store.read_windows(rows, 0, out):
            raise RuntimeError("frames have left while nothing was added")
        return out

    def batch() -> diffreplay.SequenceBatch:
        return replay.sample(SEQUENCES, sequence_length=STEPS)

    # Gathering empties the caches for whichever comes after it, so that each is compared in turns of two.
    ((batch_s, decode_s),) = in_turns([batch, decode], repeats)
    ((cold_s, gather_s),) = in_turns([batch, raw_gather(recording)], repeats)
    times = (quartiles(1e3 * seconds) for seconds in (batch_s, decode_s, gather_s))
    return *times, quartiles(batch_s / decode_s), quartiles(cold_s / gather_s)


def raw_gather(recording: Recording) -> Callable[[], Frames]:
    """Takes the stacks of a batch of sequences from raw frames, stored once each: one NumPy call."""
    flat, rng = raw_frames(recording), np.random.default_rng(0)
    window = np.arange(STEPS)[:, None] + np.arange(recording.frame_stack)

    def gather() -> Frames:
        return flat[rng.integers(0, len(flat) - STEPS - recording.frame_stack, SEQUENCES)[:, None, None] + window]

    return gather


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    codec_table("benchmarks.sequences", __doc__, NAMES, HEADER, measure, argv)


if __name__ == "__main__":
    main()
