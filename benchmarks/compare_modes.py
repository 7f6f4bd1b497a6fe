"""What `benchmarks.compare` measures of each replay mode: size, time to add, batches a second, memory of all processes.

A mode is a way to keep observations, over one kind of images; those over the same images get the same episodes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import loader
from benchmarks.playback import ACTION_DIM, Playback
from benchmarks.processes import family_pss
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH
from benchmarks.timing import Quartiles, quartiles, timed_adds
from diffreplay.testing import TimeStep
from drqv2.disk_replay import DiskReplay

MILLION = 10**6
IMAGES = {"rgb": "RGB, the task untouched", "gray": "gray, black floor"}
APPEARANCE = {"rgb": ("grayscale=false", "black_floor=false"), "gray": ("grayscale=true", "black_floor=true")}


@dataclass(frozen=True)
class Mode:
    """A way to keep observations of one kind of images.

    Attributes:
        kind: "disk" for episodes on disk, "array" for stacks in a NumPy array, else one of ours.
        images: a key of IMAGES.
        title: of the kind.
        codec: of ours.
        options: train.py's, None where it has no such mode.
    """

    kind: str
    images: str
    title: str
    codec: str | None
    options: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return f"{self.images}_{self.kind}"


def _mode(images: str, kind: str) -> Mode:
    title, codec, options = {
        "disk": ("disk baseline", None, ()),
        "array": ("array of stacks", None, None),
        "half": ("Half, raw", "raw", ("half_compress=true",)),
        "sparse": ("Full, sparse", "sparse", ("full_compress=true", "codec=sparse")),
        "zstd": ("Full, zstd", "zstd", ("full_compress=true", "codec=zstd")),
        "delta": ("Full, delta", "delta", ("full_compress=true", "codec=delta")),
    }[kind]
    return Mode(kind, images, title, codec, None if options is None else (*options, *APPEARANCE[images]))


MODES = {
    mode.name: mode
    for images, kinds in {
        "rgb": ("disk", "array", "half", "delta"),
        "gray": ("disk", "array", "half", "sparse", "zstd", "delta"),
    }.items()
    for mode in (_mode(images, kind) for kind in kinds)
}


def checked(rgb: Recording, gray: Recording) -> dict[str, Recording]:
    """The episodes by the kind of images, without those too short for a transition.

    Raises:
        SystemExit: the two recordings do not show the same episodes.
    """
    lengths = [[len(episode) for episode in recording.episodes] for recording in (rgb, gray)]
    if lengths[0] != lengths[1]:
        raise SystemExit(
            f"expected {rgb.name} and {gray.name} to show the same episodes, but those of the one have "
            f"{lengths[0]} frames and those of the other {lengths[1]}: record both anew"
        )
    played = {"rgb": rgb, "gray": gray}
    return {images: Recording(r.name, [e for e in r.episodes if len(e) > 1]) for images, r in played.items()}


def passes(recording: Recording, transitions: int, workers: int) -> int:
    """How often a recording is played, so that there are so many frames, and an episode for each worker."""
    return max(1, -(-transitions // recording.frames), -(-workers // len(recording.episodes)))


class StackArray:
    """Plain stacks, one for each step, in one array, and batches by NumPy's indexing: RAM without this library.

    Args:
        capacity: steps.
        shape: of an observation.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        self._obs = np.empty((capacity, *shape), np.uint8)
        self._actions = np.empty((capacity, ACTION_DIM), np.float32)
        self._rewards, self._discounts = np.empty((2, capacity, 1), np.float32)
        self._ends = np.empty(capacity, np.int64)  # rows that end a transition
        self._rows, self._transitions = 0, 0
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self._transitions

    def add(self, step: TimeStep) -> None:
        """Append one time step."""
        row = self._rows
        self._obs[row], self._actions[row] = step.observation, step.action
        self._rewards[row], self._discounts[row] = step.reward, step.discount
        if not step.first():
            self._ends[self._transitions] = row
            self._transitions += 1
        self._rows += 1

    def sample(self) -> list[torch.Tensor]:
        """A batch like the loaders': obs, action, reward, discount, next_obs."""
        rows = self._ends[self._rng.integers(self._transitions, size=BATCH)]
        found = (self._obs[rows - 1], self._actions[rows], self._rewards[rows], self._discounts[rows], self._obs[rows])
        return [torch.from_numpy(values) for values in found]


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
        if isinstance(self.replay, DiskReplay):
            return loader.open_disk(self.playback, self.folder, workers).batches(torch.device("cpu"))
        if isinstance(self.replay, StackArray):
            return iter(self.replay.sample, None)
        return loader.open_ours(self.replay, "forkserver", workers)

    def held(self) -> tuple[int, int]:
        """Transitions, and bytes of all that is held for their observations, index and references included."""
        if self.mode.codec is None:
            # The cost without this library is counted as the paper does, a stack a transition.
            return len(self.replay), len(self.replay) * int(np.prod(self.playback.observation_shape))
        stats = self.replay.stats()
        return stats.transitions, stats.observation_bytes


