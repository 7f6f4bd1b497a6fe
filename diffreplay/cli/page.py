"""What a snapshot holds as one page, which needs nothing besides: no network, no script. Needs Pillow."""

from __future__ import annotations

import base64
import io
import os
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffreplay.cli.charts import spread
from diffreplay.cli.contents import Camera, decodable
from diffreplay.cli.pictures import brightest, need, read, rgb, sample, small
from diffreplay.cli.report import Report, printable, sides_of
from diffreplay.errors import InputError
from diffreplay.stats import in_bytes

STRIP = 16  # frames of an episode at most
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #667; --rule: #d8dade; --line: #0b62c4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --paper: #16181b; --soft: #9aa0a8; --rule: #34383e; --line: #6db1ff; } }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; overflow-wrap: normal; }
th[scope="col"], td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.damage { border-left: 4px solid #c62828; padding: .25rem .75rem; }
.row { display: flex; gap: .5rem; overflow-x: auto; padding-bottom: .5rem; }
figure { margin: 0; flex: none; width: 8rem; } figcaption { font-size: .75rem; color: var(--soft); }
figure img { width: 100%; display: block; image-rendering: pixelated; margin-bottom: .15rem; }
svg { width: 100%; height: auto; } svg path { fill: none; stroke: var(--rule); }
svg polyline { fill: none; stroke: var(--line); stroke-width: 1.5; } svg polygon { fill: var(--line); opacity: .25; }
svg circle { fill: var(--line); } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .end { text-anchor: end; } p.note { color: var(--soft); font-size: .875rem; }
"""


def write_page(report: Report, path: Path) -> str:
    """Write all that a report tells as a page, with frames and charts; say what was written.

    The page is whole, or was not written: it gets its name at the end.

    Args:
        report: of the snapshot.
        path: of the page, ending in .html.

    Raises:
        InputError: the file cannot be written or does not end in .html.
        ReplayError: Pillow is missing.
    """
    check_page(path)
    page = _page(report).encode(errors="xmlcharrefreplace")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(page)
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise InputError(
            f"--html: expected a file name in a folder that can be written, got {path} ({error.strerror})"
        ) from None
    return f"wrote {in_bytes(len(page))} to {path}"


def check_page(path: Path) -> None:
    """Refuse what no page can be written to.

    Raises:
        InputError: the file name does not end in .html, or is a directory's.
        ReplayError: Pillow is missing.
    """
    if path.suffix not in (".html", ".htm") or path.is_dir():
        raise InputError(f"--html: expected a file name that ends in .html, got {path}")
    need("PIL.Image", "Pillow")


def _page(report: Report) -> str:
    title = f"Snapshot {_text(report.replay.directory.name)}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
            *(f'<p class="damage">{_text(problem)}</p>' for problem in report.damage),
            _facts(report),
            _cameras(report.cameras),
            _charts(report),
            *(_camera(report, camera) for camera in report.cameras),
            "</body>\n</html>\n",
        ]
    )


def _text(value: object) -> str:
    """Text of the page: nothing in it is markup."""
    return escape(printable(str(value)))


def _facts(report: Report) -> str:
    shown = [(name, value) for name, value in report.facts if name not in ("camera", "damage")]
    shown += [] if report.damage else [fact for fact in report.facts if fact[0] == "damage"]
    rows = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>\n' for name, value in shown)
    return f'<h2>What it holds</h2>\n<div class="wide"><table>\n{rows}</table></div>'


def _cameras(cameras: list[Camera]) -> str:
    if not cameras:
        return "<h2>Cameras</h2>\n<p>None: observations are columns alone.</p>"
    heads = ("camera", "a frame", "frames", "coded", "share", "bytes a frame", "references", "raw", "ratio")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = []
    for camera in cameras:
        values = (
            f"{sides_of(camera.part)}, {camera.part.dtype}",
            camera.frames,
            in_bytes(camera.coded_bytes),
            f"{camera.share:.1%}",
            f"{camera.bytes_a_frame:.0f}",
            in_bytes(camera.reference_bytes),
            in_bytes(camera.raw_bytes),
            f"{camera.ratio:.1f}",
        )
        cells = "".join(f'<td class="number">{_text(value)}</td>' for value in values)
        rows.append(f'<tr><th scope="row">{_text(_name(camera))}</th>{cells}</tr>\n')
    note = "The ratio is of raw frames to coded ones and their references together."
    return (
        f'<h2>Cameras</h2>\n<div class="wide"><table>\n<tr>{head}</tr>\n{"".join(rows)}</table></div>'
        f'\n<p class="note">{note}</p>'
    )


def _name(camera: Camera) -> str:
    return camera.part.name or "image"


def _charts(report: Report) -> str:
    """Size over time of each camera, and returns over episodes."""
    frames, found = report.replay.frames, ["<h2>Size over time</h2>"]
    rows = decodable(frames)
    for camera in report.cameras:
        sizes = np.full(frames.bounds()[1] - frames.bounds()[0], np.nan)
        sizes[rows - frames.bounds()[0]] = frames.lengths(rows, camera.number)
        found.append(f"<h3>{_text(_name(camera))}: coded bytes a frame</h3>")
        found.append(spread(sizes, "coded bytes a frame", "row", frames.bounds()[1] - 1))
    found.append("<h2>Returns</h2>")
    found.append(spread(report.returns, "return", "episode", len(report.returns) - 1))
    note = "The line is the median of neighbours, the area goes from the lowest to the highest of them. "
    note += "A return is the undiscounted sum of the rewards of what is held of an episode."
    return "\n".join([*found, f'<p class="note">{note}</p>'])


def _camera(report: Report, camera: Camera) -> str:
    """Sample frames of a camera, and a strip of the longest episode."""
    columns, white = sample(report.replay, camera.number, camera.part)
    head = f"<h2>{_text(_name(camera))}: frames</h2>"
    if not columns:
        return f"{head}\n<p>None.</p>"
    tiles = []
    for column in columns:
        parts = [_image(pixels, white, text) if pixels is not None else "" for text, pixels in column]
        lines = "".join(
            f"{part}<figcaption>{_text(text)}</figcaption>" for part, (text, _) in zip(parts, column, strict=True)
        )
        tiles.append(f"<figure>{lines}</figure>")
    found = [head, '<p class="note">Each frame, what it is coded against, and where the two differ.</p>']
    found.append(f'<div class="row">{"".join(tiles)}</div>')
    return "\n".join([*found, _strip(report, camera)])


def _strip(report: Report, camera: Camera) -> str:
    """A few frames of the longest episode, evenly spread."""
    held = decodable(report.replay.frames)
    number = int(np.argmax([len(rows) for rows in report.episodes])) if report.episodes else -1
    rows = report.episodes[number] if report.episodes else held[:0]
    steps = np.flatnonzero(np.isin(rows, held))
    if not len(steps):
        return ""
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(STRIP, len(steps))).astype(int))]
    frames = [small(read(report.replay, camera.number, camera.part, rows[[step]])[0]) for step in steps]
    white = max(map(brightest, frames))
    shown = [
        f"<figure>{_image(frame, white, f'step {step}')}<figcaption>step {step}</figcaption></figure>"
        for step, frame in zip(steps.tolist(), frames, strict=True)
    ]
    return f'<h3>Episode {number}, {len(rows)} steps</h3>\n<div class="row">{"".join(shown)}</div>'


def _image(pixels: NDArray[Any], white: int, text: str) -> str:
    """A frame as a PNG within the page."""
    file = io.BytesIO()
    need("PIL.Image", "Pillow").fromarray(np.ascontiguousarray(rgb(pixels, white))).save(file, "PNG")
    return f'<img alt="{_text(text)}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
