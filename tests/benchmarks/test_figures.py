"""The figures, on short real recordings and tiny real runs: their numbers, their files, mistakes in one sentence."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmark_tools import record, rows
from matplotlib.image import imread
from training_options import TINY

from benchmarks import figures, learning_curves, recordings
from benchmarks.recordings import Recording

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cartpole_swingup_gray", "atari_Pong")
FRAMES = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recordings"), *NAMES, frames=FRAMES)


def assert_a_picture(path: Path) -> None:
    """Not blank, and on white, so that it is readable on dark pages."""
    pixels = imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 500 and pixels.std() > 0.05
    np.testing.assert_array_equal(pixels[:2], 1)
    np.testing.assert_array_equal(pixels[:, -2:], 1)


def test_figure_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figure1.png"
    figures.main(["1", *NAMES, "--folder", str(folder), "--out", str(out)])
    assert_a_picture(out)
    table = rows(capsys.readouterr().out)
    for name in NAMES:
        recording = recordings.load(name, folder)
        first, second, share = figures.frame_pair(recording)
        assert share == np.mean(first != second)
        assert float(table[name][0]) == pytest.approx(100 * share, abs=0.05)
        pairs = [pair for episode in recording.episodes for pair in pairwise(episode)]
        assert any(np.array_equal(pair, (first, second)) for pair in pairs)
        assert share == np.sort([np.mean(a != b) for a, b in pairs])[len(pairs) // 2]


def test_frame_pair_does_not_cross_episodes(folder: Path) -> None:
    frames = recordings.load("atari_Pong", folder).episodes[0]
    recording = Recording("atari_Pong", [frames[:1], frames[40:42], frames[70:71], frames[100:103]])
    pairs = [(40, 41), (100, 101), (101, 102)]
    shares = sorted(pairs, key=lambda pair: np.mean(frames[pair[0]] != frames[pair[1]]))
    first, second, _ = figures.frame_pair(recording)
    np.testing.assert_array_equal(first, frames[shares[1][0]])
    np.testing.assert_array_equal(second, frames[shares[1][1]])


def test_figure_2(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.main(["2", *NAMES, "--folder", str(folder), "--out", str(tmp_path / "figure2.png")])
    assert_a_picture(tmp_path / "figure2.png")
    table = rows(capsys.readouterr().out)
    for name, stack in zip(NAMES, ("3", "4"), strict=True):
        cells = table[name]
        assert cells[0] == stack
        # Frames of which fewer than a quarter of the pixels change lie on the curve.
        assert 0 < float(cells[1]) < 25
        assert float(cells[2]) == pytest.approx(float(cells[3]), rel=0.03), name


@pytest.mark.parametrize("stack", [2, 3, 4, 8])
def test_theory_agrees_with_the_papers_equation(stack: int) -> None:
    """Equation 3, in whole numbers: d groups of f frames, one of them raw."""
    side, groups = 84, 1000
    frames = groups * stack
    for pixels in (0, 100, 1764, 3000, 7056):  # of 7056 that differ
        stored = min(4 * pixels, side**2) // 4 * groups * (stack - 1)
        total = side**2 * groups + 8 * groups * (stack - 1) + 4 * stored + 4 * frames * stack
        expected = frames * stack * side**2 / total
        assert figures.theoretical_compression(stack, pixels / side**2) == pytest.approx(expected, rel=1e-12)


def train(folder: Path, *options: str) -> None:
    command = [sys.executable, "train.py", *options, f"hydra.sweep.dir={folder}", "use_tb=false", "device=cpu"]
    result = subprocess.run([*command, "seed=1,2", "-m"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_learning_curves_of_drqv2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "figure3.png"
    brief = ["action_repeat=50", "num_train_frames=300", "eval_every_frames=150", "full_compress=true"]
    train(runs, *TINY, *brief)
    figures.main(["3", "--runs", str(runs), "--out", str(out)])
    assert_a_picture(out)
    printed = capsys.readouterr().out
    with (runs / "0" / "eval.csv").open() as first, (runs / "1" / "eval.csv").open() as second:
        last = [float(list(csv.DictReader(file))[-1]["episode_reward"]) for file in (first, second)]
    cells = rows(printed)["walker_walk: Full (delta), gray, black floor"]
    assert cells[:3] == ["2", "3", "300"] and "Note" not in printed
    assert float(cells[3].replace(",", "")) == pytest.approx(np.mean(last), rel=0.05, abs=0.05)
    assert float(cells[4].replace(",", "")) == pytest.approx(abs(last[0] - last[1]) / 2, rel=0.05, abs=0.05)

    # A run that was cut short shortens the curve; a seed that comes twice, or another option, is said.
    shutil.copytree(runs / "0", runs / "again")
    table = (runs / "again" / "eval.csv").read_text().splitlines(keepends=True)
    (runs / "again" / "eval.csv").write_text("".join(table[:-1]))
    loaded = learning_curves.load_runs([f"{runs}/*"], learning_curves.DRQV2)
    (curve,) = learning_curves.curves(loaded)
    assert curve.runs == 3 and curve.x.tolist() == [0, 150]
    expected = [[run.points[x] for run in loaded] for x in (0, 150)]
    np.testing.assert_allclose(curve.mean, np.mean(expected, axis=1))
    np.testing.assert_allclose(curve.deviation, np.std(expected, axis=1))
    assert learning_curves.differences(loaded) == [
        "walker_walk, Full (delta), gray, black floor: several runs have the same seed."
    ]
    other = replace(loaded[0], options=loaded[0].options | {"lr": 1.0})
    assert "the runs differ in lr." in learning_curves.differences([other, loaded[1]])[0]

    with pytest.raises(SystemExit, match=r"evaluations\.npz in .*, got none; `python train.py --config-name=atari"):
        figures.main(["4", "--runs", str(runs)])
    with (runs / "again" / "eval.csv").open("a") as file:
        file.write("600,12,1,20,3")  # torn off by a kill
    assert learning_curves.load_runs([f"{runs}/again"], learning_curves.DRQV2)[0].points.keys() == {0, 150}
    with (runs / "again" / "eval.csv").open("a") as file:
        file.write("many,1,1\n")
    with pytest.raises(SystemExit, match=r"again/eval\.csv: expected the evaluations of a run, got ValueError"):
        figures.main(["3", "--runs", str(runs)])
    (runs / "again" / ".hydra" / "config.yaml").write_text("task_name: walker_walk\nseed: many\n")
    with pytest.raises(SystemExit, match=r"again: expected the options of a run .* seed.*; leave this folder out"):
        figures.main(["3", "--runs", str(runs)])


def test_learning_curves_of_atari(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "figure4.png"
    small = ["num_envs=2", "ppo.n_steps=32", "ppo.n_epochs=1", "ppo.batch_size=32", "num_threads=1"]
    limits = ["num_train_steps=128", "eval_every_steps=64", "num_eval_episodes=1"]
    train(runs, "--config-name=atari", "env=Breakout", "alg=ppo", *small, *limits)
    figures.main(["4", "--runs", str(runs), "--out", str(out)])
    assert_a_picture(out)
    last = [np.load(runs / seed / "evaluations.npz")["results"][-1, 0] for seed in ("0", "1")]
    cells = rows(capsys.readouterr().out)["Breakout, ppo: SB3's buffer"]
    assert cells[:3] == ["2", "2", "128"]
    assert [float(cell) for cell in cells[3:]] == pytest.approx([np.mean(last), np.std(last)], abs=0.05)

    whole = (runs / "1" / "evaluations.npz").read_bytes()
    for damaged in (b"", whole[:100], whole[:-30]):
        (runs / "1" / "evaluations.npz").write_bytes(damaged)
        with pytest.raises(SystemExit, match=r"1/evaluations\.npz: expected the evaluations of a run, got "):
            figures.main(["4", "--runs", str(runs)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["3", "--runs", "{folder}"], r"evaluations in eval\.csv in .*, got none; `python train.py -m .*` makes some"),
        (["4", "--runs", "{folder}/no*"], r"--runs .*no\*: expected a folder or a pattern of folders, got nothing"),
        (["1", "atari_Pong", "--folder", "{folder}"], "which are not there"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message) as error:
        figures.main([option.format(folder=tmp_path) for option in options])
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected a file that can be written, such as figure\.png"):
        figures.main(["1", "atari_Pong", "--folder", str(folder), "--out", str(tmp_path / "figure.unknown")])
