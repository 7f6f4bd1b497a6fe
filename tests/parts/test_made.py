"""Shapes that may be read in two ways are noticed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from says import says

from diffreplay import ArraySpec, ReplayBuffer, estimate


def told(call):
    """The warnings of a call, each of which names this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("shape", "frame_stack", "spec"),
    [
        ((84, 84, 9), 3, 'ArraySpec((84, 84, 3), "uint8", layout="HWC")'),
        ((84, 84, 4), 4, 'ArraySpec((84, 84, 1), "uint8", layout="HWC")'),
        ((84, 84, 4), 1, 'ArraySpec((84, 84, 4), "uint8", layout="HWC")'),
        (ArraySpec((64, 48, 3)), 3, 'ArraySpec((64, 48, 3), "uint8", layout="HWC")'),
        ({"depth": ArraySpec((64, 48, 1), "uint16")}, 2, 'ArraySpec((64, 48, 1), "uint16", layout="HWC")'),
    ],
)
def test_channels_that_seem_to_come_last_are_noticed(shape, frame_stack, spec):
    (message,) = told(lambda: ReplayBuffer(100, shape, (1,), frame_stack=frame_stack))
    says(message, "observation_shape", "is read as", "C, H, W)", f"give {spec}")


@pytest.mark.parametrize(
    ("shape", "frame_stack"),
    [((9, 84, 84), 3), ((3, 16, 3), 3), ((12, 4, 4), 4), (ArraySpec((64, 48, 3), layout="HWC"), 3), ((84, 84, 5), 1)],
)
def test_others_are_not(shape, frame_stack):
    assert told(lambda: ReplayBuffer(100, shape, (1,), frame_stack=frame_stack)) == []


def test_estimate_notices_it_too():
    frames = np.zeros((60, 32, 32, 3), np.uint8)
    (message,) = told(lambda: estimate(frames, 1000))
    says(message, "(32, 32, 3) is read as (C, H, W)", 'layout="HWC"')
    assert told(lambda: estimate(frames, 1000, specs=ArraySpec((32, 32, 3), layout="HWC"))) == []
