"""Command line: `python -m diffreplay inspect DIRECTORY` looks into a snapshot, `convert SOURCE TARGET` makes one."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffreplay import datasets
from diffreplay.cli import inspect, page, pictures, printable, video
from diffreplay.errors import InputError, ReplayError

DAMAGED, FAILED, INTERRUPTED = 1, 2, 130  # exit statuses; argparse, too, ends with 2


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit status: 0, DAMAGED where a snapshot is damaged, FAILED where nothing could be done."""
    parser = argparse.ArgumentParser(prog="python -m diffreplay", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("inspect", help="check a snapshot and print what it holds")
    command.add_argument("directory", type=Path, help="of a snapshot, as `ReplayBuffer.save` was given it")
    command.add_argument("--frames", type=Path, metavar="PNG", help="draw sample frames, references and differences")
    command.add_argument("--html", type=Path, metavar="HTML", help="write all of it and more as one page")
    command.add_argument("--mp4", type=Path, metavar="MP4", help="render an episode")
    command.add_argument(
        "--episode", type=int, metavar="N", help="of --mp4: 0 is the oldest, -1 the newest (default: the longest)"
    )
    command.add_argument("--camera", metavar="NAME", help="of --mp4: which image of several (default: the first)")
    command.add_argument("--no-decode", action="store_true", help="compare checksums, but decode no frame")
    datasets.add_arguments(commands.add_parser("convert", help="convert a dataset to a snapshot, or a snapshot to one"))
    args = parser.parse_args(argv)
    if args.command == "inspect" and args.mp4 is None and (args.camera is not None or args.episode is not None):
        command.error("--camera and --episode: expected --mp4 beside them")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files and cameras may be anything
    try:
        if args.command == "convert":
            print("\n".join(datasets.run(args)))
            return 0
        return _inspect(args)
    except (ReplayError, OSError) as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        print(f"diffreplay: {args.command} was interrupted", file=sys.stderr)
        return INTERRUPTED


def _complain(error: Exception) -> None:
    print(f"diffreplay: {printable(' '.join(str(error).split()))}", file=sys.stderr)


def _inspect(args: argparse.Namespace) -> int:
    checks = {"frames": pictures.check_picture, "html": page.check_page, "mp4": video.check_video}
    for name, check in checks.items():
        if (path := getattr(args, name)) is not None:
            check(path)
            if not path.absolute().parent.is_dir():
                raise InputError(f"--{name}: expected a file name in a folder that is there, got {path}")
    report = inspect(args.directory, decode=not args.no_decode)
    print("\n".join(report.lines))
    writes: list[tuple[Any, Callable[[], str]]] = [
        (args.frames, lambda: pictures.write_picture(report.replay, args.frames)),
        (args.html, lambda: page.write_page(report, args.html)),
        (args.mp4, lambda: video.write_video(report.replay, report.episodes, args.episode, args.mp4, args.camera)),
    ]
    status = DAMAGED if report.damage else 0
    for path, write in writes:
        try:
            if path is not None:
                print(printable(write()))
        except (ReplayError, OSError) as error:  # the others are written all the same
            _complain(error)
            status = status or FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())
