"""Snapshots of a run: tensors and plain containers, written atomically, loaded without executing pickled code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from drqv2.errors import OptionError


def save_snapshot(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, None, dicts, lists, tuples) to `path`, which is replaced at once.

    A crash at any moment leaves either the old snapshot or the new one.
    """
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load_snapshot(path: Path) -> dict[str, Any]:
    """Return the state in `path`, its tensors on the CPU; OptionError when the file is damaged or not a snapshot."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise OptionError(
            f"{path} is not a readable snapshot: restore it from a copy, or remove it to start the run over"
        ) from error
    if not isinstance(state, dict):
        raise OptionError(f"{path} is not a snapshot of a run: expected a dict, got {type(state).__name__}")
    return state
