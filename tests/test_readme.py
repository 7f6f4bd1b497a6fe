"""README and the page on DrQ-v2: their options exist with those defaults, and the README's links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs/drqv2.md").read_text()
OPTIONS: dict[str, Any] = yaml.safe_load((ROOT / "cfgs/config.yaml").read_text())
ATARI_OPTIONS: dict[str, Any] = yaml.safe_load((ROOT / "cfgs/atari.yaml").read_text())
SET_ELSEWHERE = {"task", "num_train_frames", "hydra.run.dir"}  # by hydra's defaults and the task files


def option_rows() -> list[tuple[str, str]]:
    """(name, default as written) of the options in the page's table that config.yaml gives a value."""
    table = PAGE.split("## Options")[1].split("\n## ")[0]
    rows = []
    for line in re.findall(r"^\| `.*\|$", table, re.MULTILINE):
        names, defaults, _ = (cell.strip() for cell in line.strip("|").split("|"))
        rows += zip(split(names), split(defaults), strict=True)
    return [(name, default) for name, default in rows if name not in SET_ELSEWHERE]


def split(cell: str) -> list[str]:
    """The comma-separated entries of a table's cell."""
    return [entry.strip("` ") for entry in cell.split(",")]


def as_written(value: Any) -> str:
    """A value of the configuration in the README's spelling."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(("name", "default"), option_rows())
def test_option_has_this_default(name: str, default: str) -> None:
    assert name in OPTIONS
    assert as_written(OPTIONS[name]) == default


def test_options_in_commands_exist() -> None:
    text = re.sub(r"```(python|diff).*?```", "", README + PAGE, flags=re.DOTALL)
    used = set(re.findall(r"(?<![\w.-])([a-z_]+)=\w", text)) - {"key"}
    assert {"seed", "full_compress", "codec", "num_train_frames"} <= used
    assert used <= {"task"} | OPTIONS.keys() | ATARI_OPTIONS.keys()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()
