"""The charts of the documentation, drawn from the data that is committed in docs/benchmarks/data.

    python -m benchmarks.charts            # all
    python -m benchmarks.charts headline   # one

Each is a PNG in docs/images, on a white plate, so that it is readable on light and dark pages. Nothing is measured
here: `--json` and `--csv` of the benchmarks write the data.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import learning_curves
from benchmarks.runner import DATA, ROOT

IMAGES = ROOT / "docs" / "images"
COLORS = {
    "disk": "#7a7a7a",
    "array": "#b8b8b8",
    "half": "#e08a1e",
    "sparse": "#3a7ebf",
    "zstd": "#8c6bb1",
    "delta": "#1d8a5a",
}
GROUPS = {"rgb": "RGB, the task untouched", "gray": "gray, black floor: the paper's variant"}
HEADLINE = {
    "disk": "disk baseline (DrQ-v2)",
    "array": "plain stacks in RAM",
    "half": "Half: each frame once",
    "delta": "Full: coded (delta)",
}
DPI = 200


def load_pyplot() -> Any:
    """matplotlib, which draws to files alone; SystemExit where it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise SystemExit(
            "expected matplotlib, which draws the figures; install it: pip install -e '.[benchmarks]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 11, "figure.facecolor": "white", "axes.facecolor": "white"})
    return pyplot


def save(figure: Any, path: Path, pyplot: Any) -> None:
    """Write a PNG.

    Raises:
        SystemExit: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, facecolor="white")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: expected a file that can be written, such as figure.png, got {error}") from None
    finally:
        pyplot.close(figure)


def read(name: str) -> dict[str, Any]:
    """A JSON file of the documentation's data.

    Raises:
        SystemExit: it is not there.
    """
    path = DATA / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"expected {path}, which a benchmark's --json writes")
    return json.loads(path.read_text())


def measured_on(data: dict[str, Any]) -> str:
    """Date and machine in a line."""
    machine = data["machine"]
    loads = sorted({machine["load"], machine.get("load_at_end", machine["load"])})
    load = " to ".join(f"{load:.1f}" for load in loads)
    return f"{data['date']}, {machine['processor']}, {machine['cores']} cores, load average {load}"


def bars(axes: Any, labels: list[str], values: list[float], colors: list[str], form: str = "{:.3g}") -> Any:
    """Horizontal bars with their values, the first on top."""
    drawn = axes.barh(labels, values, color=colors)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=4, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(right=1.25 * max(values))
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def headline(pyplot: Any) -> Any:
    """Like beside like: gigabytes for 10^6 transitions, and batches a second, in RGB and in gray."""
    from matplotlib.patches import Patch

    data = read("compare_walker_walk")
    figure, grid = pyplot.subplots(2, 2, figsize=(8, 4.9), sharex="col", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    for (left, right), (images, title) in zip(grid, GROUPS.items(), strict=True):
        modes = {kind: data["modes"][f"{images}_{kind}"] for kind in HEADLINE}
        gigabytes = [mode["gb_at_million"] for mode in modes.values()]
        gigabytes[-1] = dict(read(f"million_walker_walk_{images}")["tables"][0]["rows"])["PSS growth, GB"]
        drawn = bars(left, list(HEADLINE.values()), gigabytes, [COLORS[kind] for kind in HEADLINE], "{:.3g} GB")
        for bar in drawn[:-1]:
            bar.set(hatch="///", edgecolor="white", linewidth=0)
        _rates(right, modes, max(data["settings"]["workers"]))
        left.set_title(title, loc="left", fontsize=11, fontweight="bold")
        left.tick_params(axis="y", length=0)
    grid[0, 0].set_xlim(0, 86)
    grid[0, 1].set_title(f"batches of {data['settings']['batch']} a second", loc="left", fontsize=11)
    grid[1, 0].set_xlabel("GB for a million transitions", fontsize=10)
    grid[1, 1].set_xlabel("median; lines from quartile to quartile", fontsize=10)
    marks = [Patch(facecolor="#555555", hatch="///", edgecolor="white"), Patch(facecolor="#555555")]
    grid[1, 0].legend(marks, ["extrapolated", "measured"], loc="lower right", frameon=False, fontsize=10)
    figure.suptitle(f"{data['task']}: {measured_on(data)}", fontsize=9, color="#555555", y=-0.005, va="top")
    return figure


def _rates(axes: Any, modes: dict[str, Any], workers: int) -> None:
    """Batches a second with the most workers; an array has none."""
    found = [mode["batches"].get(str(workers), mode["batches"].get("0"))["a_second"] for mode in modes.values()]
    medians = [rate["median"] for rate in found]
    around = [[abs(rate[end] - rate["median"]) for rate in found] for end in ("lower", "upper")]
    axes.barh(list(modes), medians, color=[COLORS[kind] for kind in modes])
    axes.errorbar(medians, list(modes), xerr=around, fmt="none", ecolor="#333333", elinewidth=1.2)
    for place, rate in enumerate(found):
        axes.text(rate["upper"], place, f"  {rate['median']:,.0f}", va="center", fontsize=10)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def compare_chart(data: dict[str, Any], pyplot: Any) -> Any:
    """What `benchmarks.compare` measured, a row of panels for each kind of images."""
    rows = [images for images in GROUPS if any(mode["images"] == images for mode in data["modes"].values())]
    measured = bool(data["settings"]["transitions"])
    figure, grid = pyplot.subplots(
        2 * len(rows),
        3,
        figsize=(9.6, 4.9 * len(rows)),
        squeeze=False,
        layout="constrained",
        height_ratios=[2, 3] * len(rows),
    )
    figure.suptitle(f"{data['task']}: {measured_on(data)}", fontsize=11)
    for row, images in enumerate(rows):
        modes = {mode["title"]: (name, mode) for name, mode in data["modes"].items() if mode["images"] == images}
        titles, colors = list(modes), [COLORS[name.partition("_")[2]] for name, _ in modes.values()]
        values = [mode for _, mode in modes.values()]
        sizes, held, adding = grid[2 * row]
        bars(sizes, titles, [mode["gb_at_million"] for mode in values], colors)
        sizes.set_title(f"{GROUPS[images].partition(':')[0]}\nGB at 10⁶, extrapolated")
        if measured:
            bars(held, titles, [mode["memory"]["pss_growth_mb"] for mode in values], colors, "{:,.0f}")
        held.set_title(f"MB of all processes at\n{data['settings']['transitions']:,} transitions, measured")
        bars(adding, titles, [mode["add_us"]["mean"] for mode in values], colors, "{:,.0f}")
        adding.set_title("time to add a step,\nmean in µs, measured")
        for panel in (held, adding):
            panel.set_yticks([])
        _rates_by_workers(figure, grid[2 * row + 1], data["settings"]["workers"], modes, colors)
    for panel in figure.axes:
        panel.title.set_fontsize(11)
    return figure


def _rates_by_workers(
    figure: Any, places: Any, workers: list[int], modes: dict[str, tuple[str, Any]], colors: list[str]
) -> None:
    grid = places[0].get_gridspec()
    row = places[0].get_subplotspec().rowspan.start
    for axes in places:
        axes.remove()
    axes = figure.add_subplot(grid[row, :])
    width, groups = 0.85 / len(modes), np.arange(len(workers))
    for k, (title, (_, mode)) in enumerate(modes.items()):
        rates = [mode["batches"].get(str(number)) for number in workers]
        there = [place for place, rate in enumerate(rates) if rate]
        found = [rate["a_second"] for rate in rates if rate]
        medians = [rate["median"] for rate in found]
        around = [[abs(rate[end] - rate["median"]) for rate in found] for end in ("lower", "upper")]
        shifted = groups[there] + (k - (len(modes) - 1) / 2) * width
        drawn = axes.bar(shifted, medians, width, yerr=around, ecolor="#333333", color=colors[k], label=title)
        axes.bar_label(drawn, fmt="%.0f", fontsize=9, padding=1)
    axes.set_xticks(groups, [f"{number} workers" for number in workers])
    axes.set_title("batches a second, measured; lines from quartile to quartile", loc="left")
    axes.legend(loc="upper left", ncols=len(modes), frameon=False, fontsize=9)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)


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
    for axes, (group, found) in zip(panels[0], groups.items(), strict=True):
        bars(axes, list(found), list(found.values()), [color(label) for label in found])
        axes.set_title(group, fontsize=11)
    if len(groups) > 1:  # sharing an axis, each panel has turned it over
        panels[0][0].invert_yaxis() if len(groups) % 2 == 0 else None
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
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 4.6), sharey=True, layout="constrained")
    for axes, alg in zip(panels, ("QR-DQN", "PPO"), strict=True):
        rows = [row for row in data["tables"][0]["rows"] if row[1] == alg]
        places = np.arange(len(rows))
        for k, codec in enumerate(("delta", "zstd", "sparse")):
            column = data["tables"][0]["header"].index(f"x {codec}")
            drawn = axes.barh(
                places + 0.27 * (k - 1), [row[column] for row in rows], 0.25, color=COLORS[codec], label=codec
            )
            axes.bar_label(drawn, fmt="%.3g", fontsize=8, padding=2)
        axes.set_yticks(places, [row[0] for row in rows])
        axes.set_title(f"{alg}: times smaller than stacks", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
    panels[0].invert_yaxis()
    panels[1].legend(frameon=False, loc="lower right", fontsize=10)
    return figure


def gpu(pyplot: Any) -> Any:
    """Training frames a second, and what an update costs, on a GPU."""
    data = read("gpu")
    figure, (training, updating) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
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
    """Each option of zstd as a curve for each recording: size, time to add and time of a batch."""
    path = DATA / "codec_options.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    quantities = {"bytes a frame": "bytes a frame", "add us": "add, µs", "batch ms": "batch of 256, ms"}
    options = ("level", "set_frames", "refresh_interval")
    recordings = list(dict.fromkeys(row["recording"] for row in rows))
    figure, grid = pyplot.subplots(3, 3, figsize=(9, 8), sharex="col", layout="constrained")
    for k, recording in enumerate(recordings):
        for column, option in enumerate(options):
            found = [row for row in rows if (row["recording"], row["option"]) == (recording, option)]
            for axes, quantity in zip(grid[:, column], quantities, strict=True):
                values = [float(row[quantity]) for row in found]
                style = {"marker": "osD^v"[k % 5], "markersize": 4, "color": f"C{k}", "label": recording}
                axes.plot([int(row["value"]) for row in found], values, **style)
    for row, label in zip(grid, quantities.values(), strict=True):
        row[0].set_ylabel(label)
        for axes in row:
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
    for axes in grid[0]:
        axes.set_yscale("log")
        axes.set_ylim(50, 8000)
    for option, axes in zip(options, grid[-1], strict=True):
        axes.set_xlabel(option)
    for axes in grid[:, 1:].flat:
        axes.set_xscale("log", base=2)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=10
    )
    return figure


def compare(pyplot: Any) -> Any:
    """What `benchmarks.compare` measured for the documentation."""
    return compare_chart(read("compare_walker_walk"), pyplot)


def _learning(name: str, kind: learning_curves.Kind, pyplot: Any) -> Any:
    path = DATA / f"{name}.csv"
    if not path.exists():
        raise SystemExit(f"expected {path}, which `python -m benchmarks.figures` writes with --csv")
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
        save(CHARTS[name](pyplot), args.out / f"{name}.png", pyplot)
        print(f"wrote {args.out / f'{name}.png'}")


if __name__ == "__main__":
    main()
