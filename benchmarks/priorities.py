"""What priorities cost beside the uniform draw: to draw a batch's steps, to take in a new step, and to update.

Taken in turns from one buffer of tiny observations, as frames do not matter: they are read afterwards in either case.
"""

from __future__ import annotations

from itertools import count, cycle
from typing import Any

import numpy as np

import diffreplay
from benchmarks.runner import BATCH, Report, parser
from benchmarks.timing import in_turns, quartiles
from diffreplay.loading import WindowFinder

STREAMS = 250
LENGTH = 200  # of an episode
NSTEP = 3


def fill(rows: int) -> diffreplay.ReplayBuffer:
    """A buffer that is full, of so many transitions."""
    spec = diffreplay.ArraySpec((1,), "float32")
    replay = diffreplay.ReplayBuffer(rows, spec, (1,), frame_stack=1, nstep=NSTEP, seed=0)
    for number in range(rows // STREAMS + 2 * LENGTH):
        add(replay, number, STREAMS)
    return replay


def add(replay: diffreplay.ReplayBuffer, number: int, streams: int) -> None:
    """Add step `number` of so many streams."""
    obs, zeros = np.full((streams, 1), number, np.float32), np.zeros(streams)
    ends = np.full(streams, number % LENGTH == LENGTH - 1)
    replay.add_batch(obs, obs, zeros, obs + np.float32(0.5 if ends[0] else 1), zeros.astype(bool), ends)


def check(priorities: diffreplay.Priorities, rng: np.random.Generator) -> None:
    """Compare how large the priorities are that are drawn with how large they should be.

    Raises:
        RuntimeError: they are not.
    """
    state = priorities.state_dict()
    given = state["priorities"].numpy().astype(np.float64)
    drawn = np.concatenate([priorities.draw(BATCH, rng)[0] for _ in range(100)]) - state["first"]
    expected = (given ** (1 + priorities.alpha)).sum() / (given**priorities.alpha).sum()
    if abs(given[drawn].mean() / expected - 1) > 0.02:
        raise RuntimeError(f"expected priorities of {expected:.3f} to be drawn, got {given[drawn].mean():.3f}")


def measure(rows: int, repeats: int) -> tuple[Any, ...]:
    """Milliseconds of a uniform draw, of one by priorities, of one after a new step, and of an update."""
    replay, rng = fill(rows), np.random.default_rng(0)
    finder, priorities = WindowFinder(replay.store, NSTEP), diffreplay.Priorities(replay)
    live = np.arange(*replay.store.bounds())
    priorities.update(live, rng.exponential(size=len(live)))
    check(priorities, rng)
    drawn = cycle([priorities.draw(BATCH, rng)[0] for _ in range(50)])
    errors, number = rng.exponential(size=BATCH), count(rows // STREAMS + 2 * LENGTH)

    def add_and_draw() -> None:
        add(replay, next(number), 1)
        priorities.draw(BATCH, rng)

    calls = (
        lambda: finder.draw(BATCH, rng),
        lambda: priorities.draw(BATCH, rng),
        lambda: add(replay, next(number), 1),
        add_and_draw,
        lambda: priorities.update(next(drawn), errors),
    )
    ((uniform, draw, added, both, update),) = 1e3 * in_turns(calls, repeats)
    return quartiles(uniform), quartiles(draw), quartiles(both - added), quartiles(update)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = parser(__doc__, repeats=200)
    options.add_argument("--rows", type=int, nargs="*", default=(10_000, 1_000_000), help="%(default)s")
    args = options.parse_args(argv)
    header = (f"ms, batches of {BATCH}", "uniform draw", "draw", "draw after a new step", "update")
    with Report("benchmarks.priorities", args, argv) as report:
        report.describe()
        report.table(header, ((f"{rows} transitions", *measure(rows, args.repeats)) for rows in args.rows))


if __name__ == "__main__":
    main()
