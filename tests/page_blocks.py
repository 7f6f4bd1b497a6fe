"""The Python blocks of a page of documentation; as a program, it runs those of one page that belong together.

    python tests/page_blocks.py PAGE OUT

runs them in order, as one program, and writes what each printed to OUT, as JSON. A comment before a block says
otherwise: `<!-- run: alone -->` for a program of its own, `<!-- run: no, REASON -->` for one that is not run, where the
page tells REASON in the lines beside it. A block ```text right after one is what it prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)```(python|text)\b[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- run: ([^>]*?) -->\s*\Z")
NUMBER = re.compile(r"-?\d[\d,_]*(?:\.\d+)?")
INCLUDED = re.compile(r'--8<-- "(.+?)"')


@dataclass(frozen=True)
class Block:
    """A Python block: where it begins, its code, how it is run, and what it prints as the page has it."""

    line: int
    code: str
    mark: str
    beside: str
    printed: str | None

    @property
    def included(self) -> str | None:
        """The file that the block shows, where it shows one."""
        found = INCLUDED.search(self.code)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page."""
    text = page.read_text()
    fences = list(FENCE.finditer(text))
    found = []
    for k, fence in enumerate(fences):
        if fence[2] != "python":
            continue
        after = fences[k + 1] if k + 1 < len(fences) else None
        follows = after is not None and after[2] == "text" and not text[fence.end() : after.start()].strip()
        mark = MARK.search(text[: fence.start()])
        found.append(
            Block(
                line=text.count("\n", 0, fence.start(3)) + 1,
                code=textwrap.dedent(fence[3]),
                mark=mark[1] if mark else "together",
                beside=text[max(0, fence.start() - 600) : fence.end() + 600],
                printed=textwrap.dedent(after[3]) if after is not None and follows else None,
            )
        )
    return found


def same_output(stated: str, printed: str) -> bool:
    """Whether a program printed what the page says: numbers with a decimal point may differ by a quarter."""
    if NUMBER.sub("#", stated).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(stated), NUMBER.findall(printed), strict=True)
    return all(_same_number(*pair) for pair in pairs)


def _same_number(stated: str, printed: str) -> bool:
    if stated == printed:
        return True
    if "." not in stated or "." not in printed:
        return False
    expected, got = (float(re.sub("[,_]", "", text)) for text in (stated, printed))
    return abs(got - expected) <= abs(expected) / 4


def run(page: Path) -> list[str]:
    """Run the blocks that belong together in this module's namespace; what each printed."""
    namespace = sys.modules["__main__"].__dict__
    outputs = []
    for block in blocks(page):
        if block.mark != "together" or block.included:
            continue
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        outputs.append(printed.getvalue())
    return outputs


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(Path(sys.argv[1]))))
