"""Learning curves from run folders of `train.py`: mean and standard deviation over seeds, a panel for each task."""

from __future__ import annotations

import csv
import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from drqv2.config import parse_config as parse_drqv2
from runs.errors import OptionError
from sb3_atari.config import parse_config as parse_atari

COLORS = ("#3a7ebf", "#e08a1e", "#1d8a5a", "#b0413e", "#7a5195", "#7a7a7a")
NOT_COMPARED = ("seed", "experiment")  # options in which runs of one curve may differ without a word


@dataclass(frozen=True)
class Kind:
    """One of the two ways to train: what its runs leave, and how to make some."""

    name_option: str  # an option that only its configuration has
    evaluations: str  # file in a run folder
    axis: str
    command: str


DRQV2 = Kind(
    "task_name", "eval.csv", "environment frames", "python train.py -m task=walker_walk full_compress=true seed=1,2,3"
)
ATARI = Kind(
    "alg",
    "evaluations.npz",
    "steps of 4 frames",
    "python train.py --config-name=atari -m env=Pong alg=qrdqn full_compress=true seed=1,2,3",
)


@dataclass(frozen=True)
class Run:
    """The evaluations of one run.

    Attributes:
        task: title of its panel.
        mode: name of its curve: the buffer, and for DeepMind Control what the agent sees.
        points: mean return by frame or step.
        options: all that it was trained with.
    """

    folder: Path
    task: str
    mode: str
    points: dict[int, float]
    options: dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over runs that differ in their seed, at the places that all of them reached."""

    task: str
    mode: str
    runs: int
    x: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def load_runs(patterns: Iterable[str], kind: Kind) -> list[Run]:
    """All runs of a kind in and below the folders that match.

    Raises:
        SystemExit: a pattern matches nothing, there is no such run, or its options cannot be read.
    """
    folders: set[Path] = set()
    for pattern in patterns:
        found = [Path(name) for name in glob.glob(pattern)]
        if not found:
            raise SystemExit(f"--runs {pattern}: expected a folder or a pattern of folders, got nothing that matches")
        for folder in found:
            folders |= {config.parents[1] for config in folder.rglob(".hydra/config.yaml")}
    runs = [run for folder in sorted(folders) if (run := _load(folder, kind)) is not None]
    if not runs:
        raise SystemExit(
            f"expected run folders with .hydra/config.yaml and evaluations in {kind.evaluations} in "
            f"{' '.join(patterns)}, got none; `{kind.command}` makes some"
        )
    return runs


def _load(folder: Path, kind: Kind) -> Run | None:
    """The run in a folder, or None if it is of the other kind or has no evaluation."""
    try:
        options = OmegaConf.load(folder / ".hydra" / "config.yaml")
        if not isinstance(options, DictConfig) or kind.name_option not in options:
            return None
        task, mode, values = _describe(options, kind)
    except (OptionError, yaml.YAMLError) as error:
        raise SystemExit(
            f"{folder}: expected the options of a run in .hydra/config.yaml, got {' '.join(str(error).split())}; leave "
            "this folder out of --runs"
        ) from error
    path = folder / kind.evaluations
    try:
        points = (_read_csv(path) if kind is DRQV2 else _read_npz(path)) if path.exists() else {}
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise SystemExit(f"{path}: expected the evaluations of a run, got {error!r}; leave it out of --runs") from error
    return Run(folder, task, mode, points, values) if points else None


def _describe(options: DictConfig, kind: Kind) -> tuple[str, str, dict[str, Any]]:
    """Task, mode and all options."""
    if kind is ATARI:
        atari = parse_atari(options)
        buffer = _buffer(atari.half_compress, atari.buffer_codec, "SB3's buffer")
        return f"{atari.env}, {atari.alg}", buffer, asdict(atari)
    drqv2 = parse_drqv2(options)
    seen = ("gray" if drqv2.observe_in_gray else "RGB") + (", black floor" if drqv2.paint_floor_black else "")
    buffer = _buffer(drqv2.half_compress, drqv2.replay_codec, "disk")
    return drqv2.task_name, f"{buffer}, {seen}", asdict(drqv2)


def _buffer(half: bool, codec: str | None, baseline: str) -> str:
    return baseline if codec is None else "Half" if half else f"Full ({codec})"


def _read_csv(path: Path) -> dict[int, float]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a kill may tear the last one off
    return {int(row["frame"]): float(row["episode_reward"]) for row in rows}


def _read_npz(path: Path) -> dict[int, float]:
    with path.open("rb") as file, np.load(file) as data:
        return dict(zip(data["timesteps"].tolist(), data["results"].mean(axis=1).tolist(), strict=True))


def curves(runs: Iterable[Run]) -> list[Curve]:
    """A curve for each task and mode; those whose runs have no place in common are left out."""
    made = []
    for (task, mode), group in _grouped(runs):
        shared = sorted(set.intersection(*(set(run.points) for run in group)))
        values = np.array([[run.points[x] for x in shared] for run in group])
        if shared:
            made.append(Curve(task, mode, len(group), np.array(shared), values.mean(axis=0), values.std(axis=0)))
    return made


def _grouped(runs: Iterable[Run]) -> list[tuple[tuple[str, str], list[Run]]]:
    """The runs of each task and mode."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.mode].append(run)
    return sorted(groups.items())


def differences(runs: Iterable[Run]) -> list[str]:
    """A sentence for each curve whose runs differ in more than their seed, or repeat one."""
    found = []
    for (task, mode), group in _grouped(runs):
        differ = {name for run in group for name in run.options if run.options[name] != group[0].options[name]}
        if differ - set(NOT_COMPARED):
            found.append(f"{task}, {mode}: the runs differ in {', '.join(sorted(differ - set(NOT_COMPARED)))}.")
        if len({run.options["seed"] for run in group}) < len(group):
            found.append(f"{task}, {mode}: several runs have the same seed.")
    return found


def plot(shown: Sequence[Curve], kind: Kind, pyplot: Any) -> Any:
    """A figure with a panel for each task, two in a row."""
    tasks = sorted({curve.task for curve in shown})
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    size = (5.6, 3.9) if columns == 1 else (7.2, 3.2 * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    modes = sorted({curve.mode for curve in shown})
    for axes, task in zip(grid.flat, tasks, strict=False):
        for curve in (curve for curve in shown if curve.task == task):
            color, label = COLORS[modes.index(curve.mode) % len(COLORS)], f"{curve.mode}; {curve.runs} runs"
            axes.plot(curve.x, curve.mean, color=color, label=label, marker="o" if len(curve.x) < 3 else None)
            low, high = curve.mean - curve.deviation, curve.mean + curve.deviation
            axes.fill_between(curve.x, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set_title(task)
        axes.set_xlabel(kind.axis)
        axes.set_ylabel("return")
        axes.legend(frameon=False)
    for axes in grid.flat[len(tasks) :]:
        axes.remove()
    return figure
