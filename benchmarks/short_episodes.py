"""What a batch costs where few rows end a window: short episodes, long windows, stacks that do not overlap.

Batches are drawn in turns from a small buffer and from a large one of the same tiny frames of noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import diffreplay
from benchmarks.runner import BATCH, Report, parser
from benchmarks.timing import in_turns, quartiles

SIDE = 8
STACK = 3


class Case(NamedTuple):
    """Episodes of `length` transitions, windows of `nstep`; stacks share frames where they overlap."""

    length: int
    nstep: int
    overlap: bool = True
    shorter_at_end: bool = False


CASES = {
    "episodes of 100, n = 3": Case(100, 3),
    "episodes of 2, n = 2": Case(2, 2),
    "episodes of 12, n = 10": Case(12, 10),
    "episodes of 12, n = 10, shorter at the end": Case(12, 10, shorter_at_end=True),
    "episodes of 100, n = 3, no overlap": Case(100, 3, overlap=False),
}


def fill(case: Case, rows: int) -> Any:
    """A buffer of at least so many rows, whose actions are the numbers of its transitions."""
    replay = diffreplay.ReplayBuffer(
        rows,
        (STACK, SIDE, SIDE),
        (1,),
        action_dtype="int64",
        frame_stack=STACK,
        nstep=case.nstep,
        shorter_at_end=case.shorter_at_end,
        codec="raw",
    )
    frames = np.random.default_rng(0).integers(0, 256, (STACK * (case.length + 1), SIDE, SIDE), np.uint8)
    apart = 1 if case.overlap else STACK
    stacks = [frames[t * apart : t * apart + STACK] for t in range(case.length + 1)]
    number = 0
    while replay.store.head < rows:
        for t in range(case.length):
            replay.add_transition(stacks[t], [number], 1.0, stacks[t + 1], False, t == case.length - 1)
            number += 1
    check(replay.sample(BATCH), case, stacks)
    return replay


def check(batch: diffreplay.ReplayBatch, case: Case, stacks: list[Any]) -> None:
    """Compare the observations of a batch.

    Raises:
        RuntimeError: one is wrong.
    """
    begin = batch.action[:, 0].numpy() % case.length
    end = begin + case.nstep
    if case.shorter_at_end:
        end = np.minimum(end, case.length)
    for found, numbers in ((batch.obs, begin), (batch.next_obs, end)):
        if not np.array_equal(found, np.stack([stacks[t] for t in numbers.tolist()])):
            raise RuntimeError("an observation came back wrong")


def measure(case: Case, sizes: tuple[int, int], repeats: int) -> tuple[Any, ...]:
    """Milliseconds of a batch from a buffer of each size, and their quotient."""
    small, large = (fill(case, rows) for rows in sizes)
    ((few, many),) = in_turns([lambda: small.sample(BATCH), lambda: large.sample(BATCH)], repeats)
    return quartiles(1e3 * few), quartiles(1e3 * many), quartiles(many / few)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, repeats=40)
    options.add_argument("--rows", type=int, nargs=2, default=(10_000, 1_000_000), help="%(default)s")
    args = options.parse_args(argv)

    def rows() -> Iterator[tuple[Any, ...]]:
        for name, case in CASES.items():
            yield name, *measure(case, args.rows, args.repeats)

    with Report("benchmarks.short_episodes", args, argv) as report:
        report.describe()
        report.table(("batch ms", *(f"{count} rows" for count in args.rows), "their quotient"), rows())


if __name__ == "__main__":
    main()
