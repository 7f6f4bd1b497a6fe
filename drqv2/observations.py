"""The options `cameras` and `proprioception`: what an observation is made of.

Seen through one camera alone, an observation is one array, a stack of frames. Otherwise it is a mapping: a stack of
frames for each camera, "camera0", "camera1" and so on, and the state vectors of the same moments, "state".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runs.errors import OptionError

STATE = "state"
Shape = tuple[int, ...]


def camera_name(number: int) -> str:
    """Name of the part that a camera's frames are."""
    return f"camera{number}"


def is_mapping(cameras: Sequence[int] | None, proprioception: bool) -> bool:
    """Whether observations under these options are mappings."""
    return proprioception or (cameras is not None and len(cameras) > 1)


def shape_of(spec: Any) -> Shape | dict[str, Shape]:
    """The shape of the observations that `spec` describes: a tuple, or one for each part of a mapping."""
    if isinstance(spec, Mapping):
        return {name: tuple(part.shape) for name, part in spec.items()}
    return tuple(spec.shape)


def as_lists(shape: Shape | Mapping[str, Shape]) -> list[int] | dict[str, list[int]]:
    """What `shape_of` returns, as snapshots hold it."""
    return {name: list(part) for name, part in shape.items()} if isinstance(shape, Mapping) else list(shape)


def is_image(shape: Shape) -> bool:
    """Whether a part of this shape is a stack of frames, (frame_stack * C, H, W)."""
    return len(shape) == 3


def check_cameras(cameras: Any) -> None:
    """OptionError where `cameras` cannot be the numbers of any model's cameras."""
    is_list = isinstance(cameras, Sequence) and not isinstance(cameras, str)
    if not is_list or not cameras or any(type(camera) is not int for camera in cameras):
        given = written(cameras) if is_list else cameras
        raise OptionError(
            f"cameras={given}: expected a list of numbers, such as [0,1], or null for the camera that DrQ-v2 uses"
        )
    for camera in cameras:
        if camera < 0:
            raise OptionError(f"cameras={written(cameras)}: expected numbers from 0 on, got {camera}")
        if cameras.count(camera) > 1:
            raise OptionError(f"cameras={written(cameras)}: expected each camera once, got {camera} again")


def check_model_has(cameras: Sequence[int], names: Sequence[str], task: str) -> None:
    """OptionError where one of `cameras` is none of the model's, whose cameras are called `names`."""
    for camera in cameras:
        if camera >= len(names):
            has = ", ".join(f"{number} ({name})" for number, name in enumerate(names)) or "no camera"
            raise OptionError(f"cameras={written(cameras)}: {task} has {has}, got {camera}")


def written(cameras: Sequence[int]) -> str:
    """The numbers as they are given on the command line."""
    return f"[{','.join(map(str, cameras))}]"
