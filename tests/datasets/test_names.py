"""Arrays of which one would take the place of another are refused before anything is written."""

from __future__ import annotations

import zipfile

import h5py
import numpy as np
import pytest
import zarr
from made_datasets import robomimic_file, same_arrays, same_folders
from says import says

from diffreplay.datasets import convert, from_episodes
from diffreplay.errors import InputError

SUFFIX = {"drqv2": "", "minari": "-v0", "robomimic": ".hdf5", "snapshot": "", "zarr": ".zarr"}


def played(parts=(), **extras):
    """A source of two episodes, whose observations are an image, or parts of one number."""
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    episode = {
        "observations": {key: np.arange(6.0) for key in parts} if parts else images,
        "actions": np.arange(5.0),
        "rewards": np.arange(5.0),
        "terminated": True,
        "truncated": False,
        "extras": {key: np.asarray(values) for key, values in extras.items()},
    }
    return from_episodes(iter([episode, episode]), steps=10)


VALUES = np.arange(5) + 7.5


@pytest.mark.parametrize(
    ("to", "parts", "extras"),
    [
        ("drqv2", (), ["reward"]),
        ("drqv2", (), ["observation"]),
        ("drqv2", (), ["x\0y"]),
        ("robomimic", (), ["actions"]),
        ("robomimic", (), ["rewards"]),
        ("robomimic", (), ["actions/x"]),
        ("robomimic", (), ["obs/image"]),
        ("robomimic", (), ["obs/other"]),
        ("robomimic", (), ["next_obs/other"]),
        ("robomimic", (), ["x", "x/y"]),
        ("robomimic", (), ["x//y"]),
        ("robomimic", (), ["./x"]),
        ("robomimic", ("a", "a/c"), []),
        ("robomimic", (), ["dones/x"]),
        ("robomimic", (), ["next_obs/image/x"]),
        ("zarr", (), ["action"]),
        ("zarr", (), ["reward"]),
        ("zarr", (), [".."]),
        ("zarr", (), [".zattrs"]),
        ("zarr", (), ["x/y", "x_y"]),
        ("zarr", (), ["x" * 300]),
        ("zarr", ("reward", "b"), []),
        ("minari", (), ["x", "infos/x"]),
        ("minari", (), ["x", "x/y"]),
        ("minari", ("a", "a/c"), []),
        ("minari", ("a/c", "a", "b"), []),
        ("minari", ("a//c", "b"), []),
    ],
)
def test_names_that_clash(tmp_path, to, parts, extras):
    target = tmp_path / f"target{SUFFIX[to]}"
    with pytest.raises(InputError) as refused:
        convert(played(parts, **dict.fromkeys(extras, VALUES)), target, target_format=to)
    says(refused, target, "expected names of arrays | rename")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("to", ["drqv2", "minari", "robomimic", "zarr"])
def test_other_names_are_written(tmp_path, to):
    source = played(file=VALUES, allow_pickle=VALUES + 1, **{"deep/x": VALUES + 2})
    target = tmp_path / f"target{SUFFIX[to]}"
    convert(source, target, target_format=to)
    if to == "drqv2":
        path = sorted(target.iterdir())[1]
        with np.load(path) as found:
            same_arrays(found["file"], np.concatenate([[0], VALUES]))
            same_arrays(found["allow_pickle"], np.concatenate([[0], VALUES + 1]))
            same_arrays(found["deep/x"], np.concatenate([[0], VALUES + 2]))
        with zipfile.ZipFile(path) as file:
            assert all(info.compress_type == zipfile.ZIP_DEFLATED for info in file.infolist())
    elif to == "zarr":
        data = zarr.open_group(str(target), mode="r")["data"]
        assert data["file"][5:].tolist() == VALUES.tolist() and data["deep_x"][5:].tolist() == (VALUES + 2).tolist()
    else:
        place, group = (
            (target, "data/demo_1") if to == "robomimic" else (target / "data/main_data.hdf5", "episode_1/infos")
        )
        with h5py.File(place) as file:
            same_arrays(file[f"{group}/allow_pickle"][:], VALUES + 1)
            same_arrays(file[f"{group}/deep/x"][:], VALUES + 2)


def test_names_of_numpys_own_arguments_there_and_back(tmp_path):
    convert(played(file=VALUES, allow_pickle=VALUES + 1), tmp_path / "episodes", target_format="drqv2")
    convert(tmp_path / "episodes", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "back")
    same_folders(tmp_path / "episodes", tmp_path / "back")


def test_exact_rewards_do_not_take_the_place_of_an_array(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [3])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        file["data/demo_0/exact_reward"] = np.arange(3.0)
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "demos.hdf5", tmp_path / "snapshot")
    says(refused, tmp_path / "snapshot", "'exact_reward' | rename")
    assert not (tmp_path / "snapshot").exists()
