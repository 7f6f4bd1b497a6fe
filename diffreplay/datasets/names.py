"""Checks the names under which a target writes arrays, before it writes anything."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffreplay.errors import InputError

LONGEST = 200  # bytes of a part of a name, which becomes that of a file in zarr, and longer while it is written


def check_names(path: Path, names: Iterable[Any], nested: bool = True, reserved: Iterable[str] = ()) -> None:
    """Refuse names of which one would take the place of another, or that cannot be written.

    Args:
        path: of the target.
        names: of all arrays that it will hold.
        nested: "/" in a name leads into a group or folder, as in "obs/image".
        reserved: names that are none of arrays.

    Raises:
        InputError: names the array.
    """
    seen: set[str] = set()
    for name in names:
        if not _is_text(name) or name in reserved or (nested and not all(map(_is_part, name.split("/")))):
            raise InputError(f"{path}: expected names of arrays that can be written, got {name!r:.60}: rename it")
        if name in seen:
            raise InputError(
                f"{path}: expected names of arrays that differ, got two that become {name!r:.60}: rename one"
            )
        seen.add(name)
    for name in sorted(seen) if nested else ():
        first, *rest = name.split("/")
        for part in rest:
            if first in seen:
                raise InputError(
                    f"{path}: expected names of arrays none of which lies within another, got {first!r:.60} and "
                    f"{name!r:.60}: rename one"
                )
            first = f"{first}/{part}"


def _is_part(part: str) -> bool:
    return part not in ("", ".", "..") and len(part.encode()) <= LONGEST


def _is_text(name: Any) -> bool:
    """Whether a name is one that files can have: no half of a surrogate pair is in it."""
    return isinstance(name, str) and "\0" not in name and name.encode(errors="replace").decode() == name
