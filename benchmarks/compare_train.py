"""What `benchmarks.compare --train` measures: the training command itself, a run for each replay mode."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare_modes import Mode
from benchmarks.runner import ROOT

EPISODE = 1000  # frames in an episode of dm_control's suite
OPTIONS = ("eval_every_frames=0", "save_video=false", "use_tb=false", "save_snapshot=false")


def train(mode: Mode, task: str, frames: int, workers: int, extra: list[str]) -> dict[str, float]:
    """Frames a second, and the share of the time that updates waited for data, over the last `frames` frames.

    Before these come an episode for each worker, without which the baseline cannot begin, and one in which the loader
    starts; neither counts.

    Raises:
        SystemExit: train.py failed.
    """
    seed_frames = EPISODE * max(1, workers)
    begin = seed_frames + EPISODE
    with tempfile.TemporaryDirectory(prefix="diffreplay-") as folder:
        options = (
            *(f"task={task}", f"hydra.run.dir={folder}", f"num_train_frames={begin + frames}"),
            *(f"num_seed_frames={seed_frames}", f"replay_buffer_num_workers={workers}"),
            *(*OPTIONS, *(mode.options or ()), *extra),
        )
        command = [sys.executable, str(ROOT / "train.py"), *options]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip() or "no message").splitlines()[-1]
            raise SystemExit(f"training with {mode.title} ended with exit status {result.returncode}: {reason}")
        with (Path(folder) / "train.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["frame"]) > begin]
    return summary(rows)


def summary(rows: list[dict[str, str]]) -> dict[str, float]:
    """Frames a second and waiting share over rows of train.csv, an episode each."""
    played = [float(row["episode_length"]) for row in rows]
    seconds = [length / float(row["fps"]) for length, row in zip(played, rows, strict=True)]
    waited = sum(time * float(row["data_wait"]) for time, row in zip(seconds, rows, strict=True))
    return {"frames": sum(played), "fps": sum(played) / sum(seconds), "data_wait": waited / sum(seconds)}
