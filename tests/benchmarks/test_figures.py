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
from benchmark_tools import rows
from matplotlib.image import imread
from training_options import TINY

from benchmarks import figures, learning_curves, plots, recordings
from benchmarks.recordings import Recording

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("walker_walk_gray", "atari_Pong")


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
    """A real run; then the same folder with other seeds and returns, as if these had been trained, too."""
    command = [
        sys.executable,
        "train.py",
        *options,
        f"hydra.run.dir={folder}/1",
        "use_tb=false",
        "device=cpu",
        "seed=1",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def another_seed(runs: Path, seed: int) -> Path:
    """The run's folder as a run of this seed has it, with what it was not trained for left to the caller."""
    shutil.copytree(runs / "1", runs / str(seed))
    config = runs / str(seed) / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1\n", f"seed: {seed}\n"))
    return runs / str(seed)


def write_returns(run: Path, returns: dict[int, float]) -> None:
    """An eval.csv with these returns, in the columns of the real one."""
    header = (run / "eval.csv").read_text().splitlines()[0].split(",")
    values = [dict.fromkeys(header, 0) | {"frame": x, "episode_reward": value} for x, value in returns.items()]
    with (run / "eval.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(values)


def test_learning_curves_of_drqv2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out, table = tmp_path / "runs", tmp_path / "figure3.png", tmp_path / "new" / "curves.csv"
    brief = ["action_repeat=50", "num_train_frames=300", "eval_every_frames=150", "full_compress=true"]
    train(runs, *TINY, *brief)
    with (runs / "1" / "eval.csv").open() as file:
        real = {int(row["frame"]): float(row["episode_reward"]) for row in csv.DictReader(file)}
    assert list(real) == [0, 150, 300]
    write_returns(another_seed(runs, 2), {0: -5, 150: 400, 300: 500})
    write_returns(another_seed(runs, 3), {0: -7, 150: 1000, 300: 900, 450: 950})  # went further
    figures.main(["3", "--runs", str(runs), "--out", str(out), "--csv", str(table)])
    assert_a_picture(out)
    printed = capsys.readouterr().out
    mode = "Full (delta), gray, black floor; action repeat 50, 1000 seed frames, batch 4, features 8, hidden 16"
    cells = rows(printed)[f"walker_walk: {mode}"]
    last = sorted([real[300], 500, 900])
    assert cells[:3] == ["3", "3", "300"] and "Note" not in printed
    assert [float(cell) for cell in cells[3:]] == pytest.approx([last[1], last[0], last[2]], rel=0.01, abs=0.01)

    with table.open() as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["task", "mode", "seed", "frame", "return"] and len(written) == 3 + 3 + 4
    assert [row["return"] for row in written if row["seed"] == "2"] == ["-5", "400", "500"]
    for loaded in (learning_curves.load_runs([str(runs)], learning_curves.DRQV2), learning_curves.read_csv(table)):
        (curve,) = learning_curves.curves(loaded)
        assert (curve.task, curve.mode, curve.runs) == ("walker_walk", mode, 3)
        assert curve.x.tolist() == [0, 150, 300]  # as far as all seeds are
        values = [[run.points[x] for run in loaded] for x in curve.x]
        np.testing.assert_allclose(curve.median, np.median(values, axis=1), rtol=1e-5)
        np.testing.assert_allclose(curve.lowest, np.min(values, axis=1), rtol=1e-5)
        np.testing.assert_allclose(curve.highest, np.max(values, axis=1), rtol=1e-5)

    # A seed that comes twice, or another option, is said.
    loaded = learning_curves.load_runs([f"{runs}/1"], learning_curves.DRQV2)
    assert learning_curves.differences([*loaded, *loaded]) == [f"walker_walk, {mode}: several runs have the same seed."]
    other = replace(loaded[0], options=loaded[0].options | {"lr": 1.0, "seed": 2})
    assert "the runs differ in lr." in learning_curves.differences([other, *loaded])[0]
    # A run of a time when there were fewer options, and one of a task's own scale.
    config = runs / "2" / ".hydra" / "config.yaml"
    usual = {
        "action_repeat: 50": "action_repeat: 2",
        "num_seed_frames: 1000": "num_seed_frames: 4000",
        "batch_size: 4": "batch_size: 512",
        "hidden_dim: 16": "hidden_dim: 1024",
    }
    text = config.read_text().replace("feature_dim: 8", "feature_dim: 50").replace("evaluate_at_start: true\n", "")
    for found, instead in usual.items():
        assert found in text
        text = text.replace(found, instead)
    config.write_text(text)
    (run,) = learning_curves.load_runs([f"{runs}/2"], learning_curves.DRQV2)
    assert run.mode == "Full (delta), gray, black floor"

    with pytest.raises(SystemExit, match=r"evaluations\.npz in .*, got none; `python train.py --config-name=atari"):
        figures.main(["4", "--runs", str(runs)])
    with (runs / "3" / "eval.csv").open("a") as file:
        file.write("600,12,1,20,3")  # torn off by a kill
    assert learning_curves.load_runs([f"{runs}/3"], learning_curves.DRQV2)[0].points.keys() == {0, 150, 300, 450}
    with (runs / "3" / "eval.csv").open("a") as file:
        file.write("many,1,1\n")
    with pytest.raises(SystemExit, match=r"3/eval\.csv: expected the evaluations of a run, got ValueError"):
        figures.main(["3", "--runs", str(runs)])
    (runs / "3" / ".hydra" / "config.yaml").write_text("task_name: walker_walk\nseed: many\n")
    with pytest.raises(SystemExit, match=r"3: expected the options of a run .* seed.*; leave this folder out"):
        figures.main(["3", "--runs", str(runs)])
    (runs / "3" / ".hydra" / "config.yaml").write_text("task_name: walker_wolk\n")
    with pytest.raises(SystemExit, match=r"3: expected the options of a run .*walker_wolk.*; leave this folder out"):
        figures.main(["3", "--runs", str(runs)])


def test_published_medians_stand_beside_the_task_alone(tmp_path: Path) -> None:
    pyplot = plots.load_pyplot()
    path = tmp_path / "curves.csv"
    path.write_text(
        "task,mode,seed,frame,return\n"
        "walker_walk,disk; batch 32,1,0,20\nwalker_walk,disk; batch 32,2,0,60\n"
        "reacher_easy,disk; batch 32,1,0,70\n"
    )
    curves = learning_curves.curves(learning_curves.read_csv(path))
    figure = learning_curves.plot(curves, learning_curves.DRQV2, pyplot)
    reacher, walker = figure.axes
    assert [line.get_label() for line in reacher.lines] == ["disk; 1 seed"]
    assert reacher.get_title() == "reacher_easy; batch 32"
    drawn, published = walker.lines
    assert drawn.get_label() == "disk; 2 seeds" and drawn.get_ydata().tolist() == [40]
    assert "published: RGB, on disk, action repeat 2, batch 512, hidden 1024" in published.get_label().replace(
        "\n", " "
    )
    assert dict(zip(published.get_xdata(), published.get_ydata(), strict=True)) == {
        **{100_000: 143, 200_000: 467, 300_000: 764, 400_000: 888, 500_000: 929}
    }
    plots.save(figure, tmp_path / "figure.png", pyplot)
    assert_a_picture(tmp_path / "figure.png")


@pytest.mark.parametrize("content", ["task,mode\nwalker_walk,disk\n", "task,mode,seed,frame,return\na,b,1,many,2\n"])
def test_a_file_that_holds_no_curves_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text(content)
    with pytest.raises(SystemExit, match=r"curves\.csv: expected a CSV file with task, mode, seed, frame, return, got"):
        learning_curves.read_csv(tmp_path / "curves.csv")


def test_learning_curves_of_atari(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "figure4.png"
    small = ["num_envs=2", "ppo.n_steps=32", "ppo.n_epochs=1", "ppo.batch_size=32", "num_threads=1"]
    limits = ["num_train_steps=128", "eval_every_steps=64", "num_eval_episodes=1"]
    train(runs, "--config-name=atari", "env=Breakout", "alg=ppo", *small, *limits)
    with np.load(runs / "1" / "evaluations.npz") as file:
        real = dict(file)
    assert real["timesteps"].tolist() == [64, 128]
    results = real["results"] + [[2.0], [4.0]]
    np.savez(another_seed(runs, 2) / "evaluations.npz", **(real | {"results": results}))
    figures.main(["4", "--runs", str(runs), "--out", str(out)])
    assert_a_picture(out)
    cells = rows(capsys.readouterr().out)["Breakout, ppo: SB3's buffer"]
    assert cells[:3] == ["2", "2", "128"]
    last = float(real["results"][-1, 0])
    assert [float(cell) for cell in cells[3:]] == pytest.approx([last + 2, last, last + 4], abs=0.05)

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
