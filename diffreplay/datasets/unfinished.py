"""Targets that are not complete yet: a folder that one conversion may go on with, a file that has another name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffreplay.errors import InputError
from diffreplay.snapshots import Lock, open_regular, sync_directory, write_durably

MARK = ".diffreplay-conversion"
LONGEST_MARK = 1 << 20


class UnfinishedFolder:
    """A folder that a conversion writes, which a file in it tells of until that is complete.

    Args:
        directory: made where it is missing.
        conversion: what tells this conversion from others, as JSON holds it.

    Raises:
        InputError: something else is there.
        InUseError: a conversion that is running writes it.
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
        else:
            directory.mkdir(parents=True, exist_ok=True)
            write_durably(self._mark, body)
        self._lock = Lock(self._mark)

    def finish(self) -> None:
        """Have the folder be complete."""
        self._mark.unlink()

    def close(self) -> None:
        """Let others go on with it."""
        self._lock.release()


class UnfinishedPath:
    """A file or folder that appears under its name when it is complete; until then another name tells that it is not.

    What is there under that other name is begun anew.

    Args:
        path: that it is to have.

    Attributes:
        path: that it has until it is complete.

    Raises:
        InputError: something is there.
    """

    def __init__(self, path: Path) -> None:
        _refuse(path)
        self._final, self.path = path, path.with_name(f".{path.name}.unfinished")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.remove()

    def remove(self) -> None:
        """Remove what there is of it while it is not complete."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give it its name."""
        _refuse(self._final)
        os.rename(self.path, self._final)
        sync_directory(self._final.parent)


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path}: expected no target, got one: give another, or remove it first")
