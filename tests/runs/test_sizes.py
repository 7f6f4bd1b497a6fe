"""What a run says of its buffer's size."""

from __future__ import annotations

import re

import numpy as np
import pytest

import diffreplay
from diffreplay import ReplayStats
from diffreplay.testing.frames import frames_of
from runs.sizes import Sizes


def stats(transitions: int, payload: int, references: int = 0, overhead: int = 0) -> ReplayStats:
    """Of a buffer whose observations are 21,168 bytes."""
    return ReplayStats(
        transitions=transitions,
        frames=transitions,
        payload_bytes=payload,
        index_bytes=0,
        reference_bytes=references,
        scalar_bytes=0,
        total_bytes=payload + references + overhead,
        stacked_bytes=transitions * 21_168,
    )


def test_what_is_paid_once_is_not_multiplied() -> None:
    early = stats(1000, 2_000_000, references=900_000, overhead=50_000)
    later = stats(2000, 2_300_000, references=900_000, overhead=50_000)
    assert early.forecast(1_000_000) == early.total_bytes + 2000 * 999_000
    assert later.forecast(1_000_000, early) == later.total_bytes + 300 * 998_000
    assert later.forecast(2000, early) == later.forecast(10) == later.total_bytes
    assert stats(0, 0).forecast(1_000_000) == 0
    assert later.forecast(4000, later) == later.forecast(4000), "an earlier one tells nothing where nothing came since"


def test_the_forecast_is_that_of_later_steps_and_never_above_the_cap() -> None:
    early, later = stats(1000, 2_000_000, references=900_000), stats(2000, 2_300_000, references=900_000)
    sizes = Sizes(1_000_000)
    lines = [sizes.line(early), sizes.line(later)]
    assert lines == [
        "| replay | 1000 transitions | 2900 bytes each, 900 of them references | 2.00 GB when full |",
        "| replay | 2000 transitions | 1600 bytes each, 450 of them references | 0.30 GB when full |",
    ]
    assert sizes.end(later, "plain stacks of 3 gray frames") == (
        "compression ratio: 13.2 against plain stacks of 3 gray frames of 21168 bytes; 2000 transitions, 1600 bytes "
        "each, 450 of them references; 3.2 MB of memory in all, about 0.30 GB with 1000000 transitions"
    )
    capped = Sizes(1_000_000, max_bytes=250_000_000)
    assert "| 0.25 GB when full |" in capped.line(early)


def test_a_buffer_that_is_filled_becomes_as_large_as_was_said_halfway() -> None:
    frames = frames_of("moving", (48, 48, 1), 400).transpose(0, 3, 1, 2)
    replay = diffreplay.ReplayBuffer(1500, (2, 48, 48), (1,), frame_stack=2)
    sizes, said = Sizes(1500), {}
    for step in range(1500):
        stacks = [np.concatenate([frames[(step + k - 1) % 400], frames[(step + k) % 400]]) for k in (0, 1)]
        replay.add_transition(stacks[0], [0.0], 0.0, stacks[1], False, step % 100 == 99)
        if step % 100 == 99:
            said[step + 1] = sizes.line(replay.stats())
    forecast = re.search(r"([0-9.]+) MB when full", said[800])
    assert forecast is not None, said[800]
    assert float(forecast[1]) * 1e6 == pytest.approx(replay.stats().total_bytes, rel=0.15)


@pytest.mark.parametrize("references", [0, 1_200_000_000])
def test_the_line_fits_100_columns(references: int) -> None:
    large = stats(1_000_000, 21_180_000_000, references)
    assert len(Sizes(10_000_000).line(large)) <= 100
