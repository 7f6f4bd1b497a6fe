"""The sum tree against plain sums over all leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffreplay.loading import sum_tree
from diffreplay.loading.sum_tree import SumTree

SIZES = [16, 4096, 1 << 13, 1 << 16, 1 << 17]  # of one level, two and three


def naive_find(leaves, masses):
    """The first leaf, one after the other, whose sum with those before it exceeds the mass."""
    return np.array([int(np.flatnonzero(np.cumsum(leaves) > mass)[0]) for mass in masses])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_set_is_found(data):
    """Whole numbers, whose sums are exact: the place of every mass is that of the naive sums."""
    size = data.draw(st.sampled_from(SIZES[:3]))
    tree, leaves = SumTree(size), np.zeros(size)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for _ in range(data.draw(st.integers(1, 8))):
        count = data.draw(st.integers(0, 300))
        places = rng.integers(0, data.draw(st.sampled_from([3, size])), count)
        values = rng.integers(0, 4, count).astype(float)
        tree.set(places, values)
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            leaves[place] = value
        assert np.array_equal(tree.leaves, leaves) and tree.total == leaves.sum()
        place = int(rng.integers(size))
        assert tree.before(place) == leaves[:place].sum()
        if tree.total:
            masses = np.concatenate([rng.random(50) * tree.total, [0.0, np.nextafter(tree.total, 0)]])
            assert np.array_equal(tree.find(masses), naive_find(leaves, masses))


@pytest.mark.parametrize("size", SIZES)
def test_sums_follow_from_the_leaves_alone(size):
    """After a million changes they are what they would be had the leaves been set once: nothing drifts."""
    tree, rng = SumTree(size), np.random.default_rng(0)
    for _ in range(200):
        tree.set(rng.integers(0, size, 5000), 10.0 ** rng.uniform(-12, 12, 5000))
    fresh = SumTree(size)
    fresh.set(np.arange(size), tree.leaves.copy())
    assert tree.total == fresh.total
    assert all(np.array_equal(mine, its) for mine, its in zip(tree._levels, fresh._levels, strict=True))
    assert tree.total == pytest.approx(tree.leaves.sum(), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_leaf_of_zero_is_never_found(size):
    """Not even where rounding makes a mass reach beyond a node's sum: 0.1 and 24 orders of magnitude."""
    rng = np.random.default_rng(1)
    for values in (np.full(size, 0.1), 10.0 ** rng.uniform(-12, 12, size)):
        leaves = np.where(rng.random(size) < 0.3, values, 0.0)
        tree = SumTree(size)
        tree.set(np.arange(size), leaves)
        edges = np.cumsum(leaves)
        near = [np.nextafter(edges, 0), edges, np.nextafter(edges, np.inf), rng.random(1000) * tree.total]
        masses = np.clip(np.concatenate(near), 0, np.nextafter(tree.total, 0))
        assert (leaves[tree.find(masses)] > 0).all()


def test_leaves_are_found_in_proportion():
    """Chi-square of 10^6 masses over leaves of three sizes, at places in several nodes."""
    rng, leaves = np.random.default_rng(2), np.zeros(1 << 17)
    places = rng.choice(len(leaves), 300, replace=False)
    leaves[places] = rng.choice([0.1, 1.0, 7.0], 300)
    tree = SumTree(len(leaves))
    tree.set(places, leaves[places])
    found = np.bincount(tree.find(rng.random(10**6) * tree.total), minlength=len(leaves))[places]
    expected = 10**6 * leaves[places] / leaves.sum()
    assert ((found - expected) ** 2 / expected).sum() < 299 + 5 * np.sqrt(2 * 299)


def test_memory_is_what_the_docstring_says():
    tree = SumTree(1 << 20)
    taken = sum(level.nbytes for level in tree._levels) + tree._before.nbytes
    assert taken / tree.size < 8.7 and len(tree._levels[-1]) <= sum_tree.TOP
