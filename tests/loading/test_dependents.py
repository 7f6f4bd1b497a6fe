"""Which steps leave with a row, against a dict."""

from __future__ import annotations

import numpy as np
import pytest

from diffreplay.loading.dependents import Dependents


@pytest.mark.parametrize(("size", "reach"), [(16, 1), (64, 5), (256, 100), (1024, 1000)])
def test_the_steps_that_leave_with_a_row(size, reach):
    """Rows come and leave in runs of any length, as many rounds of the ring as there are; many need the same row."""
    dependents, rng, apart = Dependents(size), np.random.default_rng(reach), 1 if reach < 5 else 3
    needed: dict[int, int] = {}
    tail = head = 0
    while head < 30 * size:
        come = int(rng.integers(1, max(2, size // 4)))
        leave = min(max(head + come - tail - size, 0) + int(rng.integers(0, size // 4)), head - tail)
        gone = np.arange(tail, tail + leave)
        tail += leave
        found = dependents.take(gone)
        wanted = {step for step, row in needed.items() if row < tail}
        assert len(found) == len(set(found.tolist())) and set(found.tolist()) == wanted
        needed = {step: row for step, row in needed.items() if row >= tail}
        steps = rng.permutation(np.arange(head, head + come))[: int(rng.integers(come + 1))]
        oldest = np.maximum(steps - rng.integers(0, reach + 1, len(steps)) // apart * apart, tail)
        dependents.add(steps, oldest)
        needed |= {step: row for step, row in zip(steps.tolist(), oldest.tolist(), strict=True) if row < step}
        head += come
    assert needed


def test_nothing_is_needed_at_first():
    dependents = Dependents(16)
    dependents.add(np.arange(0), np.arange(0))
    dependents.add(np.arange(5), np.arange(5))  # each itself alone
    assert len(dependents.take(np.arange(5))) == 0
