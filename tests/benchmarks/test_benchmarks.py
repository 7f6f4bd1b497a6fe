"""Each benchmark at its smallest, on real frames; what must be so on any machine is checked in what they print."""

from __future__ import annotations

import csv
import datetime
import json
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
from benchmark_tools import FRAMES, number, rows

from benchmarks import (
    codec,
    codec_sweep,
    loader,
    memory,
    priorities,
    processes,
    recordings,
    runner,
    sequences,
    short_episodes,
    sparse,
    timing,
    updates,
)
from benchmarks.playback import Playback


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
    recording = recordings.load("walker_walk_rgb", folder)
    assert recording.episodes[0].shape == (FRAMES, 3, 84, 84)
    assert not np.array_equal(recording.episodes[0][0, 0], recording.episodes[0][0, 2])
    assert recording.stacked_bytes == 63_504


def test_a_missing_recording_is_one_clear_sentence(folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"walker_run_gray.npz or .npz.xz, which are not there; choose among .*Pong"):
        recordings.load("walker_run_gray", folder)


@pytest.mark.parametrize("field", ["obs", "next_obs", "reward"])
def test_the_check_finds_one_wrong_value(folder: Path, field: str) -> None:
    playback = Playback(recordings.load("atari_Pong", folder), shifts=2)
    replay = playback.buffer(5 * FRAMES)  # the recording, mirrored, and both moved by a row
    playback.play(5 * FRAMES, replay)
    batch = replay.sample(64)
    assert batch.action.max() > 4 * FRAMES
    playback.check(batch)
    getattr(batch, field)[63].view(-1)[-1] += 1
    with pytest.raises(RuntimeError, match="came back wrong"):
        playback.check(batch)


def test_recordings_of_a_folder_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec.main(["--folder", str(folder), "--codec", "raw", "--repeats", "3"])
    table = rows(capsys.readouterr().out)
    ratios = {
        name.split()[0]: float(cells[0]) for name, cells in table.items() if "(" in name and cells[0][0].isdigit()
    }
    # Raw frames: 3 x for indexing and 3 x for gray, less 7 bytes of index a frame.
    assert ratios == pytest.approx({"walker_walk_gray": 9, "walker_walk_rgb": 3, "atari_Pong": 4}, rel=0.01)


