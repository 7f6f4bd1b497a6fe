"""What you have beside what you get: DrQ-v2's replay on disk, Half, and Full with each of its codecs.

    python -m benchmarks.compare task=walker_walk

records the same episodes once in RGB (the baseline's images) and once in gray with a black floor (Full's; Half's are
the RGB ones in gray), lets every mode store and sample them, compares what comes back with the recording, and prints
one table beside the paper's Table I. `--quick` takes fewer frames, and `--train N` also trains for N frames in each
mode. Results go to a JSON file and a chart as well.
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import loader, recordings
from benchmarks.common import BATCH, load_pyplot, machine, print_table
from benchmarks.compare_chart import plot
from benchmarks.compare_modes import MILLION, MODES, fill, memory, rates, renderings, stages
from benchmarks.compare_train import ROOT, train
from benchmarks.memory import in_new_process
from benchmarks.recordings import Recording
from diffreplay.limits import usable_cores
from runs.errors import OptionError

TASKS = ROOT / "cfgs" / "task"
RESULTS = ROOT / "exp_local" / "compare"
LEAST_FRAMES = 100
SETTINGS = {"frames": 4008, "transitions": 20_000, "batches": 60, "turns": 7}
QUICK = {"frames": 2004, "transitions": 4008, "batches": 40, "turns": 3}
CPU_OPTIONS = ("batch_size=32",)  # of training, as a full batch takes seconds without a GPU
PAPER = {  # Grossman and Plancher, ICRA 2024, Table I: DrQ-v2, 10^6 transitions
    "walker_walk": {
        "gb": {"baseline": 63.5, "Half": 7.1, "Full": 3.8},
        "compression": {"baseline": 1.0, "Half": 8.9, "Full": 16.7},
        "fps": {"baseline": 119.0, "Half": 142.0, "Full": 73.0},
    },
    "quadruped_walk": {
        "gb": {"baseline": 63.6, "Half": 7.1, "Full": 4.1},
        "compression": {"baseline": 1.0, "Half": 9.0, "Full": 15.5},
        "fps": {"baseline": 184.0, "Half": 243.0, "Full": 135.0},
    },
}


def task_names() -> list[str]:
    """The tasks that train.py knows."""
    return sorted(path.stem for path in TASKS.glob("*.yaml") if "task_name:" in path.read_text())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line's options.

    Raises:
        SystemExit: one of them is mistaken.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", nargs="?", default="task=walker_walk", metavar="task=NAME", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer frames, batches and turns: within 3 minutes")
    parser.add_argument("--folder", type=Path, help="take TASK_rgb and TASK_gray from the .npz files of this folder")
    for name, text in (
        ("frames", "to record of each rendering, once, into exp_local/recordings"),
        ("transitions", "in the replay whose memory is measured"),
        ("batches", "timed in a row"),
        ("turns", "of timed batches"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{text} ({SETTINGS[name]}, with --quick {QUICK[name]})")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="of the loaders (%(default)s)")
    parser.add_argument("--train", type=int, metavar="N", help="also train for N frames in each mode")
    parser.add_argument(
        "--train-options", nargs="*", metavar="KEY=VALUE", help=f"of train.py (without a GPU {' '.join(CPU_OPTIONS)})"
    )
    parser.add_argument("--json", type=Path, help="file of the results (exp_local/compare/TASK.json)")
    parser.add_argument("--chart", type=Path, help="PNG file of the chart (exp_local/compare/TASK.png)")
    args = parser.parse_args(argv)
    option, _, args.task = args.task.rpartition("=")
    known = task_names()
    if option not in ("", "task"):
        raise SystemExit(f"expected task=NAME, got {option}={args.task}: options of this command begin with --")
    if args.task not in known:
        close = difflib.get_close_matches(args.task, known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise SystemExit(f"task={args.task}: there is no such task; {hint}")
    for name, value in (QUICK if args.quick else SETTINGS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    least = {"frames": LEAST_FRAMES, "transitions": 1, "batches": 1, "turns": 1, "train": 1000}
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise SystemExit(f"--{name} {value}: expected at least {lowest}")
    if min(args.workers) < 0:
        raise SystemExit(f"--workers {' '.join(map(str, args.workers))}: expected numbers from 0 on")
    args.workers = sorted(set(args.workers))
    if args.train_options is None:
        args.train_options = [] if torch.cuda.is_available() else list(CPU_OPTIONS)
    args.json = args.json or RESULTS / f"{args.task}.json"
    args.chart = args.chart or RESULTS / f"{args.task}.png"
    return args


def record(name: str, frames: int) -> None:
    """Make the recording unless it is there."""
    recordings.load(name, frames=frames)


def recordings_by_mode(args: argparse.Namespace) -> dict[str, Recording]:
    """The recording that each mode plays; both renderings are recorded at once, in a process each."""
    names = (f"{args.task}_rgb", f"{args.task}_gray")
    if args.folder is None:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(record, names, [args.frames] * 2))
    rgb, gray = (recordings.load(name, args.folder, args.frames) for name in names)
    return renderings(rgb, gray)


def measure(args: argparse.Namespace, bar: Any) -> dict[str, Any]:
    """All results, as they go into the JSON file."""

    def advance(doing: str) -> None:
        bar.set_description(doing)
        bar.update()

    advance("recording")
    played = recordings_by_mode(args)
    most = max(args.workers)
    with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
        filled = []
        for mode in MODES:
            advance(f"{mode.title}: adding")
            filled.append(fill(mode, played[mode.name], Path(temporary), 0, most))
        loader.prepare()
        rate = rates(filled, args.workers, args.batches, args.turns, advance)
    sizes = {f.mode.name: f.size["bytes_a_transition"] for f in filled}
    stacked = played["disk"].stacked_bytes
    compression = stages(sizes, stacked, stacked // 3)
    modes: dict[str, dict[str, Any]] = {}
    for f in filled:
        name = f.mode.name
        advance(f"{f.mode.title}: memory")
        with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
            held = in_new_process(memory, f.mode, played[name], Path(temporary), args.transitions, most)
        modes[name] = {
            "title": f.mode.title,
            "images": f.mode.images,
            "gb_at_million": sizes[name] * MILLION / 1e9,
            "compression": compression[name],
            **f.size,
            "batches_a_second": rate[name],
            "memory": held,
        }
        if args.train:
            advance(f"{f.mode.title}: training")
            modes[name]["train"] = train(f.mode, args.task, args.train, most, args.train_options)
    return {
        "task": args.task,
        "date": str(date.today()),
        "machine": machine(),
        "cores": usable_cores(),
        "frames": played["disk"].frames,
        "episodes": len(played["disk"].episodes),
        "settings": {"batch": BATCH, "nstep": 1, "batches": args.batches, "turns": args.turns, "workers": args.workers},
        "train_options": args.train_options if args.train else None,
        "modes": modes,
        "paper": PAPER.get(args.task),
    }


def table(results: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The rows: the modes, and the paper's three where it has the task."""
    modes, paper = list(results["modes"].values()), results["paper"]

    def row(label: str, values: list[Any], published: str = "") -> tuple[Any, ...]:
        beside = (
            [] if paper is None else [paper[published][k] if published else "" for k in ("baseline", "Half", "Full")]
        )
        return label, *values, *beside

    yield row("images", [mode["images"] for mode in modes])
    yield row("bytes a transition", [mode["bytes_a_transition"] for mode in modes])
    yield row("GB at 10^6 transitions, extrapolated", [mode["gb_at_million"] for mode in modes], "gb")
    yield row("compression, total", [mode["compression"]["total"] for mode in modes], "compression")
    for stage in ("grayscale", "indexing", "codec"):
        yield row(f"of it {stage}", [mode["compression"][stage] for mode in modes])
    yield row("add us, mean", [mode["add_us"]["mean"] for mode in modes])
    yield row("add us, p99", [mode["add_us"]["p99"] for mode in modes])
    yield row("add ms, largest", [mode["add_us"]["largest"] / 1e3 for mode in modes])
    for number in modes[0]["batches_a_second"]:
        yield row(
            f"batches a second, workers: {number}", [mode["batches_a_second"][number]["median"] for mode in modes]
        )
    held = modes[0]["memory"]
    label = f"MB of trainer and {held['workers']} workers at {held['transitions']} transitions, measured"
    yield row(label, [mode["memory"]["pss_growth_mb"] for mode in modes])
    if "train" in modes[0]:
        yield row("training frames a second", [mode["train"]["fps"] for mode in modes], "fps")
        yield row("share of time waiting for data", [f"{mode['train']['data_wait']:.1%}" for mode in modes])
    elif paper is not None:
        yield row("training frames a second (--train N)", ["not measured"] * len(modes), "fps")


