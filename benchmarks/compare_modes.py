"""What `benchmarks.compare` measures of each replay mode: size, time to add, batches a second, memory of all processes.

Every mode gets the same episodes, in the images that it trains on: RGB for the baseline on disk, gray for Half, gray
with a black floor for Full.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import loader
from benchmarks.common import family_pss
from benchmarks.memory import warm
from benchmarks.playback import Playback
from benchmarks.recordings import Recording
from diffreplay.testing import TimeStep
from drqv2.appearance import to_grayscale
from drqv2.disk_replay import DiskReplay

MILLION = 10**6


@dataclass(frozen=True)
class Mode:
    """A replay mode; `codec` is None for episodes on disk, `options` are train.py's."""

    name: str
    title: str
    images: str
    codec: str | None
    options: tuple[str, ...]


MODES = (
    Mode("disk", "disk baseline", "RGB", None, ()),
    Mode("half", "Half, raw", "gray", "raw", ("half_compress=true",)),
    Mode("sparse", "Full, sparse", "gray, black floor", "sparse", ("full_compress=true", "codec=sparse")),
    Mode("zstd", "Full, zstd", "gray, black floor", "zstd", ("full_compress=true", "codec=zstd")),
    Mode("delta", "Full, delta", "gray, black floor", "delta", ("full_compress=true", "codec=delta")),
)


def renderings(rgb: Recording, black_floor: Recording) -> dict[str, Recording]:
    """The episodes of each mode by its name, without those too short for a transition.

    Raises:
        SystemExit: the two recordings do not show the same episodes.
    """
    lengths = [[len(episode) for episode in recording.episodes] for recording in (rgb, black_floor)]
    if lengths[0] != lengths[1]:
        raise SystemExit(
            f"expected {rgb.name} and {black_floor.name} to show the same episodes, but those of the one have "
            f"{lengths[0]} frames and those of the other {lengths[1]}: record both anew"
        )
    rgb, black_floor = (Recording(r.name, [e for e in r.episodes if len(e) > 1]) for r in (rgb, black_floor))
    gray = [to_grayscale(np.moveaxis(episode, 1, -1))[:, None] for episode in rgb.episodes]
    floor = Recording(f"{black_floor.name}_floor", gray)
    return {"disk": rgb, "half": floor} | {mode.name: black_floor for mode in MODES[2:]}


