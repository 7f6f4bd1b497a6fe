"""Which versions of Stable-Baselines3 and of its contributed algorithms the buffers are made for."""

from __future__ import annotations

import importlib
import re

LEAST = (2, 9)
TITLES = {"stable_baselines3": "Stable-Baselines3", "sb3_contrib": "sb3-contrib"}


def require(package: str) -> None:
    """Check that a package of `TITLES` is there and not too old.

    Raises:
        ModuleNotFoundError: it, or what it needs, is not installed.
        ImportError: it is too old, or fails to import.
    """
    expected = f"diffreplay.sb3: expected {TITLES[package]} {LEAST[0]}.{LEAST[1]} or newer"
    advice = "install it with pip install 'diffreplay[atari]'"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise type(error)(f"{expected}, got {error}; {advice}", name=error.name) from None
    version = str(getattr(module, "__version__", "one without a version"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < LEAST:
        raise ImportError(f"{expected}, got {version}; {advice}", name=package)
