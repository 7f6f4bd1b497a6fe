"""`python -m diffreplay inspect --html`: one page that shows what a snapshot holds, and runs and fetches nothing."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import imageio.v3 as imageio
import numpy as np
import pytest
from says import says
from snapshot_tools import CASES, SEVERAL, Writer, buffer, make_directory, own_codec  # noqa: F401

from diffreplay import ArraySpec, ReplayBuffer
from diffreplay.__main__ import main
from diffreplay.cli.charts import spread
from diffreplay.snapshots.manifest import read_manifest
from diffreplay.testing import TimeStep

EMPTY = ("meta", "img", "br")
MAY_BE = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table", "tr", "th", "td"}
MAY_BE |= {"figure", "figcaption", "img", "svg", "path", "polygon", "polyline", "circle", "text"}


class Page(HTMLParser):
    """What a page is made of; refuses one whose tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def images(self):
        """The pixels of all images."""
        found = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        head = "data:image/png;base64,"
        assert all(value.startswith(head) for value in found)
        return [imageio.imread(io.BytesIO(base64.b64decode(value[len(head) :]))) for value in found]


def saved(directory, steps=70, **options):
    replay = buffer(200, **options)
    Writer(replay).add(steps)
    replay.save(directory)
    return replay


def page_of(directory, status=0, name="page.html"):
    """The page of a snapshot, of which `main` says what it should; nothing else was left beside it."""
    path = directory.parent / name
    before = set(directory.parent.iterdir())
    assert main(["inspect", str(directory), "--html", str(path)]) == status
    assert set(directory.parent.iterdir()) - before == {path}
    text = path.read_text()
    page = Page(text)
    assert page.tags <= MAY_BE
    assert not [one for one in page.attributes if one[1].startswith("on") or one[1] in ("href", "srcset", "action")]
    assert not re.search(r"https?:|url\(|@import", text)
    return page


@pytest.mark.parametrize("case", [case for case in CASES if not own_codec(case)])
def test_it_shows_frames_what_they_are_coded_against_and_a_strip(directory, case):
    replay = saved(directory, case=case)
    page = page_of(directory)
    found = {image.tobytes() for image in page.images}
    for number, image in enumerate(replay.store.layout.images):
        if image.frame_shape == (16, 16, 1):
            frame = replay.store.read(np.array([0]), number)[0]  # of the first episode, which is the longest
            assert np.broadcast_to(frame, (16, 16, 3)).tobytes() in found
    words = " ".join(page.words)
    assert "step 0" in words and "step 16" in words and "Episode 0, 17 steps" in words
    assert words.count("coded bytes a frame") >= len(replay.store.layout.images)
    if case.endswith("sparse"):
        assert re.search(r"[0-9.]+% of the pixels", words)


def test_it_says_what_the_command_says(directory, capsys):
    saved(directory, case=SEVERAL + "delta")
    page = page_of(directory)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("wrote ") and len(printed) > 14
    for line in printed[:-1]:
        name, value = line[:14].strip(), line[14:]
        assert name == "camera" or (name in page.words and value in page.words)
    for name in ("front", "depth"):
        assert name in page.words


NAMES = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "\x1b[31m", "\ud800", "a\nb"]


def test_names_are_text_and_nothing_else(directory, capsys):
    specs = {name: ArraySpec((1, 16, 16)) for name in NAMES} | {"</td><script>": ArraySpec((2,), "float32")}
    replay = ReplayBuffer(50, specs, (1,), frame_stack=1, extras={"<iframe>": ArraySpec((), "float32")})
    for t in range(6):
        parts = {name: np.full(spec.shape, t, spec.dtype) for name, spec in specs.items()}
        replay.add(TimeStep(parts, [0.0], is_first=t == 0), extras={"<iframe>": 1.0})
    replay.save(directory)
    page = page_of(directory)
    words = "\n".join(page.words)
    for name in ("<script>alert(1)</script>", "&lt;b&gt;", "<iframe>", r"\x1b[31m", r"\ud800", r"a\nb"):
        assert name in words
    assert "\x1b" not in capsys.readouterr().out


def test_damage_is_on_it_beside_what_is_left(directory):
    replay = buffer(200, codec="raw")
    writer = Writer(replay)
    for _ in range(3):
        writer.add(20)
        replay.save(directory)
    name = read_manifest(directory).segments[1].name
    (directory / name).unlink()
    page = page_of(directory, status=1)
    assert any(name in word and "cannot be read" in word for word in page.words)
    assert ("p", "class", "damage") in page.attributes and page.images


@pytest.mark.parametrize("steps", [0, 1])
def test_of_hardly_anything(directory, steps):
    saved(directory, steps=steps)
    page = page_of(directory)
    assert ("None." in page.words) == (steps == 0) and bool(page.images) == (steps == 1)


def test_of_columns_alone(directory):
    replay = ReplayBuffer(50, {"state": ArraySpec((2,), "float32")}, (1,), frame_stack=1)
    for t in range(6):
        replay.add(TimeStep({"state": np.full(2, t, "f4")}, [0.0], is_first=t == 0))
    replay.save(directory)
    page = page_of(directory)
    assert not page.images and any("columns alone" in word for word in page.words)


def test_large_frames_are_shown_smaller(directory):
    replay = ReplayBuffer(5, (1, 700, 1300), (1,), frame_stack=1)
    replay.add(TimeStep(np.zeros((1, 700, 1300), "u1"), [0.0], is_first=True))
    replay.save(directory)
    assert {image.shape for image in page_of(directory).images} == {(234, 434, 3)}


@pytest.mark.parametrize("name", ["none/such/x.html", "x.abc", ".", "folder.html"])
def test_a_page_that_cannot_be_written_gives_one_line(directory, name, capsys):
    saved(directory)
    (directory / "folder.html").mkdir()
    before = sorted(directory.iterdir())
    assert main(["inspect", str(directory), "--html", str(directory / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    says(line, "--html: expected a file name", directory / name)
    assert sorted(directory.iterdir()) == before


def test_without_pillow_it_says_so(directory):
    saved(directory)
    script = "import sys; sys.modules.update({'PIL': None, 'PIL.Image': None})\n"
    script += (
        f"from diffreplay.__main__ import main; sys.exit(main(['inspect', {str(directory)!r}, '--html', 'x.html']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=directory, timeout=300)
    assert done.returncode == 2
    says(done.stderr, "diffreplay: expected Pillow", "pip install")
    assert not (directory / "x.html").exists() and len(done.stderr.splitlines()) == 1


def test_charts_hold_their_values():
    """The line goes through the values; what is not finite is left out, and many are put together."""
    chart = Page(spread(np.array([1.0, np.nan, 3.0, -1.0, np.inf]), "return", "episode", 4))
    (line,) = [value for tag, _, value in chart.attributes if tag == "polyline"]
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert [x for x, _ in points] == [56, 344, 488] and [y for _, y in points] == [84, 10, 158]
    many = np.random.default_rng(0).normal(size=100_000)
    text = spread(many, "return", "episode", 99_999)
    assert len(text) < 30_000 and f"{many.min():.6g} to {many.max():.6g}" in text
    assert spread(np.full(3, np.nan), "return", "episode", 2) == "<p>None.</p>"
