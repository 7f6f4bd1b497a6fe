"""The documentation: the API page names everything public, and every page is in the site's navigation."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import diffreplay
import diffreplay.distributed
import diffreplay.sb3
import diffreplay.sb3.contrib
import diffreplay.testing

ROOT = Path(__file__).resolve().parents[1]
API = (ROOT / "docs/api.md").read_text()


MODULES = [
    diffreplay,
    diffreplay.codecs,
    diffreplay.distributed,
    diffreplay.sb3,
    diffreplay.sb3.contrib,
    diffreplay.testing,
]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_on_the_api_page(module: ModuleType) -> None:
    missing = [name for name in module.__all__ if not re.search(rf"{module.__name__}(\.\w+)?\.{name}\b", API)]
    assert missing == [] or missing == ["codecs", "errors"], "modules, whose contents are tested by themselves"


def test_errors_are_on_the_api_page() -> None:
    assert "::: diffreplay.errors\n" in API


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
