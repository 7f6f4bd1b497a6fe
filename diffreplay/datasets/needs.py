"""Packages that not everybody has installed, and what they say went wrong."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffreplay.errors import CorruptDataError, ReplayError


def needs(package: str, what: str) -> Any:
    """Import a package of the extra `datasets`.

    Args:
        package: its module.
        what: it is needed for, in a few words.

    Raises:
        ReplayError: it is not installed; the message says how to.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ReplayError(
            f"{what}: expected {package.partition('.')[0]} to be installed, got {error}; "
            "pip install 'diffreplay[datasets]'"
        ) from error


@contextmanager
def told_as_damage(path: Path, what: str) -> Iterator[None]:
    """Tell whatever another package fails at within as damage of a file: it may raise errors of any kind.

    Args:
        path: of the file.
        what: it is to be.

    Raises:
        CorruptDataError: something failed; errors of this library come as they are.
    """
    try:
        yield
    except ReplayError:
        raise
    except Exception as error:
        raise CorruptDataError(
            f"{path}: expected a whole {what}, got damaged or other data ({reason(error)})"
        ) from error


def reason(error: Exception) -> str:
    """What an error of another package says, on one line and not too long, without its number and file."""
    said = re.sub(r"^\[Errno -?\d+\] (.*?)(: '[^']*')?$", r"\1", " ".join(str(error).split()))
    return f"{said or type(error).__name__:.200}"
