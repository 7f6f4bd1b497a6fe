"""Targets that are not complete yet: a folder that one conversion may go on with, a file that has another name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffreplay.errors import InputError, InUseError
from diffreplay.snapshots import Lock, open_regular, sync_directory, write_durably

MARK = ".diffreplay-conversion"
NEW_MARK = f"{MARK}.new"  # while it is written; a kill leaves it
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
        if os.path.lexists(directory) and not directory.is_dir():
            raise _other(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._mark, self._lock = directory / MARK, Lock(directory)
        try:
            self._begin(directory, json.dumps(conversion, sort_keys=True).encode())
        except BaseException:
            self.close()
            raise

    def _begin(self, directory: Path, body: bytes) -> None:
        with os.scandir(directory) as found:
            others = [each for each in found if each.name not in (MARK, NEW_MARK) or not each.is_file()]
        mark = self._read_mark()
        if mark == body:
            return
        if mark or others:
            raise _other(directory)
        new = directory / NEW_MARK
        new.unlink(missing_ok=True)
        write_durably(new, body)
        os.replace(new, self._mark)
        sync_directory(directory)

    def _read_mark(self) -> bytes:
        try:
            with open_regular(self._mark) as file:
                return file.read(LONGEST_MARK)
        except OSError:
            return b""

    def finish(self) -> None:
        """Have the folder be complete."""
        self._mark.unlink()

    def close(self) -> None:
        """Let others go on with it."""
        self._lock.release()


class UnfinishedPath:
    """A file or folder that appears under its name when it is complete; until then another name tells that it is not.

    What is there under that other name is begun anew. A file beside it is locked meanwhile.

    Args:
        path: that it is to have.

    Attributes:
        path: that it has until it is complete.

    Raises:
        InputError: something is there.
        InUseError: a conversion that is running writes it.
    """

    def __init__(self, path: Path) -> None:
        _refuse(path)
        self._final, self.path = path, path.with_name(f".{path.name}.unfinished")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._locked = path.with_name(f".{path.name}.unfinished.lock")
        self._lock = self._alone()
        try:
            _refuse(path)  # the conversion before may just have given it its name
            self._remove()
        except BaseException:
            self.close()
            raise

    def _alone(self) -> Lock:
        """A lock on the file beside it, which another conversion may just have unlinked."""
        while True:
            os.close(os.open(self._locked, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            try:
                lock = Lock(self._locked)
                found = self._locked.lstat()
            except FileNotFoundError:
                continue
            except InUseError:
                raise InUseError(
                    f"{self._final}: expected to be alone in writing it, but a running process does already (or this "
                    "one, a second time): give another target, or end the other one first"
                ) from None
            if lock.place == (found.st_dev, found.st_ino):
                return lock
            lock.release()

    def finish(self) -> None:
        """Give it its name."""
        _refuse(self._final)
        os.rename(self.path, self._final)
        sync_directory(self._final.parent)

    def close(self) -> None:
        """Remove what there is of it, unless it was complete, and let others write it."""
        if self._lock.place == (-1, -1):
            return
        self._remove()
        self._locked.unlink(missing_ok=True)
        self._lock.release()

    def _remove(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path}: expected no target, got one: give another, or remove it first")


def _other(directory: Path) -> InputError:
    return InputError(
        f"{directory}: expected no target, or this conversion, unfinished, to go on with; got something else: give "
        "another target, or remove it first"
    )