def report(results: dict[str, Any]) -> None:
    """Print the table, and what its figures are."""
    modes = results["modes"]
    beside = ["paper: baseline", "paper: Half", "paper: Full"] if results["paper"] else []
    print(f"{results['machine']}\n")
    print_table((results["task"], *(mode["title"] for mode in modes.values()), *beside), table(results))
    print(
        f"\n{results['frames']} frames of {results['episodes']} episodes, n = 1, batches of {BATCH}. Bytes: "
        "observations, with index and references; a stack a transition for the baseline, whose files take "
        f"{modes['disk']['file_bytes_a_transition']:,.0f} bytes a transition besides. Extrapolated by what the second "
        "half of the frames added. Times to add are processor time, of the second half but for the largest; the "
        "baseline's file at an episode's end is included. Memory is the growth of all processes' PSS."
    )
    if results["train_options"] is not None:
        frames = modes["disk"]["train"]["frames"]
        print(f"Training: {frames:.0f} frames, train.py {' '.join(results['train_options'])}".rstrip() + ".")
    if results["paper"] is None:
        print(f"The paper's Table I has no {results['task']}; it has {' and '.join(PAPER)}.")
    else:
        print("Paper: Grossman and Plancher, ICRA 2024, Table I; frames a second on its authors' machine.")


def steps(args: argparse.Namespace) -> int:
    """How often the progress bar moves."""
    return 1 + len(MODES) * (2 + len(args.workers) + bool(args.train)) + args.turns


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    args = parse(argv)
    pyplot = load_pyplot()  # before anything is measured that could not be drawn
    with tqdm(total=steps(args), disable=None, dynamic_ncols=True) as bar:
        try:
            results = measure(args, bar)
        except OptionError as error:  # no room for the baseline's batches in /dev/shm
            raise SystemExit(
                f"the disk baseline cannot run here with --workers {max(args.workers)}: {error}"
            ) from error
    report(results)
    for path in (args.json, args.chart):
        path.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, args.chart, pyplot)
    here = Path.cwd()
    json_file, chart = (p.relative_to(here) if p.is_relative_to(here) else p for p in (args.json, args.chart))
    print(f"Results: {json_file}; chart: {chart}")


if __name__ == "__main__":
    main()
