"""The paper's codec: decoding a whole batch at once against a loop over frames, and its size against the paper's model.

The model (Grossman and Plancher, ICRA 2024, Equation 3) for a buffer of |D| frames, d = |D| / f of them references:
I^2 d + 8 d (f - 1) + 4 N + 4 |D| f bytes, N the stored non-zero pixels; a difference that is no smaller than its frame
is stored raw, and counts as that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.playback import Playback
from benchmarks.recordings import Frames, Recording
from benchmarks.runner import BATCH, Ratio, Report, chosen, parser
from benchmarks.timing import in_turns, quartiles
from diffreplay.codecs import SparseCodec, pixel_dtype

NAMES = ("walker_walk_gray", "quadruped_walk_gray", "atari_Pong", "atari_BeamRider", "atari_MsPacman")
HEADER = ("ratio", "paper's model", "ratio / model", "pixels a coded frame", "batch ms", "loop ms", "loop / batch")


class Coded(NamedTuple):
    """Frames of a batch that are stored as differences."""

    frames: Frames  # (N, H, W, C)
    references: Frames
    blobs: list[bytes]


def code(recording: Recording, count: int) -> Coded:
    """`count` frames drawn from all that are coded, with their references."""
    codec, f = SparseCodec(), recording.frame_stack
    frames, references, blobs = [], [], []
    for episode in recording.episodes:
        pixels = np.ascontiguousarray(np.moveaxis(episode, 1, -1))
        for t in range(len(pixels)):
            blob = codec.encode(pixels[t], pixels[t - t % f]) if t % f else None
            if blob is not None:
                frames.append(pixels[t])
                references.append(pixels[t - t % f])
                blobs.append(blob)
    picks = np.random.default_rng(0).integers(0, len(blobs), count).tolist()
    return Coded(
        np.stack([frames[k] for k in picks]), np.stack([references[k] for k in picks]), [blobs[k] for k in picks]
    )


def decoders(coded: Coded) -> tuple[Callable[[], Frames], Callable[[], Frames]]:
    """Decode all at once, and in a loop over frames; both into memory that is there, references included."""
    codec, out = SparseCodec(), np.empty_like(coded.frames)
    lengths = np.array([len(blob) for blob in coded.blobs])
    height, width, channels = coded.frames.shape[1:]
    dtype = pixel_dtype(height, width * channels)

    def batch() -> Frames:
        np.copyto(out, coded.references)
        codec.decode(codec.gather(coded.blobs, coded.frames[0].size), lengths, None, out)
        return out

    def loop() -> Frames:
        for k, blob in enumerate(coded.blobs):
            pixels = np.frombuffer(blob, dtype)
            frame = coded.references[k].reshape(height, width * channels).astype(np.int16)
            frame[pixels["row"], pixels["column"]] += pixels["difference"]
            out[k] = frame.astype(np.uint8).reshape(height, width, channels)
        return out

    return batch, loop


def model_bytes(recording: Recording) -> int:
    """Equation 3 on the frames of a recording; each episode begins with a reference."""
    f, total = recording.frame_stack, 0
    for episode in recording.episodes:
        image = episode[0].size
        references = -(-len(episode) // f)
        origin = np.arange(len(episode)) // f * f
        pixels = (episode != episode[origin]).reshape(len(episode), -1).sum(axis=1)
        total += image * references + 8 * (len(episode) - references) + 4 * len(episode) * f
        total += int(np.minimum(4 * pixels, image).sum())
    return total


def measure(recording: Recording, repeats: int) -> tuple[Any, ...]:
    """The values of HEADER."""
    playback = Playback(recording)
    replay = playback.filled(recording.frames, "sparse")
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    stacked = recording.stacked_bytes * stats.frames
    ratio, model = stacked / stats.observation_bytes, stacked / model_bytes(recording)
    coded = code(recording, BATCH * (recording.frame_stack + 1))
    batch, loop = decoders(coded)
    for decode in (batch, loop):
        if not np.array_equal(decode(), coded.frames):
            raise RuntimeError(f"{decode.__name__}: frames came back wrong")
    ((batch_s, loop_s),) = in_turns([batch, loop], repeats)
    pixels = float(np.mean([len(blob) for blob in coded.blobs])) / 4
    times = (quartiles(1e3 * batch_s), quartiles(1e3 * loop_s), quartiles(loop_s / batch_s))
    return ratio, model, Ratio(ratio / model), pixels, *times


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    args = parser(__doc__, *NAMES, repeats=40).parse_args(argv)
    with Report("benchmarks.sparse", args, argv) as report:
        report.describe()
        report.table(("recording", *HEADER), ((r.name, *measure(r, args.repeats)) for r in chosen(args)))


if __name__ == "__main__":
    main()
