"""Which conversion a folder is being written by, so that it alone may go on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffreplay.errors import InputError
from diffreplay.snapshots import open_regular, write_durably

MARK = ".diffreplay-conversion"
LONGEST_MARK = 1 << 20


class UnfinishedFolder:
    """A folder that a conversion writes, which a file in it tells of until that is complete.

    Args:
        directory: made where it is missing.
        conversion: what tells this conversion from others, as JSON holds it.

    Raises:
        InputError: something else is there.
    """

    def __init__(self, directory: Path, conversion: dict[str, Any]) -> None:
        self._mark = directory / MARK
        body = json.dumps(conversion, sort_keys=True).encode()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            try:
                with open_regular(self._mark) as file:
                    found = file.read(LONGEST_MARK)
            except OSError:
                found = b""
            if found != body:
                raise InputError(
                    f"{directory}: expected no target, or this conversion, unfinished, to go on with; got something "
                    "else: give another target, or remove it first"
                )
            return
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(self._mark, body)

    def finish(self) -> None:
        """Have the folder be complete."""
        self._mark.unlink()
