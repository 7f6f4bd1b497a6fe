"""The charts of the documentation: drawn from the committed data by one command, and the pages agree with the data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmark_tools import number, rows
from matplotlib.image import imread

from benchmarks import charts, compare_charts, plots
from benchmarks.runner import DATA, ROOT

PAGES = sorted((ROOT / "docs" / "benchmarks").glob("*.md"))
RESULTS = (ROOT / "docs/benchmarks/results.md").read_text()


def compared() -> dict[str, Any]:
    return json.loads((DATA / "compare_walker_walk.json").read_text())["modes"]


def test_one_command_draws_all_that_there_is_data_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "DPI", 60)
    charts.main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in charts.CHARTS:
        if name.startswith("figure") and f"left out {name}: expected " in printed:
            continue  # learning curves take days
        pixels = imread(tmp_path / f"{name}.png")[..., :3]
        assert pixels.shape[1] >= 400 and pixels.std() > 0.05, name
        assert (pixels[[3, 3, -4, -4], [3, -4, 3, -4]] > 0.99).all(), name  # on a plate, also on dark pages
    for page in PAGES:
        for image in re.findall(r"\]\(\.\./images/(.*?)\)", page.read_text()):
            assert (ROOT / "docs/images" / image).exists() and image.removesuffix(".png") in charts.CHARTS


def test_the_headline_sets_like_beside_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot, modes = plots.load_pyplot(), compared()
    shutil.copy(DATA / "compare_walker_walk.json", tmp_path)
    shutil.copy(DATA / "million_walker_walk_gray.json", tmp_path)
    monkeypatch.setattr(plots, "DATA", tmp_path)
    monkeypatch.setattr(compare_charts, "DATA", tmp_path)
    figure = compare_charts.headline(pyplot)
    (rgb, rgb_rates), (gray, _) = figure.axes[:2], figure.axes[2:]
    shown = [[bar.get_width() for bar in axes.patches] for axes in (rgb, gray)]
    assert shown[0] == [modes[f"rgb_{kind}"]["gb_at_million"] for kind in ("disk", "array", "half", "delta")]
    assert shown[1][:3] == [modes[f"gray_{kind}"]["gb_at_million"] for kind in ("disk", "array", "half")]
    measured = dict(json.loads((tmp_path / "million_walker_walk_gray.json").read_text())["tables"][0]["rows"])
    assert shown[1][3] == measured["PSS growth, GB"]
    # What a process was not seen to hold is marked as extrapolated.
    assert [bool(bar.get_hatch()) for bar in rgb.patches] == [True] * 4
    assert [bool(bar.get_hatch()) for bar in gray.patches] == [True] * 3 + [False]
    medians = [bar.get_width() for bar in rgb_rates.patches]
    assert medians[0] == modes["rgb_disk"]["batches"]["4"]["a_second"]["median"]
    assert medians[1] == modes["rgb_array"]["batches"]["0"]["a_second"]["median"]
    pyplot.close(figure)


def test_the_page_says_what_the_data_say() -> None:
    modes, table = compared(), rows(RESULTS.split("## Does the process")[0])
    for label, kind in (
        ("disk baseline, or", "array"),
        ("Half", "half"),
        ("Full, `sparse`", "sparse"),
        ("Full, `zstd`", "zstd"),
    ):
        (cells,) = (cells for name, cells in table.items() if name.startswith(label))
        for images, cell in zip(("rgb", "gray"), cells[:2], strict=True):
            if cell:
                assert number(cell) == pytest.approx(modes[f"{images}_{kind}"]["gb_at_million"], rel=0.01)
                assert "extrapolated" in cell
    for images, cell in zip(("rgb", "gray"), table["Full, `delta`, the default"][:2], strict=True):
        measured = compare_charts.million("walker_walk", images)
        expected = modes[f"{images}_delta"]["gb_at_million"] if measured is None else measured
        assert number(cell) == pytest.approx(expected, rel=0.01)
        assert ("measured" if measured is not None else "extrapolated") in cell


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_data_say_where_and_when_they_were_measured(path: Path) -> None:
    data = json.loads(path.read_text())
    assert data["command"].startswith("python ")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", data["date"])
    assert data["machine"]["cores"] > 0 and "load" in data["machine"]
    for table in data["tables"]:
        assert table["rows"] and all(len(row) == len(table["header"]) for row in table["rows"])


def anchors(page: Path) -> set[str]:
    """What may be linked to in a page, as Markdown makes it from the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda p: p.stem
)
def test_links_to_and_from_the_benchmarks_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        if "benchmarks" not in path.parts[-3:] and page not in PAGES:
            continue  # not about benchmarks
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        charts.main(["headlines"])
    assert "there is no chart headlines: choose among headline, compare" in capsys.readouterr().err
    monkeypatch.setattr(charts, "DATA", tmp_path)
    with pytest.raises(SystemExit, match=r"expected .*curves_drqv2\.csv, which `python -m benchmarks.figures` writes"):
        charts.main(["figure3", "--out", str(tmp_path)])
