"""The charts of `benchmarks.compare`: all that it measured, and the headline of the documentation."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.plots import COLORS, GAP, bars, measured_on, read, short
from benchmarks.runner import DATA

GROUPS = {"rgb": "RGB, the task untouched", "gray": "gray, black floor: the paper's variant"}
HEADLINE = {
    "disk": "disk baseline (DrQ-v2)",
    "array": "plain stacks in RAM",
    "half": "Half: each frame once",
    "delta": "Full: coded (delta)",
}


def headline(pyplot: Any) -> Any:
    """Like beside like: gigabytes for 10^6 transitions, and batches a second, in RGB and in gray."""
    from matplotlib.patches import Patch

    data = read("compare_walker_walk")
    workers = max(data["settings"]["workers"])
    figure, grid = pyplot.subplots(2, 2, figsize=(8, 5.6), layout="constrained", width_ratios=[1.25, 1])
    figure.get_layout_engine().set(w_pad=GAP, h_pad=0.08)
    for (left, right), (images, title) in zip(grid, GROUPS.items(), strict=True):
        modes = {kind: data["modes"][f"{images}_{kind}"] for kind in HEADLINE}
        gigabytes = {kind: mode["gb_at_million"] for kind, mode in modes.items()}
        measured = million(data["task"], images)
        if measured is not None:
            gigabytes["delta"] = measured
        drawn = bars(left, list(HEADLINE.values()), list(gigabytes.values()), [COLORS[kind] for kind in HEADLINE])
        for kind, bar, label in zip(HEADLINE, drawn, left.texts, strict=True):
            times = gigabytes["array"] / gigabytes[kind]
            label.set_text(f"{short(gigabytes[kind])} GB" + (f", {short(times)}x less" if times > 1 else ""))
            if kind != "delta" or measured is None:
                bar.set(hatch="///", edgecolor="white", linewidth=0)
        _rates(right, modes, workers)
        left.set_title(title, loc="left", fontsize=11, fontweight="bold", x=-0.02)
        left.tick_params(axis="y", length=0)
        left.set_xlim(0, 90)
        left.set_xlabel("GB for a million transitions", fontsize=10)
        right.set_xlabel(f"batches of {data['settings']['batch']} per second", fontsize=10)
    marks = [Patch(facecolor="#555555", hatch="///", edgecolor="white"), Patch(facecolor="#555555")]
    place = {"loc": "lower right", "bbox_to_anchor": (1.08, -0.04)}  # beside the shortest bar
    grid[0, 0].legend(marks, ["extrapolated", "measured with 10⁶"], frameon=False, fontsize=9, **place)
    figure.suptitle(
        f"{data['task']}, random actions. Batches from {data['frames']:,} frames: medians, quartiles, median of times "
        f"the disk's;\nplain stacks are sampled by NumPy, all others by {workers} workers. {measured_on(data)}.",
        fontsize=9,
        color="#444444",
        ha="left",
        x=0.02,
    )
    figure.patch.set(edgecolor="#d0d0d0", linewidth=2)
    return figure


def million(task: str, images: str) -> float | None:
    """Gigabytes that a process with 10^6 transitions in `delta` grew by; None where that was not measured."""
    if not (DATA / f"million_{task}_{images}.json").exists():
        return None
    return dict(read(f"million_{task}_{images}")["tables"][0]["rows"])["PSS growth, GB"]


def _rates(axes: Any, modes: dict[str, Any], workers: int) -> None:
    """Batches a second with the most workers; an array has none."""
    rates = [mode["batches"].get(str(workers), mode["batches"].get("0")) for mode in modes.values()]
    found = [rate["a_second"] for rate in rates]
    medians = [rate["median"] for rate in found]
    axes.barh(list(modes), medians, color=[COLORS[kind] for kind in modes])
    axes.errorbar(medians, list(modes), xerr=around(found), fmt="none", ecolor="#333333", elinewidth=1.2)
    for place, rate in enumerate(rates):
        times = rate["times_disk"]["median"]
        text = f"  {short(rate['a_second']['median'])}" + (f" ({times:.1f}x)" if times != 1 else "")
        axes.text(rate["a_second"]["upper"], place, text, va="center", fontsize=10)
    axes.yaxis.set_inverted(True)
    axes.set_yticks([])
    axes.set_xlim(0, 1.5 * max(medians))
    axes.spines[["top", "right"]].set_visible(False)


def around(rates: list[dict[str, float]]) -> list[list[float]]:
    """From the medians to the quartiles, as matplotlib takes errors."""
    return [[abs(rate[end] - rate["median"]) for rate in rates] for end in ("lower", "upper")]


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
    figure.get_layout_engine().set(w_pad=GAP, h_pad=0.1)
    figure.suptitle(f"{data['task']}: {measured_on(data)}", fontsize=11)
    for row, images in enumerate(rows):
        modes = {mode["title"]: (name, mode) for name, mode in data["modes"].items() if mode["images"] == images}
        titles, colors = list(modes), [COLORS[name.partition("_")[2]] for name, _ in modes.values()]
        values = [mode for _, mode in modes.values()]
        sizes, held, adding = grid[2 * row]
        bars(sizes, titles, [mode["gb_at_million"] for mode in values], colors)
        sizes.set_title(f"{GROUPS[images].partition(':')[0]}\nGB at 10⁶, extrapolated")
        if measured:
            bars(held, titles, [mode["memory"]["pss_growth_mb"] for mode in values], colors)
        held.set_title(f"MB of all processes at\n{data['settings']['transitions']:,} transitions, measured")
        bars(adding, titles, [mode["add_us"]["mean"] for mode in values], colors)
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
        shifted = groups[there] + (k - (len(modes) - 1) / 2) * width
        drawn = axes.bar(shifted, medians, width, yerr=around(found), ecolor="#333333", color=colors[k], label=title)
        axes.bar_label(drawn, fmt="%.0f", fontsize=9, padding=1)
    axes.set_xticks(groups, [f"{number} workers" for number in workers])
    axes.set_title("batches a second, measured; lines from quartile to quartile", loc="left", fontsize=11)
    axes.legend(loc="upper left", ncols=len(modes), frameon=False, fontsize=9)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)


def compare(pyplot: Any) -> Any:
    """What `benchmarks.compare` measured for the documentation."""
    return compare_chart(read("compare_walker_walk"), pyplot)
