"""zarr as diffusion_policy's replay buffer lays it out, there and back."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from made_datasets import robomimic_file, same_arrays, same_zarr, zarr_group
from says import says

import diffreplay
from diffreplay.datasets import convert, zarr_replay
from diffreplay.errors import InputError

LENGTHS = [5, 17, 2, 1, 30]


def there_and_back(tmp_path, arrays, **options):
    with pytest.warns(UserWarning, match="after its last action"):
        convert(tmp_path / "data", tmp_path / "snapshot", **options)
    convert(tmp_path / "snapshot", tmp_path / "back.zarr")
    same_zarr(tmp_path / "back.zarr", arrays, LENGTHS)
    return diffreplay.open(tmp_path / "snapshot", verify=True)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("frame_stack", [None, 2])
def test_round_trip(tmp_path, zarr_format, frame_stack):
    arrays = zarr_group(tmp_path / "data", LENGTHS, zarr_format=zarr_format)
    replay = there_and_back(tmp_path, arrays, frame_stack=frame_stack)
    assert len(replay) == sum(LENGTHS)  # each action can be sampled, the last ones too
    obs = replay.sample(4).obs
    assert str(obs["img"].dtype) == "torch.uint8"  # whole numbers, although the file has floats
    assert obs["camera_0"].shape == (4, 20, 24, 3 * (frame_stack or 1))
    assert (tmp_path / "back.zarr/data/img/.zarray").exists()  # of format 2, which diffusion_policy reads


@pytest.mark.parametrize("value", [0.5, -0.0, 256.0, -1.0, np.nan])
def test_floats_that_are_no_bytes_stay_floats(tmp_path, value):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    arrays["img"][7, 1, 2, 0] = value
    zarr.open_array(str(tmp_path / "data/data/img"), mode="r+")[7, 1, 2, 0] = value
    assert str(there_and_back(tmp_path, arrays).sample(4).obs["img"].dtype) == "torch.float32"


def test_rewards(tmp_path):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    arrays["reward"] = np.random.default_rng(1).random(sum(LENGTHS))
    zarr.open_group(str(tmp_path / "data"), mode="r+")["data"].create_array("reward", data=arrays["reward"])
    rewards = there_and_back(tmp_path, arrays).sample(8).reward
    assert np.isin(rewards.numpy(), arrays["reward"].astype(np.float32)).all()


def test_rewards_of_several_numbers_are_observed(tmp_path):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    arrays["reward"] = np.random.default_rng(1).random((sum(LENGTHS), 1)).astype(np.float32)
    zarr.open_group(str(tmp_path / "data"), mode="r+")["data"].create_array("reward", data=arrays["reward"])
    batch = there_and_back(tmp_path, arrays).sample(8)
    assert batch.obs["reward"].shape == (8, 1) and not batch.reward.any()


def test_attributes_are_kept(tmp_path):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    for name in ("data", "meta", "meta/episode_ends", "data/img", "data/action"):
        zarr.open(str(tmp_path / "data" / name), mode="r+").attrs["said"] = {"of": name}
    there_and_back(tmp_path, arrays)
    for name in ("data", "meta", "meta/episode_ends", "data/img", "data/action"):
        assert dict(zarr.open(str(tmp_path / "back.zarr" / name), mode="r").attrs) == {"said": {"of": name}}


def test_a_long_episode_comes_in_pieces(tmp_path, monkeypatch):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    monkeypatch.setattr(zarr_replay, "PIECE_BYTES", 50_000)
    monkeypatch.setattr("diffreplay.datasets.from_snapshot.PIECE_BYTES", 11_000)
    there_and_back(tmp_path, arrays, frame_stack=3)


def test_the_last_observation_stands_there_again(tmp_path):
    arrays = zarr_group(tmp_path / "data", LENGTHS)
    batch = there_and_back(tmp_path, arrays).sample(400)
    last = {arrays["action"][end - 1].tobytes() for end in np.cumsum(LENGTHS)}
    for k, action in enumerate(batch.action.numpy()):
        stays = np.array_equal(batch.obs["state"][k], batch.next_obs["state"][k])
        assert stays == (action.tobytes() in last)
        assert batch.discount[k].item() == pytest.approx(0.99)  # cut off there, not ended


def test_from_another_format(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [4, 6])
    with pytest.warns(UserWarning, match="final observations"):
        convert(tmp_path / "demos.hdf5", tmp_path / "data.zarr")
    root = zarr.open_group(str(tmp_path / "data.zarr"), mode="r")
    assert root["meta/episode_ends"][:].tolist() == [4, 10]
    assert set(root["data"]) == {
        "agentview_image", "robot0_eef_pos", "robot0_gripper", "action", "reward", "dones", "states",
        "action_dict_abs_pos",
    }  # fmt: skip
    with pytest.warns(UserWarning, match="after its last action"):
        convert(tmp_path / "data.zarr", tmp_path / "snapshot")
    assert diffreplay.open(tmp_path / "snapshot").sample(3).obs["agentview_image"].shape == (3, 20, 24, 3)


def test_a_target_that_is_there_is_left_alone(tmp_path):
    zarr_group(tmp_path / "data", LENGTHS)
    with pytest.warns(UserWarning), pytest.raises(InputError) as refused:
        convert(tmp_path / "data", tmp_path / "data", target_format="snapshot")
    says(refused, tmp_path / "data", "other files")
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(InputError) as refused:
        convert(tmp_path / "data", tmp_path / "there.zarr")
    says(refused, tmp_path / "there.zarr", "remove it")
    same_arrays(np.cumsum(LENGTHS), zarr.open_array(str(tmp_path / "data/meta/episode_ends"), mode="r")[:])
