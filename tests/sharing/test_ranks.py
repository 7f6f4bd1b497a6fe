"""Ranks of torch.distributed that learn from one copy of the data, which one of them writes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from foreign import ROOT


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks saw that trained for a hundred steps."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(ROOT / "tests/rank_program.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


def test_weights_are_the_same_on_all(ranks):
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_no_two_draw_the_same_batch(ranks):
    every = ranks[0]["every"]
    assert [rank["drawn"] for rank in ranks] == [every[0::2], every[1::2]], "those of one loader, shared out"
    assert len({tuple(batch) for batch in every}) == 200


def test_they_share_one_copy(ranks):
    """Two copies would be twice as much."""
    copy, slots = ranks[0]["copy"], sum(rank["slots"] for rank in ranks)
    assert copy > 390e6
    assert sum(rank["mapped"] for rank in ranks) < 1.05 * copy
    assert sum(rank["after"] - rank["before"] for rank in ranks) < 1.05 * copy + slots
    assert all(rank["mapped"] > copy / 4 for rank in ranks), "each of them has read it"
