"""What all benchmarks share: options, times, memory, tables, and a line about the machine."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import recordings
from benchmarks.recordings import Recording
from diffreplay.limits import usable_cores

BATCH = 256


def parser(description: str | None, *names: str) -> argparse.ArgumentParser:
    """Options of every benchmark; `names` are the recordings that it uses unless told otherwise."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument(
        "names", nargs="*", metavar="NAME", help=f"recordings: TASK_gray, TASK_rgb or atari_GAME ({', '.join(names)})"
    )
    made.add_argument("--folder", type=Path, help="take the recordings from the .npz or .npz.xz files of this folder")
    made.add_argument(
        "--frames",
        type=int,
        default=recordings.RECORDED_FRAMES,
        help="frames to record of each, once, into exp_local/recordings (%(default)s)",
    )
    made.set_defaults(default_names=names)
    return made


def chosen(args: argparse.Namespace) -> Iterable[Recording]:
    """The recordings that the command line asks for."""
    for name in args.names or (recordings.names(args.folder) if args.folder else args.default_names):
        yield recordings.load(name, args.folder, args.frames)


def machine() -> str:
    """One line: date, processor, memory, GPU, versions, load."""
    cores = usable_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "zstandard"))
    load = os.getloadavg()[0]
    return (
        f"{date.today()}: {_cpu_model()}, {cores} cores, {memory:.0f} GiB, {_gpu()}; {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, {packages}; load average {load:.1f}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def load_pyplot() -> Any:
    """matplotlib, which draws to files alone; SystemExit where it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise SystemExit(
            "expected matplotlib, which draws the figures; install it: pip install -e '.[benchmarks]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def process_ms(calls: Sequence[Callable[[], Any]], repeats: int = 40) -> list[float]:
    """Median processor time of each call in milliseconds, taken in turns so that all see the same machine.

    Processor time rather than time passed: other processes on the machine count only through its caches.
    """
    times: NDArray[np.float64] = np.empty((repeats, len(calls)))
    for call in calls:
        call()
    for row in times:
        for k, call in enumerate(calls):
            start = time.process_time()
            call()
            row[k] = time.process_time() - start
    return [1e3 * float(value) for value in np.median(times, axis=0)]


def pss(pid: int | str = "self") -> int:
    """Proportional set size of a process in bytes: its own memory, and its share of what it shares with others.

    Mapped files are left out: they are the code of programs, and the share of it that counts here changes whenever any
    other process on the machine starts or ends.
    """
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            total += int(line.split()[1]) * 1024
    return total


def family() -> set[int]:
    """This process and all that it started, directly or not."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found, size = {os.getpid()}, 0
    while len(found) > size:
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def family_pss() -> int:
    """Proportional set size of this process and all that it started, in bytes."""
    total = 0
    for pid in family():
        with suppress(OSError):  # it has ended
            total += pss(pid)
    return total


def processor_seconds(pids: Iterable[int]) -> float:
    """Processor time that all threads of the processes have used."""
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def mapped_pss(part: str) -> int:
    """Proportional set size of this process's mappings of files whose name contains `part`, in bytes."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split(maxsplit=1)[0]
        if not key.endswith(":"):
            inside = part in line
        elif inside and key == "Pss:":
            total += int(line.split()[1]) * 1024
    return total


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table, each row as soon as it is there; numbers are aligned right."""
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|", flush=True)
    for row in rows:
        print("| " + " | ".join(map(_cell, row)) + " |", flush=True)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
