"""The comparison with other replay buffers, as far as it goes without them, on a few hundred real frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from benchmark_tools import number, rows

from benchmarks import peers, recordings
from benchmarks.playback import Playback
from benchmarks.recordings import Recording

STACKS = 2 * 4 * 84 * 84


@pytest.fixture
def recording(folder: Path) -> Recording:
    return recordings.load("atari_Pong", folder)


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def test_table(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # A process takes seconds to start, and makes sizes exact: one is enough here.
    new = peers.in_new_process
    monkeypatch.setattr(
        peers, "in_new_process", lambda call, *args: new(call, *args) if args[1] == "SB3" else call(*args)
    )
    peers.main(["atari_Pong", "--folder", str(folder), "--capacity", "256", "--repeats", "2"])
    printed = capsys.readouterr().out
    table = rows(printed)
    stock, single, ours = (table[f"atari_Pong: {name}"] for name in ("SB3", "SB3, optimize_memory_usage", "diffreplay"))
    assert float(stock[0].replace(",", "")) == STACKS and float(single[0].replace(",", "")) == STACKS / 2
    assert float(ours[1]) > 10  # SB3's bytes over ours
    assert 14 < float(stock[2]) < 20  # MB that the process grew by: 14.5 of images
    assert all(number(cell) > 0 for row in (stock, single, ours) for cell in row[3:5])
    # With one array for both, the observation after an episode's last step is overwritten by the next episode's first.
    assert (stock[5], single[5], ours[5]) == ("0 of 256", "2 of 255", "0 of 256")
    for name, contender in peers.CONTENDERS.items():
        assert (f"atari_Pong: {name}" in table) == installed(*contender.needs)
    sentence = [line for line in printed.splitlines() if line.startswith("Left out")]
    assert len(sentence) == bool(peers.missing())
    for name, modules in peers.missing().items():
        assert name in sentence[0] and all(module in sentence[0] for module in modules)
        assert "not installed; `pip install -c constraints.txt -e '.[peers]'" in sentence[0]


def test_wrong_pixels_are_counted(recording: Recording) -> None:
    playback = Playback(recording)
    buffer = peers.CONTENDERS["SB3"].make(playback.observation_shape, 64)
    for transition, _ in zip(peers.transitions(playback), range(100), strict=False):
        buffer.add(transition)
    batches = list(buffer.contents())
    assert sum(len(batch.obs) for batch in batches) == 64
    assert sum(peers.wrong(playback, batch) for batch in batches) == 0
    numbers = np.concatenate([batch.action[:, 0] for batch in batches]).astype(int)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(37, 101))  # the newest 64; step 0 begins no transition
    for name in ("obs", "next_obs", "reward"):
        damaged = batches[0]._replace(**{name: getattr(batches[0], name).copy()})
        getattr(damaged, name)[1].reshape(-1)[-1] += 1
        assert peers.wrong(playback, damaged) == 1, name


def test_a_buffer_smaller_than_a_batch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--capacity", "10"])
    assert "--capacity 10: expected at least 256, the transitions of a batch" in capsys.readouterr().err
