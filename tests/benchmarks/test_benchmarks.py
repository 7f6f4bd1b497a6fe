"""Each benchmark at its smallest, on real frames; what must be so on any machine is checked in what they print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_tools import record, rows

from benchmarks import (
    codec,
    codec_sweep,
    common,
    loader,
    memory,
    priorities,
    recordings,
    sequences,
    short_episodes,
    sparse,
    updates,
)
from benchmarks.playback import Playback

FRAMES = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a few dozen frames."""
    names = ("cartpole_swingup_gray", "cartpole_swingup_rgb", "atari_Pong")
    return record(tmp_path_factory.mktemp("recordings"), *names, frames=FRAMES)


def test_a_recording_is_made_once_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recordings, "CACHE", tmp_path)
    made, read = (recordings.load("atari_Pong", frames=50) for _ in range(2))
    assert capsys.readouterr().out.count("recording 50 frames") == 1
    assert made.frames == 50 and made.episodes[0].shape[1:] == (1, 84, 84)
    assert made.frame_stack == 4 and made.stacked_bytes == 4 * 84 * 84
    for a, b in zip(made.episodes, read.episodes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rgb_frames_keep_their_channels(folder: Path) -> None:
    recording = recordings.load("cartpole_swingup_rgb", folder)
    assert recording.episodes[0].shape == (FRAMES, 3, 84, 84)
    assert not np.array_equal(recording.episodes[0][0, 0], recording.episodes[0][0, 2])
    assert recording.stacked_bytes == 63_504


def test_a_missing_recording_is_one_clear_sentence(folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"walker_walk_gray.npz or .npz.xz, which are not there; choose among .*Pong"):
        recordings.load("walker_walk_gray", folder)


@pytest.mark.parametrize("field", ["obs", "next_obs", "reward"])
def test_the_check_finds_one_wrong_value(folder: Path, field: str) -> None:
    playback = Playback(recordings.load("atari_Pong", folder), shifts=2)
    replay = playback.buffer(5 * FRAMES)  # the recording, mirrored, and both moved by a row
    for _, step in zip(range(5 * FRAMES), playback.steps(), strict=False):
        replay.add(step)
    batch = replay.sample(64)
    assert batch.action.max() > 4 * FRAMES
    playback.check(batch)
    getattr(batch, field)[63].view(-1)[-1] += 1
    with pytest.raises(RuntimeError, match="came back wrong"):
        playback.check(batch)


def test_recordings_of_a_folder_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec.main(["--folder", str(folder), "--codec", "raw"])
    table = rows(capsys.readouterr().out)
    ratios = {
        name.split()[0]: float(cells[0]) for name, cells in table.items() if "(" in name and cells[0][0].isdigit()
    }
    # Raw frames: 3 x for indexing and 3 x for gray, less 7 bytes of index a frame.
    assert ratios == pytest.approx({"cartpole_swingup_gray": 9, "cartpole_swingup_rgb": 3, "atari_Pong": 4}, rel=0.01)


def test_codec_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["cartpole_swingup_gray", "--folder", str(folder), "--levels", "1", "--set-frames", "2"]
    codec_sweep.main([*options, "--intervals", "100", "--refresh", "400"])
    table = rows(capsys.readouterr().out)
    for name in ("cartpole_swingup_gray: defaults", "level 1", "set_frames 2", "cartpole_swingup_gray: 100"):
        assert float(table[name][0]) > 9, name


def test_sparse_agrees_with_the_papers_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse.main(["cartpole_swingup_gray", "atari_Pong", "--folder", str(folder)])
    table = rows(capsys.readouterr().out)
    for name in ("cartpole_swingup_gray", "atari_Pong"):
        assert float(table[name][2]) == pytest.approx(1, abs=0.01), name


def test_memory(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NOISE_FRAMES", 300)
    memory.main(["cartpole_swingup_gray", "--folder", str(folder), "--transitions", "2000", "--codecs", "raw"])
    table = rows(capsys.readouterr().out)
    filled = table["cartpole_swingup_gray, raw"]  # the later table of laps
    grown, at_most_later = float(filled[0]), float(filled[1])
    assert 3 < grown < 20 and at_most_later < 1.5 * grown
    assert float(table["1 channel(s), raw"][0]) == 1


def test_memory_of_a_million_in_small(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(
        ["cartpole_swingup_gray", "--folder", str(folder), "--million", "--transitions", "3000", "--shifts", "2"]
    )
    table = rows(capsys.readouterr().out)
    assert table["transitions"] == ["3000"]
    assert float(table["ratio to stacks"][0]) > 9


def test_loader(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["cartpole_swingup_gray", "--folder", str(folder), "--batches", "2", "--repeats", "2"]
    loader.main([*options, "--kinds", "disk 1", "none 0", "thread 1", "forkserver 1"])
    table = rows(capsys.readouterr().out)
    assert len(table) == 4 + 2  # with header and rule
    assert all(float(table[f"cartpole_swingup_gray, {kind}"][0]) > 0 for kind in ("disk 1", "thread 1"))


def test_updates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["cartpole_swingup_rgb", "--folder", str(folder), "--device", "cpu", "--batch", "2"]
    updates.main(
        [*options, "--updates", "1", "--repeats", "1", "--kinds", "constant 0", "disk 1", "none 0", "thread 1"]
    )
    table = rows(capsys.readouterr().out)
    rate, *_, ms, waited, processor = table["cartpole_swingup_rgb, thread 1"]
    assert float(rate) > 0 and float(ms) > float(waited) > 0 and float(processor) > 0
    assert float(table["cartpole_swingup_rgb, constant 0"][3]) == 1
    assert len(table) == 4 + 2  # with header and rule


def test_loader_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--memory", "--transitions", "500", "--later", "5", "--workers", "1"]
    loader.main(["cartpole_swingup_gray", "--folder", str(folder), *options])
    table = rows(capsys.readouterr().out)
    assert float(table["total_bytes, MB"][0]) > 0
    assert float(table[next(name for name in table if name.startswith("1 workers"))][0]) > 50


def test_sizes_of_processes_and_mappings(tmp_path: Path) -> None:
    assert 0 < common.pss() <= common.family_pss()
    mapped = np.memmap(tmp_path / "some_unusual_name", np.uint8, "w+", shape=(1 << 20,))
    assert common.mapped_pss("some_unusual_name") == 0
    mapped[:] = 1
    assert common.mapped_pss("some_unusual_name") == 1 << 20


def test_short_episodes_checks_and_times_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    short_episodes.main(["--rows", "200", "2000"])
    table = rows(capsys.readouterr().out)
    assert set(short_episodes.CASES) <= set(table)
    assert all(float(cell) > 0 for name in short_episodes.CASES for cell in table[name])


def test_priorities_are_checked_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    priorities.main(["--rows", "2000"])
    assert all(float(cell) > 0 for cell in rows(capsys.readouterr().out)["2000 transitions"])


def test_sequences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequences.main(["cartpole_swingup_gray", "--folder", str(folder)])
    table = rows(capsys.readouterr().out)
    (name,) = (name for name in table if name.startswith("cartpole_swingup_gray"))
    assert len(table[name]) == len(sequences.HEADER) and all(float(cell) > 0 for cell in table[name])