def passes(recording: Recording, transitions: int, workers: int) -> int:
    """How often a recording is played, so that there are so many frames, and an episode for each worker."""
    return max(1, -(-transitions // recording.frames), -(-workers // len(recording.episodes)))


@dataclass
class Filled:
    """A mode's replay and its episodes.

    Attributes:
        size: bytes and times, as they go into the results.
    """

    mode: Mode
    playback: Playback
    folder: Path
    replay: Any
    size: dict[str, Any] = field(default_factory=dict)

    def open(self, workers: int) -> loader.Batches:
        """An endless iterator of batches."""
        if self.mode.codec is None:
            return loader.open_disk(self.playback, self.folder, workers).batches(torch.device("cpu"))
        return loader.open_ours(self.replay, "forkserver", workers)

    def held(self) -> tuple[int, int]:
        """Transitions, and bytes of all that is held for their observations, index and references included."""
        if isinstance(self.replay, DiskReplay):
            # DrQ-v2's cost is counted as the paper does, a stack a transition; an episode's last one comes on top.
            return len(self.replay), len(self.replay) * self.playback.recording.stacked_bytes
        stats = self.replay.stats()
        return stats.transitions, stats.observation_bytes


def fill(mode: Mode, recording: Recording, folder: Path, transitions: int, workers: int) -> Filled:
    """Play the recording into a new replay and measure the first pass; then more, as `passes` says."""
    playback = Playback(recording)
    times = passes(recording, transitions, workers)
    replay: Any
    if mode.codec is None:
        replay = loader.open_disk(playback, folder, 0)
    else:
        replay = playback.buffer(times * recording.frames, mode.codec)
    filled = Filled(mode, playback, folder, replay)
    steps = playback.steps()
    half = recording.frames // 2
    early = _add(replay, islice(steps, half))
    before = filled.held()
    costs = _add(replay, islice(steps, recording.frames - half))
    after = filled.held()
    if mode.codec is None:
        filled.size["file_bytes_a_transition"] = sum(p.stat().st_size for p in folder.glob("*.npz")) / after[0]
        million = after[1] / after[0]
    else:
        # The first reference frames cost more than later transitions add to them.
        marginal = (after[1] - before[1]) / (after[0] - before[0])
        million = (after[1] + (MILLION - after[0]) * marginal) / MILLION
    filled.size["bytes_a_transition"] = million
    filled.size["add_us"] = {
        "mean": 1e6 * float(np.mean(costs)),
        "p99": 1e6 * float(np.percentile(costs, 99)),
        "largest": 1e6 * max(early + costs),
    }
    for step in islice(steps, (times - 1) * recording.frames):
        replay.add(step)
    return filled


def _add(replay: Any, steps: Iterable[TimeStep]) -> list[float]:
    """Processor seconds of each `add`."""
    costs = []
    for step in steps:
        start = time.process_time()
        replay.add(step)
        costs.append(time.process_time() - start)
    return costs


def rates(
    filled: Iterable[Filled], workers: list[int], count: int, turns: int, advance: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Batches a second by mode and workers: median, lowest and highest of the turns; every loader is checked first."""
    sources = {f"{f.mode.name} {w}": (f, w) for f in filled for w in workers}

    def opening(kind: str) -> loader.Batches:
        source, number = sources[kind]
        advance(f"{source.mode.title}: {number} workers")
        return source.open(number)

    measured = loader.measure(
        {kind: partial(opening, kind) for kind in sources},
        lambda kind, batch: sources[kind][0].playback.check(batch),
        count,
        turns,
        lambda: advance("batches a second"),
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for k, (source, number) in enumerate(sources.values()):
        median, lowest, highest = (float(value) for value in np.percentile(1 / measured[0, :, k], (50, 0, 100)))
        found.setdefault(source.mode.name, {})[str(number)] = {"median": median, "lowest": lowest, "highest": highest}
    return found


def memory(mode: Mode, recording: Recording, folder: Path, transitions: int, workers: int) -> dict[str, float]:
    """Growth of the PSS of this process and its loader's workers from before there was a replay; call it in a new one.

    Python and the libraries, which the workers share with the server that starts them, and the recording are there
    before and do not count.
    """
    loader.prepare()
    playback = Playback(recording)
    warm(playback, 2 * recording.frames)
    before = family_pss()
    filled = fill(mode, recording, folder, transitions, workers)
    batches = filled.open(workers)
    for number in range(10 * max(1, workers) * loader.PREFETCH):  # so that every place for a batch has been used
        batch = next(batches)
        if number < loader.CHECKED:
            playback.check(batch)
    del batch
    gc.collect()
    return {"workers": workers, "transitions": len(filled.replay), "pss_growth_mb": (family_pss() - before) / 1e6}


def stages(sizes: dict[str, float], stacked: int, stacked_gray: int) -> dict[str, dict[str, float]]:
    """Total compression and its factors by mode, from the bytes a transition of each; the baseline's are `stacked`.

    Indexing is what Half, which stores each frame once and raw, saves over gray stacks, and the codec what Full saves
    over Half; the product of the factors is the total.
    """
    indexing = stacked_gray / sizes["half"]
    found = {"disk": {"total": stacked / sizes["disk"], "grayscale": 1.0, "indexing": 1.0, "codec": 1.0}}
    for name in (mode.name for mode in MODES[1:]):
        found[name] = {
            "total": stacked / sizes[name],
            "grayscale": stacked / stacked_gray,
            "indexing": indexing,
            "codec": sizes["half"] / sizes[name],
        }
    return found
