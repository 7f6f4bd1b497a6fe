"""HDF5 as robomimic lays it out, there and back."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from made_datasets import drqv2_episode, drqv2_folder, robomimic_file, same_arrays, same_hdf5, write_npz
from says import says

import diffreplay
from diffreplay.datasets import Description, Episode, convert, robomimic
from diffreplay.errors import CorruptDataError, InputError

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


@pytest.mark.parametrize("name", ["traj", "demo 1", "1", "²", "demo_01"])
def test_names_are_kept(tmp_path, name):
    robomimic_file(tmp_path / "demos.hdf5", LENGTHS)
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        file["data"].move("demo_1", name)
        file["data"].move("demo_11", "demo_99")
    there_and_back(tmp_path)


def test_names_from_elsewhere_take_what_is_free(tmp_path):
    camera = diffreplay.ArraySpec((3, 16, 16))

    class Named:
        format = "named"
        description = Description(camera, diffreplay.ArraySpec((2,), "float32"), steps=12)

        def episodes(self, start=0):
            for name in ("demo_1", "a/b_1", "", "demo_2", "demo_1", "x")[start:]:
                frames, actions = np.zeros((3, 3, 16, 16), np.uint8), np.zeros((2, 2), np.float32)
                yield Episode(frames, actions, np.zeros(2, np.float32), name=name)

    convert(Named(), tmp_path / "demos.hdf5")
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert list(file["data"]) == ["demo_1", "demo_2", "demo_3", "demo_4", "demo_5", "demo_6"]


def test_all_that_is_said_is_kept(tmp_path):
    """Attributes of whatever a demo or the masks have, and the texts of masks as they are stored."""
    robomimic_file(tmp_path / "demos.hdf5", [5, 3])
    text, demo = h5py.string_dtype(), "data/demo_1"
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        del file["data"].attrs["total"], file["data"].attrs["env_args"]
        file["mask/long"] = np.array([b"demo_0", b"demo_1"], "S20")
        file.create_dataset("mask/variable", data=["demo_1", "démo"], dtype=text)
        file.create_dataset("mask/none", data=np.array([], "S7"))
        file.create_group(f"{demo}/empty")
        inner = ("obs", "obs/robot0_eef_pos", "dones", "actions", "next_obs", "next_obs/robot0_gripper", "action_dict")
        for name in ("/", "data", "mask", "mask/long", demo, *(f"{demo}/{each}" for each in inner)):
            said = file[name].attrs
            said["number"], said["matrix"], said["none"] = np.float32(1.5), np.eye(2), np.zeros((0, 3), np.int16)
            said["text"], said["texts"], said["no texts"] = name, np.array([["a", "ä"]], text), np.array([], text)
            said["bytes"], said["wide"] = np.bytes_(b"abc"), np.array(b"abc", "S20")
            said["names"], said["yes"] = np.array([b"a", b"bcd"], "S5"), True
            said["nothing"], said["no text"] = h5py.Empty("f4"), h5py.Empty(text)
    convert(tmp_path / "demos.hdf5", tmp_path / "snapshot")
    convert(tmp_path / "snapshot", tmp_path / "back.hdf5")
    assert told(tmp_path / "back.hdf5") == told(tmp_path / "demos.hdf5")


def test_what_was_noted_before_is_written_still(tmp_path):
    """As snapshots of earlier versions have it: masks without dtypes, bytes and numbers without shapes."""
    numbers = {"dtype": "<f8", "numbers": [1.0, 2.0]}
    attributes = {"root": {"bytes": {"bytes": "abc"}}, "data": {"numbers": numbers, "texts": {"texts": ["a", "b"]}}}

    class Old:
        format = "old"
        description = Description(
            {"camera": diffreplay.ArraySpec((3, 16, 16))},
            diffreplay.ArraySpec((2,), "float32"),
            steps=2,
            attributes=attributes | {"mask": {"train": ["demo_0", "x"], "valid": []}},
        )

        def episodes(self, start=0):
            frames, actions = np.zeros((3, 3, 16, 16), np.uint8), np.zeros((2, 2), np.float32)
            yield Episode({"camera": frames}, actions, np.zeros(2, np.float32), name="demo_0")

    convert(Old(), tmp_path / "demos.hdf5")
    with h5py.File(tmp_path / "demos.hdf5") as file:
        same_arrays(file["mask/train"][:], np.array([b"demo_0", b"x"]))
        assert file["mask/valid"].shape == (0,) and file.attrs["bytes"] in ("abc", b"abc")
        assert file["data"].attrs["numbers"].tolist() == [1, 2] and list(file["data"].attrs["texts"]) == ["a", "b"]
    convert(tmp_path / "demos.hdf5", tmp_path / "again")


@pytest.mark.parametrize(
    "noted",
    [
        {"mask": {"train": {"names": ["demo_0"], "encoding": "ascii", "length": 1 << 40}}},
        {"mask": {"train": {"names": [1], "encoding": "ascii", "length": None}}},
        {"mask": 5},
        {"root": {"said": {"bytes": ["a"], "shape": [], "width": 1 << 40}}},
        {"root": {"said": {"bytes": ["a", "b"], "shape": [3], "width": 1}}},
        {"data": {"said": {"empty": "nonsense"}}},
        {"data": {"said": {}}},
    ],
)
def test_what_was_noted_but_makes_no_sense_is_told(tmp_path, noted):
    class Strange:
        format = "strange"
        description = Description(
            {"camera": diffreplay.ArraySpec((3, 16, 16))},
            diffreplay.ArraySpec((2,), "float32"),
            steps=2,
            attributes={"root": {}, "data": {}} | noted,
        )

        def episodes(self, start=0):
            frames, actions = np.zeros((3, 3, 16, 16), np.uint8), np.zeros((2, 2), np.float32)
            yield Episode({"camera": frames}, actions, np.zeros(2, np.float32))

    with pytest.raises(CorruptDataError, match=r"as .* kept"):
        convert(Strange(), tmp_path / "demos.hdf5")
    assert not list(tmp_path.iterdir())


def told(path):
    """Whatever a file has: the names, dtypes, shapes and values of all attributes and arrays."""
    found = {}

    def look(name, item):
        for key in item.attrs:
            stored, value = item.attrs.get_id(key), item.attrs[key]
            found[name, key] = (stored.dtype.str, stored.shape, str(value))
        found[name] = (item.dtype.str, item.shape, str(item[()])) if isinstance(item, h5py.Dataset) else "group"

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


@pytest.mark.parametrize("target", ["demos.hdf5", "demos-v0"])
def test_discounts_that_are_no_flags_are_told(tmp_path, target):
    rng = np.random.default_rng(0)
    episode = drqv2_episode(5, rng)
    episode["discount"][3] = 0.5
    (tmp_path / "episodes").mkdir()
    write_npz(tmp_path / "episodes", 0, episode)
    with pytest.warns(UserWarning, match="discounts other than 0 and 1 are left out"):
        convert(tmp_path / "episodes", tmp_path / target, target_format="minari" if "v0" in target else None)


def test_what_is_left_out_is_told(tmp_path):
    robomimic_file(tmp_path / "demos.hdf5", [5, 3])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        file["statistics/mean"], file["note"] = np.zeros(3), 5
    with pytest.warns(UserWarning, match="demos.hdf5: left out note, statistics"):
        convert(tmp_path / "demos.hdf5", tmp_path / "snapshot")


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
