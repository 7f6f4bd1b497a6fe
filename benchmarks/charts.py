"""The charts of the documentation, drawn from the data that is committed in docs/benchmarks/data.

    python -m benchmarks.charts            # all
    python -m benchmarks.charts headline   # one

Each is a PNG in docs/images, on a white plate, so that it is readable on light and dark pages. Nothing is measured
here: `--json` and `--csv` of the benchmarks write the data.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import learning_curves
from benchmarks.compare_charts import compare, headline
from benchmarks.plots import COLORS, GAP, MissingData, bars, load_pyplot, read, save, short
from benchmarks.runner import DATA, ROOT

IMAGES = ROOT / "docs" / "images"


def table_bars(data: dict[str, Any], column: str, pyplot: Any, color: Callable[[str], str], title: str) -> Any:
    """One column of a table as bars, a panel for each group: what stands before the colon or comma of a row's name."""
    header, rows = data["tables"][0]["header"], data["tables"][0]["rows"]
    place, groups = header.index(column), {}
    for name, *values in rows:
        mark = ": " if ": " in name else ", "
        group, _, label = name.partition(mark)
        value = values[place - 1]
        groups.setdefault(group, {})[label] = value["median"] if isinstance(value, dict) else value
    sizes = (8, 0.9 + 0.28 * max(map(len, groups.values())))
    figure, panels = pyplot.subplots(1, len(groups), figsize=sizes, squeeze=False, sharey=True, layout="constrained")
    figure.get_layout_engine().set(w_pad=GAP)
    for axes, (group, found) in zip(panels[0], groups.items(), strict=True):
        bars(axes, list(found), list(found.values()), [color(label) for label in found])
        axes.set_title(group, fontsize=11)
    figure.suptitle(f"{title} ({data['date']})", fontsize=10)
    return figure


def loader(pyplot: Any) -> Any:
    """Batches a second by loader."""
    colors = {"disk": COLORS["disk"], "none": "#9ccbb5", "thread": "#5fae8a"}
    return table_bars(
        read("loader"),
        "batches a second",
        pyplot,
        lambda label: colors.get(label.split()[0], COLORS["delta"]),
        "batches of 256 a second, by loader and workers",
    )


def peers(pyplot: Any) -> Any:
    """Bytes a transition of several replay buffers."""
    figure = table_bars(
        read("peers"),
        "bytes a transition",
        pyplot,
        lambda label: COLORS["delta"] if label.startswith("diffreplay") else COLORS["disk"],
        "bytes a transition of stacked Atari frames, logarithmic",
    )
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.set_xlim(100, 1_000_000)
    return figure


