"""The formats that are known: how one is recognised, opened and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffreplay.datasets import drqv2, hdf5, lerobot_files, minari_data, minari_files, video_files, zarr_files
from diffreplay.datasets.episode import Source, Target
from diffreplay.datasets.from_snapshot import SnapshotSource
from diffreplay.datasets.lerobot import LeRobotEpisodes
from diffreplay.datasets.robomimic import Demonstrations
from diffreplay.datasets.to_drqv2 import EpisodeFolderTarget
from diffreplay.datasets.to_minari import MinariTarget
from diffreplay.datasets.to_robomimic import DemonstrationsTarget
from diffreplay.datasets.to_snapshot import SnapshotTarget
from diffreplay.datasets.to_zarr import ZarrTarget
from diffreplay.datasets.zarr_replay import ZarrReplay
from diffreplay.errors import InputError
from diffreplay.snapshots import MANIFEST


@dataclass(frozen=True)
class Format:
    """A format of datasets.

    Attributes:
        what: it is, in a few words.
        recognises: whether a path holds one; looks at names, and at no more than the beginning of a file.
        open: a source of `(path, frame_stack)`.
        write: a target of `(path, description, conversion)`; None where it is only read. That of snapshots takes more.
        suffix: of the name of a target that is to be of this format; "" for none.
    """

    what: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, int | None], Source]
    write: Callable[..., Target] | None
    suffix: str = ""


def _open_snapshot(path: Path, frame_stack: int | None) -> Source:
    if frame_stack is not None:
        raise InputError(f"frame_stack: expected none, as {path} is a snapshot, which tells it, got {frame_stack!r}")
    return SnapshotSource(path)


SNAPSHOT = "snapshot"
FORMATS = {
    SNAPSHOT: Format(
        "a snapshot of a ReplayBuffer", lambda path: (path / MANIFEST).exists(), _open_snapshot, SnapshotTarget
    ),
    "drqv2": Format("DrQ-v2's folder of .npz episodes", drqv2.is_folder, drqv2.EpisodeFolder, EpisodeFolderTarget),
    "minari": Format("a Minari dataset", minari_files.is_dataset, minari_data.MinariEpisodes, MinariTarget),
    "robomimic": Format(
        "HDF5 as robomimic lays it out", hdf5.is_hdf5, Demonstrations, DemonstrationsTarget, ".hdf5 .h5"
    ),
    "zarr": Format(
        "zarr as diffusion_policy's replay buffer lays it out", zarr_files.is_zarr, ZarrReplay, ZarrTarget, ".zarr"
    ),
    "lerobot": Format("a LeRobot dataset of Parquet and videos", lerobot_files.is_dataset, LeRobotEpisodes, None),
    "video": Format("a video file, or a folder of them", video_files.is_video, video_files.VideoFiles, None),
}


def source_format(path: Path, name: str | None = None) -> str:
    """The format of what is at a path: as named, or as recognised.

    Raises:
        InputError: no such format is known, there is nothing, or it is not recognised.
    """
    if name is not None:
        return known(name)
    if not path.exists():
        raise InputError(f"{path}: expected a dataset to read, got nothing there")
    found = next((name for name, each in FORMATS.items() if each.recognises(path)), None)
    if found is None:
        if path.is_dir() and not any(path.iterdir()):
            raise InputError(f"{path}: expected a dataset to read, got an empty folder")
        raise InputError(
            f"{path}: expected a dataset of a known format, got something else; name it (--from, source_format=): "
            f"{_listed()}"
        )
    return found


def target_format(path: Path, source: Source, name: str | None = None) -> str:
    """The format that a target is to have: as named, as its suffix tells, as a snapshot came from, or a snapshot.

    Raises:
        InputError: no such format is known or can be written, or it has to be named.
    """
    if name is None:
        name = next((key for key, each in FORMATS.items() if path.suffix in each.suffix.split()), None)
    if name is None and source.format == SNAPSHOT:
        name = getattr(source, "origin", None)
        if name not in FORMATS or FORMATS[name].write is None:
            raise InputError(
                f"{path}: expected the format that a snapshot is to become; name it (--to, target_format=): "
                f"{_listed(True)}"
            )
    name = known(name or SNAPSHOT)
    if FORMATS[name].write is None:
        raise InputError(f"{path}: expected a format that can be written, {_listed(True)}, got {name!r}")
    return name


def known(name: Any) -> str:
    """The name of a format.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FORMATS:
        raise InputError(f"format: expected one of {_listed()}, got {name!r:.60}")
    return str(name)


def _listed(written: bool = False) -> str:
    return ", ".join(name for name, each in FORMATS.items() if each.write is not None or not written)
