"""`benchmarks.compare` at its smallest, through its command line: the table, the JSON file, the chart, and mistakes."""

from __future__ import annotations

import csv
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from benchmark_tools import FRAMES, rows

from benchmarks import compare, recordings
from benchmarks.compare_modes import MODES, StackArray, checked, memory, passes, stages
from benchmarks.compare_train import summary, train
from benchmarks.playback import Playback
from benchmarks.processes import in_new_process
from benchmarks.recordings import Recording
from drqv2 import environment

TASK = "walker_walk"
WORKERS = (0, 1)


class Result(NamedTuple):
    printed: str
    results: dict[str, Any]
    chart: Path


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The command with most of its modes."""
    written = tmp_path_factory.mktemp("compare")
    files = ["--json", written / "new" / "results.json", "--chart", written / "new" / "chart.png"]
    options = ["--folder", folder, "--batches", 2, "--repeats", 2, "--workers", *WORKERS, *files]
    with redirect_stdout(StringIO()) as printed:
        compare.main([str(word) for word in (f"task={TASK}", "--quick", *options)])
    return Result(printed.getvalue(), json.loads(Path(files[1]).read_text()), Path(files[3]))


def test_a_table_for_each_kind_of_images_and_the_papers_beside_it(compared: Result) -> None:
    second = compared.printed.index(f"| {TASK}, gray")
    table, beside = rows(compared.printed[:second]), rows(compared.printed[second:])
    assert table[f"{TASK}, RGB, the task untouched"] == [
        *("disk baseline", "array of stacks", "Half, raw", "Full, delta", "paper: baseline")
    ]
    assert beside[f"{TASK}, gray, black floor"] == [
        "array of stacks",
        "Half, raw",
        "Full, delta",
        "paper: Half",
        "paper: Full",
    ]
    assert table["GB at 10^6 transitions, extrapolated"][4:] == ["63.5"]
    assert beside["GB at 10^6 transitions, extrapolated"][3:] == ["7.10", "3.80"]
    assert beside["smaller than RGB stacks, times"][3:] == ["8.90", "16.7"]
    assert table["training frames a second (--train N)"] == [*["not measured"] * 4, "119.0"]
    for label in ("bytes a transition", "add us, mean", "add us, p99", "add ms, largest"):
        assert all(float(cell.replace(",", "")) > 0 for cell in table[label][:4] + beside[label][:3]), label
    for workers in WORKERS:
        rates = table[f"batches a second, workers: {workers}"]
        assert [bool(cell) for cell in rates] == [True, workers == 0, True, True, False]  # an array has no workers


def test_the_figures_of_the_json_file_agree_with_each_other(compared: Result) -> None:
    assert compared.results["date"] and compared.results["machine"]["cores"] >= 1
    modes = compared.results["modes"]
    assert list(modes) == ["rgb_disk", "rgb_array", "rgb_half", "rgb_delta", "gray_array", "gray_half", "gray_delta"]
    for name, mode in modes.items():
        found = mode["compression"]
        assert found["grayscale"] * found["indexing"] * found["codec"] == pytest.approx(found["total"])
        assert found["total"] == pytest.approx(63_504 / mode["bytes_a_transition"])
        assert found["same_images"] * found["grayscale"] == pytest.approx(found["total"])
        assert mode["gb_at_million"] == pytest.approx(mode["bytes_a_transition"] / 1000)
        assert mode["add_us"]["lower"] <= mode["add_us"]["median"] <= mode["add_us"]["p99"] <= mode["add_us"]["largest"]
        assert list(mode["batches"]) == (["0"] if name.endswith("array") else [str(number) for number in WORKERS])
        for rate in (rate["a_second"] for rate in mode["batches"].values()):
            assert 0 < rate["lower"] <= rate["median"] <= rate["upper"]
        assert (mode["batches"]["0"]["times_disk"] is None) == (mode["images"] == "gray")  # there is none in gray
    assert modes["rgb_disk"]["batches"]["0"]["times_disk"]["median"] == 1
    assert modes["rgb_disk"]["compression"]["total"] == modes["rgb_array"]["compression"]["total"] == 1
    assert modes["rgb_half"]["compression"]["total"] == pytest.approx(3, rel=0.02)
    assert modes["gray_half"]["compression"]["total"] == pytest.approx(9, rel=0.02)
    assert modes["gray_delta"]["compression"]["codec"] > modes["rgb_delta"]["compression"]["codec"] > 1
    assert 0 < modes["rgb_disk"]["file_bytes_a_transition"] < 63_504


def test_memory_is_at_least_what_is_held(folder: Path, tmp_path: Path) -> None:
    recording = recordings.load(f"{TASK}_gray", folder)
    held = in_new_process(memory, MODES["gray_half"], recording, tmp_path, 300, 1)
    # Three passes of the recording; an episode has one frame more than transitions.
    assert (held["workers"], held["transitions"]) == (1, 3 * (FRAMES - 1))
    assert held["pss_growth_mb"] > held["transitions"] * 84 * 84 / 1e6


def test_the_chart_is_a_picture_with_the_modes_colors_on_white(compared: Result) -> None:
    from matplotlib import colors, image

    from benchmarks.plots import COLORS

    pixels = image.imread(compared.chart)
    height, width, channels = pixels.shape
    assert 1000 < width < 2500 and 600 < height < 2500 and channels in (3, 4)
    assert 10_000 < compared.chart.stat().st_size < 500_000
    np.testing.assert_array_equal(pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3], 1.0)
    for name in ("disk", "array", "half", "delta"):
        found = np.abs(pixels[..., :3] - colors.to_rgb(COLORS[name])).max(axis=-1) < 0.02
        assert found.sum() > 500, name


def test_an_array_of_stacks_returns_what_was_added(folder: Path) -> None:
    playback = Playback(recordings.load(f"{TASK}_gray", folder))
    array = StackArray(2 * FRAMES, playback.observation_shape)
    playback.play(2 * FRAMES, array)
    assert len(array) == 2 * (FRAMES - 1)
    batch = array.sample()
    playback.check(batch)
    assert [tuple(value.shape) for value in batch] == [(256, 3, 84, 84), (256, 6), (256, 1), (256, 1), (256, 3, 84, 84)]


def test_the_stages_of_compression_multiply_to_the_total() -> None:
    sizes = {"rgb_disk": 900.0, "rgb_half": 310.0, "rgb_delta": 62.0, "gray_half": 100.0, "gray_delta": 10.0}
    found = stages(sizes, {"rgb": 900, "gray": 300})
    assert found["rgb_delta"] == pytest.approx(
        {"total": 900 / 62, "same_images": 900 / 62, "grayscale": 1, "indexing": 900 / 310, "codec": 5}
    )
    assert found["gray_delta"] == pytest.approx(
        {"total": 90, "same_images": 30, "grayscale": 3, "indexing": 3, "codec": 10}
    )
    del sizes["gray_half"]
    assert stages(sizes, {"rgb": 900, "gray": 300})["gray_delta"]["codec"] is None


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


def test_recordings_of_other_episodes_are_one_clear_sentence(folder: Path) -> None:
    rgb = recordings.load(f"{TASK}_rgb", folder)
    with pytest.raises(SystemExit, match=r"to show the same episodes, .*\[120\] frames and those of the other \[119\]"):
        checked(rgb, Recording(f"{TASK}_gray", [rgb.episodes[0][1:]]))


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


def test_without_room_for_the_baselines_batches_one_sentence_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("drqv2.disk_replay.shutil.disk_usage", lambda _: full)
    with pytest.raises(SystemExit, match=r"disk baseline cannot run here with --workers 1: .* 1 MB are free"):
        compare.main([f"task={TASK}", "--folder", str(folder), "--workers", "1", "--modes", "rgb_disk"])


TINY = ["device=cpu", "action_repeat=50", "batch_size=4", "feature_dim=8", "agent.hidden_dim=16"]


def test_training_is_measured_where_the_baseline_has_a_worker() -> None:
    measured = train(MODES["rgb_disk"], TASK, 1000, 1, TINY)
    assert measured["frames"] == 1000
    assert 0 < measured["fps"] < 1e5
    assert 0 < measured["data_wait"] < 1


def test_a_run_that_fails_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"training with Full, zstd ended with exit status 1: .*did you mean lr"):
        train(MODES["gray_zstd"], TASK, 1000, 0, ["lrr=1"])


def test_the_summary_weighs_episodes_by_their_time() -> None:
    written = "episode_length,fps,data_wait\n1000,100,0.5\n500,25,0.2\n".splitlines()
    found = summary(list(csv.DictReader(written)))
    assert found == pytest.approx({"frames": 1500, "fps": 50, "data_wait": (10 * 0.5 + 20 * 0.2) / 30})
