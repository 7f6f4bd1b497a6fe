"""Every Python block of README and documentation runs as it stands, and prints what the page says that it prints."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import page_blocks
import pytest
from page_blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTED_EXAMPLES = (ROOT / "tests/test_examples.py").read_text()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def marked(mark: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.mark.split(",")[0] == mark]


def at(found: list[tuple[Path, Block]]) -> list[str]:
    return [f"{name(page)}:{block.line}" for page, block in found]


def run(folder: Path, *arguments: str | Path) -> str:
    """What a program prints that is run in an empty folder, as a user would who has the library installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning:__main__", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, f"{result.stdout}{result.stderr}"
    return result.stdout


def check(page: Path, block: Block, printed: str) -> None:
    if block.printed is not None or printed:
        stated = block.printed or ""
        assert page_blocks.same_output(stated, printed), f"{name(page)}:{block.line}: {stated!r}, printed {printed!r}"


@pytest.mark.parametrize("page", sorted({page for page, _ in marked("together")}), ids=name)
def test_blocks_of_a_page(page: Path, tmp_path: Path) -> None:
    together = [block for block in blocks(page) if block.mark == "together" and not block.included]
    if together:
        run(tmp_path, page_blocks.__file__, page, tmp_path / "printed.json")
        outputs = json.loads((tmp_path / "printed.json").read_text())
        for block, printed in zip(together, outputs, strict=True):
            check(page, block, printed)


@pytest.mark.parametrize(("page", "block"), marked("alone"), ids=at(marked("alone")))
def test_block_by_itself(page: Path, block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.code)
    check(page, block, run(tmp_path, program))


@pytest.mark.parametrize(("page", "block"), marked("no"), ids=at(marked("no")))
def test_the_page_says_why_a_block_is_not_run(page: Path, block: Block) -> None:
    reason = block.mark.removeprefix("no,").strip()
    beside = re.sub(r"<!--.*?-->", "", block.beside, flags=re.DOTALL)
    assert reason and " ".join(reason.split()) in " ".join(beside.split())


def test_marks_are_known() -> None:
    marks = {block.mark.split(",")[0] for page in PAGES for block in blocks(page)}
    assert marks <= {"together", "alone", "no"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_file_that_a_page_shows_is_tested(page: Path) -> None:
    for block in blocks(page):
        if block.included:
            assert (ROOT / block.included).exists()
            assert Path(block.included).name in TESTED_EXAMPLES


@pytest.fixture(scope="module")
def made_for_examples() -> dict[str, Any]:
    """What the API page makes before its examples."""
    made: dict[str, Any] = {}
    for block in blocks(ROOT / "docs/api.md"):
        exec(block.code, made)
    return made


def on_the_api_page() -> list[str]:
    """The names of classes and functions on the API page, those of a module in its place."""
    names = []
    for name in re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE):
        found = named(name)
        inside = inspect.getmembers(found, inspect.isclass) if inspect.ismodule(found) else []
        names += [f"{name}.{key}" for key, _ in inside] or [name]
    return [name for name in names if inspect.isclass(named(name)) or inspect.isfunction(named(name))]


def named(name: str) -> Any:
    module, _, rest = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ImportError:
        return getattr(named(module), rest)


@pytest.mark.parametrize("name", on_the_api_page())
def test_docstring_has_examples_that_run(
    name: str, made_for_examples: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    docstring = inspect.getdoc(named(name)) or ""
    test = doctest.DocTestParser().get_doctest(docstring, dict(made_for_examples), name, None, None)
    assert test.examples
    skipped = [example for example in test.examples if doctest.SKIP in example.options]
    assert not skipped or name.startswith("diffreplay.distributed."), "the page says why, of those"
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert result.failed == 0, "".join(told)


DIFF = re.compile(r"<!-- program: (\S+) -->\n```diff\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", sorted((ROOT / "docs/moving").glob("*.md")), ids=name)
def test_lines_of_a_diff_are_those_of_the_program(page: Path) -> None:
    """The lines that a diff adds are marked `# changed` in the program that it is of, which tests run."""
    found = DIFF.findall(page.read_text())
    assert found and len(found) == page.read_text().count("```diff")
    for program, diff in found:
        added = [line[1:].strip() for line in diff.splitlines() if line.startswith("+")]
        changed = [line for line in (ROOT / program).read_text().splitlines() if "# changed" in line]
        assert added == [line.split("  # changed")[0].strip() for line in changed]
        assert Path(program).name in TESTED_EXAMPLES or "the tests do not run it" in page.read_text()


@pytest.mark.parametrize(
    ("stated", "printed", "same"),
    [
        ("a 3 b", "a 3 b\n", True),
        ("12.5 MB", "11.0 MB", True),
        ("12.5 MB", "6.0 MB", False),
        ("12 of 50", "13 of 50", False),
        ("12.5 MB", "12.5 GB", False),
        ("one", "one two", False),
        ("", "one", False),
    ],
)
def test_what_counts_as_the_same_output(stated: str, printed: str, same: bool) -> None:
    assert page_blocks.same_output(stated, printed) is same


def test_a_page_that_is_wrong_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nprint(y)\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md.*line 6[\s\S]*NameError"):
        run(tmp_path, page_blocks.__file__, page, tmp_path / "printed.json")
