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
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import diffreplay
from benchmarks.common import chosen, family, machine, parser, print_table, processor_seconds
from benchmarks.loader import CHECKED, PREFETCH, prepare, settle
from benchmarks.playback import ACTION_DIM, DISCOUNT, Playback
from benchmarks.recordings import Recording
from drqv2.agent import DrQV2Agent
from drqv2.config import AgentConfig
from drqv2.device import resolve_device
from drqv2.disk_replay import DiskReplay

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
        self._replay, writer = playback.buffer(playback.recording.frames), self._disk(0)
        for step in islice(playback.steps(), playback.recording.frames):
            writer.add(step)
            self._replay.add(step)

    def open(self, kind: str) -> Batches:
        """Batches of a kind, such as "disk 4" or "thread 2": where they come from, and the number of workers."""
        start, workers = kind.split()
        if start == "constant":
            return repeat(self._replay.sample(self._batch).to(self._device))
        if start == "disk":
            return self._disk(int(workers)).batches(self._device)
        options = {"threads": True} if start == "thread" else {"multiprocessing_context": start}
        loader = diffreplay.make_replay_loader(
            self._replay, self._batch, int(workers), PREFETCH, self._pin, **(options if int(workers) else {})
        )
        return diffreplay.batches_on(loader, self._device)

    def _disk(self, workers: int) -> DiskReplay:
        return DiskReplay(
            self._folder,
            self._playback.observation_shape,
            capacity=100 * self._playback.recording.frames,
            batch_size=self._batch,
            nstep=NSTEP,
            discount=DISCOUNT,
            num_workers=workers,
            pin_memory=self._pin,
            keep_files=True,
            seed=0,
        )


def measure(
    sources: dict[str, Batches], agent: DrQV2Agent, check: Callable[[Any], None], count: int, repeats: int
) -> NDArray[np.float64]:
    """Seconds passed, waited and of all processes' processors for an update, (3, repeats, sources)."""
    for batches in sources.values():
        for _ in range(CHECKED):
            check([value.cpu() for value in next(batches)])
        agent.update(next(batches), 0)
    pids = family()
    measured = np.empty((3, repeats, len(sources)))
    for turn in range(repeats):
        for k, (kind, batches) in enumerate(sources.items()):
            settle(pids)
            waited = 0.0
            untimed = PREFETCH * int(kind.split()[1]) + 2
            for number in range(untimed + count):
                if number == untimed:
                    _synchronize(agent.device)
                    waited, processor, start = 0.0, processor_seconds(pids), time.perf_counter()
                begin = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - begin
                agent.update(batch, number)
            _synchronize(agent.device)
            measured[:, turn, k] = time.perf_counter() - start, waited, processor_seconds(pids) - processor
    return measured / count


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
        passed, waited, processor = measure(opened, agent, playback.check, count, repeats)
    bound = np.median(passed[:, [0]] / passed, axis=0)  # of each turn, as the machine's other load is much the same
    rates = 1 / passed
    return [
        (f"{recording.name}, {kind}", *map(float, np.percentile(rates[:, k], (50, 0, 100))), f"{bound[k]:.2f}",
         *(1e3 * float(np.median(times[:, k])) for times in (passed, waited, processor)))
        for k, kind in enumerate(kinds)
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES)
    options.add_argument("--kinds", nargs="*", default=KINDS, help='such as "disk 4", "thread 1"; default: all')
    options.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    options.add_argument("--batch", type=int, default=256, help="transitions in a batch (%(default)s)")
    options.add_argument("--updates", type=int, default=100, help="timed in a row (%(default)s)")
    options.add_argument("--repeats", type=int, default=7, help="turns (%(default)s)")
    args = options.parse_args(argv)
    device = resolve_device(args.device)
    torch.backends.cudnn.benchmark = True  # as in training
    threads = torch.get_num_threads()
    prepare()
    torch.set_num_threads(threads)  # as in training
    print(f"{machine()}\n")
    rows = map(
        partial(
            compare, kinds=list(args.kinds), batch=args.batch, count=args.updates, repeats=args.repeats, device=device
        ),
        chosen(args),
    )
    header = ("images, source and workers", "updates a second", "lowest", "highest", f"of {args.kinds[0]}'s")
    costs = ("ms an update", "of it waiting", "processor ms")
    print_table((*header, *costs), (row for table in rows for row in table))


if __name__ == "__main__":
    main()
