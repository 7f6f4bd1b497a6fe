"""`benchmarks.compare` at its smallest, through its command line: the table, the JSON file, the chart, and mistakes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from benchmark_tools import record

from benchmarks import compare, recordings
from benchmarks.compare_modes import MODES, passes, renderings
from benchmarks.compare_train import summary, train
from benchmarks.recordings import Recording
from drqv2 import environment

FRAMES = 120
TASK = "walker_walk"
WORKERS = (0, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both renderings of a few dozen frames."""
    return record(tmp_path_factory.mktemp("recordings"), f"{TASK}_rgb", f"{TASK}_gray", frames=FRAMES)


class Result(NamedTuple):
    status: int
    printed: str
    errors: str
    results: dict[str, Any]
    chart: Path


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The command, as a user runs it."""
    written = tmp_path_factory.mktemp("compare")
    options = ["--folder", folder, "--transitions", 300, "--batches", 2, "--turns", 2, "--workers", *WORKERS]
    files = ["--json", written / "new" / "results.json", "--chart", written / "new" / "chart.png"]
    command = [sys.executable, "-m", "benchmarks.compare", f"task={TASK}", "--quick", *options, *files]
    ran = subprocess.run(
        [str(word) for word in command], cwd=compare.ROOT, capture_output=True, text=True, check=False, timeout=800
    )
    assert ran.returncode == 0, ran.stderr
    return Result(ran.returncode, ran.stdout, ran.stderr, json.loads(Path(files[1]).read_text()), Path(files[3]))


def cells(printed: str) -> dict[str, list[str]]:
    """Cells of the table by the first cell of their row."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_the_table_is_complete_and_the_papers_stands_beside_it(compared: Result) -> None:
    table = cells(compared.printed)
    assert table[TASK][:5] == ["disk baseline", "Half, raw", "Full, sparse", "Full, zstd", "Full, delta"]
    assert table["GB at 10^6 transitions, extrapolated"][5:] == ["63.5", "7.10", "3.80"]
    assert table["compression, total"][5:] == ["1.00", "8.90", "16.7"]
    assert table["training frames a second (--train N)"] == [*["not measured"] * 5, "119.0", "142.0", "73.0"]
    for label, row in table.items():
        assert all(row[:5]), label
    for label in ("bytes a transition", "add us, mean", "add us, p99", "add ms, largest"):
        assert all(float(cell.replace(",", "")) > 0 for cell in table[label][:5]), label
    for number in WORKERS:
        assert all(float(cell.replace(",", "")) > 0 for cell in table[f"batches a second, workers: {number}"][:5])
    assert compared.errors == ""


def test_the_figures_of_the_json_file_agree_with_each_other(compared: Result) -> None:
    modes = compared.results["modes"]
    assert list(modes) == ["disk", "half", "sparse", "zstd", "delta"]
    for mode in modes.values():
        stages = mode["compression"]
        assert stages["grayscale"] * stages["indexing"] * stages["codec"] == pytest.approx(stages["total"])
        assert stages["total"] == pytest.approx(63_504 / mode["bytes_a_transition"])
        assert mode["gb_at_million"] == pytest.approx(mode["bytes_a_transition"] / 1000)
        assert mode["add_us"]["mean"] <= mode["add_us"]["largest"]
        assert list(mode["batches_a_second"]) == [str(number) for number in WORKERS]
        for rate in mode["batches_a_second"].values():
            assert rate["lowest"] <= rate["median"] <= rate["highest"]
    assert modes["disk"]["compression"]["total"] == 1
    assert modes["half"]["compression"]["total"] == pytest.approx(9, rel=0.02)
    for name in ("zstd", "delta"):
        assert modes[name]["compression"]["codec"] > modes["sparse"]["compression"]["codec"] > 1
    assert 0 < modes["disk"]["file_bytes_a_transition"] < 63_504


def test_memory_is_at_least_what_is_held(compared: Result) -> None:
    for name, mode in compared.results["modes"].items():
        held = mode["memory"]
        # Three passes of the recording; an episode has one frame more than transitions.
        assert (held["workers"], held["transitions"]) == (2, 3 * (FRAMES - 1))
        assert held["pss_growth_mb"] > held["transitions"] * mode["bytes_a_transition"] / 1e6, name


def test_the_chart_is_a_picture_with_the_modes_colors_on_white(compared: Result) -> None:
    from matplotlib import colors, image

    from benchmarks.compare_chart import COLORS

    pixels = image.imread(compared.chart)
    height, width, channels = pixels.shape
    assert 1000 < width < 2000 and 600 < height < 1500 and channels in (3, 4)
    assert 10_000 < compared.chart.stat().st_size < 500_000
    np.testing.assert_array_equal(pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3], 1.0)
    for name, color in COLORS.items():
        found = np.abs(pixels[..., :3] - colors.to_rgb(color)).max(axis=-1) < 0.02
        assert found.sum() > 500, name


