"""Batches a second of the loader beside DrQ-v2's disk baseline, over the same episodes in the same run; or its memory.

All loaders are open at once, and measured in turns, when the others have prepared what they may: first each delivers
what it had prepared while it waited, which does not count, then `--batches` are timed. Batch 256, n = 1. A trainer that
computes nothing takes the batches, so these are rates at which the loader itself is the limit. Processor time is of the
trainer and all workers together; on a machine that is busy with other things it says more than time passed.

`--memory` fills a buffer while worker processes sample from it, and reports the proportional set size (PSS) of the
trainer and all its processes together.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import diffreplay
from benchmarks.common import (
    BATCH,
    chosen,
    family,
    family_pss,
    machine,
    mapped_pss,
    parser,
    print_table,
    processor_seconds,
)
from benchmarks.playback import Playback
from benchmarks.recordings import Recording
from drqv2.disk_replay import DiskReplay

NAMES = ("walker_walk_gray", "walker_walk_rgb")
KINDS = (
    *("disk 4", "disk 2", "disk 1", "disk 0"),
    *("none 0", "forkserver 1", "forkserver 2", "forkserver 4", "fork 4", "thread 1", "thread 2"),
)
BASELINE = "disk 4"
PREFETCH = 2
CHECKED = 4  # batches of each loader that are compared with the recording, before any is timed
MB = 1e6
PRELOADED = ["diffreplay", "drqv2.disk_replay"]  # what every worker process imports, so that all share it

Batches = Iterator[Any]


def prepare() -> None:
    """Start the server that worker processes are forked from, and wait until it has imported what they need."""
    torch.set_num_threads(1)
    # More workers than processors are what is to be measured, too.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    idle = context.Process(target=gc.collect)
    idle.start()
    idle.join()


def open_disk(playback: Playback, folder: Path, workers: int) -> DiskReplay:
    """DrQ-v2's replay over the episode files in `folder`."""
    return DiskReplay(
        folder,
        playback.observation_shape,
        capacity=100 * playback.recording.frames,
        batch_size=BATCH,
        nstep=1,
        discount=0.99,
        num_workers=workers,
        pin_memory=False,
        keep_files=True,
        seed=0,
    )


def open_ours(replay: Any, kind: str, workers: int) -> Batches:
    """An iterator of our loader; `kind` is "thread", or how worker processes start."""
    options = {"threads": True} if kind == "thread" else {"multiprocessing_context": kind}
    if not workers:
        options = {}
    return iter(diffreplay.make_replay_loader(replay, BATCH, workers, PREFETCH, **options))


