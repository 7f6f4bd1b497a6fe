"""What tests of loaders have in common: ways to have workers, and a buffer of episodes of any length."""

from __future__ import annotations

import numpy as np
from loading.test_sampling import Forgetful, add_episode, buffer

WORKERS = [{"num_workers": 0}, *({"num_workers": n, "threads": True} for n in (1, 2, 4))]
WORKERS.append({"num_workers": 2, "multiprocessing_context": "fork"})


def filled(**options):
    """An oracle with 20 episodes of 1 to 39 transitions, of two streams in turns; some have left."""
    oracle, rng = Forgetful(buffer(400, **options)), np.random.default_rng(0)
    for k in range(20):
        add_episode(oracle, int(rng.integers(1, 40)), rng, stream=k % 2)
    return oracle
