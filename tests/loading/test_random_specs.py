"""Workers that are started anew, over observations of any parts: every batch bit for bit what the naive oracle says."""

from __future__ import annotations

import warnings
from itertools import islice

import pytest
from driver import PLAN, Driver
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from snapshot_tools import CODECS
from test_machine import EXAMPLES, SETTINGS, configurations, nested, observations

from diffreplay import ReplayBuffer, make_replay_loader

BATCH, AHEAD = 24, 2  # batches that a loader prepares ahead


def driver_of(configuration, parts, codec, odd):
    """A driver of a new buffer, which has seen episodes of every kind."""
    options = {name: value for name, value in configuration.items() if name != "shape, max_bytes"} | parts
    replay = ReplayBuffer(**options, action_shape=(1,), action_dtype="int64", discount=0.97, codec=CODECS[codec]())
    driver = Driver(replay, options["seed"])
    if odd:
        driver.oracle.pass_on = nested
    for episode in PLAN:
        driver.run(episode)
    return driver


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_give_what_the_oracle_says(method):
    """Transitions and sequences, before and after the writer went on, by which rows have left."""

    # Shrinking would start workers hundreds of times.
    @settings(SETTINGS, max_examples=EXAMPLES or 3, phases=[Phase.generate])
    @given(configurations, observations(), st.sampled_from(list(CODECS)), st.booleans(), st.integers(1, 12))
    def check(configuration, parts, codec, odd, length):
        driver = driver_of(configuration, parts, codec, odd)
        oracle = driver.oracle
        options = {"num_workers": 1, "prefetch_factor": AHEAD, "multiprocessing_context": method}
        loaders = [make_replay_loader(oracle.replay, BATCH, sequence_length=k, **options) for k in (None, length)]
        of_windows, of_sequences = map(iter, loaders)
        for goes_on in (False, True):
            if goes_on:
                driver.run(PLAN[1])
                for batches in (of_windows, of_sequences):
                    list(islice(batches, AHEAD))  # drawn before that, when other rows were there
            assert oracle.windows() and oracle.sequences(length)
            for batch in islice(of_windows, 3):
                oracle.check_batch(batch)
            for batch in islice(of_sequences, 3):
                oracle.check_sequences(batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # first steps in mid-episode, strays
        check()