def atari(pyplot: Any) -> Any:
    """Compression in ten games, QR-DQN's buffer and PPO's."""
    data = read("atari")
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 6.4), sharey=True, layout="constrained")
    figure.get_layout_engine().set(w_pad=GAP)
    for axes, alg in zip(panels, ("QR-DQN", "PPO"), strict=True):
        rows = [row for row in data["tables"][0]["rows"] if row[1] == alg]
        places = np.arange(len(rows))
        for k, codec in enumerate(("delta", "zstd", "sparse")):
            column = data["tables"][0]["header"].index(f"x {codec}")
            drawn = axes.barh(
                places + 0.27 * (k - 1), [row[column] for row in rows], 0.25, color=COLORS[codec], label=codec
            )
            axes.bar_label(drawn, fmt=short, fontsize=8, padding=2)
        axes.set_yticks(places, [row[0] for row in rows])
        axes.set_title(f"{alg}: times smaller than stacks", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
    panels[0].yaxis.set_inverted(True)
    panels[1].legend(frameon=False, loc="lower right", fontsize=10)
    return figure


def gpu(pyplot: Any) -> Any:
    """Training frames a second, and what an update costs, on a GPU."""
    data = read("gpu")
    figure, (training, updating) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    figure.get_layout_engine().set(w_pad=GAP)
    colors = {"disk": COLORS["disk"], "constant": COLORS["array"]}
    for axes, table, title in zip(
        (training, updating),
        data["tables"][:2],
        ("training frames a second,\neach run", "updates a second"),
        strict=True,
    ):
        names = [row[0] for row in table["rows"]]
        values = [row[1] for row in table["rows"]]
        bars(axes, names, values, [colors.get(name.split()[0], COLORS["delta"]) for name in names])
        axes.set_title(title, fontsize=11)
        axes.tick_params(labelsize=9)
    figure.suptitle(f"walker_walk, {data['date']}, {data['machine']['gpu']}", fontsize=9)
    return figure


def codec_options(pyplot: Any) -> Any:
    """Each option of zstd as a curve for each recording, as multiples of the default: size, time to add, of a batch."""
    with (DATA / "codec_options.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    quantities = {"bytes a frame": "bytes a frame", "add us": "time to add", "batch ms": "time of a batch"}
    defaults = {"level": "7", "set_frames": "64", "refresh_interval": "25000"}
    recordings = list(dict.fromkeys(row["recording"] for row in rows))
    figure, grid = pyplot.subplots(3, 3, figsize=(9, 7.5), sharex="col", sharey="row", layout="constrained")
    for k, recording in enumerate(recordings):
        for column, (option, default) in enumerate(defaults.items()):
            found = {row["value"]: row for row in rows if (row["recording"], row["option"]) == (recording, option)}
            for axes, quantity in zip(grid[:, column], quantities, strict=True):
                values = [float(row[quantity]) / float(found[default][quantity]) for row in found.values()]
                style = {"marker": "osD^v"[k % 5], "markersize": 4, "color": f"C{k}", "label": recording}
                axes.plot(range(len(found)), values, **style)
            grid[-1, column].set_xticks(range(len(found)), [f"{int(value):,}" for value in found], fontsize=9)
    for row, label in zip(grid, quantities.values(), strict=True):
        row[0].set_ylabel(f"{label},\ntimes default's", fontsize=10)
        for axes in row:
            axes.axhline(1, color="#999999", linewidth=0.8)
            axes.grid(alpha=0.3)
    for (option, default), axes in zip(defaults.items(), grid[-1], strict=True):
        axes.set_xlabel(f"{option} (default {int(default):,})")
    labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return figure


def _learning(name: str, kind: learning_curves.Kind, pyplot: Any) -> Any:
    path = DATA / f"{name}.csv"
    if not path.exists():
        raise MissingData(f"expected {path}, which `python -m benchmarks.figures` writes with --csv")
    return learning_curves.plot(learning_curves.curves(learning_curves.read_csv(path)), kind, pyplot)


def figure3(pyplot: Any) -> Any:
    """Learning curves of DrQ-v2."""
    return _learning("curves_drqv2", learning_curves.DRQV2, pyplot)


def figure4(pyplot: Any) -> Any:
    """Learning curves on Atari."""
    return _learning("curves_atari", learning_curves.ATARI, pyplot)


CHARTS: dict[str, Callable[[Any], Any]] = {
    "headline": headline,
    "compare": compare,
    "loader": loader,
    "peers": peers,
    "atari": atari,
    "gpu": gpu,
    "codec-options": codec_options,
    "figure3": figure3,
    "figure4": figure4,
}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CHART", help=f"{', '.join(CHARTS)}; all unless given")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the PNG files (docs/images)")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in CHARTS]
    if unknown:
        parser.error(f"there is no chart {unknown[0]}: choose among {', '.join(CHARTS)}")
    pyplot = load_pyplot()
    for name in args.names or CHARTS:
        try:
            figure = CHARTS[name](pyplot)
        except MissingData as missing:
            if args.names:
                raise
            print(f"left out {name}: {missing}")
            continue
        save(figure, args.out / f"{name}.png", pyplot)
        print(f"wrote {args.out / f'{name}.png'}")


if __name__ == "__main__":
    main()