def test_codec_sweep(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["walker_walk_gray", "--folder", str(folder), "--levels", "1", "--set-frames", "2", "--repeats", "3"]
    path = tmp_path / "options.csv"
    codec_sweep.main([*options, "--intervals", "100", "--refresh", "400", "--csv", str(path)])
    with path.open(newline="") as file:
        table = {(row["option"], row["value"]): row for row in csv.DictReader(file)}
    assert list(table) == [("defaults", ""), ("level", "1"), ("set_frames", "2"), ("refresh_interval", "100")]
    for row in table.values():
        assert row["recording"] == "walker_walk_gray" and float(row["ratio"]) > 9
        assert float(row["ratio"]) * float(row["bytes a frame"]) == pytest.approx(63_504, rel=1e-4)
        assert float(row["add us"]) > 0 and float(row["batch ms"]) > 0
    assert "refresh_interval" in capsys.readouterr().out


def test_sparse_agrees_with_the_papers_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse.main(["walker_walk_gray", "atari_Pong", "--folder", str(folder), "--repeats", "3"])
    table = rows(capsys.readouterr().out)
    for name in ("walker_walk_gray", "atari_Pong"):
        assert float(table[name][2]) == pytest.approx(1, abs=0.01), name


def test_memory(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NOISE_FRAMES", 260)
    memory.main(["walker_walk_gray", "--folder", str(folder), "--transitions", "1200", "--codecs", "raw"])
    table = rows(capsys.readouterr().out)
    filled = table["walker_walk_gray, raw"]  # the later table of laps
    grown, at_most_later = float(filled[0]), float(filled[1])
    assert 2 < grown < 12 and at_most_later < 1.5 * grown
    assert float(table["1 channel(s), raw"][0]) == 1


def test_memory_of_a_million_in_small(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--million", "--transitions", "1500", "--shifts", "2", "--repeats", "2"]
    memory.main(["walker_walk_gray", "--folder", str(folder), *options])
    table = rows(capsys.readouterr().out)
    assert table["transitions"] == ["1500"]
    assert float(table["ratio to stacks"][0]) > 9


def test_loader(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["walker_walk_gray", "--folder", str(folder), "--batches", "2", "--repeats", "2"]
    loader.main([*options, "--kinds", "disk 1", "none 0", "thread 1", "forkserver 1"])
    table = rows(capsys.readouterr().out)
    assert len(table) == 4 + 2  # with header and rule
    assert all(number(table[f"walker_walk_gray, {kind}"][0]) > 0 for kind in ("disk 1", "thread 1"))
    assert table["walker_walk_gray, disk 1"][1] == "1.00 (1.00 to 1.00)"


def test_updates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["walker_walk_rgb", "--folder", str(folder), "--device", "cpu", "--batch", "2"]
    updates.main(
        [*options, "--updates", "1", "--repeats", "1", "--kinds", "constant 0", "disk 1", "none 0", "thread 1"]
    )
    table = rows(capsys.readouterr().out)
    rate, _, ms, waited, processor = map(number, table["walker_walk_rgb, thread 1"])
    assert rate > 0 and ms > waited > 0 and processor > 0
    assert number(table["walker_walk_rgb, constant 0"][1]) == 1
    assert len(table) == 4 + 2  # with header and rule


def test_loader_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--memory", "--transitions", "500", "--later", "5", "--workers", "1"]
    loader.main(["walker_walk_gray", "--folder", str(folder), *options])
    table = rows(capsys.readouterr().out)
    assert float(table["total_bytes, MB"][0]) > 0
    assert float(table[next(name for name in table if name.startswith("1 workers"))][0]) > 50


def test_sizes_of_processes_and_mappings() -> None:
    assert 0 < processes.pss() <= processes.family_pss()
    before = processes.pss()
    assert processes.pss(part="memfd:some_unusual_name") == 0
    descriptor = os.memfd_create("some_unusual_name")
    os.ftruncate(descriptor, 1 << 23)
    with mmap.mmap(descriptor, 1 << 23) as mapped:
        for page in range(0, 1 << 23, mmap.PAGESIZE):
            mapped[page] = 1
        assert processes.pss(part="memfd:some_unusual_name") == 1 << 23
        assert processes.pss() - before == pytest.approx(1 << 23, rel=0.3)
    os.close(descriptor)


def test_files_of_programs_do_not_count(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "file", np.uint8, "w+", shape=(1 << 26,))
    before = processes.pss()
    mapped[:] = 1
    assert processes.pss() - before < 1 << 24


def test_calls_are_timed_in_turns() -> None:
    made, clock = [], iter(range(1000))

    def call(name: str) -> None:
        made.append(name)
        next(clock)  # takes a second of that clock, beside one for each time that it is read

    order: list[int] = []
    calls = [lambda: call("a"), lambda: [call("b"), call("b")]]
    times = timing.in_turns(calls, 3, (lambda: float(next(clock)), time.perf_counter), order.append)
    assert times.shape == (2, 2, 3)
    np.testing.assert_array_equal(times[0], [[2] * 3, [3] * 3])
    assert (times[1] > 0).all()
    assert made == ["a", "b", "b"] * 4 and order == [0, 1] * 3  # the first of each is not timed
    assert timing.quartiles([5, 1, 2, 3, 4]) == (3, 2, 4)


def test_the_json_file_holds_machine_date_and_unrounded_values(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "codec.json"
    codec.main(["atari_Pong", "--folder", str(folder), "--repeats", "5", "--json", str(path)])
    data = json.loads(path.read_text())
    assert data["command"].startswith("python -m benchmarks.codec atari_Pong --folder ")
    assert data["date"] == str(datetime.date.today())
    assert data["machine"]["cores"] >= 1 and data["machine"]["packages"]["numpy"] == np.__version__
    assert data["machine"]["load"] >= 0 and data["machine"]["load_at_end"] >= 0
    (table,) = data["tables"]
    row = dict(zip(table["header"], table["rows"][0], strict=True))
    assert row["recording (frames)"] == f"atari_Pong ({FRAMES})"
    assert row["ratio"] * row["bytes a frame"] == pytest.approx(4 * 84 * 84, rel=1e-12)
    for name in ("batch ms", "gather ms", "batch / gather"):
        assert 0 < row[name]["lower"] <= row[name]["median"] <= row[name]["upper"]


def test_a_number_of_turns_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sparse.main(["--repeats", "0"])
    assert "--repeats: expected a whole number from 1 on, got 0" in capsys.readouterr().err


def test_cells() -> None:
    assert runner.cell(timing.Quartiles(1234.5, 12.34, 1.234)) == "1,234 (12.3 to 1.23)"
    assert [runner.cell(value) for value in (runner.Ratio(0.98765), runner.Share(0.5), 7, "x", None)] == [
        "0.988", "50.0%", "7", "x", ""
    ]  # fmt: skip


def test_short_episodes_checks_and_times_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    short_episodes.main(["--rows", "200", "2000", "--repeats", "3"])
    table = rows(capsys.readouterr().out)
    assert set(short_episodes.CASES) <= set(table)
    assert all(number(cell) > 0 for name in short_episodes.CASES for cell in table[name])


def test_priorities_are_checked_and_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priorities, "STREAMS", 10)
    priorities.main(["--rows", "2000", "--repeats", "50"])
    assert all(number(cell) > 0 for cell in rows(capsys.readouterr().out)["2000 transitions"])


def test_sequences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequences.main(["walker_walk_gray", "--folder", str(folder), "--repeats", "3"])
    table = rows(capsys.readouterr().out)
    (name,) = (name for name in table if name.startswith("walker_walk_gray"))
    assert len(table[name]) == len(sequences.HEADER) and all(number(cell) > 0 for cell in table[name])
