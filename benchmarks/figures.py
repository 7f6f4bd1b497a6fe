"""The figures of Grossman and Plancher (ICRA 2024), drawn anew from real episodes and real runs.

- `python -m benchmarks.figures 1`: two consecutive frames and their difference, for DeepMind Control and for Atari.
- `python -m benchmarks.figures 2`: what the paper's scheme can save in theory, with measured recordings in it.
- `python -m benchmarks.figures 3 --runs exp_local`: learning curves of DrQ-v2; `4`: of QR-DQN and PPO on Atari. With
  `--csv` their points are written, too; `benchmarks.charts` draws the figures from the files that are committed.

Each writes docs/images/figure<number>.png, or another file with --out. The tables have commands of their own: Table I
`benchmarks.compare`, Table II `benchmarks.atari_table`.

Figure 2's formula. Equation 3 of the paper gives the bytes of |D| frames of I x I pixels in stacks of f, d = |D| / f of
them raw references: I^2 d + 8 d (f - 1) + 4 N + 4 |D| f, with N the stored pixels. Where a share p of a frame's pixels
differs from its reference, N = p I^2 d (f - 1). A frame is stored raw where that is smaller, so min(4 p, 1) stands for
4 p. Plain stacks take |D| f I^2 bytes. Their quotient, divided by d on both sides, is

    f^2 / (1 + (f - 1) min(4 p, 1) + 8 (f - 1) / I^2 + 4 f^2 / I^2),

which goes from about f^2 where nothing changes to about f where a quarter of the pixels or more do.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import learning_curves, recordings
from benchmarks.charts import IMAGES
from benchmarks.playback import Playback
from benchmarks.plots import load_pyplot, save
from benchmarks.recordings import Frames, Recording
from benchmarks.runner import BATCH, Report

SHOWN = ("walker_walk_gray", "atari_BeamRider")
PLACED = ("walker_walk_gray", "quadruped_walk_gray", "atari_Pong", "atari_BeamRider", "atari_MsPacman")
STACKS, MARKS = (2, 3, 4, 6, 8), "osD^vPX*"
SIDE = 84
LEVELS = (-255, -64, -16, -4, 0, 4, 16, 64, 255)
KINDS = {3: learning_curves.DRQV2, 4: learning_curves.ATARI}


def frame_pair(recording: Recording) -> tuple[Frames, Frames, float]:
    """The two consecutive frames of which half of all pairs differ in fewer pixels; the share of pixels that differ."""
    shares = [np.mean(episode[1:] != episode[:-1], axis=(1, 2, 3)) for episode in recording.episodes]
    flat = np.concatenate(shares)
    place = int(np.argsort(flat, kind="stable")[len(flat) // 2])
    ends = np.cumsum([len(share) for share in shares])
    k = int(np.searchsorted(ends, place, side="right"))
    t = place - int(ends[k] - len(shares[k]))
    first, second = recording.episodes[k][t : t + 2]
    return first, second, float(flat[place])


def figure_1(chosen: list[Recording], report: Report, pyplot: Any) -> Any:
    """A row for each recording: frame, next frame, difference."""
    from matplotlib.colors import SymLogNorm

    report.table(("recording", "pixels that differ, %"), ((r.name, 100 * frame_pair(r)[2]) for r in chosen))
    size = (5.8, 2.15 * len(chosen) + 0.6)
    figure, grid = pyplot.subplots(len(chosen), 3, figsize=size, squeeze=False, layout="constrained")
    for row, recording in zip(grid, chosen, strict=True):
        first, second, share = frame_pair(recording)
        for axes, image in zip(row[:2], (first, second), strict=True):
            axes.imshow(np.moveaxis(image, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=255)
        difference = (second.astype(np.int16) - first).mean(axis=0)
        # Logarithmic beyond 4 gray levels, or the many small differences would not be seen beside the large ones.
        shown = row[2].imshow(difference, cmap="RdBu", norm=SymLogNorm(4, vmin=-255, vmax=255))
        titles = (title(recording), "next frame", f"{share:.1%} of pixels differ")
        for axes, text in zip(row, titles, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.set_title(text, fontsize=10)
    bar = figure.colorbar(shown, ax=grid[-1, :], location="bottom", shrink=0.6, aspect=30, ticks=LEVELS)
    bar.ax.set_xticklabels(map(str, LEVELS))
    bar.ax.minorticks_off()
    bar.set_label("difference in gray levels")
    return figure


def theoretical_compression(stack: int, share: NDArray[np.float64] | float, side: int = SIDE) -> NDArray[np.float64]:
    """Plain stacks of one channel over the paper's scheme, where a share of each frame's pixels differs.

    Args:
        stack: frames in an observation, f.
        share: of pixels that differ from the reference frame, 0 to 1.
        side: pixels of a frame's edge, I.
    """
    coded = (stack - 1) * np.minimum(4 * np.asarray(share), 1)
    return stack**2 / (1 + coded + (8 * (stack - 1) + 4 * stack**2) / side**2)


class Placed(NamedTuple):
    """A recording's place in Figure 2."""

    name: str
    stack: int
    share: float  # of pixels that differ from the reference frame, the mean over coded frames
    ratio: float  # of plain stacks in the same colours over the codec sparse, index included


