"""What is known of which step follows which: interrupted or asked from a signal handler, it stays right."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from interrupts import interrupted
from loading.test_sampling import Forgetful, add_episode, anew, buffer

from diffreplay.errors import ReplayError


@pytest.mark.timeout(60)
def test_an_interrupt_loses_no_successor():
    """At any line, also while room is made for more rows than there was for."""
    oracle, rng = Forgetful(buffer(3000, 1)), np.random.default_rng(0)
    add_episode(oracle, 900, rng)
    readers = [anew(oracle.replay) for _ in range(300)]
    for reader in readers:
        reader.sample(4, rng, sequence_length=9)
    add_episode(oracle, 900, rng)

    def drawn(reader):
        return reader.sample(20, np.random.default_rng(1), sequence_length=9)

    expected, stopped = drawn(oracle.replay), 0
    assert expected.mask.float().mean() > 0.9 and expected.index.min() < 800
    for place, reader in enumerate(readers):
        stopped += interrupted(lambda: reader.samples(9).draw(20, rng), place)  # noqa: B023
        batch = drawn(reader)
        assert torch.equal(batch.mask, expected.mask) and torch.equal(batch.obs, expected.obs), f"line {place}"
        if stopped == place:
            break
    assert 60 < stopped < len(readers)


@pytest.mark.timeout(60)
def test_a_signal_handler_may_sample():
    """It gets its batch, or is told that it came from within; neither of the two waits for the other for ever."""
    oracle, rng = Forgetful(buffer(300, 1)), np.random.default_rng(0)
    add_episode(oracle, 200, rng)
    told = 0

    def trace(frame, event, argument):
        nonlocal told
        if frame.f_code.co_filename.endswith("successors.py") and event == "line":
            sys.settrace(None)
            try:
                oracle.check_sequences(oracle.replay.sample(4, sequence_length=5))
            except ReplayError as error:
                assert "from within" in str(error)
                told += 1
            sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        batch = oracle.replay.sample(8, sequence_length=5)
    finally:
        sys.settrace(None)
    oracle.check_sequences(batch)
    assert told
