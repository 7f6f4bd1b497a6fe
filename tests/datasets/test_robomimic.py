"""HDF5 as robomimic lays it out, there and back."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from made_datasets import drqv2_folder, robomimic_file, same_arrays, same_hdf5
from says import says

import diffreplay
from diffreplay.datasets import convert, robomimic
from diffreplay.errors import InputError

LENGTHS = [5, 9, 3, 4, 8, 2, 6, 7, 5, 4, 3, 12]  # demo_10 and demo_11 come after demo_9


def there_and_back(tmp_path):
    convert(tmp_path / "demos.hdf5", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "back.hdf5")
    same_hdf5(tmp_path / "demos.hdf5", tmp_path / "back.hdf5")
    return diffreplay.open(tmp_path / "snapshot", verify=True)


def test_round_trip(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", LENGTHS)
    replay = there_and_back(tmp_path)
    assert len(replay) == sum(LENGTHS)
    batch = replay.sample(6)
    assert batch.obs["agentview_image"].shape == (6, 20, 24, 3)
    assert set(batch.extras) == {"states", "dones", "action_dict/abs_pos", "exact_reward"}


def test_a_step_is_what_the_file_has(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [11])
    replay = there_and_back(tmp_path)
    batch = replay.sample(300)
    seen = set()
    with h5py.File(tmp_path / "demos.hdf5") as file:
        demo = file["data/demo_0"]
        for k, action in enumerate(batch.action.numpy()):
            t = int(np.flatnonzero((demo["actions"][:] == action).all(axis=1))[0])
            for key in demo["obs"]:
                same_arrays(
                    batch.obs[key][k].numpy(), np.asarray(demo[f"obs/{key}"][t]).reshape(batch.obs[key][k].shape)
                )
                after = np.asarray(demo[f"next_obs/{key}"][t]).reshape(batch.obs[key][k].shape)
                same_arrays(batch.next_obs[key][k].numpy(), after)
            assert batch.discount[k].item() == pytest.approx(0.99 * (t < 10))  # the last one is done
            assert batch.extras["states"][k].tolist() == demo["states"][t].tolist()
            seen.add(t)
    assert seen == set(range(11))


def test_next_observations_that_do_not_follow_are_kept(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", LENGTHS, shifted=False)
    with pytest.warns(UserWarning, match="next_obs"):
        there_and_back(tmp_path)


def test_without_next_observations(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", LENGTHS, next_obs=False)
    with pytest.warns(UserWarning, match="after its last action"):
        replay = there_and_back(tmp_path)
    assert len(replay) == sum(LENGTHS)  # each action can be sampled, the last ones too


def test_dones_before_the_end(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [8])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        file["data/demo_0/dones"][3] = 1
    discounts = there_and_back(tmp_path).sample(200).discount
    assert (discounts == 0).float().mean() == pytest.approx(2 / 8, abs=0.12)


def test_a_long_demo_comes_in_pieces(tmp_path, monkeypatch):
    robomimic_file(tmp_path / "demos.hdf5", [40, 1, 2, 23])
    monkeypatch.setattr(robomimic, "PIECE_BYTES", 10_000)  # of which each is a few steps long
    monkeypatch.setattr("diffreplay.datasets.from_snapshot.PIECE_BYTES", 7_000)
    there_and_back(tmp_path)
    convert(tmp_path / "demos.hdf5", tmp_path / "stacked", frame_stack=3)
    monkeypatch.undo()
    convert(tmp_path / "demos.hdf5", tmp_path / "whole", frame_stack=3)
    one, other = (diffreplay.open(tmp_path / name, seed=1).sample(64) for name in ("stacked", "whole"))
    for key in one.obs:
        same_arrays(one.obs[key].numpy(), other.obs[key].numpy())
        same_arrays(one.next_obs[key].numpy(), other.next_obs[key].numpy())
    assert one.obs["agentview_image"].shape == (64, 20, 24, 9)


def test_from_another_format(tmp_path):
    episodes = drqv2_folder(tmp_path / "episodes", [6, 4])
    convert(tmp_path / "episodes", tmp_path / "demos.hdf5")  # without a snapshot between
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert file["data"].attrs["total"] == 10 and json.loads(file["data"].attrs["env_args"]) == {}
        for demo, episode in zip(file["data"].values(), episodes, strict=True):
            assert demo.attrs["num_samples"] == len(episode["action"]) - 1
            same_arrays(demo["obs/image"][:], episode["observation"][:-1, -3:])
            same_arrays(demo["next_obs/image"][:], episode["observation"][1:, -3:])
            same_arrays(demo["actions"][:], episode["action"][1:])
            assert not demo["dones"][:].any()


def test_a_target_that_is_there_is_left_alone(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [3])
    convert(tmp_path / "demos.hdf5", tmp_path / "snapshot")
    (tmp_path / "there.hdf5").write_text("mine")
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "snapshot", tmp_path / "there.hdf5")
    says(refused, tmp_path / "there.hdf5", "remove it")
    assert (tmp_path / "there.hdf5").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))
