"""Charts of the page, as inline SVG: no script, and colours of the page's style."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEFT, RIGHT, TOP, BOTTOM = 56, 632, 10, 158  # of what is drawn between the axes; the page scales all of it
POINTS = 320  # in a chart at most: what is more is put together
DOTS = 64


def spread(values: NDArray[np.float64], what: str, across: str, last: int) -> str:
    """A chart of values in their order: the median of each few as a line, from the lowest to the highest as an area.

    Args:
        values: (N,); those that are not finite are left out.
        what: they are, with their unit.
        across: what they are of.
        last: the number of the last one.
    """
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return "<p>None.</p>"
    groups = np.array_split(finite, min(POINTS, len(finite)))
    lows, middles, highs = (np.array([pick(values[group]) for group in groups]) for pick in (np.min, np.median, np.max))
    low, high = min(float(lows.min()), 0.0), float(highs.max())
    span = (high - low) or 1.0
    x = LEFT + np.array([group.mean() for group in groups]) / max(len(values) - 1, 1) * (RIGHT - LEFT)

    def points(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[str]:
        up = TOP + (high - y) / span * (BOTTOM - TOP)
        return [f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), up.tolist(), strict=True)]

    area = " ".join(points(np.append(x, x[::-1]), np.append(highs, lows[::-1])))
    line = " ".join(points(x, middles))
    first = last - len(values) + 1
    label = f"{what} over {across} {first} to {last}: {lows.min():.6g} to {high:.6g}"
    return (
        f'<svg viewBox="0 0 {RIGHT + 8} {BOTTOM + 22}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/><polygon points="{area}"/><polyline points="{line}"/>'
        f"{_dots(line)}{_text(LEFT - 4, TOP + 8, f'{high:.5g}', 'end')}{_text(LEFT - 4, BOTTOM, f'{low:.5g}', 'end')}"
        f"{_text(LEFT, BOTTOM + 16, str(first))}{_text(RIGHT, BOTTOM + 16, f'{across} {last}', 'end')}</svg>"
    )


def _dots(line: str) -> str:
    """A dot at each point, where there are so few that a line alone would hide them."""
    places = line.split()
    if len(places) > DOTS:
        return ""
    found = [place.split(",") for place in places]
    return "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in found)


def _text(x: float, y: float, text: str, kind: str = "begin") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{text}</text>'
