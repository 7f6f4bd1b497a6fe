"""Datasets as others write them, and whether two of them hold the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr


def stacks_of(frames: np.ndarray, frame_stack: int = 3) -> np.ndarray:
    """DrQ-v2's observations (T, f * C, H, W) of frames (T, C, H, W)."""
    padded = np.concatenate([*[frames[:1]] * (frame_stack - 1), frames])
    return np.stack([np.concatenate(padded[t : t + frame_stack]) for t in range(len(frames))])


def drqv2_episode(length: int, rng: np.random.Generator, *, channels: int = 3, side: int = 16) -> dict[str, np.ndarray]:
    """What DrQ-v2 stores of an episode of so many transitions; its first row is a dummy."""
    frames = np.repeat(rng.integers(0, 256, (1, channels, side, side), np.uint8), length + 1, axis=0)
    for t, frame in enumerate(frames):
        frame[:, t % side] = rng.integers(256)
    arrays = {
        "observation": stacks_of(frames),
        "action": rng.normal(size=(length + 1, 6)).astype(np.float32),
        "reward": rng.normal(size=(length + 1, 1)).astype(np.float32),
        "discount": np.ones((length + 1, 1), np.float32),
    }
    arrays["action"][0], arrays["reward"][0] = 0, 0
    return arrays


def drqv2_folder(directory: Path, lengths: list[int], seed: int = 0, **options: Any) -> list[dict[str, np.ndarray]]:
    """A folder of such episodes, as the official code names them."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    episodes = [drqv2_episode(length, rng, **options) for length in lengths]
    for number, episode in enumerate(episodes):
        write_npz(directory, number, episode)
    return episodes


def write_npz(directory: Path, number: int, episode: dict[str, np.ndarray]) -> Path:
    path = directory / f"20211231T1200{number % 60:02d}_{number}_{len(episode['action']) - 1}.npz"
    np.savez_compressed(path, **episode)
    return path


def same_folders(one: Path, other: Path) -> None:
    """Folders of .npz files hold the same arrays under the same names."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        with np.load(one / name) as a, np.load(other / name) as b:
            assert set(a) == set(b)
            for key in a:
                same_arrays(a[key], b[key])


def same_arrays(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def robomimic_file(
    path: Path, lengths: list[int], *, next_obs: bool = True, shifted: bool = True, seed: int = 0
) -> None:
    """A file as robomimic writes it: cameras, proprioception, states, and a filter."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, length in enumerate(lengths):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = length, "<mujoco/>"
            observed = {
                "agentview_image": rng.integers(0, 256, (length + 1, 20, 24, 3), np.uint8),
                "robot0_eef_pos": rng.normal(size=(length + 1, 3)),
                "robot0_gripper": rng.normal(size=length + 1).astype(np.float32),
            }
            for key, values in observed.items():
                demo[f"obs/{key}"] = values[:-1]
                if next_obs:
                    demo[f"next_obs/{key}"] = values[1:] if shifted else values[:-1]
            demo["actions"], demo["rewards"] = rng.uniform(-1, 1, (length, 7)), rng.random(length)
            demo["dones"], demo["states"] = np.eye(1, length, length - 1, dtype=np.int64)[0], rng.random((length, 9))
            demo["action_dict/abs_pos"] = rng.random((length, 3))
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        file["mask/train"] = np.array([b"demo_0"])


def same_hdf5(one: Path, other: Path) -> None:
    """Files hold the same groups, attributes and arrays."""

    def contents(file: h5py.File) -> dict[str, Any]:
        found: dict[str, Any] = {"": (None, dict(file.attrs))}
        file.visititems(
            lambda name, item: found.update(
                {name: (item[()] if isinstance(item, h5py.Dataset) else None, dict(item.attrs))}
            )
        )
        return found

    with h5py.File(one) as a, h5py.File(other) as b:
        expected, found = contents(a), contents(b)
        assert set(expected) == set(found)
        for name, (array, attributes) in expected.items():
            assert attributes == found[name][1], name
            if array is not None:
                same_arrays(array, found[name][0])


def zarr_group(path: Path, lengths: list[int], *, zarr_format: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """A directory as diffusion_policy writes it: images as floats and as bytes, vectors and numbers."""
    rng, steps = np.random.default_rng(seed), sum(lengths)
    arrays = {
        "img": rng.integers(0, 256, (steps, 24, 24, 3)).astype(np.float32),
        "camera_0": rng.integers(0, 256, (steps, 20, 24, 3), np.uint8),
        "keypoint": rng.normal(size=(steps, 9, 2)).astype(np.float32),
        "n_contacts": rng.random((steps, 1)),
        "state": rng.normal(size=(steps, 5)).astype(np.float32),
        "action": rng.normal(size=(steps, 2)).astype(np.float32),
    }
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    data, meta = root.create_group("data"), root.create_group("meta")
    for key, values in arrays.items():
        data.create_array(key, data=values, chunks=(7, *values.shape[1:]))
    meta.create_array("episode_ends", data=np.cumsum(lengths))
    root.attrs["made_by"] = "a test"
    return arrays


def same_zarr(path: Path, arrays: dict[str, np.ndarray], lengths: list[int]) -> None:
    """A directory holds these arrays, and no others."""
    root = zarr.open_group(str(path), mode="r")
    assert set(root["data"]) == set(arrays) and set(root["meta"]) == {"episode_ends"}
    for key, values in arrays.items():
        same_arrays(values, root["data"][key][:])
    same_arrays(np.cumsum(lengths), root["meta/episode_ends"][:])
    assert dict(root.attrs) == {"made_by": "a test"}
