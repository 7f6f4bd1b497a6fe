"""Learning curves: the median over seeds, and from the lowest to the highest, a panel for each task.

They come from run folders of `train.py`, or from a CSV file with a row for each evaluation of each of them, which
`write_csv` makes: task, mode, seed, frame, return.
"""

from __future__ import annotations

import csv
import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any
from zipfile import BadZipFile

import hydra
import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from benchmarks.runner import ROOT
from drqv2.config import parse_config as parse_drqv2
from runs.errors import OptionError
from sb3_atari.config import parse_config as parse_atari

COLORS = ("#3a7ebf", "#e08a1e", "#1d8a5a", "#b0413e", "#7a5195", "#7a7a7a")
NOT_COMPARED = ("seed", "experiment")  # options in which runs of one curve may differ without a word
COLUMNS = ("task", "mode", "seed", "frame", "return")
SCALE = {  # options that a curve names where they differ from the task's own, and how
    "action_repeat": "action repeat {}",
    "num_seed_frames": "{} seed frames",
    "batch_size": "batch {}",
    "discount": "discount {}",
    "nstep": "n = {}",
    "lr": "lr {}",
    "feature_dim": "features {}",
    "hidden_dim": "hidden {}",
    "update_every_steps": "steps per update {}",
    "num_expl_steps": "{} uniform actions",
    "stddev_schedule": "noise {}",
}


@dataclass(frozen=True)
class Published:
    """Medians that others have published, by frame, and how these were trained."""

    who: str
    medians: dict[int, float]


_EASY = "DrQ-v2 as published: RGB, on disk, action repeat 2, batch 256, hidden 1024"
PUBLISHED = {
    "cartpole_balance": Published(_EASY, {0: 340, 20_000: 411, 40_000: 959, 60_000: 988}),
    "cartpole_swingup": Published(_EASY, {0: 18, 20_000: 75, 40_000: 183, 60_000: 271, 80_000: 499, 100_000: 775}),
    "walker_walk": Published(
        "DrQ-v2 as published: RGB, on disk, action repeat 2, batch 512, hidden 1024",
        {100_000: 143, 200_000: 467, 300_000: 764, 400_000: 888, 500_000: 929},
    ),
}


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
        mode: name of its curve: the buffer, for DeepMind Control what the agent sees, and after a semicolon in what its
            scale differs from the task's own.
        points: mean return by frame or step.
        options: all that it was trained with; none from a CSV file.
    """

    task: str
    mode: str
    seed: int
    points: dict[int, float]
    options: dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Median, lowest and highest of runs that differ in their seed, at the places that all of them reached."""

    task: str
    mode: str
    runs: int
    x: NDArray[np.int64]
    median: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]


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
    return Run(task, mode, values["seed"], points, values) if points else None


def _describe(options: DictConfig, kind: Kind) -> tuple[str, str, dict[str, Any]]:
    """Task, mode and all options."""
    if kind is ATARI:
        atari = parse_atari(options)
        buffer = _buffer(atari.half_compress, atari.buffer_codec, "SB3's buffer")
        return f"{atari.env}, {atari.alg}", buffer, asdict(atari)
    own = _own_options(options)
    drqv2 = parse_drqv2(OmegaConf.merge(own, options))
    buffer = _buffer(drqv2.half_compress, drqv2.replay_codec, "disk")
    values = asdict(drqv2)
    usual = {**own, **own.agent}
    chosen = {**values, **values["agent"]}
    scale = [said.format(chosen[name]) for name, said in SCALE.items() if chosen[name] != usual[name]]
    return drqv2.task_name, "; ".join([f"{buffer}, {drqv2.images}", *([", ".join(scale)] if scale else [])]), values


def _own_options(options: DictConfig) -> DictConfig:
    """What a run of the same task has unless told otherwise, also options that came after it was made."""
    with hydra.initialize_config_dir(str(ROOT / "cfgs"), version_base="1.3"):
        try:
            return hydra.compose("config", overrides=[f"task={options.task_name}"])
        except hydra.errors.HydraException as error:
            raise OptionError(str(error)) from error


def _buffer(half: bool, codec: str | None, baseline: str) -> str:
    return baseline if codec is None else "Half" if half else f"Full ({codec})"


def _read_csv(path: Path) -> dict[int, float]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a kill may tear the last one off
    return {int(row["frame"]): float(row["episode_reward"]) for row in rows}


def _read_npz(path: Path) -> dict[int, float]:
    with path.open("rb") as file, np.load(file) as data:
        return dict(zip(data["timesteps"].tolist(), data["results"].mean(axis=1).tolist(), strict=True))


def write_csv(runs: Iterable[Run], path: Path) -> None:
    """A row for each evaluation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in sorted(runs, key=lambda run: (run.task, run.mode, run.seed)):
            writer.writerows((run.task, run.mode, run.seed, x, f"{run.points[x]:.6g}") for x in sorted(run.points))


def read_csv(path: Path) -> list[Run]:
    """What `write_csv` has written.

    Raises:
        SystemExit: it is not such a file.
    """
    points: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                points[row["task"], row["mode"], int(row["seed"])][int(row["frame"])] = float(row["return"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SystemExit(f"{path}: expected a CSV file with {', '.join(COLUMNS)}, got {error!r}") from error
    return [Run(*key, found, {"seed": key[2]}) for key, found in points.items()]


def curves(runs: Iterable[Run]) -> list[Curve]:
    """A curve for each task and mode; those whose runs have no place in common are left out."""
    made = []
    for (task, mode), group in _grouped(runs):
        shared = sorted(set.intersection(*(set(run.points) for run in group)))
        values = np.array([[run.points[x] for x in shared] for run in group])
        if shared:
            ends = (values.min(axis=0), values.max(axis=0))
            made.append(Curve(task, mode, len(group), np.array(shared), np.median(values, axis=0), *ends))
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
    size = (7, 4.4) if columns == 1 else (9, 4.2 * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    modes = sorted({curve.mode for curve in shown})
    for axes, task in zip(grid.flat, tasks, strict=False):
        panel = [curve for curve in shown if curve.task == task]
        scales = {curve.mode.partition("; ")[2] for curve in panel}
        for place, curve in enumerate(panel):
            name, _, scale = curve.mode.partition("; ")
            parts = [
                name,
                *([scale] if scale and len(scales) > 1 else []),
                f"{curve.runs} seed" + "s" * (curve.runs > 1),
            ]
            label = fill("; ".join(parts), 50)
            color = COLORS[modes.index(curve.mode) % len(COLORS)]
            width = 4 - 1.2 * min(place, 2)  # what lies upon another curve leaves its rim to be seen
            axes.plot(curve.x, curve.median, color=color, label=label, marker="o", markersize=2 * width, lw=width)
            axes.fill_between(curve.x, curve.lowest, curve.highest, color=color, alpha=0.2, linewidth=0)
        if task in PUBLISHED:
            published = PUBLISHED[task]
            x, y = list(published.medians), list(published.medians.values())
            axes.plot(x, y, color="#222222", linestyle="--", marker="D", markersize=4, label=fill(published.who, 50))
        title = "; ".join([task, *(scales if len(scales) == 1 else [])]).rstrip("; ")
        axes.set_title(fill(title, 60), fontsize=11 if len(title) <= 60 else 9)
        axes.set_xlabel(f"thousands of {kind.axis}")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}")
        axes.set_ylabel("return: median, lowest to highest seed", fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(tasks) :]:
        axes.remove()
    return figure
