"""What you have beside what you get: the ways to keep a replay, like beside like.

    python -m benchmarks.compare task=walker_walk

records the same episodes once in RGB, as the task is, and once in gray with a black floor, the paper's variant. Over
each, every mode stores and samples them: DrQ-v2's replay on disk, an array of stacks in RAM, Half, and Full with its
codecs. What comes back is compared with the recording. Prints a table for each kind of images with the paper's Table I
beside them. `--quick` takes fewer frames, and `--train N` also trains for N frames in each mode. Results go to a JSON
file and a chart as well.
"""

from __future__ import annotations

import argparse
import difflib
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import loader, recordings
from benchmarks.compare_charts import compare_chart
from benchmarks.compare_modes import IMAGES, MILLION, MODES, checked, fill, memory, rates, stages
from benchmarks.compare_train import train
from benchmarks.plots import load_pyplot, save
from benchmarks.processes import in_new_process
from benchmarks.recordings import Recording
from benchmarks.runner import BATCH, ROOT, Report, parser
from runs.errors import OptionError

TASKS = ROOT / "cfgs" / "task"
RESULTS = ROOT / "exp_local" / "compare"
LEAST_FRAMES = 100
SETTINGS = {"frames": 4008, "transitions": 20_000, "batches": 40, "repeats": 7}
QUICK = {"frames": 2004, "transitions": 0, "batches": 20, "repeats": 3}
QUICK_MODES = [name for name in MODES if name not in ("gray_disk", "gray_sparse", "gray_zstd")]
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
    options = parser(__doc__)
    options.add_argument("task", nargs="?", default="task=walker_walk", metavar="task=NAME", help="(%(default)s)")
    options.add_argument("--quick", action="store_true", help="fewer of all, and no memory: about 2 minutes")
    options.add_argument("--folder", type=Path, help="take TASK_rgb and TASK_gray from the .npz files of this folder")
    options.add_argument("--modes", nargs="+", choices=MODES, metavar="MODE", help=", ".join(MODES))
    for name, text in (
        ("frames", "to record of each rendering, once, into exp_local/recordings"),
        ("transitions", "in the replay whose memory is measured, 0 for none"),
        ("batches", "timed in a row"),
        ("repeats", "turns of timed batches"),
    ):
        options.add_argument(f"--{name}", type=int, help=f"{text} ({SETTINGS[name]}, with --quick {QUICK[name]})")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4], help="of the loaders (%(default)s)")
    options.add_argument("--train", type=int, metavar="N", help="also train for N frames in each mode")
    options.add_argument(
        "--train-options", nargs="*", metavar="KEY=VALUE", help=f"of train.py (without a GPU {' '.join(CPU_OPTIONS)})"
    )
    options.add_argument("--chart", type=Path, help="PNG file of the chart (exp_local/compare/TASK.png)")
    args = options.parse_args(argv)
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
    args.modes = args.modes or (QUICK_MODES if args.quick else list(MODES))
    least = {"frames": LEAST_FRAMES, "transitions": 0, "batches": 1, "repeats": 1, "train": 1000}
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


def recorded(args: argparse.Namespace) -> dict[str, Recording]:
    """Both renderings of the same episodes; they are recorded at once, in a process each."""
    names = (f"{args.task}_rgb", f"{args.task}_gray")
    if args.folder is None:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(record, names, [args.frames] * 2))
    return checked(*(recordings.load(name, args.folder, args.frames) for name in names))


def measure(args: argparse.Namespace, bar: Any) -> dict[str, Any]:
    """All results, as they go into the JSON file."""

    def advance(doing: str) -> None:
        bar.set_description(doing)
        bar.update()

    advance("recording")
    played, most = recorded(args), max(args.workers)
    chosen = [MODES[name] for name in MODES if name in args.modes]
    found: dict[str, dict[str, Any]] = {}
    loader.prepare()
    for images in IMAGES:  # the loaders of both at once would be too many
        with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
            filled = []
            for mode in (mode for mode in chosen if mode.images == images):
                advance(f"{mode.title}: adding")
                filled.append(fill(mode, played[images], Path(temporary), 0, most))
            rate = rates(filled, args.workers, args.batches, args.repeats, advance) if filled else {}
        found |= {f.mode.name: f.size | {"batches": rate[f.mode.name]} for f in filled}
    stacked = {images: 3 * recording.episodes[0][0].nbytes for images, recording in played.items()}
    compression = stages({name: size["bytes_a_transition"] for name, size in found.items()}, stacked)
    modes: dict[str, dict[str, Any]] = {}
    for mode in chosen:
        size = found[mode.name]
        modes[mode.name] = {
            "title": mode.title,
            "images": mode.images,
            "gb_at_million": size["bytes_a_transition"] * MILLION / 1e9,
            "compression": compression[mode.name],
            **size,
        }
        if args.transitions:
            advance(f"{mode.title}: memory")
            with tempfile.TemporaryDirectory(prefix="diffreplay-") as temporary:
                case = (mode, played[mode.images], Path(temporary), args.transitions)
                modes[mode.name]["memory"] = in_new_process(memory, *case, 0 if mode.kind == "array" else most)
        if args.train and mode.options is not None:
            advance(f"{mode.title}: training")
            modes[mode.name]["train"] = train(mode, args.task, args.train, most, args.train_options)
    return {
        "task": args.task,
        "frames": played["rgb"].frames,
        "episodes": len(played["rgb"].episodes),
        "settings": {
            "batch": BATCH,
            "nstep": 1,
            "batches": args.batches,
            "repeats": args.repeats,
            "workers": args.workers,
            "transitions": args.transitions,
        },
        "train_options": args.train_options if args.train else None,
        "modes": modes,
        "paper": PAPER.get(args.task),
    }


