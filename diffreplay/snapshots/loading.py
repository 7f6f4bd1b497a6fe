"""Loads the buffer that a snapshot holds, or says what of it is damaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffreplay import codecs
from diffreplay.errors import CorruptDataError, SharedMemoryError
from diffreplay.snapshots.manifest import find_manifest
from diffreplay.snapshots.priorities import read_priorities
from diffreplay.snapshots.restore import restore
from diffreplay.snapshots.state import B, make, resume


def load(
    cls: Callable[..., B],
    directory: Path,
    name: str | None,
    codec: str | codecs.Codec | None,
    skip_damaged: bool,
    cap: int | str | None,
) -> tuple[B, str | None, dict[str, Any] | None]:
    """The buffer that was saved as commit `name`, the commit that it may add to, and the state of its priorities.

    There is no such commit if some of it is left out.

    Its cap is still the saved one or, as what is made for a cap has no place for more, `cap` where that is higher.

    Raises:
        CorruptDataError: there is no snapshot, or a file of it is damaged or missing.
        SharedMemoryError: there is too little memory for it.
    """
    try:
        while True:
            manifest = find_manifest(directory, name)
            replay = make(cls, directory, manifest.buffer, codec, cap)
            damage, priorities = restore(replay.store, directory, manifest, skip_damaged), None
            try:
                priorities = read_priorities(directory, manifest)
            except CorruptDataError as error:
                damage.append(str(error))
            if not damage or find_manifest(directory, name).commit == manifest.commit:
                break  # else another process saved meanwhile, and deleted what was being read
        if damage and not skip_damaged:
            others = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
            raise CorruptDataError(f"{damage[0]}{others}; load with skip_damaged=True to keep the rest")
        for problem in damage:
            warnings.warn(f"left out: {problem}", RuntimeWarning, stacklevel=3)
        resume(replay, directory, manifest)
    except (MemoryError, SharedMemoryError) as error:
        raise SharedMemoryError(f"{directory}: expected memory for what its manifest describes: {error}") from error
    return replay, None if damage else manifest.commit, priorities
