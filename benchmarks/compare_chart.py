"""The chart of `benchmarks.compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"disk": "#7a7a7a", "half": "#e08a1e", "sparse": "#3a7ebf", "zstd": "#8c6bb1", "delta": "#1d8a5a"}


def plot(results: dict[str, Any], path: Path, pyplot: Any) -> None:
    """One PNG on white: memory at 10^6 transitions, memory measured, time to add, and below batches a second."""
    names, modes, paper = list(results["modes"]), list(results["modes"].values()), results["paper"]
    titles, colors = [mode["title"] for mode in modes], [COLORS[name] for name in names]
    places: Any = [["million", "measured", "add"], ["rates", "rates", "rates"]]
    figure, panels = pyplot.subplot_mosaic(places, figsize=(9.6, 6.4), layout="constrained")
    figure.suptitle(f"{results['task']} ({results['date']}, {results['cores']} cores)", fontsize=12)

    million = panels["million"]
    _bars(million, titles, [mode["gb_at_million"] for mode in modes], colors, "{:.3g}")
    million.set_title("10⁶ transitions, GB\n(extrapolated)")
    if paper:
        for place, published in enumerate(paper["gb"].values()):
            label = "paper" if place == 0 else None
            million.plot([published] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2, label=label)
        million.legend(loc="lower right", frameon=False)

    held = [mode["memory"] for mode in modes]
    _bars(panels["measured"], titles, [memory["pss_growth_mb"] for memory in held], colors, "{:,.0f}")
    panels["measured"].set_title(
        f"{held[0]['transitions']:,} transitions, MB of trainer\nand {held[0]['workers']} workers (measured)"
    )
    _bars(panels["add"], titles, [mode["add_us"]["mean"] for mode in modes], colors, "{:,.0f}")
    panels["add"].set_title("time to add a step,\nmean in µs (measured)")
    for name in ("measured", "add"):
        panels[name].set_yticklabels([])

    rates = panels["rates"]
    workers = list(modes[0]["batches_a_second"])
    width, groups = 0.85 / len(modes), np.arange(len(workers))
    for k, mode in enumerate(modes):
        values = [mode["batches_a_second"][number]["median"] for number in workers]
        shifted = groups + (k - (len(modes) - 1) / 2) * width
        bars = rates.bar(shifted, values, width, color=colors[k], label=titles[k])
        rates.bar_label(bars, fmt="%.0f", fontsize=10, padding=1)
    rates.set_xticks(groups, [f"{number} workers" for number in workers])
    rates.set_title(f"batches of {results['settings']['batch']} a second (measured)")
    rates.legend(loc="upper left", ncols=len(modes), frameon=False)
    rates.set_ylim(top=1.25 * rates.get_ylim()[1])
    for panel in panels.values():
        panel.title.set_fontsize(11)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white", format="png")
    pyplot.close(figure)


def _bars(axes: Any, titles: list[str], values: list[float], colors: list[str], form: str) -> None:
    """Horizontal bars with their values, the first on top."""
    bars = axes.barh(titles, values, color=colors)
    axes.bar_label(bars, [form.format(value) for value in values], padding=4, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(right=1.25 * max(values))