def measure(
    open_loader: dict[str, Callable[[], Batches]],
    check: Callable[[str, Any], None],
    count: int,
    repeats: int,
    turn_begins: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """Seconds passed and processor seconds of all processes for a batch of each loader, (2, repeats, loaders).

    Args:
        open_loader: by kind, which ends with the number of workers, as "disk 4" does.
        check: raises if the batch of a loader of this kind is wrong.
        count: batches in a turn.
        repeats: turns.
        turn_begins: called before each turn.
    """
    loaders = {kind: opened() for kind, opened in open_loader.items()}
    for kind, batches in loaders.items():
        for _ in range(CHECKED):
            check(kind, next(batches))
    pids = family()
    measured = np.empty((2, repeats, len(loaders)))
    for turn in range(repeats):
        turn_begins()
        for k, (kind, batches) in enumerate(loaders.items()):
            settle(pids)
            for _ in range(PREFETCH * int(kind.split()[1]) + 1):
                next(batches)
            processor, start = processor_seconds(pids), time.perf_counter()
            for _ in range(count):
                next(batches)
            passed = time.perf_counter() - start
            measured[:, turn, k] = passed / count, (processor_seconds(pids) - processor) / count
    return measured


def settle(pids: set[int]) -> None:
    """Wait until no process works any more, such as those that prepare another loader's next batches."""

    def used() -> float:  # without what looking takes: of many threads, more than a process that idles
        return processor_seconds(pids) - time.thread_time()

    for _ in range(100):
        before = used()
        time.sleep(0.03)
        if used() - before < 0.003:
            return


def compare(recording: Recording, kinds: list[str], count: int, repeats: int) -> list[tuple[Any, ...]]:
    """A row for each kind of loader: median, lowest and highest rate, processor time, and both against BASELINE's."""
    playback = Playback(recording)
    with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
        folder = Path(temporary)
        writer, replay = open_disk(playback, folder, 0), playback.buffer(recording.frames)
        for step in islice(playback.steps(), recording.frames):
            writer.add(step)
            replay.add(step)
        opening: dict[str, Callable[[], Batches]] = {}
        for kind in kinds:
            start, _, workers = kind.partition(" ")
            if start == "disk":
                disk = open_disk(playback, folder, int(workers))
                opening[kind] = partial(disk.batches, torch.device("cpu"))
            else:
                opening[kind] = partial(open_ours, replay, start, int(workers))
        measured = measure(opening, lambda _, batch: playback.check(batch), count, repeats)
    # The quotient of each turn, as the machine's other load is much the same for both.
    base = kinds.index(BASELINE) if BASELINE in kinds else 0
    passed, processor = measured
    times, less = np.median(passed[:, [base]] / passed, axis=0), np.median(processor[:, [base]] / processor, axis=0)
    rates, used = 1 / passed, 1e3 * np.median(processor, axis=0)
    return [
        (f"{recording.name}, {kind}", *map(float, np.percentile(rates[:, k], (50, 0, 100))), f"{times[k]:.2f}",
         float(used[k]), f"{less[k]:.2f}")
        for k, kind in enumerate(kinds)
    ]  # fmt: skip


def memory(recording: Recording, transitions: int, batches: int, workers: int) -> Iterator[tuple[str, Any]]:
    """Growth of the PSS of all processes while a buffer fills, and while batches are drawn after that."""
    playback = Playback(recording)
    replay = playback.buffer(transitions)
    steps = playback.steps()
    start = recording.frames // 2
    for step in islice(steps, start):
        replay.add(step)
    loader = open_ours(replay, "forkserver", workers)
    for _ in range(200):  # so that every slot has been used
        playback.check(next(loader))
    gc.collect()
    before, total_before = family_pss(), replay.stats().total_bytes
    yield f"{workers} workers, {len(replay)} transitions: PSS of all processes, MB", before / MB
    for number, step in enumerate(islice(steps, transitions)):
        replay.add(step)
        if number % 100 == 0:
            next(loader)
    gc.collect()
    full, total = family_pss(), replay.stats().total_bytes
    yield f"{transitions} transitions added: PSS growth, MB", (full - before) / MB
    yield "total_bytes, MB", total / MB
    yield "PSS growth / total_bytes", f"{(full - before) / total:.3f}"
    yield "PSS growth / growth of total_bytes", f"{(full - before) / (total - total_before):.3f}"
    yield "shared memory's part of the trainer's PSS, MB", mapped_pss("memfd:diffreplay") / MB
    # What a process takes once, when it first does something, is gone by the first tenth; a leak is not.
    drawn = 0
    for goal in (batches // 10, batches):
        for _ in range(goal - drawn):
            next(loader)
        drawn = goal
        playback.check(next(loader))
        gc.collect()
        yield f"{drawn} batches later: further PSS growth, MB", (family_pss() - full) / MB


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, *NAMES)
    options.add_argument("--kinds", nargs="*", default=KINDS, help='such as "disk 4", "thread 1"; default: all')
    options.add_argument("--batches", type=int, default=60, help="timed in a row (%(default)s)")
    options.add_argument("--repeats", type=int, default=9, help="turns (%(default)s)")
    options.add_argument("--memory", action="store_true", help="measure memory instead, on the first recording")
    options.add_argument("--transitions", type=int, default=200_000, help="added with --memory (%(default)s)")
    options.add_argument("--later", type=int, default=10_000, help="batches after that, with --memory (%(default)s)")
    options.add_argument("--workers", type=int, default=4, help="with --memory (%(default)s)")
    args = options.parse_args(argv)
    prepare()
    print(f"{machine()}\n")
    recordings = list(chosen(args))
    if args.memory:
        rows = memory(recordings[0], args.transitions, args.later, args.workers)
        print_table((recordings[0].name, "value"), rows)
        return
    compared = (compare(recording, list(args.kinds), args.batches, args.repeats) for recording in recordings)
    base = BASELINE if BASELINE in args.kinds else args.kinds[0]
    header = ("loader and workers", "batches a second", "lowest", "highest", f"times {base}", "processor ms a batch")
    print_table((*header, f"less than {base}, times"), (row for rows in compared for row in rows))


if __name__ == "__main__":
    main()
