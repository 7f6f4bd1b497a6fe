"""The command itself, as a user runs it: mistakes come out as one line, and a run leaves its files in its folder."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import pytest
from training_options import TINY

TRAIN = Path(__file__).parent.parent / "train.py"


def train(folder, *options):
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={folder / 'run'}", *options]
    # Without a GPU in sight the outcome of device=cuda is the same on every machine.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["task=walker_wolk"], "there is no such task; did you mean walker_walk"),
        (["task=walker_walk", "task_name=walker_wolk"], "did you mean walker_walk"),
        (["num_train_frame=1000"], "did you mean num_train_frames"),
        (["device=cuda", "task=cartpole_balance"], "use device=auto or device=cpu"),
        (["device=gpu"], "expected auto, cpu, cuda or cuda:<index>"),
        (["half_compress=true", "full_compress=true"], "exclude each other"),
        (["full_compress=true", "codec=zst"], "expected one of"),
        (["batch_size=big"], "Integer"),
        (["task=walker_walk,walker_run"], "multirun"),
        (["task"], "missing EQUAL"),
        ([f"hydra.run.dir={TRAIN}/run"], "choose another run folder"),
        ([f"hydra.run.dir=/tmp/{'x' * 300}"], "choose another run folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, expected):
    result = train(tmp_path, *options)
    assert result.returncode == 1
    assert expected in result.stderr
    assert result.stderr.startswith("train.py: ") and result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""


def test_a_damaged_snapshot_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "snapshot.pt").write_bytes(b"PK\x03\x04 no snapshot")
    result = train(tmp_path, *TINY)
    assert result.returncode == 1
    assert "snapshot.pt is not a readable snapshot" in result.stderr and result.stderr.count("\n") == 1


def test_a_run_from_another_folder_leaves_its_files_in_the_run_folder(tmp_path):
    options = ["full_compress=true", "eval_every_frames=1200", "save_video=true", "use_tb=true", "save_snapshot=true"]
    result = train(tmp_path, *TINY, *options)
    assert result.returncode == 0, result.stderr
    assert "compression ratio: " in result.stdout.splitlines()[-1]
    run = tmp_path / "run"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert len((run / "train.csv").read_text().splitlines()) == 2
    assert len((run / "eval.csv").read_text().splitlines()) == 3
    assert list((run / "tb").glob("events.out.tfevents.*"))
    video = imageio.imread(run / "eval_video" / "1200.mp4")
    assert video.shape == (101, 256, 256, 3) and video.std() > 1

    again = train(tmp_path, *TINY, *options)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout and "nothing to train" in again.stdout
