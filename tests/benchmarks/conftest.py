"""Recordings that all tests of the benchmarks measure on: made once, of a few frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_tools import FRAMES, record


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `--folder`: both renderings of the walker, and Pong."""
    names = ("walker_walk_gray", "walker_walk_rgb", "atari_Pong")
    return record(tmp_path_factory.mktemp("recordings"), *names, frames=FRAMES)
