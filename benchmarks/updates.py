"""DrQ-v2's updates a second on a device, by where their batches come from: diffreplay, the disk baseline, or nowhere.

"constant" is one batch that lies on the device already: no loader can be faster than that. All loaders are open at
once, over the same episodes, and measured in turns: first each delivers what it had prepared while it waited, which
does not count, then `--updates` are timed. The options are DrQ-v2's: batches of 256, n = 3. Environments are not
stepped.

Waiting is the time in `next`: what the trainer's own thread does for a batch, and what it waits for workers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

import diffreplay
from benchmarks.loader import CHECKED, PREFETCH, open_disk, prepare
from benchmarks.playback import ACTION_DIM, Playback
from benchmarks.processes import family
from benchmarks.recordings import Recording
from benchmarks.runner import Report, chosen, parser
from benchmarks.timing import Times, in_turns, processor_seconds, quartiles, settle
from drqv2.agent import DrQV2Agent
from drqv2.config import AgentConfig
from drqv2.device import resolve_device

NAMES = ("walker_walk_gray", "walker_walk_rgb")
KINDS = ("constant 0", "disk 4", "none 0", "forkserver 2", "forkserver 4", "thread 2", "thread 4")
NSTEP = 3
AGENT = AgentConfig(
    lr=1e-4,
    feature_dim=50,
    hidden_dim=1024,
    critic_target_tau=0.01,
    update_every_steps=2,
    num_expl_steps=2000,
    stddev_schedule="linear(1.0,0.1,100000)",
    stddev_clip=0.3,
)

Batches = Iterator[Any]


class Sources:
    """Batches of every kind over one recording.

    Args:
        playback: of the recording.
        folder: for the disk baseline's episodes.
        batch: transitions in a batch.
        device: where batches are wanted.
    """

    def __init__(self, playback: Playback, folder: Path, batch: int, device: torch.device) -> None:
        self._playback, self._folder, self._batch, self._device = playback, folder, batch, device
        self._pin = device.type == "cuda"
        self._replay = playback.buffer(playback.recording.frames)
        playback.play(playback.recording.frames, open_disk(playback, folder, 0), self._replay)

    def open(self, kind: str) -> Batches:
        """Batches of a kind, such as "disk 4" or "thread 2": where they come from, and the number of workers."""
        start, workers = kind.split()
        if start == "constant":
            return repeat(self._replay.sample(self._batch).to(self._device))
        if start == "disk":
            disk = open_disk(self._playback, self._folder, int(workers), self._batch, self._pin)
            return disk.batches(self._device)
        options = {"threads": True} if start == "thread" else {"multiprocessing_context": start}
        loader = diffreplay.make_replay_loader(
            self._replay, self._batch, int(workers), PREFETCH, self._pin, **(options if int(workers) else {})
        )
        return diffreplay.batches_on(loader, self._device)


def measure(
    sources: dict[str, Batches], agent: DrQV2Agent, check: Callable[[Any], None], count: int, repeats: int
) -> Times:
    """Seconds of all processes' processors, waited and passed for an update, (3, sources, repeats)."""
    for batches in sources.values():
        for _ in range(CHECKED):
            check([value.cpu() for value in next(batches)])
    pids, kinds, waited = family(), list(sources), 0.0

    def update(kind: str, number: int) -> None:
        nonlocal waited
        for step in range(number):
            begin = time.perf_counter()
            batch = next(sources[kind])
            waited += time.perf_counter() - begin
            agent.update(batch, step)
        _synchronize(agent.device)

    def before(k: int) -> None:
        settle(pids)
        update(kinds[k], PREFETCH * int(kinds[k].split()[1]) + 2)

    clocks = (partial(processor_seconds, pids), lambda: waited, time.perf_counter)
    return in_turns([partial(update, kind, count) for kind in kinds], repeats, clocks, before) / count


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(
    recording: Recording, kinds: list[str], batch: int, count: int, repeats: int, device: torch.device
) -> list[tuple[Any, ...]]:
    """A row for each kind of source."""
    playback = Playback(recording, nstep=NSTEP)
    agent = DrQV2Agent(playback.observation_shape, (ACTION_DIM,), AGENT, device, seed=1)
    with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
        made = Sources(playback, Path(temporary), batch, device)
        opened = {kind: made.open(kind) for kind in kinds}
        processor, waited, passed = measure(opened, agent, playback.check, count, repeats)
    return [
        (
            f"{recording.name}, {kind}",
            quartiles(1 / passed[k]),
            quartiles(passed[0] / passed[k]),  # of each turn, as the machine's other load is much the same
            *(quartiles(1e3 * times[k]) for times in (passed, waited, processor)),
        )
        for k, kind in enumerate(kinds)
    ]


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES, repeats=7)
    options.add_argument("--kinds", nargs="*", default=KINDS, help='such as "disk 4", "thread 1"; default: all')
    options.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    options.add_argument("--batch", type=int, default=256, help="transitions in a batch (%(default)s)")
    options.add_argument("--updates", type=int, default=100, help="timed in a row (%(default)s)")
    args = options.parse_args(argv)
    device = resolve_device(args.device)
    torch.backends.cudnn.benchmark = True  # as in training
    threads = torch.get_num_threads()
    prepare()
    torch.set_num_threads(threads)  # as in training
    case = {"batch": args.batch, "count": args.updates, "repeats": args.repeats, "device": device}
    with Report("benchmarks.updates", args, argv) as report:
        report.describe()
        rows = (row for recording in chosen(args) for row in compare(recording, list(args.kinds), **case))
        header = ("images, source and workers", "updates a second", f"of {args.kinds[0]}'s")
        report.table((*header, "ms an update", "of it waiting", "processor ms"), rows)


if __name__ == "__main__":
    main()
