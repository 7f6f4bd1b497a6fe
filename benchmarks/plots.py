"""What all charts share: colours, bars, reading the documentation's data and writing a PNG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.runner import DATA

COLORS = {
    "disk": "#7a7a7a",
    "array": "#b8b8b8",
    "half": "#e08a1e",
    "sparse": "#3a7ebf",
    "zstd": "#8c6bb1",
    "delta": "#1d8a5a",
}
DPI = 160
GAP = 0.12  # inches around a panel, so that the ends of two axes do not meet


class MissingData(SystemExit):
    """A file that a chart is drawn from is not there."""


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
        figure.savefig(path, dpi=DPI, facecolor="white", edgecolor=figure.get_edgecolor())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: expected a file that can be written, such as figure.png, got {error}") from None
    finally:
        pyplot.close(figure)


def read(name: str) -> dict[str, Any]:
    """A JSON file of the documentation's data.

    Raises:
        MissingData: it is not there.
    """
    path = DATA / f"{name}.json"
    if not path.exists():
        raise MissingData(f"expected {path}, which a benchmark's --json writes")
    return json.loads(path.read_text())


def measured_on(data: dict[str, Any]) -> str:
    """Date and machine in a line."""
    machine = data["machine"]
    loads = sorted({machine["load"], machine.get("load_at_end", machine["load"])})
    load = " to ".join(f"{load:.1f}" for load in loads)
    return f"{data['date']}, {machine['processor']}, {machine['cores']} cores, load average {load}"


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(axes: Any, labels: list[str], values: list[float], colors: list[str], unit: str = "") -> Any:
    """Horizontal bars with their values, the first on top."""
    drawn = axes.barh(labels, values, color=colors)
    axes.bar_label(drawn, [short(value) + unit for value in values], padding=4, fontsize=10)
    axes.yaxis.set_inverted(True)
    axes.set_xlim(right=1.25 * max(values))
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