def place(recording: Recording) -> Placed:
    """Store a recording with the paper's codec and count."""
    f, shares = recording.frame_stack, []
    for episode in recording.episodes:
        times = np.arange(len(episode))
        differ = np.mean(episode != episode[times - times % f], axis=(1, 2, 3))
        shares.append(differ[times % f != 0])
    playback = Playback(recording)
    replay = playback.filled(recording.frames, "sparse")
    playback.check(replay.sample(BATCH))
    stats = replay.stats()
    stacked = stats.frames * f * recording.episodes[0][0].nbytes
    return Placed(recording.name, f, float(np.mean(np.concatenate(shares))), stacked / stats.observation_bytes)


def figure_2(chosen: list[Recording], report: Report, pyplot: Any) -> Any:
    """Curves of the formula for several stack lengths, and a mark for each recording."""
    places = [place(recording) for recording in chosen]
    header = ("recording", "stack", "pixels that differ, %", "compression", "in theory")
    report.table(
        header, ((p.name, p.stack, 100 * p.share, p.ratio, float(theoretical_compression(*p[1:3]))) for p in places)
    )
    figure, axes = pyplot.subplots(figsize=(5.8, 4.6), layout="constrained")
    shares = np.linspace(0, 0.32, 400)
    colors = pyplot.get_cmap("viridis")(np.linspace(0.85, 0, len(STACKS)))
    for stack, color in zip(STACKS, colors, strict=True):
        axes.plot(100 * shares, theoretical_compression(stack, shares), color=color, label=f"f = {stack}")
    for p, recording, mark in zip(places, chosen, cycle(MARKS), strict=False):
        color = colors[STACKS.index(p.stack)]
        style = {"color": color, "marker": mark, "markersize": 9, "markeredgecolor": "black"}
        axes.plot(100 * p.share, p.ratio, linestyle="none", label=f"{title(recording)}, f = {p.stack}", **style)
    axes.set_yscale("log", base=2)
    axes.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1x", "2x", "4x", "8x", "16x", "32x", "64x"])
    axes.set_ylim(1.6, 70)
    axes.set_xlabel("pixels that differ from the reference frame, %")
    axes.set_ylabel("stacks / coded frames")
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, frameon=False, fontsize=10, loc="upper right", title="lines: theory; marks: measured")
    return figure


def title(recording: Recording) -> str:
    """A recording's name as people write it."""
    return recording.name.removeprefix("atari_").removesuffix("_gray").removesuffix("_rgb")


def learning_figure(number: int, args: argparse.Namespace, report: Report, pyplot: Any) -> Any:
    """Learning curves from run folders."""
    runs = learning_curves.load_runs(args.runs, KINDS[number])
    curves = learning_curves.curves(runs)
    if not curves:
        raise SystemExit("expected evaluations at the same frames in all runs of a mode, got none; compare fewer runs")
    rows = (
        (
            f"{c.task}: {c.mode}",
            c.runs,
            len(c.x),
            int(c.x[-1]),
            *map(float, (c.median[-1], c.lowest[-1], c.highest[-1])),
        )
        for c in curves
    )
    report.table(("task: mode", "seeds", "evaluations", "the last at", "median return", "lowest", "highest"), rows)
    for sentence in learning_curves.differences(runs):
        print(f"Note: {sentence}")
    if args.csv is not None:
        learning_curves.write_csv(runs, args.csv)
        print(f"\nwrote {args.csv}")
    return learning_curves.plot(curves, KINDS[number], pyplot)


def command_line() -> argparse.ArgumentParser:
    """A subcommand for each figure."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = options.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for number, names in {1: SHOWN, 2: PLACED}.items():
        command = commands.add_parser(str(number), help=f"from recordings of {', '.join(names)}")
        command.add_argument("names", nargs="*", metavar="NAME", default=names, help=f"recordings ({', '.join(names)})")
        command.add_argument("--folder", type=Path, help="take the recordings from this folder")
        command.add_argument("--frames", type=int, default=recordings.RECORDED_FRAMES, help="of each (%(default)s)")
    for number, kind in KINDS.items():
        command = commands.add_parser(str(number), help=f"learning curves from the {kind.evaluations} of runs")
        command.add_argument(
            "--runs", nargs="+", default=["exp_local"], help="folders or patterns; runs below them count (exp_local)"
        )
        command.add_argument("--csv", type=Path, metavar="FILE", help="also write task, mode, seed, frame and return")
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, help="file to write (docs/images/figure<number>.png)")
        command.add_argument("--json", type=Path, metavar="FILE", help="also write machine, date and all values")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    args = command_line().parse_args(argv)
    number = int(args.figure)
    pyplot = load_pyplot()
    with Report("benchmarks.figures", args, argv) as report:
        report.describe()
        if number in KINDS:
            figure = learning_figure(number, args, report, pyplot)
        else:
            chosen = [recordings.load(name, args.folder, args.frames) for name in args.names]
            figure = (figure_1 if number == 1 else figure_2)(chosen, report, pyplot)
    out = args.out or IMAGES / f"figure{number}.png"
    save(figure, out, pyplot)
    print(f"\nwrote {out}")


if __name__ == "__main__":
    main()
