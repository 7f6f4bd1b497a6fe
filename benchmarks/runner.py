"""What every benchmark does alike: it takes recordings and options, prints tables, and writes one JSON file.

The file, which `--json` names, holds the command, the date, the machine and the tables with every value unrounded.
`benchmarks.charts` draws from such files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import recordings
from benchmarks.recordings import Recording
from benchmarks.timing import Quartiles
from diffreplay.limits import usable_cores

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "benchmarks" / "data"  # what the pages and charts of the documentation are made from
BATCH = 256


class Ratio(float):
    """A quotient near 1: printed with three decimals."""


class Share(float):
    """Of a whole: printed in percent."""


def parser(description: str | None, *names: str, repeats: int | None = None) -> argparse.ArgumentParser:
    """Options of every benchmark.

    Args:
        description: of which the first line is printed by `--help`.
        names: recordings that are used unless others are asked for; none for a benchmark that needs none.
        repeats: turns that are timed unless others are asked for; None for a benchmark that times none.
    """
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    if names:
        made.add_argument(
            "names", nargs="*", metavar="NAME", help=f"recordings: TASK_gray, TASK_rgb, atari_GAME ({', '.join(names)})"
        )
        made.add_argument(
            "--folder", type=Path, help="take the recordings from the .npz or .npz.xz files of this folder"
        )
        made.add_argument(
            "--frames",
            type=int,
            default=recordings.RECORDED_FRAMES,
            help="frames to record of each, once, into exp_local/recordings (%(default)s)",
        )
        made.set_defaults(default_names=names)
    if repeats:
        made.add_argument("--repeats", type=at_least_1, default=repeats, help="turns that are timed (%(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write machine, date and all values to this file")
    return made


def at_least_1(text: str) -> int:
    """A number of turns from an option."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def chosen(args: argparse.Namespace) -> Iterable[Recording]:
    """The recordings that the command line asks for."""
    for name in args.names or (recordings.names(args.folder) if args.folder else args.default_names):
        yield recordings.load(name, args.folder, args.frames)


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on; `load` is the load average over a minute when it began."""

    processor: str
    cores: int
    memory_gib: int
    gpu: str | None
    system: str
    python: str
    packages: dict[str, str]
    load: float

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        return cls(
            _cpu_model(),
            usable_cores(),
            round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            _gpu(),
            f"{platform.system()} {platform.release()}",
            platform.python_version(),
            {name: version(name) for name in ("numpy", "torch", "zstandard")},
            round(os.getloadavg()[0], 2),
        )

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB, {self.gpu or 'no GPU'}; {self.system}, "
            f"Python {self.python}, {packages}; load average {self.load:.1f}"
        )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


class Report:
    """Prints what a benchmark measures, and writes it to a JSON file once all is measured.

    Args:
        name: the module, as in `python -m benchmarks.codec`.
        args: options made by `parser`.
        argv: the command line that was parsed, None for the process's own.

    Attributes:
        results: what is written beside the tables.
    """

    def __init__(self, name: str, args: argparse.Namespace, argv: Sequence[str] | None = None) -> None:
        self._json: Path | None = args.json
        self._command = " ".join(["python -m", name, *(sys.argv[1:] if argv is None else argv)])
        self._date, self._machine = date.today(), Machine.here()
        self._tables: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._json is not None:  # before anything is measured that could not be written
            self._json.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._json is not None:
            self._json.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        machine = asdict(self._machine) | {"load_at_end": round(os.getloadavg()[0], 2)}
        found = {"command": self._command, "date": str(self._date), "machine": machine}
        return found | ({"tables": self._tables} if self._tables else {}) | plain(self.results)

    def describe(self, *more: str) -> None:
        """Print date and machine, and more about this run."""
        print(f"{self._date}: {self._machine}", *more, sep="; ", end="\n\n", flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a Markdown table, each row as soon as it is there, and keep it."""
        if self._tables:
            print()
        kept: list[list[Any]] = []
        self._tables.append({"header": list(header), "rows": kept})
        print("| " + " | ".join(header) + " |")
        print("|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|", flush=True)
        for row in rows:
            print("| " + " | ".join(map(cell, row)) + " |", flush=True)
            kept.append(plain(list(row)))


def plain(value: Any) -> Any:
    """The same for JSON: quartiles by name."""
    if isinstance(value, Quartiles):
        return value._asdict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, Quartiles):
        return f"{cell(value.median)} ({cell(value.lower)} to {cell(value.upper)})"
    if value is None:
        return ""
    if isinstance(value, Ratio):
        return f"{value:.3f}"
    if isinstance(value, Share):
        return f"{value:.1%}"
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