def test_both_renderings_show_the_same_episodes() -> None:
    states = []
    for simple in (False, True):
        env = environment.make(TASK, frame_stack=1, action_repeat=2, seed=1, grayscale=simple, black_floor=simple)
        rng = np.random.default_rng(1)
        for _ in range(2):
            env.reset()
            for _ in range(15):
                env.step(rng.uniform(-1, 1, env.action_spec().shape).astype(np.float32))
                states.append(env.physics.get_state())
        env.close()
    np.testing.assert_array_equal(states[:30], states[30:])
    assert len(np.unique(states, axis=0)) == 30


def test_half_sees_the_baselines_frames_in_gray(folder: Path) -> None:
    rgb, gray = (recordings.load(f"{TASK}_{colors}", folder) for colors in ("rgb", "gray"))
    played = renderings(rgb, gray)
    floor = played["half"].episodes[0]
    luma = np.tensordot((0.299, 0.587, 0.114), rgb.episodes[0], axes=(0, 1))
    assert floor.shape == (FRAMES, 1, 84, 84)
    assert np.abs(floor[:, 0] - luma).max() < 0.51
    assert played["delta"] is played["zstd"] is played["sparse"]
    assert not np.array_equal(played["zstd"].episodes[0], floor)


def test_recordings_of_other_episodes_are_one_clear_sentence(folder: Path) -> None:
    rgb = recordings.load(f"{TASK}_rgb", folder)
    with pytest.raises(SystemExit, match=r"to show the same episodes, .*\[120\] frames and those of the other \[119\]"):
        renderings(rgb, Recording(f"{TASK}_gray", [rgb.episodes[0][1:]]))


@pytest.mark.parametrize(("transitions", "workers", "expected"), [(0, 0, 1), (10, 4, 2), (21, 1, 3), (20, 1, 2)])
def test_each_worker_gets_an_episode(transitions: int, workers: int, expected: int) -> None:
    episodes = [np.zeros((5, 1, 84, 84), np.uint8)] * 2
    assert passes(Recording("some_gray", episodes), transitions, workers) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["task=walker_wolk"], "task=walker_wolk: there is no such task; did you mean walker_walk"),
        (["task=medium"], "there is no such task"),
        (["tusk=walker_walk"], "expected task=NAME, got tusk=walker_walk"),
        (["--frames", "10"], "--frames 10: expected at least 100"),
        (["--train", "10"], "--train 10: expected at least 1000"),
        (["--workers", "-1"], "--workers -1: expected numbers from 0 on"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(options)
    assert isinstance(ended.value.code, str)  # which Python prints to stderr, with exit status 1
    assert expected in ended.value.code and "\n" not in ended.value.code


def test_a_mistyped_task_ends_with_status_1() -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "task=walker_wolk"]
    ran = subprocess.run(command, cwd=compare.ROOT, capture_output=True, text=True, check=False, timeout=800)
    assert ran.returncode == 1 and ran.stdout == ""
    assert "did you mean walker_walk" in ran.stderr and ran.stderr.count("\n") == 1


def test_without_room_for_the_baselines_batches_one_sentence_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("drqv2.disk_replay.shutil.disk_usage", lambda _: full)
    with pytest.raises(SystemExit, match=r"disk baseline cannot run here with --workers 1: .* 1 MB are free"):
        compare.main([f"task={TASK}", "--folder", str(folder), "--workers", "1"])


TINY = ["device=cpu", "action_repeat=50", "batch_size=4", "feature_dim=8", "agent.hidden_dim=16"]


def test_training_is_measured_where_the_baseline_has_a_worker() -> None:
    measured = train(MODES[0], TASK, 1000, 1, TINY)
    assert measured["frames"] == 1000
    assert 0 < measured["fps"] < 1e5
    assert 0 < measured["data_wait"] < 1


def test_a_run_that_fails_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"training with Full, zstd ended with exit status 1: .*did you mean lr"):
        train(MODES[3], TASK, 1000, 0, ["lrr=1"])


def test_the_summary_weighs_episodes_by_their_time() -> None:
    written = "episode_length,fps,data_wait\n1000,100,0.5\n500,25,0.2\n".splitlines()
    found = summary(list(csv.DictReader(written)))
    assert found == pytest.approx({"frames": 1500, "fps": 50, "data_wait": (10 * 0.5 + 20 * 0.2) / 30})
