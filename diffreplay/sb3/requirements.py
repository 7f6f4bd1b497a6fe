"""Which versions of Stable-Baselines3 and of its contributed algorithms the buffers are made for."""

from __future__ import annotations

import re
from importlib import import_module, metadata

LEAST = (2, 9)
TITLES = {"stable_baselines3": "Stable-Baselines3", "sb3_contrib": "sb3-contrib"}


def require(package: str) -> None:
    """Check that a package of `TITLES` is there and not too old.

    Raises:
        ModuleNotFoundError: it, or what it needs, is not installed.
        ImportError: it is too old, or fails to import.
    """
    expected = f"diffreplay.sb3: expected {TITLES[package]} {LEAST[0]}.{LEAST[1]} or newer, got"
    advice = "install it with pip install 'diffreplay[atari]'"
    try:
        module = import_module(package)
    except ImportError as error:
        try:
            found = f"{metadata.version(package)}, which fails with: {error}"
        except metadata.PackageNotFoundError:
            found = str(error)
        raise type(error)(f"{expected} {found}; {advice}", name=error.name) from None
    version = str(getattr(module, "__version__", "one without a version"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < LEAST:
        raise ImportError(f"{expected} {version}; {advice}", name=package)