def fill(mode: Mode, recording: Recording, folder: Path, transitions: int, workers: int) -> Filled:
    """Play the recording into a new replay and measure the first pass; then more, as `passes` says."""
    playback = Playback(recording)
    steps, times = playback.steps(), passes(recording, transitions, workers)
    replay: Any
    if mode.kind == "disk":
        replay = loader.open_disk(playback, folder, 0)
    elif mode.kind == "array":
        replay = StackArray(times * recording.frames, playback.observation_shape)
    else:
        replay = playback.buffer(times * recording.frames, mode.codec or "")
    filled = Filled(mode, playback, folder, replay)
    half = recording.frames // 2
    early = timed_adds(replay, islice(steps, half))
    before = filled.held()
    costs = timed_adds(replay, islice(steps, recording.frames - half))
    after = filled.held()
    # The first reference frames cost more than later transitions add to them.
    marginal = (after[1] - before[1]) / (after[0] - before[0])
    filled.size["bytes_a_transition"] = (after[1] + (MILLION - after[0]) * marginal) / MILLION
    if mode.kind == "disk":
        filled.size["file_bytes_a_transition"] = sum(p.stat().st_size for p in folder.glob("*.npz")) / after[0]
    filled.size["add_us"] = {
        "mean": 1e6 * float(np.mean(costs)),
        **quartiles(1e6 * costs)._asdict(),
        "p99": 1e6 * float(np.percentile(costs, 99)),
        "largest": 1e6 * float(max(early.max(), costs.max())),
    }
    for step in islice(steps, (times - 1) * recording.frames):
        replay.add(step)
    return filled


def rates(
    filled: Iterable[Filled], workers: list[int], count: int, turns: int, advance: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Quartiles | None]]]:
    """Batches a second by mode and workers, and how many times the disk baseline's with as many that is.

    All loaders are open at once and measured in turns; every one is checked first. An array has no workers.
    """
    sources = {
        f"{f.mode.name} {number}": (f, number)
        for f in filled
        for number in ([0] if f.mode.kind == "array" else workers)
    }

    def opening(kind: str) -> loader.Batches:
        source, number = sources[kind]
        advance(f"{source.mode.title}: {number} workers")
        return source.open(number)

    _, passed = loader.measure(
        {kind: partial(opening, kind) for kind in sources},
        lambda kind, batch: sources[kind][0].playback.check(batch),
        count,
        turns,
        lambda: advance("batches a second"),
    )
    seconds = dict(zip(sources, passed, strict=True))
    most, found = max(workers), {}
    for kind, (source, number) in sources.items():
        of_disk = most if source.mode.kind == "array" else number
        disk = seconds.get(f"{source.mode.images}_disk {of_disk}")
        found.setdefault(source.mode.name, {})[str(number)] = {
            "a_second": quartiles(1 / seconds[kind]),
            "times_disk": None if disk is None else quartiles(disk / seconds[kind]),
        }
    return found


def memory(mode: Mode, recording: Recording, folder: Path, transitions: int, workers: int) -> dict[str, float]:
    """Growth of the PSS of this process and its loader's workers from before there was a replay; call it in a new one.

    Python and the libraries, which the workers share with the server that starts them, and the recording are there
    before and do not count.
    """
    loader.prepare()
    playback = Playback(recording)
    playback.warm()
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


def stages(sizes: dict[str, float], stacked: dict[str, int]) -> dict[str, dict[str, float | None]]:
    """Total compression against stacks in RGB, and its factors, by mode.

    Indexing is what Half, which stores each frame once and raw, saves over stacks of the same images, and the codec
    what Full saves over Half; the product of the factors is the total. Without Half they are not known.

    Args:
        sizes: bytes a transition, by mode.
        stacked: bytes of a stack, by the kind of images.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, size in sizes.items():
        mode, half = MODES[name], sizes.get(f"{MODES[name].images}_half")
        factors = (1.0, 1.0) if mode.codec is None else (None, None)
        if mode.codec is not None and half is not None:
            factors = (stacked[mode.images] / half, half / size)
        found[name] = {
            "total": stacked["rgb"] / size,
            "same_images": stacked[mode.images] / size,
            "grayscale": stacked["rgb"] / stacked[mode.images],
            "indexing": factors[0],
            "codec": factors[1],
        }
    return found