def table(results: dict[str, Any], images: str) -> Iterator[tuple[Any, ...]]:
    """Header and rows of one kind of images, the paper's columns last."""
    modes = [mode for mode in results["modes"].values() if mode["images"] == images]
    columns = {"rgb": ("baseline",), "gray": ("Half", "Full")}[images] if results["paper"] else ()
    settings, paper = results["settings"], results["paper"]

    def row(label: str, values: list[Any], published: str = "") -> tuple[Any, ...]:
        return label, *values, *(paper[published][column] if published else None for column in columns)

    yield row(f"{results['task']}, {IMAGES[images]}", [mode["title"] for mode in modes])[: 1 + len(modes)] + tuple(
        f"paper: {column}" for column in columns
    )
    yield row("bytes a transition", [mode["bytes_a_transition"] for mode in modes])
    yield row("GB at 10^6 transitions, extrapolated", [mode["gb_at_million"] for mode in modes], "gb")
    yield row("smaller than RGB stacks, times", [mode["compression"]["total"] for mode in modes], "compression")
    yield row("smaller than stacks of these images, times", [mode["compression"]["same_images"] for mode in modes])
    for stage in ("grayscale", "indexing", "codec"):
        yield row(f"{stage}'s share, times", [mode["compression"][stage] for mode in modes])
    yield row("add us, mean", [mode["add_us"]["mean"] for mode in modes])
    yield row("add us, p99", [mode["add_us"]["p99"] for mode in modes])
    yield row("add ms, largest", [mode["add_us"]["largest"] / 1e3 for mode in modes])
    for number in map(str, settings["workers"]):
        found = [mode["batches"].get(number) for mode in modes]
        yield row(f"batches a second, workers: {number}", [f and f["a_second"].median for f in found])
    if settings["transitions"]:
        label = (
            f"MB of trainer and {max(settings['workers'])} workers at {settings['transitions']} transitions, measured"
        )
        yield row(label, [mode["memory"]["pss_growth_mb"] for mode in modes])
    if results["train_options"] is not None:
        trained = [mode.get("train") for mode in modes]
        yield row("training frames a second", [t and t["fps"] for t in trained], "fps")
        yield row("share of time waiting for data", [t and f"{t['data_wait']:.1%}" for t in trained])
    elif columns:
        yield row("training frames a second (--train N)", ["not measured"] * len(modes), "fps")


def report_on(results: dict[str, Any], report: Report) -> None:
    """Print the tables, and what their figures are."""
    report.describe()
    for images in IMAGES:
        header, *rows = table(results, images)
        if any(mode["images"] == images for mode in results["modes"].values()):
            report.table(header, rows)
    print(
        f"\n{results['frames']} frames of {results['episodes']} episodes, n = 1, batches of {BATCH}. Bytes: "
        "observations, with index and references; a stack per transition on disk and in an array. Extrapolated by what "
        "the second half of the frames added. Times to add are processor time, of the second half but for the largest; "
        "the disk baseline's file at an episode's end is included. Memory is the growth of all processes' PSS. The "
        "array has no workers."
    )
    trained = [mode["train"]["frames"] for mode in results["modes"].values() if "train" in mode]
    if trained:
        print(f"Training: {trained[0]:.0f} frames, train.py {' '.join(results['train_options'])}".rstrip() + ".")
    if results["paper"] is None:
        print(f"The paper's Table I has no {results['task']}; it has {' and '.join(PAPER)}.")
    else:
        print("Paper: Grossman and Plancher, ICRA 2024, Table I; frames a second on its authors' machine.")


def steps(args: argparse.Namespace) -> int:
    """How often the progress bar moves."""
    modes = [MODES[name] for name in args.modes]
    opened = sum(1 if mode.kind == "array" else len(args.workers) for mode in modes)
    trained = sum(bool(args.train) and mode.options is not None for mode in modes)
    groups = len({mode.images for mode in modes})
    return 1 + len(modes) * (1 + bool(args.transitions)) + opened + trained + groups * args.repeats


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    args = parse(argv)
    pyplot = load_pyplot()  # before anything is measured that could not be drawn
    with Report("benchmarks.compare", args, argv) as report:
        with tqdm(total=steps(args), disable=None, dynamic_ncols=True) as bar:
            try:
                results = measure(args, bar)
            except OptionError as error:  # no room for the baseline's batches in /dev/shm
                raise SystemExit(
                    f"the disk baseline cannot run here with --workers {max(args.workers)}: {error}"
                ) from error
        report_on(results, report)
        report.results = results
    save(compare_chart(report.as_json(), pyplot), args.chart, pyplot)
    here = Path.cwd()
    json_file, chart = (p.relative_to(here) if p.is_relative_to(here) else p for p in (args.json, args.chart))
    print(f"Results: {json_file}; chart: {chart}")


if __name__ == "__main__":
    main()
