"""A snapshot loaded under another byte cap than it was saved with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import diffreplay
from diffreplay.errors import InputError

SHAPE = (3, 64, 64)


def fill(replay: diffreplay.ReplayBuffer, transitions: int, seed: int = 0) -> None:
    """Add episodes of ten steps of noise, which does not compress."""
    rng = np.random.default_rng(seed)
    obs = rng.integers(0, 256, SHAPE, np.uint8)
    for step in range(transitions):
        fresh = rng.integers(0, 256, (1, *SHAPE[1:]), np.uint8)
        next_obs = np.concatenate([obs[1:], fresh])
        replay.add_transition(obs, np.zeros(1, np.float32), float(step), next_obs, False, step % 10 == 9)
        obs = next_obs


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, int]:
    """A snapshot without a cap, and the bytes that the buffer took."""
    replay = diffreplay.ReplayBuffer(8_000, SHAPE, (1,))
    fill(replay, 6_000)
    replay.save(tmp_path / "replay")
    return tmp_path / "replay", replay.stats().total_bytes


def test_a_lower_cap_holds_from_the_start_and_the_newest_steps_stay(saved: tuple[Path, int]) -> None:
    directory, before = saved
    cap = before // 2
    replay = diffreplay.ReplayBuffer.load(directory, max_bytes=cap)
    assert 0 < replay.stats().total_bytes <= cap and 1_000 < len(replay) < 6_000
    replay.check_invariants()
    assert replay.sample(2000).reward.min() >= 6_000 - len(replay) - 1
    fill(replay, 500, seed=1)
    assert replay.stats().total_bytes <= cap
    replay.save(directory)
    again = diffreplay.ReplayBuffer.load(directory)
    assert len(again) == len(replay) and again.store.max_bytes == cap, "by default the cap is the saved one"
    assert diffreplay.ReplayBuffer.load(directory, max_bytes=None).store.max_bytes is None


def test_a_cap_that_holds_nothing_is_refused_and_nothing_is_lost(saved: tuple[Path, int]) -> None:
    directory, _ = saved
    with pytest.raises(InputError, match=r"max_bytes: expected at least .* got 1000"):
        diffreplay.ReplayBuffer.load(directory, max_bytes=1000)
    with pytest.raises(InputError, match="max_bytes: expected a positive integer, got 0"):
        diffreplay.ReplayBuffer.load(directory, max_bytes=0)
    assert len(diffreplay.ReplayBuffer.load(directory)) == 6_000


@pytest.mark.parametrize("cap", [None, 40_000_000])
def test_a_higher_cap_is_used_in_full(tmp_path: Path, cap: int | None) -> None:
    replay = diffreplay.ReplayBuffer(8_000, SHAPE, (1,), max_bytes=5_000_000)
    fill(replay, 2_000)
    replay.save(tmp_path / "replay")
    held = len(replay)
    replay = diffreplay.ReplayBuffer.load(tmp_path / "replay", max_bytes=cap)
    assert len(replay) == held < 1_500
    fill(replay, 4_000, seed=1)
    assert len(replay) >= 4_000 + held - 10
    replay.check_invariants()


def test_a_snapshot_of_a_larger_log_loads_into_one_that_a_cap_made_small(tmp_path: Path) -> None:
    """Capped now, the buffer once had none, and its oldest frame lies where the small log has no place."""
    replay = diffreplay.ReplayBuffer(3_000, SHAPE, (1,))
    fill(replay, 2_500)
    replay.save(tmp_path / "replay")
    replay = diffreplay.ReplayBuffer.load(tmp_path / "replay", max_bytes=4_000_000)
    fill(replay, 100, seed=1)
    replay.save(tmp_path / "replay")
    assert replay.store.rows.log.tail > 5_000_000
    again = diffreplay.ReplayBuffer.load(tmp_path / "replay")
    assert again.store.layout.log_bytes < 5_000_000 and len(again) == len(replay)
    again.check_invariants()
    fill(again, 2_000, seed=2)
    again.check_invariants()
    assert again.verify() == []
