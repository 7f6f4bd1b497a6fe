"""The command `convert`."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from diffreplay.datasets.converting import Converted, convert, open_source
from diffreplay.datasets.episode import Description
from diffreplay.datasets.formats import FORMATS

OPTIONS = ("capacity", "nstep", "discount", "codec", "save_every")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser of the arguments of `run`."""
    formats = "; ".join(f"{name}: {each.what}" for name, each in FORMATS.items())
    parser.epilog = f"Formats: {formats}."
    written = [name for name, each in FORMATS.items() if each.write is not None]
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the dataset to read")
    parser.add_argument("target", type=Path, metavar="TARGET", help="where nothing is yet, or this conversion stopped")
    parser.add_argument("--from", dest="source_format", choices=FORMATS, help="format of SOURCE (default: what it is)")
    parser.add_argument(
        "--to",
        dest="target_format",
        choices=written,
        help="format of TARGET (default: as its suffix or a snapshot's origin says; snapshot)",
    )
    parser.add_argument("--frame-stack", type=int, metavar="F", help="frames in an observation (default: as SOURCE)")
    parser.add_argument("--capacity", type=int, metavar="N", help="transitions of the buffer (default: as SOURCE has)")
    parser.add_argument("--nstep", type=int, metavar="N", help="steps that a sampled transition spans (default: 1)")
    parser.add_argument("--discount", type=float, metavar="GAMMA", help="for n-step returns (default: 0.99)")
    parser.add_argument("--codec", help="of frames (default: delta)")
    parser.add_argument(
        "--save-every", type=int, metavar="N", help="steps between saves, from which a run that stopped goes on"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> list[str]:
    """Convert; what was done, in words.

    Raises:
        ReplayError, OSError: it could not be done.
    """
    options = {key: value for key in OPTIONS if (value := getattr(args, key)) is not None}
    source, begin = open_source(args.source, args.source_format, args.frame_stack), time.monotonic()
    with warnings.catch_warnings(record=True) as told, _bar(args.quiet, source.description) as bar:
        warnings.simplefilter("always", UserWarning)
        done = convert(
            source,
            args.target,
            target_format=args.target_format,
            progress=bar.update,
            where=str(args.source),
            **options,
        )
    for warning in told:
        print(f"diffreplay: {warning.message}", file=sys.stderr)
    return [_sentence(args, done, time.monotonic() - begin)]


def _sentence(args: argparse.Namespace, done: Converted, seconds: float) -> str:
    resumed = f", {done.resumed} of them before" if done.resumed else ""
    rate = f", {done.steps / seconds:.0f} steps a second" if done.steps and seconds else ""
    return (
        f"{args.source} ({done.source_format}) to {args.target} ({done.target_format}): {done.episodes} episodes"
        f"{resumed}; {done.steps} steps in {seconds:.1f} s{rate}"
    )


class _NoBar:
    """In place of a progress bar."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, steps: int) -> None:
        """Show nothing."""


def _bar(quiet: bool, description: Description) -> Any:
    """A progress bar over steps, where tqdm is installed."""
    if quiet:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=description.steps, unit=" steps", unit_scale=True, delay=0.2)
